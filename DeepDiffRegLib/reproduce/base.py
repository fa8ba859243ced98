"""What every experiment is: something that runs, draws figures and measures criteria with limits that were set before."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import Cancelled, RegistrationError
from ..progress import Progress, Step

Direction = Literal["<=", ">="]


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
    """A published experiment that needs no private data. seed: None means the seed of the publication."""

    def __init__(self, seed: int | None = None):
        self.seed = seed

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


class Inside(Progress):
    """Progress for a registration within an experiment: stays silent, and is cancelled with the experiment."""

    def __init__(self, outer: Progress):
        super().__init__()
        self._outer = outer

    def cancelled(self) -> bool:
        return self._outer.cancelled()
