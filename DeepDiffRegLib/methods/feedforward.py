"""A network's prediction as the start, then the one solver: the pair may still be refined, with any terms and prompts.

The scans are brought to the grid that the network knows (its model card says which) through their geometries, the moving one
through the affine start; the prediction is carried back in mm (LPS). A network may look at the pair several times, from the second
time on through the map so far. After that it is never asked again: an update continues from the current map (Balakrishnan et al.,
CVPR 2018; Dalca et al., MedIA 2019; Shen et al., CVPR and NeurIPS 2019; Chen et al. for the other networks). A network that
predicts a matrix says where the affine start begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..config import Config, Schedule
from ..data.pair import Prompts
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry, resample
from ..geometry.sampling import warp
from ..networks import NETWORKS
from ..networks.base import Prediction
from ..networks.weights import CanonicalGrid, Intensities, Model, ModelCard, load_model, read_card
from ..problem import Problem
from ..progress import Progress, Step
from ..result import Status
from ..transforms import TRANSFORMS
from ..transforms._shooting_model import ShootingModel
from ..transforms.affine import AffineTransform
from ..transforms.base import Transform
from ..transforms.composite import CompositeTransform
from ..transforms.displacement import DisplacementTransform, to_voxels, to_world
from ..transforms.model import Model as TransformModel
from ..transforms.svf import SVFModel, SVFTransform
from ..transforms.tvf import TVFTransform
from ._belief import Belief, prediction_geometry
from ._flows import affine_of_prediction, flow_of_prediction
from ._model_file import check_fit, model_file
from ._prior_svf import PriorSVFModel
from ._scans import as_trained, on_grid
from .iterative import Iterative, Solution

STAGE = "network"
PREDICTED = "predicted by the network"
SHARE = 0.3
"""Of the stage's progress, when a refinement follows."""
AXES_TOLERANCE = 1e-3


