"""Optimise any transform model on the pair itself: no training, any similarity, regularization and prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..config import Config, Schedule
from ..data.pair import Prompts
from ..descent import Descent
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.sampling import per_component
from ..problem import Problem
from ..progress import Progress
from ..prompts.labels import LabelPrompt
from ..prompts.landmarks import SMALLEST_SIGMA_VOXELS, LandmarkPrompt, choose_sigma_mm
from ..result import HistoryEntry, Status
from ..transforms import TRANSFORMS
from ..transforms.affine import AffineTransform, LinearModel
from ..transforms.base import Transform
from ..transforms.composite import CompositeTransform
from ..transforms.displacement import DisplacementTransform, to_world
from ..transforms.model import Model

if TYPE_CHECKING:
    from ._belief import Belief

STAGE = "deformable"
REACH_PER_MISS = 0.25
MEET_PER_MISS = 0.4
MET_WITHIN_SD = 0.9


@dataclass(frozen=True)
class Solution:
    """world: the affine part A; inner: the model's map, applied first (None: identity); transform: both.

    belief: what a probabilistic network said of the pair, None without one.
    """

    world: AffineTransform
    inner: Transform | None
    status: Status
    message: str
    history: tuple[HistoryEntry, ...] = ()
    belief: Belief | None = None

    @cached_property
    def transform(self) -> Transform:
        if self.inner is None:
            return self.world
        if isinstance(self.inner, AffineTransform):
            return self.world.after(self.inner)
        return CompositeTransform([self.inner, self.world])


class Iterative:
    """Features, transform model, terms and start in any combination, solved by one descent."""

    def check(self, config: Config, ndim: int) -> None:
        """Refuse a configuration that this method would not follow, before any work."""
        if config.model is not None:
            raise ConfigError(
                "a model is used by methods 'feedforward' and 'dio' only; choose one, or leave the model out"
            )

    def better_start(self, problem: Problem, config: Config) -> None:
        """Nothing here makes the affine start's first guess better."""

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
        """Descend from ``start`` (its inner map is continued) along ``schedule`` (the configuration's when absent).

        A start that the model cannot represent is a ``ConfigError``. Landmarks are first met by a fold-free warm start.
        """
        schedule = schedule or config.schedule
        box, pinned = self._box(problem, config, start)
        model = self.model(problem, config, start)
        model.pinned = pinned
        if prompts.stiffness is not None:
            model.set_stiffness(prompts.stiffness, start.world.homogeneous)
        landmarks = landmark_prompt(prompts, start.world, config)
        landmarks = begin(model, start, problem, box, schedule, landmarks)
        if landmarks is not None:
            progress.preview(model, start.world.homogeneous)
        labels = label_prompt(prompts, config)
        used = [(f, n) for f, n in zip(schedule.factors, schedule.iterations) if n > 0] or [(schedule.factors[0], 0)]
        matrix = start.world.homogeneous
        levels = [
            lambda f=f, n=n: problem.level(
                box,
                f,
                n,
                matrix,
                config.similarity,
                schedule.minimum_size,
                config.regularization,
                labels,
                config.half_precision,
                config.further_similarities,
            )
            for f, n in used
        ]
        outcome = Descent(
            model, levels, progress, STAGE, landmarks, config.prompts.landmark_weight, schedule.tolerance, problem.device,
            [n / f**box.ndim for f, n in used], span, config.prompts.label_weight,
        ).run()  # fmt: skip
        unsteered = landmarks is None or outcome.status is Status.CANCELLED
        inner = outcome.transform if unsteered else meet(landmarks, model, outcome.transform)
        return replace(
            start, inner=inner, status=outcome.status, message=outcome.message, history=tuple(outcome.history)
        )

    def model(self, problem: Problem, config: Config, start: Solution) -> Model:
        """What is to be optimised."""
        return TRANSFORMS.build(config.transform.name, **config.transform.options)

    def _box(self, problem: Problem, config: Config, start: Solution):
        region = problem.region(start.world.homogeneous, config)
        if issubclass(TRANSFORMS.load(config.transform.name), LinearModel):
            return region.geometry, ()
        return region.geometry, region.pinned


