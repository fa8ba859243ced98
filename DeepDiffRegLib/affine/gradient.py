"""Rigid, similarity and affine alignment: several first guesses tried coarsely, the best one followed to the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..descent import Descent, Outcome, term_force
from ..errors import ConfigError
from ..problem import Problem
from ..progress import Progress
from ..registry import nearest
from ..result import HistoryEntry, Status
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


def align(problem: Problem, config: Config, progress: Progress, span: tuple[float, float] = (0.0, 1.0)) -> Aligned:
    """Find the start that ``config.start`` describes. Raises ``ConfigError`` for unknown names."""
    start = config.start
    _known("start.initial", start.initial, INITIALS)
    _known("start.transform", start.transform, (*LINEAR, "none"))
    geometry = problem.pair.fixed.geometry
    candidates = guesses(start.initial, problem.fixed, geometry, problem.moving, problem.pair.moving.geometry)
    if start.transform == "none":
        return Aligned(_best_as_is(problem, config, candidates), Status.CONVERGED, "no alignment asked for", [])
    best = _compete(problem, config, candidates, progress)
    outcome = _follow(problem, config, best, progress, span)
    joined = best.after(outcome.transform)  # A(B(x)): the descent's map acts first
    return Aligned(joined, outcome.status, outcome.message, outcome.history)


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: unknown value {value!r}{nearest(value, known)}")


def _trial_factor(problem: Problem) -> float:
    return max(1.0, TRIAL_MM / problem.working_spacing_mm)


def _loss(problem: Problem, config: Config, candidate: AffineTransform) -> float:
    level = problem.level(
        problem.pair.fixed.geometry, _trial_factor(problem), 1, candidate.homogeneous, config.start.similarity
    )
    zero = problem.fixed.new_zeros((1, level.geometry.ndim, *level.geometry.shape))
    return term_force(level.terms[0], zero, level, "warped")[0]


def _best_as_is(problem: Problem, config: Config, candidates: list[AffineTransform]) -> AffineTransform:
    return min(candidates, key=lambda c: _loss(problem, config, c)) if len(candidates) > 1 else candidates[0]


def _compete(
    problem: Problem, config: Config, candidates: list[AffineTransform], progress: Progress
) -> AffineTransform:
    """A short coarse rigid descent from each guess; the lowest loss wins."""
    if len(candidates) == 1:
        return candidates[0]
    finished = []
    for candidate in candidates:
        outcome = _descend(
            problem, config, candidate, "rigid", (_trial_factor(problem),), (TRIAL_ITERATIONS,), progress, (0.0, 0.0)
        )
        reached = candidate.after(outcome.transform)
        finished.append((_loss(problem, config, reached), len(finished), reached))
    return min(finished, key=lambda row: row[:2])[2]


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
