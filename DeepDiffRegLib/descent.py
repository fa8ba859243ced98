"""The one multi-resolution descent: every transform model, term and prompt of the library is optimised by this loop.

Per iteration: look the moving channels up through the current map, let each term say its value and its force (dE/du), add
regularizers and the model's own energy, let the model judge the value and step, then let landmarks pull. Terms and prompts
come with closed-form forces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .geometry.grid import Geometry
from .geometry.sampling import index_matrix, per_component, pull_gradient, warp, warped_gradient
from .memory import give_back
from .progress import Progress, Step
from .prompts.base import PROMPTS, SCANS, ImageTerm, balance
from .prompts.landmarks import LandmarkPrompt
from .regularization.base import Regularizer
from .result import HistoryEntry, Status
from .transforms.base import Transform
from .transforms.model import Model, Push

WINDOW = 10
"""Iterations over which the decrease of the loss is judged."""
LANDMARK_STEP_VOXELS = 1.0


@dataclass(frozen=True)
class Level:
    """What is minimised on one grid. world: homogeneous map A (mm) applied after the model's displacement."""

    geometry: Geometry
    terms: Sequence[ImageTerm]
    iterations: int
    world: np.ndarray
    regularizers: Sequence[tuple[float, Regularizer]] = ()


@dataclass
class Outcome:
    """transform: the model's map where the loop ended (before A). message: why it ended, in words."""

    transform: Transform
    status: Status
    message: str
    history: list[HistoryEntry] = field(default_factory=list)


