"""What every experiment is: something that runs, draws figures and holds numbers against limits."""

from __future__ import annotations

import math
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import Cancelled, RegistrationError
from ..progress import Progress, Step

Direction = Literal["<=", ">="]
Found = TypeVar("Found")
LOOK_S = 0.2
"""How often a wait for other processes looks whether to stop."""


@dataclass(frozen=True)
class Criterion:
    """One measured number and the limit it is held against. unit: empty for shares and ratios.

    Raises RegistrationError when the value is not a finite number: what could not be measured has neither passed nor failed.
    """

    name: str
    value: float
    unit: str
    direction: Direction
    limit: float

    def __post_init__(self):
        object.__setattr__(self, "value", float(self.value))
        if not math.isfinite(self.value):
            raise RegistrationError(f"criterion {self.name!r} could not be measured: it came out as {self.value}")

    @property
    def passed(self) -> bool:
        return self.value <= self.limit if self.direction == "<=" else self.value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the limit is written with its direction."""
        return {
            "name": self.name,
            "value": float(f"{self.value:.6g}"),
            "unit": self.unit,
            "limit": f"{self.direction} {self.limit:g}",
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Outcome:
    """A completed experiment. figures: paths of the PNGs. details: further numbers, plain JSON values, not judged."""

    criteria: tuple[Criterion, ...]
    figures: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.criteria:
            raise RegistrationError("the experiment ended without a criterion, so there is nothing to judge")

    @property
    def passed(self) -> bool:
        return all(criterion.passed for criterion in self.criteria)


class Experiment(ABC):
    """A published experiment that needs no private data. seed: None means ``SEED``; workers: processes beside this one."""

    SEED = 2018

    def __init__(self, seed: int | None = None, workers: int = 0):
        self.seed = self.SEED if seed is None else seed
        self.workers = workers

    @abstractmethod
    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        """Compute, write figures into the existing folder ``outdir``, judge. quick: ends within minutes on two cores.

        Raises Cancelled when ``progress`` asks for it; an experiment is complete or has not taken place.
        """


def tell(progress: Progress, stage: str, fraction: float) -> None:
    """Report where the experiment is, in [0, 1]. Raises Cancelled when the user asked to stop."""
    if progress.cancelled():
        raise Cancelled("cancelled; nothing was written")
    progress.report(Step(stage, fraction=fraction, seconds_left=progress.seconds_left(fraction)))


def each(
    job: Callable[[int], Found], count: int, workers: int, stage: str, progress: Progress, span: tuple[float, float]
) -> list[Found]:
    """job(0) .. job(count - 1), in order. workers: processes of one thread each; 0 works in this one.

    job: importable by name (or a ``functools.partial`` of such), as other processes must load it. span: the share of the
    whole experiment, for the progress bar. Small 2-D pairs gain nothing from threads, so cases run side by side instead.
    """

    def advance(done: int) -> None:
        tell(progress, f"{stage} {done}/{count}", span[0] + (span[1] - span[0]) * done / count)

    advance(0)
    if workers == 0:
        found = []
        for number in range(count):
            found.append(job(number))
            advance(number + 1)
        return found
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, count), multiprocessing.get_context("spawn"), _one_thread) as pool:
        running = {pool.submit(job, number): number for number in range(count)}
        waiting, done = set(running), 0
        try:
            while waiting:
                finished, waiting = wait(waiting, LOOK_S, FIRST_COMPLETED)
                done += len(finished)
                for future in finished:
                    future.result()
                if finished or progress.cancelled():
                    advance(done)
        except BaseException:
            own = set(multiprocessing.active_children()) - before
            pool.shutdown(wait=False, cancel_futures=True)
            for process in own:
                process.terminate()
            raise
        return [future.result() for future in running]


def _one_thread() -> None:
    """First thing in every further process: one thread, no answer to Ctrl-C (the first process ends it)."""
    import signal

    from ..device import set_threads

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_threads(1)
