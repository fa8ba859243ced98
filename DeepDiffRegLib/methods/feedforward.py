"""A network's prediction as the start, then the one solver: the pair may still be refined, with any terms and prompts.

The scans are brought to the grid that the network knows (its model card says which) through their geometries, the moving one
through the affine start; the prediction is carried back in mm (LPS). It is never asked again: an update continues from the
current map (Balakrishnan et al., CVPR 2018; Dalca et al., MedIA 2019; Chen et al. for the other networks).
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
from ..networks import NETWORKS
from ..networks.base import Prediction
from ..networks.weights import CanonicalGrid, Intensities, Model, ModelCard, load_model, read_card
from ..problem import Problem
from ..progress import Progress, Step
from ..result import Status
from ..transforms import TRANSFORMS
from ..transforms.base import Transform
from ..transforms.displacement import DisplacementTransform, to_world
from ..transforms.model import Model as TransformModel
from ..transforms.svf import SVFModel, SVFTransform
from ..transforms.tvf import TVFTransform
from ._belief import Belief, prediction_geometry
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
        if start.inner is None:
            if progress.cancelled():
                return replace(start, status=Status.CANCELLED, message="cancelled before the network was asked")
            progress.report(Step(STAGE, fraction=span[0]))
            model = load_model(config.model, problem.device)
            inner, belief = told(problem, model, start.world.homogeneous)
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


def told(problem: Problem, model: Model, world: np.ndarray) -> tuple[Transform, Belief | None]:
    """The map and how sure the network is of it (None when it does not say).

    The map is u of x_moving = A(x + u(x)) that the model sees between the fixed scan and the moving one through A.

    world: A, homogeneous, mm. Displacements, velocities and their sequences become the transform of their kind on a grid whose
    axes are the fixed scan's, about as fine as the prediction.
    """
    grid = canonical_geometry(problem, model.card.canonical)
    fixed, moving = canonical_scans(problem, grid, world, model.card.preprocessing)
    with torch.inference_mode():
        prediction = model.network(moving, fixed)
    # inference tensors may not be used where gradients are tracked
    fields, variance = tuple(f.clone() for f in prediction.fields), prediction.log_variance
    prediction = replace(prediction, fields=fields, log_variance=None if variance is None else variance.clone())
    belief = None if variance is None else Belief(prediction, grid, *trained_with(model.card))
    return carried_back(prediction, grid, problem.pair.fixed.geometry), belief


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
    own = prediction_geometry(prediction, grid)
    target = level_geometry(fixed, min(own.spacing_mm), 2)
    # to_world turns voxels of a grid into mm: a field's unit is ``unit_voxels`` voxels of the network's input
    fields = [to_world(f * prediction.unit_voxels, grid) for f in prediction.fields]
    fields = [resample(f, own, target, blur=False).contiguous() for f in fields]
    if prediction.kind == "displacement":
        return DisplacementTransform(fields[0], target)
    return SVFTransform(fields[0], target) if prediction.kind == "velocity" else TVFTransform(tuple(fields), target)