@dataclass
class Descent:
    """One run over levels, coarse to fine. ``levels`` are made when they are needed and dropped after.

    iterations, voxels: planned per level, for the progress bar. tolerance: a level ends when the loss falls by less than this
    share per iteration over the last ``WINDOW``. prompt_weight: step of the prompts relative to the scans', for models that give
    them one of their own.
    """

    model: Model
    levels: Sequence[Callable[[], Level]]
    progress: Progress
    stage: str = "deformable"
    landmarks: LandmarkPrompt | None = None
    landmark_weight: float = 1.0
    tolerance: float = 1e-4
    device: torch.device | str = "cpu"
    work: Sequence[float] = ()
    span: tuple[float, float] = (0.0, 1.0)
    prompt_weight: float = 1.0
    history: list[HistoryEntry] = field(default_factory=list)
    _scan_force: float = 0.0

    def run(self) -> Outcome:
        """Descend all levels; cancelling or a loss that is not finite ends with the last usable map."""
        converged = True
        for number, make in enumerate(self.levels):
            level = make()
            self.model.enter(level.geometry, self.device)
            give_back()
            status = self._level(number, level)
            if status in (Status.CANCELLED, Status.DIVERGED):
                return self._outcome(status)
            converged = converged and status is Status.CONVERGED
        return self._outcome(Status.CONVERGED if converged else Status.MAX_STEPS)

    def _outcome(self, status: Status) -> Outcome:
        messages = {
            Status.CONVERGED: "the loss stopped falling on every level",
            Status.MAX_STEPS: "all planned iterations were made",
            Status.CANCELLED: "cancelled; this is the map reached until then",
            Status.DIVERGED: "the loss became NaN or infinite; this is the last usable map",
        }
        transform = self.model.finish()
        message = "; ".join([f"{self.stage}: {messages[status]}", *self.model.notes])
        return Outcome(transform, status, message, self.history)

    def _level(self, number: int, level: Level) -> Status:
        losses: list[float] = []
        factors: dict[str, float] = {}
        for iteration in range(level.iterations):
            if self.progress.cancelled():
                return Status.CANCELLED
            terms, forces = self._energy(level, factors)
            loss = sum(terms.values())
            pushes = [float(force.sum()) for force in forces.values()]
            if not all(math.isfinite(v) for v in (loss, *pushes)):
                return Status.DIVERGED
            self.history.append(HistoryEntry(self.stage, number, iteration, loss, terms))
            self._report(number, iteration + 1, level.iterations, loss)
            if self.progress.cancelled():
                return Status.CANCELLED
            if self.model.judge(loss):
                losses.append(loss)
                self.model.step(forces.pop(SCANS), self._apart(level, forces))
                self._pull_landmarks(level)
            del forces  # else they would stay until the next ones are complete
            if self.model.stuck:
                return Status.CONVERGED
            if self.span[0] < self.span[1]:  # not for the trials of an alignment
                self.progress.preview(self.model, level.world)
            if self._settled(losses):
                return Status.CONVERGED
        return Status.MAX_STEPS

    def _energy(self, level: Level, factors: dict[str, float]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """Value of each term, and the force of each group; that of the scans is always there and has the regularizers'.

        ``factors`` are fixed in the level's first iteration.
        """
        u = self.model.displacement()
        forces: dict[str, torch.Tensor] = {}
        values: dict[str, float] = {}
        with torch.no_grad():
            for term in level.terms:
                value, pushed = term_force(term, u, level, self.model.derivative)
                if term.name not in factors:
                    several = len(level.terms) > 1 or (self.landmarks is not None and self.model.descends_energy)
                    self._weigh(term, pushed, factors, several)
                factor = factors[term.name]
                values[term.name] = factor * value
                pushed = pushed if factor == 1.0 else pushed.mul_(factor)
                forces[term.group] = forces[term.group].add_(pushed) if term.group in forces else pushed
            forces.setdefault(SCANS, torch.zeros_like(u))
            self._regularize(level, u, forces[SCANS], values)
            self._landmark_force(level, u, forces, values, factors)
            values.update(self.model.energy())
        return values, forces

    def _apart(self, level: Level, forces: dict[str, torch.Tensor]) -> list[Push]:
        """What remains beside the scans' force: further similarities, then the prompts."""
        weights = {term.group: term.weight for term in level.terms} | {PROMPTS: self.prompt_weight}
        return [Push(name, force, weights[name]) for name, force in forces.items()]

    def _weigh(self, term: ImageTerm, pushed: torch.Tensor, factors: dict[str, float], several: bool) -> None:
        """Fix a term's factor: its weight for the scans (always first), balanced against the scans' force for others."""
        strength = float(self.model.smooth_force(pushed).abs().max()) if several else 0.0
        if not math.isfinite(strength):
            factors[term.name] = 1.0  # the loop sees that the force is unusable and ends
        elif term.name == SCANS:
            factors[SCANS], self._scan_force = term.weight, strength * term.weight
        else:
            factors[term.name] = balance(strength, self._scan_force, term.weight)

    def _regularize(self, level: Level, u: torch.Tensor, force: torch.Tensor, values: dict[str, float]) -> None:
        spacing = per_component(level.geometry.spacing_mm, u)
        for weight, regularizer in level.regularizers:
            value, gradient = regularizer.value_and_gradient(u * spacing, level.geometry.spacing_mm)
            values[type(regularizer).__name__.lower()] = weight * value
            force.addcmul_(gradient, spacing, value=weight)

    def _landmark_force(
        self,
        level: Level,
        u: torch.Tensor,
        forces: dict[str, torch.Tensor],
        values: dict[str, float],
        factors: dict[str, float],
    ) -> None:
        """Add the landmarks' force to the prompts', for models that store no displacement.

        The others are pulled after the step instead; for both the landmarks' energy is reported. Models that descend an energy
        get its derivative, balanced once per level as if every landmark missed by one standard deviation.
        """
        if self.landmarks is None:
            return
        if self.model.stores_displacement:
            values["landmarks"] = self.landmarks.energy(u, level.geometry, level.geometry.spacing_mm)
            return
        spacing = per_component(level.geometry.spacing_mm, u)
        mm = u * spacing
        if self.model.descends_energy:
            if "landmarks" not in factors:
                _, usual = self.landmarks.value_and_force(mm, level.geometry, at_one_sd=True)
                strength = float(self.model.smooth_force(usual.mul_(spacing)).abs().max())
                factors["landmarks"] = balance(strength, self._scan_force, self.landmark_weight)
            value, push = self.landmarks.value_and_force(mm, level.geometry)
            values["landmarks"] = factors["landmarks"] * value
            push.mul_(spacing).mul_(factors["landmarks"])
        else:
            values["landmarks"] = self.landmarks.energy(mm, level.geometry)
            limit = LANDMARK_STEP_VOXELS * min(level.geometry.spacing_mm)
            push = self.landmarks.pull(mm, level.geometry, limit).sub_(mm).div_(spacing)
            strongest, own = float(forces[SCANS].abs().max()), float(push.abs().max())
            push.mul_(-self.landmark_weight * balance(own, strongest) * min(1.0, own))
        forces[PROMPTS] = push if PROMPTS not in forces else forces[PROMPTS].add_(push)

    def _pull_landmarks(self, level: Level) -> None:
        if self.landmarks is None or not self.model.stores_displacement:
            return
        spacing = level.geometry.spacing_mm
        u = self.model.displacement()
        scale, limit = per_component(spacing, u), LANDMARK_STEP_VOXELS * min(spacing)
        # In place, as u is the model's parameter itself: copies of it would cost more than the pull.
        self.landmarks.pull(u.mul_(scale), level.geometry, limit, out=u)
        self.model.set_displacement(u.div_(scale))

    def _settled(self, losses: list[float]) -> bool:
        if len(losses) < 2 * WINDOW or self.tolerance <= 0:
            return False
        before, now = np.mean(losses[-2 * WINDOW : -WINDOW]), np.mean(losses[-WINDOW:])
        return bool(before - now < self.tolerance * WINDOW * max(abs(before), 1e-12))

    def _report(self, number: int, iteration: int, iterations: int, loss: float) -> None:
        work = self.work or [1.0] * len(self.levels)
        done = sum(work[:number]) + work[number] * iteration / iterations
        fraction = self.span[0] + (self.span[1] - self.span[0]) * done / max(sum(work), 1e-12)
        left = self.progress.seconds_left(fraction)
        self.progress.report(Step(self.stage, number, len(self.levels), iteration, iterations, loss, fraction, left))


def term_force(term: ImageTerm, u: torch.Tensor, level: Level, derivative: str) -> tuple[float, torch.Tensor]:
    """Value and force (dE/du or dE/dd, see ``Model.derivative``) of one term at displacement u (voxels).

    Features stored in half precision are compared channel by channel in single precision.
    """
    matrix = index_matrix(level.geometry, term.moving_geometry, level.world)
    weight = term.fixed_weight
    if term.moving_weight is not None:
        seen = warp(term.moving_weight, u, matrix)
        weight = seen if weight is None else seen.mul_(weight)
    if term.fixed.dtype != torch.float16:
        return _compare(term.similarity, term.fixed, term.moving, weight, u, matrix, derivative)
    channels, value, force = term.fixed.shape[1], 0.0, torch.zeros_like(u)
    for c in range(channels):
        pair = (features[:, c : c + 1].float() for features in (term.fixed, term.moving))
        own, pushed = _compare(term.similarity, *pair, weight, u, matrix, derivative)
        value += own / channels
        force.add_(pushed, alpha=1 / channels)
    return value, force


def _compare(similarity, fixed, moving, weight, u, matrix, derivative: str) -> tuple[float, torch.Tensor]:
    """Value and force of channels in single precision."""
    found = similarity.force(fixed, moving, weight, u, matrix, derivative)
    if found is not None:
        return found
    warped = warp(moving, u, matrix)
    value, residual = similarity.value_and_gradient(fixed, warped, weight)
    if derivative == "warped":
        return value, warped_gradient(warped, residual)
    return value, pull_gradient(moving, u, matrix, residual)