def begin(
    model: Model, start: Solution, problem: Problem, box: Geometry, schedule: Schedule, landmarks: LandmarkPrompt | None
) -> LandmarkPrompt | None:
    """Give the model its first map: the start's inner map, then the landmarks' warm start where it can be stored.

    Returns the landmarks with the reach that each needs (``reach_mm``).
    """
    first = next((f for f, n in zip(schedule.factors, schedule.iterations) if n > 0), 1)
    finest = min((f for f, n in zip(schedule.factors, schedule.iterations) if n > 0), default=first)
    if start.inner is not None:
        geometry, _ = problem.level_geometries(box, finest, schedule.minimum_size)
        model.resume(start.inner, geometry, problem.device)
    if landmarks is None:
        return None
    geometry, _ = problem.level_geometries(box, finest if start.inner is not None else first, schedule.minimum_size)
    model.enter(geometry, problem.device)
    u = model.displacement()
    spacing = per_component(geometry.spacing_mm, u)
    landmarks = replace(
        landmarks, sigma_mm=reach_mm(landmarks, landmarks.residuals_mm(u * spacing, geometry), geometry)
    )
    if model.stores_displacement:
        model.set_displacement(landmarks.warm_start(u * spacing, geometry).div_(spacing))
    return landmarks


def meet(landmarks: LandmarkPrompt, model: Model, reached: Transform) -> Transform:
    """The map with its landmarks brought within their standard deviation by a last compact, fold-free flow.

    The scans' steps may have drawn landmarks away again that ask for much. Models that store no displacement keep theirs.
    """
    if not model.stores_displacement:
        return reached
    geometry = model.geometry
    u = model.displacement()
    spacing = per_component(geometry.spacing_mm, u)
    u_mm = u * spacing
    misses = landmarks.residuals_mm(u_mm, geometry)
    excess = np.clip(1 - MET_WITHIN_SD * landmarks.sd_mm / np.maximum(misses, 1e-9), 0, 1)[:, None]
    images = DisplacementTransform(to_world(u, geometry), geometry).map_points(landmarks.fixed_mm)
    targets = images + excess * (landmarks.target_mm - images)
    compact = np.maximum(SMALLEST_SIGMA_VOXELS * max(geometry.spacing_mm), MEET_PER_MISS * misses)
    model.set_displacement(
        replace(landmarks, target_mm=targets, sigma_mm=compact).warm_start(u_mm, geometry).div_(spacing)
    )
    return model.finish()


def reach_mm(landmarks: LandmarkPrompt, misses_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(N,) reach: wide for a long way to go (on a narrow bump it would tear the tissue), compact for a short one."""
    natural = choose_sigma_mm(landmarks.fixed_mm, geometry.spacing_mm)
    return np.maximum(landmarks.sigma_mm, np.minimum(natural, REACH_PER_MISS * misses_mm))


def landmark_prompt(prompts: Prompts, world: AffineTransform, config: Config) -> LandmarkPrompt | None:
    """Landmarks in the space before the affine part: targets are A^-1 of the moving points."""
    if prompts.landmarks is None:
        return None
    back = world.inverse().transform
    return LandmarkPrompt(
        prompts.landmarks.fixed.positions_mm,
        back.map_points(prompts.landmarks.moving.positions_mm),
        prompts.landmarks.sd_mm,
        config.prompts.landmark_sigma_mm or config.prompts.landmark_hold_mm,
    )


def label_prompt(prompts: Prompts, config: Config) -> LabelPrompt | None:
    """Label pairs, when both maps are given."""
    if prompts.fixed_labels is None or prompts.moving_labels is None:
        return None
    return LabelPrompt(prompts.fixed_labels, prompts.moving_labels, prompts.label_pairs, config.prompts.label_weight)


def split(transform: Transform | None, ndim: int) -> Solution:
    """A given start as (inner map, affine part): an affine alone, [map, affine] of ours, or any map under A = identity."""
    identity = AffineTransform.identity(ndim)
    message = "given start"
    if transform is None:
        return Solution(identity, None, Status.CONVERGED, "no start")
    if isinstance(transform, AffineTransform):
        return Solution(transform, None, Status.CONVERGED, message)
    if isinstance(transform, CompositeTransform):
        *first, last = transform.transforms
        if isinstance(last, AffineTransform):
            inner = first[0] if len(first) == 1 else CompositeTransform(first)
            return Solution(last, inner, Status.CONVERGED, message)
    return Solution(identity, transform, Status.CONVERGED, message)
