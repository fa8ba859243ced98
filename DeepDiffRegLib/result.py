"""What a registration returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config
    from .data.image import Image
    from .data.pair import Pair
    from .geometry.pyramid import Pyramid
    from .methods.uncertainty import Uncertainty
    from .qc.base import Context, Finding
    from .transforms.base import Inverse, Transform


class Status(str, Enum):
    """How the optimisation ended."""

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"
    OUT_OF_MEMORY_RECOVERED = "out_of_memory_recovered"


@dataclass(frozen=True)
class HistoryEntry:
    """One iteration: where it was and the value of each term (``loss`` is their weighted sum)."""

    stage: str
    level: int
    iteration: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Transform, warped scan, findings and everything needed to trust or repeat them.

    transform: fixed_to_moving; inverse: moving_to_fixed with its error; warped: moving scan on the fixed grid.
    timings_s: seconds per stage. peak_memory_mb: of the whole process. provenance: versions, hashes, device, seed.
    context: what the quality checks computed (displacement, Jacobian), so that the export does not compute it again.
    uncertainty: how sure a probabilistic network was of the pair, else None. features: what a network saw in the fixed and in
    the moving scan where these were compared by learned features, else None.
    """

    pair: Pair
    config: Config
    transform: Transform
    inverse: Inverse
    warped: Image
    findings: tuple[Finding, ...]
    history: tuple[HistoryEntry, ...]
    status: Status
    message: str
    timings_s: dict[str, float]
    peak_memory_mb: float
    provenance: dict
    start: Transform | None = None
    context: Context | None = field(default=None, repr=False, compare=False)
    uncertainty: Uncertainty | None = field(default=None, repr=False, compare=False)
    features: tuple[Pyramid, Pyramid] | None = field(default=None, repr=False, compare=False)

    @property
    def ending(self) -> str:
        """How the run ended, for people: the message, with the status in brackets."""
        status = self.status.value.replace("_", " ")
        return f"{self.message} ({status})" if self.message else status
