"""Rigid, similarity and affine alignment: several first guesses tried coarsely, the best one followed to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..config import Config
from ..descent import Descent, Level, Outcome, term_force
from ..errors import ConfigError
from ..problem import Problem
from ..progress import Progress
from ..registry import nearest
from ..result import HistoryEntry, Status
from ..similarity import SIMILARITIES
from ..transforms import TRANSFORMS
from ..transforms.affine import AffineTransform
from .moments import guesses

STAGE = "start"
LINEAR = ("rigid", "similarity", "affine")
INITIALS = ("auto", "identity", "centers", "moments")
TRIAL_MM = 8.0
"""Spacing of the grid on which first guesses compete."""
TRIAL_ITERATIONS = 40


@dataclass
class Aligned:
    """transform: fixed_to_moving matrix; history and status of the descent that found it."""

    transform: AffineTransform
    status: Status
    message: str
    history: list[HistoryEntry]


def align(
    problem: Problem,
    config: Config,
    progress: Progress,
    span: tuple[float, float] = (0.0, 1.0),
    better: Callable[[AffineTransform], AffineTransform] | None = None,
) -> Aligned:
    """Find the start that ``config.start`` describes. Raises ``ConfigError`` for unknown names.

    better: makes the likeliest first guess better (a network); the descent then begins there instead of trying all guesses.
    """
    start = config.start
    _known("start.initial", start.initial, INITIALS)
    _known("start.transform", start.transform, (*LINEAR, "none"))
    geometry = problem.pair.fixed.geometry
    candidates = guesses(start.initial, problem.fixed, geometry, problem.moving, problem.pair.moving.geometry)
    if better is not None:
        candidates = [better(_best_as_is(problem, config, candidates))]
    if start.transform == "none":
        return Aligned(_best_as_is(problem, config, candidates), Status.CONVERGED, "no alignment asked for", [])
    best = _compete(problem, config, candidates, progress)
    outcome = _follow(problem, config, best, progress, span)
    joined = best.after(outcome.transform)  # A(B(x)): the descent's map acts first
    return Aligned(joined, outcome.status, outcome.message, outcome.history)


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: unknown value {value!r}{nearest(value, known)}")


def _trials(problem: Problem, config: Config, candidates: list[AffineTransform]) -> list[Level]:
    """The coarse level on which first guesses are compared, one per guess; the scans on it are shared where they can be."""
    similarity, geometry = config.start.similarity, problem.pair.fixed.geometry
    factor = max(1.0, TRIAL_MM / problem.working_spacing_mm)

    def build(candidate: AffineTransform) -> Level:
        return problem.level(geometry, factor, TRIAL_ITERATIONS, candidate.homogeneous, similarity)

    if SIMILARITIES.load(similarity.name).oriented:
        return [build(candidate) for candidate in candidates]
    shared = build(candidates[0])
    return [replace(shared, world=candidate.homogeneous) for candidate in candidates]


def _loss(level: Level, world: np.ndarray) -> float:
    term = level.terms[0]
    zero = term.fixed.new_zeros((1, level.geometry.ndim, *level.geometry.shape))
    return term_force(term, zero, replace(level, world=world), "warped")[0]


def _best_as_is(problem: Problem, config: Config, candidates: list[AffineTransform]) -> AffineTransform:
    if len(candidates) == 1:
        return candidates[0]
    losses = [_loss(level, level.world) for level in _trials(problem, config, candidates)]
    return candidates[int(np.argmin(losses))]


def _compete(
    problem: Problem, config: Config, candidates: list[AffineTransform], progress: Progress
) -> AffineTransform:
    """A short coarse rigid descent from each guess; the lowest loss wins."""
    if len(candidates) == 1:
        return candidates[0]
    reached, losses = [], []
    for candidate, level in zip(candidates, _trials(problem, config, candidates)):
        outcome = Descent(
            TRANSFORMS.build("rigid"), [lambda level=level: level], progress, STAGE,
            tolerance=config.start.schedule.tolerance, device=problem.device, span=(0.0, 0.0),
        ).run()  # fmt: skip
        reached.append(candidate.after(outcome.transform))
        losses.append(_loss(level, reached[-1].homogeneous))
    return reached[int(np.argmin(losses))]


def _follow(problem: Problem, config: Config, best: AffineTransform, progress: Progress, span) -> Outcome:
    schedule = config.start.schedule
    return _descend(
        problem, config, best, config.start.transform, schedule.factors, schedule.iterations, progress, span,
        schedule.minimum_size,
    )  # fmt: skip


def _descend(
    problem: Problem,
    config: Config,
    start: AffineTransform,
    model: str,
    factors: tuple[float, ...],
    iterations: tuple[int, ...],
    progress: Progress,
    span: tuple[float, float],
    minimum_size: int = 16,
) -> Outcome:
    box = problem.pair.fixed.geometry
    used = [(f, n) for f, n in zip(factors, iterations) if n > 0]
    levels = [
        lambda f=f, n=n: problem.level(box, f, n, start.homogeneous, config.start.similarity, minimum_size)
        for f, n in used
    ]
    work = [n / np.prod([f] * box.ndim) for f, n in used]
    return Descent(
        TRANSFORMS.build(model), levels, progress, STAGE, tolerance=config.start.schedule.tolerance,
        device=problem.device, work=work, span=span,
    ).run()  # fmt: skip