class Feedforward:
    """Predict the map with ``config.model``, then refine it along the schedule (no iterations: keep the prediction)."""

    def check(self, config: Config, ndim: int) -> None:
        """Refuse a missing, damaged or unfit model before any work."""
        card = read_card(model_file(config))
        check_fit(card, config, ndim, NETWORKS, "gives features, no map; choose method 'dio'")

    def better_start(self, problem: Problem, config: Config) -> Callable[[AffineTransform], AffineTransform] | None:
        """What makes a first guess better: a network that predicts a matrix; None for the others."""
        if NETWORKS.load(read_card(model_file(config)).network).kind != "affine":
            return None
        return lambda first: told_matrix(
            problem, load_model(model_file(config), problem.device), first, looks_of(config)
        )

    def solve(
        self,
        problem: Problem,
        config: Config,
        start: Solution,
        prompts: Prompts,
        progress: Progress,
        schedule: Schedule | None = None,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> Solution:
        """Predict where ``start`` holds no inner map yet, then descend from there like ``Iterative``."""
        refine = any((schedule or config.schedule).iterations)
        matrix = self.better_start(problem, config) is not None  # asked before, by the affine start
        if start.inner is None and not matrix:
            if progress.cancelled():
                return replace(start, status=Status.CANCELLED, message="cancelled before the network was asked")
            progress.report(Step(STAGE, fraction=span[0]))
            model = load_model(model_file(config), problem.device)
            # a momentum can be refined as such, a second one after it cannot
            looks = (
                1 if refine and issubclass(TRANSFORMS.load(config.transform.name), ShootingModel) else looks_of(config)
            )
            inner, belief = told(problem, model, start.world.homogeneous, looks)
            start = replace(start, inner=inner, belief=belief, status=Status.CONVERGED, message=PREDICTED)
            span = (span[0] + SHARE * (span[1] - span[0]), span[1]) if refine else span
            progress.report(Step(STAGE, fraction=span[0] if refine else span[1]))
        if progress.cancelled():
            return replace(start, status=Status.CANCELLED, message=f"{PREDICTED}; cancelled before refining")
        if not refine:
            return start
        return _Refinement().solve(problem, config, start, prompts, progress, schedule, span)


class _Refinement(Iterative):
    """The one solver; a velocity with a belief is held to it."""

    def model(self, problem: Problem, config: Config, start: Solution) -> TransformModel:
        held = start.belief is not None and config.network.prior == "posterior"
        if not held or TRANSFORMS.load(config.transform.name) is not SVFModel:
            return super().model(problem, config, start)
        options = config.network
        prior = start.belief.prior(problem.pair.fixed.geometry, options.image_sigma, options.precision)
        try:
            return PriorSVFModel(prior, **config.transform.options)
        except TypeError as error:
            raise ConfigError(f"transform {config.transform.name!r} does not take these options: {error}") from error


def looks_of(config: Config) -> int:
    """How often the network looks at the pair: as configured, else as it was trained."""
    return config.network.looks or read_card(model_file(config)).looks


def told(problem: Problem, model: Model, world: np.ndarray, looks: int = 1) -> tuple[Transform, Belief | None]:
    """The map and how sure the network is of it (None when it does not say, or looks more than once).

    The map is u of x_moving = A(x + u(x)) that the model sees between the fixed scan and the moving one through A.

    world: A, homogeneous, mm. Displacements, velocities, their sequences and momenta become the transform of their kind on a grid
    whose axes are the fixed scan's, about as fine as the prediction; several looks a composite, the last one applied first.
    """
    grid = canonical_geometry(problem, model.card.canonical)
    fixed, moving = canonical_scans(problem, grid, world, model.card.preprocessing)
    shown, found = moving, []
    for _look in range(looks):
        if found:
            u = to_voxels(CompositeTransform(found).displacement(grid, problem.device), grid)
            shown = warp(moving, u, np.eye(grid.ndim, grid.ndim + 1))
        prediction = asked(model, shown, fixed)
        found.insert(0, carried_back(prediction, grid, problem.pair.fixed.geometry))
    sure = looks == 1 and prediction.log_variance is not None
    belief = Belief(prediction, grid, *trained_with(model.card)) if sure else None
    return found[0] if looks == 1 else CompositeTransform(found), belief


def told_matrix(problem: Problem, model: Model, first: AffineTransform, looks: int = 1) -> AffineTransform:
    """The affine map that a network finds from a first guess; the moving scan is sampled from its own voxels at every look."""
    grid, world = canonical_geometry(problem, model.card.canonical), first
    for _look in range(looks):
        fixed, moving = canonical_scans(problem, grid, world.homogeneous, model.card.preprocessing)
        world = world.after(affine_of_prediction(asked(model, moving, fixed).field, grid))
    return world


def asked(model: Model, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
    """What the network says, as tensors that may be used anywhere: those of inference may not where gradients are tracked."""
    with torch.inference_mode():
        said = model.network(moving, fixed)
    variance, weights = (None if t is None else t.clone() for t in (said.log_variance, said.pre_weights))
    return replace(said, fields=tuple(f.clone() for f in said.fields), log_variance=variance, pre_weights=weights)


def trained_with(card: ModelCard) -> tuple[float | None, float]:
    """Precision of the prior of a network's training (None: the card does not say), s.d. of its covariance's filter in voxels."""
    return card.prior.get("precision"), card.prior.get("smoothing_voxels", 0.0)


def canonical_geometry(problem: Problem, canonical: CanonicalGrid | None) -> Geometry:
    """The model's grid laid over the fixed scan, the middle of its anatomy where the model expects it.

    The fixed scan's own grid when it is such a grid already (size, spacing and axes), or when the model takes any.
    """
    own = problem.pair.fixed.geometry
    return own if canonical is None else laid_over(own, lambda: problem.fixed_box_mm, canonical)


def laid_over(own: Geometry, box_mm: Callable[[], np.ndarray], canonical: CanonicalGrid) -> Geometry:
    """The canonical grid over a scan on ``own`` (that grid itself when it is such a grid). box_mm: corners of its anatomy."""
    direction, spacing = np.array(canonical.direction, dtype=float), np.array(canonical.spacing_mm, dtype=float)
    same_axes = np.abs(own.rotation - direction).max() < AXES_TOLERANCE
    if own.size == canonical.size and same_axes and np.allclose(own.spacing_mm, spacing, rtol=AXES_TOLERANCE):
        return own
    box = box_mm()
    middle = (box.min(0) + box.max(0)) / 2
    center = canonical.anatomy_center or tuple((n - 1) / 2 for n in canonical.size)
    origin = middle - direction @ (spacing * np.array(center))
    return Geometry(canonical.size, canonical.spacing_mm, tuple(origin), canonical.direction)


def canonical_scans(
    problem: Problem, grid: Geometry, world: np.ndarray, intensities: Intensities
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed scan, and moving scan through A, on ``grid``: (1, 1, *grid.shape) with the model's intensities, 0 outside."""
    pair, identity = problem.pair, np.eye(grid.ndim + 1)
    return tuple(
        as_trained(on_grid(image.to(problem.device), grid, matrix), intensities)
        for image, matrix in ((pair.fixed, identity), (pair.moving, world))
    )


def carried_back(prediction: Prediction, grid: Geometry, fixed: Geometry) -> Transform:
    """The prediction on ``grid`` as a transform in mm (LPS) on a grid parallel to ``fixed``.

    Where the fixed scan reaches beyond the model's grid the fields keep their border values.
    """
    if prediction.kind == "momentum":
        return flow_of_prediction(prediction, grid, fixed)
    own = prediction_geometry(prediction, grid)
    target = level_geometry(fixed, min(own.spacing_mm), 2)
    # to_world turns voxels of a grid into mm: a field's unit is ``unit_voxels`` voxels of the network's input
    fields = [to_world(f * prediction.unit_voxels, grid) for f in prediction.fields]
    fields = [resample(f, own, target, blur=False).contiguous() for f in fields]
    if prediction.kind == "displacement":
        return DisplacementTransform(fields[0], target)
    return SVFTransform(fields[0], target) if prediction.kind == "velocity" else TVFTransform(tuple(fields), target)
