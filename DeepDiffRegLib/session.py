"""One pair, registered step by step: run, steer with prompts, undo, judge.

session = RegistrationSession(pair, load_preset("fast"))
session.run()
session.update(Prompts(landmarks=...))     # continues from the current map
result = session.result()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from .affine.gradient import align
from .budget import Voxels, plan
from .config import Config, Schedule, load_preset
from .data.image import Image
from .data.pair import Pair, Prompts
from .device import choose_device, set_seed, set_threads
from .errors import Cancelled, InputError, OutOfMemoryError
from .geometry.pyramid import Pyramid
from .memory import give_back, peak_memory_mb
from .methods import METHODS
from .methods.dio import DIO, features_at_hand
from .methods.iterative import Solution, split
from .methods.uncertainty import UncertaintyOnce
from .problem import Problem, working_voxels
from .progress import Progress, Step
from .prompts.checks import check_prompts, check_steered
from .prompts.proposals import Proposal, Views, propose
from .prompts.suggestions import suggest
from .provenance import provenance
from .qc.base import Context
from .qc.verdict import run_checks
from .result import HistoryEntry, Result, Status
from .transforms.base import Transform
from .warp.image import warp_image

START_SHARE = 0.15
"""Share of the progress bar for the affine start."""
FINISH_FROM = 0.95
"""Where on the progress bar the iterations end and warping, inverse and quality checks begin."""
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
MOST_STEPS = 32
"""Maps that are kept; of more, the oldest but the first is forgotten."""


@dataclass(frozen=True, eq=False)
class State:
    """One step of the history: the map, and the prompts, configuration and start that led to it. name: for people."""

    solution: Solution
    prompts: Prompts
    config: Config
    start: Transform | None = None
    name: str = ""

    @property
    def loss(self) -> float | None:
        """The last loss, None when nothing was solved."""
        return self.solution.history[-1].loss if self.solution.history else None


class RegistrationSession:
    """Holds pair, normalized scans and every map reached so far. Not to be used from two threads at once.

    Raises ``InputError`` at construction for prompts that do not fit the scans. ``progress.cancel()`` may be called from
    any thread: the step in progress then ends with its last map as the result, and earlier maps stay reachable by ``undo``.
    """

    def __init__(self, pair: Pair, config: Config | None = None, progress: Progress | None = None):
        check_prompts(pair)
        self.pair, self.progress = pair, progress or Progress()
        self.timings_s: dict[str, float] = {}
        self._states: list[State] = []
        self._undone: list[State] = []
        self._unsure = UncertaintyOnce()
        self.problem: Problem | None = None
        self.configure(config or load_preset("default"))

    def configure(self, config: Config) -> None:
        """Use ``config`` from here on; the maps reached so far stay. The scans are prepared again only when they have to be."""
        voxels = Voxels(self.pair.fixed.geometry.voxels, self.pair.moving.geometry.voxels, working_voxels(self.pair))
        device, method = choose_device(config.device), METHODS.build(config.method)
        method.check(config, self.pair.fixed.ndim)
        planned = plan(voxels, config, device)
        self.threads = set_threads(config.threads)
        set_seed(config.seed)
        prepared = self.problem is not None and self.problem.device == device
        prepared = prepared and self.config.preprocess == planned.config.preprocess
        self.requested, self.config, self.device, self.method = config, planned.config, device, method
        self.notes = [planned.message] if planned.message else []
        if not prepared:
            with self._stage("prepare"):
                self.problem = Problem.prepare(self.pair, self.config, self.device)

    @property
    def transform(self) -> Transform:
        """Current fixed_to_moving map."""
        return self._state.solution.transform

    @property
    def prompts(self) -> Prompts:
        """Prompts of the current map."""
        return self._state.prompts

    @property
    def status(self) -> Status:
        """How the step that made the current map ended."""
        return self._state.solution.status

    @property
    def steps(self) -> tuple[State, ...]:
        """Every map that can be reached, in the order in which they were made; those undone last."""
        return (*self._states, *reversed(self._undone))

    @property
    def step(self) -> int:
        """Where the current map stands in ``steps``; -1 before the first one."""
        return len(self._states) - 1

    @property
    def _start(self) -> Transform | None:
        return self._state.start

    @property
    def _state(self) -> State:
        if not self._states:
            raise InputError("RegistrationSession: nothing has been registered yet; call run() first")
        return self._states[-1]

    def run(self, initial: Transform | None = None, prompts: Prompts | None = None) -> Transform:
        """Align, then deform; returns the map. initial: a given start (the affine stage is then skipped).

        prompts: instead of the pair's.
        """
        if prompts is not None:
            self._prompt(prompts)
        if not self.config.similarity.weight:
            check_steered(self.pair.prompts)
        self.progress.restart()
        start = self._aligned() if initial is None else split(initial, self.pair.fixed.ndim)
        solution = start
        if start.status is not Status.CANCELLED:
            span = (START_SHARE if initial is None else 0.0, FINISH_FROM)
            solution = self._solve(start, self.pair.prompts, None, span)
            solution = replace(solution, history=start.history + solution.history)
        self._advance(solution, start.transform, "registration")
        return self.transform

    def resume(self, transform: Transform, prompts: Prompts | None = None) -> Transform:
        """Make a given map the current one, nothing solved: after a program was started anew."""
        if prompts is not None:
            self._prompt(prompts)
        solution = split(transform, self.pair.fixed.ndim)
        self._advance(solution, solution.world, "resumed")
        return self.transform

    def update(self, prompts: Prompts) -> Transform:
        """Replace the prompts and continue from the current map with a short schedule; returns the new map."""
        current, start = self._state.solution, self._start
        self._prompt(prompts)
        self.progress.restart()
        far = prompts.fixed_labels is not None or self._farthest_mm(prompts) > self.config.prompts.far_mm
        schedule = self.config.prompts.schedule(self.config.schedule, far)
        self._advance(self._solve(current, prompts, schedule, (0.0, FINISH_FROM)), start, "update")
        return self.transform

    def undo(self) -> bool:
        """Back to the map before the last step; False when there is none."""
        if len(self._states) < 2:
            return False
        self._undone.append(self._states.pop())
        return True

    def redo(self) -> bool:
        """Forward again after ``undo``; False when there is nothing to repeat."""
        if not self._undone:
            return False
        self._states.append(self._undone.pop())
        return True

    def select(self, step: int) -> Transform:
        """Make the map at this place of ``steps`` the current one; raises ``InputError`` when there is none."""
        if not 0 <= step < len(self.steps):
            raise InputError(f"select: step must lie between 0 and {len(self.steps) - 1}, got {step}")
        while self.step > step:
            self.undo()
        while self.step < step:
            self.redo()
        return self.transform

    def drop(self) -> bool:
        """Forget the current map for good; the one before becomes current. False when there is none before."""
        undone = list(self._undone)
        if not self.undo():
            return False
        self._undone = undone
        return True

    def result(self, stop: Callable[[], bool] | None = None) -> Result:
        """Warp, invert and judge the current map. stop: asked between the steps; when true they end with ``Cancelled``."""
        go_on = _asked(stop)
        solution, prompts = self._state.solution, self._state.prompts
        pair = replace(self.pair, prompts=prompts)
        transform = solution.transform
        self._tell("warp", FINISH_FROM)
        with self._stage("warp"):
            warped = warp_image(pair.moving, transform, pair.fixed.geometry)
        go_on()
        self._tell("inverse", 0.96)
        with self._stage("inverse"):
            inverse = transform.inverse()
        go_on()
        unsure = None
        if solution.belief is not None and (options := self._state.config.network).samples:
            with self._stage("uncertainty"):
                labels, drawn = prompts.moving_labels, (options.samples, self._state.config.seed)
                unsure = self._unsure.of(solution, labels, *drawn, lambda share: self._sampled(share, go_on))
        self._tell("quality checks", 0.97)
        with self._stage("quality"):
            context = Context.build(pair, transform, inverse, warped, self._start, True, go_on, unsure)
            findings = run_checks(context)
        self._tell("done", 1.0)
        status = solution.status
        if self.notes and status in (Status.CONVERGED, Status.MAX_STEPS):
            status = Status.OUT_OF_MEMORY_RECOVERED
        return Result(
            pair, self._state.config, transform, inverse, warped, findings, self._history(), status,
            "; ".join([solution.message, *self.notes]), dict(self.timings_s), peak_memory_mb(),
            provenance(pair, self._state.config, self.device, self.threads), self._start, context, unsure,
            features_at_hand(replace(self.problem, masks=self.problem.masks_of(prompts)), self._state.config),
        )  # fmt: skip

    def features(self) -> tuple[Pyramid, Pyramid] | None:
        """What a network sees in the fixed and in the moving scan, coarse to fine, for the current map's configuration.

        Kept from the run, computed where they are not at hand; None where the method does not compare learned features.
        """
        config, method = self.config, self.method
        if self._states and self._state.config != config:
            config = self._state.config
            method = METHODS.build(config.method)
            method.check(config, self.pair.fixed.ndim)
        return method.features(self.problem, config) if isinstance(method, DIO) else None

    def propose(
        self,
        points_mm: np.ndarray,
        side: str = "fixed",
        radius_mm: float | None = None,
        transform: Transform | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> tuple[Proposal, ...]:
        """The point of the other scan for each of (N, d) points in mm, LPS, and how sure it is (``prompts.proposals.propose``).

        side: of the points. Searched around the current map, or around ``transform``. The map stays as it is.
        """
        return propose(
            self._views(),
            transform or self.transform,
            points_mm,
            side,
            radius_mm,
            _asked(stop, "no proposals were made"),
        )

    def suggest(
        self,
        count: int = 5,
        radius_mm: float | None = None,
        transform: Transform | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> tuple[Proposal, ...]:
        """Where landmarks would help the current map (or ``transform``) most, with proposals, best first; may be fewer."""
        known = self.pair.prompts.landmarks
        existing = None if known is None else known.fixed.positions_mm
        belief = self._state.solution.belief if transform is None else None
        unsure = None if belief is None else belief.spread_mm
        between = _asked(stop, "no places were named")
        return suggest(self._views(), transform or self.transform, count, radius_mm, existing, unsure, between)

    def _views(self) -> Views:
        """The scans as matching looks at them: by learned features where the current map was found with them."""
        config = self._state.config if self._states else self.config
        return self.problem.views(features_at_hand(self.problem, config))

    def _sampled(self, share: float, go_on: Callable[[], None]) -> None:
        self._tell("uncertainty", 0.965 + 0.005 * share)
        go_on()

    def warped(self) -> Image:
        """The moving scan through the current map, on the fixed grid (for previews)."""
        return warp_image(self.pair.moving, self.transform, self.pair.fixed.geometry)

    def _aligned(self) -> Solution:
        with self._stage("start"):
            better = self.method.better_start(self.problem, self.config)
            found = align(self.problem, self.config, self.progress, (0.0, START_SHARE), better)
        return Solution(found.transform, None, found.status, found.message, tuple(found.history))

    def _solve(self, start: Solution, prompts: Prompts, schedule: Schedule | None, span) -> Solution:
        """Solve; when memory runs out, once more on the CPU or at half resolution, and say so."""
        with self._stage("deformable"):
            for attempt in range(2):
                try:
                    return self.method.solve(self.problem, self.config, start, prompts, self.progress, schedule, span)
                except OUT_OF_MEMORY as error:
                    if attempt:
                        raise OutOfMemoryError(f"out of memory even after falling back: {error}") from error
                    schedule = self._fall_back(schedule)
        raise AssertionError("unreachable")

    def _fall_back(self, schedule: Schedule | None) -> Schedule | None:
        """From the card to the CPU, or from the CPU to half resolution; returns the schedule to try again with."""
        if self.device.type != "cpu":
            self.device = torch.device("cpu")
            self.problem = Problem.prepare(self.pair, self.config, self.device)
            self.notes.append("the card ran out of memory: solved on the CPU instead")
            return schedule
        self.config = self.config.replace(schedule=coarser(self.config.schedule))
        self.notes.append("memory ran out: solved at half resolution instead")
        return None if schedule is None else coarser(schedule)

    def _prompt(self, prompts: Prompts) -> None:
        """Let these prompts steer from here on. Raises ``InputError`` when they do not fit the scans."""
        pair = replace(self.pair, prompts=prompts)
        check_prompts(pair)
        self.pair = pair
        self.problem = replace(self.problem, pair=pair, masks=self.problem.masks_of(prompts))

    def _advance(self, solution: Solution, start: Transform, name: str) -> None:
        if solution.inner is None and solution.status is Status.CANCELLED and self._states:
            raise Cancelled("cancelled before the step made a map; the earlier one stays")
        for state in self._states:
            if state.solution.inner is not None and state.solution.inner is not solution.inner:
                state.solution.inner.forget()
        self._states.append(State(solution, self.pair.prompts, self.config, start, name))
        self._undone.clear()
        if len(self._states) > MOST_STEPS:
            del self._states[1]

    def _farthest_mm(self, prompts: Prompts) -> float:
        """Largest distance of a landmark from where the current map puts it."""
        if prompts.landmarks is None:
            return 0.0
        misses = self.transform.map_points(prompts.landmarks.fixed.positions_mm) - prompts.landmarks.moving.positions_mm
        return float(np.linalg.norm(misses, axis=1).max())

    def _history(self) -> tuple[HistoryEntry, ...]:
        return tuple(entry for state in self._states for entry in state.solution.history)

    def _tell(self, stage: str, fraction: float) -> None:
        self.progress.report(Step(stage, fraction=fraction))

    @contextmanager
    def _stage(self, name: str):
        started = time.perf_counter()
        yield
        give_back()
        self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - started


def coarser(schedule: Schedule) -> Schedule:
    """The same levels at half the resolution."""
    return replace(schedule, factors=tuple(2 * f for f in schedule.factors))


def _asked(stop: Callable[[], bool] | None, undone: str = "it was not judged") -> Callable[[], None]:
    """A check to be made between two steps: raises ``Cancelled`` when ``stop`` says so."""

    def check() -> None:
        if stop is not None and stop():
            raise Cancelled(f"cancelled; the map stays, {undone}")

    return check
