"""One pair, registered step by step: run, steer with prompts, undo, judge.

session = RegistrationSession(pair, load_preset("fast"))
session.run()
session.update(Prompts(landmarks=...))     # continues from the current map
result = session.result()
"""

from __future__ import annotations

import time
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
from .memory import give_back, peak_memory_mb
from .methods import METHODS
from .methods.iterative import Solution, split
from .problem import Problem, working_voxels
from .progress import Progress, Step
from .prompts.checks import check_prompts
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


@dataclass(frozen=True)
class State:
    """One step of the history: the map and the prompts that led to it."""

    solution: Solution
    prompts: Prompts


class RegistrationSession:
    """Holds pair, normalized scans and every map reached so far. Not to be used from two threads at once.

    Raises ``InputError`` at construction for prompts that do not fit the scans. ``progress.cancel()`` may be called from
    any thread: the step in progress then ends with its last map as the result, and earlier maps stay reachable by ``undo``.
    """

    def __init__(self, pair: Pair, config: Config | None = None, progress: Progress | None = None):
        check_prompts(pair)
        self.pair, self.progress = pair, progress or Progress()
        self.requested = config or load_preset("default")
        self.device = choose_device(self.requested.device)
        self.threads = set_threads(self.requested.threads)
        set_seed(self.requested.seed)
        voxels = Voxels(pair.fixed.geometry.voxels, pair.moving.geometry.voxels, working_voxels(pair))
        planned = plan(voxels, self.requested, self.device)
        self.config, self.notes = planned.config, [planned.message] if planned.message else []
        self.method = METHODS.build(self.config.method)
        self.timings_s: dict[str, float] = {}
        self._states: list[State] = []
        self._undone: list[State] = []
        self._start: Transform | None = None
        with self._stage("prepare"):
            self.problem = Problem.prepare(pair, self.config, self.device)

    @property
    def transform(self) -> Transform:
        """Current fixed_to_moving map."""
        return self._state.solution.transform

    @property
    def prompts(self) -> Prompts:
        """Prompts of the current map."""
        return self._state.prompts

    @property
    def _state(self) -> State:
        if not self._states:
            raise InputError("RegistrationSession: nothing has been registered yet; call run() first")
        return self._states[-1]

    def run(self, initial: Transform | None = None) -> Transform:
        """Align, then deform; returns the map. initial: a given start (the affine stage is then skipped)."""
        self.progress.restart()
        start = self._aligned() if initial is None else split(initial, self.pair.fixed.ndim)
        self._start = start.transform
        solution = start
        if start.status is not Status.CANCELLED:
            span = (START_SHARE if initial is None else 0.0, FINISH_FROM)
            solution = self._solve(start, self.pair.prompts, None, span)
            solution = replace(solution, history=start.history + solution.history)
        self._advance(solution, self.pair.prompts)
        return self.transform

    def update(self, prompts: Prompts) -> Transform:
        """Replace the prompts and continue from the current map with a short schedule; returns the new map."""
        check_prompts(replace(self.pair, prompts=prompts))
        self.progress.restart()
        current = self._state.solution
        self.problem = replace(self.problem, masks=self.problem.masks_of(prompts))
        far = prompts.fixed_labels is not None or self._farthest_mm(prompts) > self.config.prompts.far_mm
        schedule = self.config.prompts.schedule(self.config.schedule, far)
        self._advance(self._solve(current, prompts, schedule, (0.0, FINISH_FROM)), prompts)
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

    def result(self) -> Result:
        """Warp, invert and judge the current map."""
        solution, prompts = self._state.solution, self._state.prompts
        pair = replace(self.pair, prompts=prompts)
        transform = solution.transform
        self._tell("warp", FINISH_FROM)
        with self._stage("warp"):
            warped = warp_image(pair.moving, transform, pair.fixed.geometry)
        self._tell("inverse", 0.96)
        with self._stage("inverse"):
            inverse = transform.inverse()
        self._tell("quality checks", 0.97)
        with self._stage("quality"):
            context = Context.build(pair, transform, inverse, warped, self._start, steered=True)
            findings = run_checks(context)
        self._tell("done", 1.0)
        status = solution.status
        if self.notes and status in (Status.CONVERGED, Status.MAX_STEPS):
            status = Status.OUT_OF_MEMORY_RECOVERED
        return Result(
            pair, self.config, transform, inverse, warped, findings, self._history(), status,
            "; ".join([solution.message, *self.notes]), dict(self.timings_s), peak_memory_mb(),
            provenance(pair, self.config, self.device, self.threads), self._start, context,
        )  # fmt: skip

    def warped(self) -> Image:
        """The moving scan through the current map, on the fixed grid (for previews)."""
        return warp_image(self.pair.moving, self.transform, self.pair.fixed.geometry)

    def _aligned(self) -> Solution:
        with self._stage("start"):
            found = align(self.problem, self.config, self.progress, (0.0, START_SHARE))
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

    def _advance(self, solution: Solution, prompts: Prompts) -> None:
        if solution.inner is None and solution.status is Status.CANCELLED and self._states:
            raise Cancelled("cancelled before the step made a map; the earlier one stays")
        self._states.append(State(solution, prompts))
        self._undone.clear()

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
