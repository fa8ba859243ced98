"""Partners that were proposed and not yet accepted: said in the description of the proposed control point, so that a scene keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNSURE_MM = 1.0
"""Standard deviation of a click, and the least that is believed of a proposal."""
SURE, DOUBTFUL = 0.6, 0.3
"""Confidence from which a proposal is good, from which it is fair."""
NUMBER = r"(\d+(?:\.\d+)?)"
PROPOSED = re.compile(rf"proposed: {NUMBER} % within {NUMBER} mm, s\.d\. {NUMBER} mm(?:; (.*))?$")
ACCEPTED = re.compile(rf"accepted proposal, s\.d\. {NUMBER} mm$")


@dataclass(frozen=True)
class Proposal:
    """How far to trust a proposed point. confidence: chance (0..1) that it lies within ``tolerance_mm`` of the right place.

    sd_mm: how far off it is expected to be. note: what makes it doubtful, or empty.
    """

    confidence: float
    tolerance_mm: float
    sd_mm: float = UNSURE_MM
    note: str = ""

    @classmethod
    def of(cls, row: dict) -> Proposal:
        """From a row of the worker's ``proposal`` and ``suggestions`` events."""
        sd = max(UNSURE_MM, row["error_mm"] or UNSURE_MM)
        return cls(float(row["confidence"]), float(row["tolerance_mm"]), float(sd), " ".join(row["note"].split()))

    @property
    def verdict(self) -> str:
        """``good``, ``fair`` or ``bad``."""
        return "good" if self.confidence >= SURE else "fair" if self.confidence >= DOUBTFUL else "bad"

    @property
    def description(self) -> str:
        """As the point's description has it."""
        text = f"proposed: {100 * self.confidence:.0f} % within {self.tolerance_mm:.1f} mm, s.d. {self.sd_mm:.1f} mm"
        return f"{text}; {self.note}" if self.note else text


def proposal_of(description: str | None) -> Proposal | None:
    """What the description of a point says of a proposal that waits; None for every other point."""
    found = PROPOSED.match(description or "")
    if found is None:
        return None
    percent, tolerance, sd, note = found.groups()
    return Proposal(float(percent) / 100, float(tolerance), float(sd), note or "")


def accepted(proposal: Proposal) -> str:
    """The description of a point whose proposal was accepted as it was."""
    return f"accepted proposal, s.d. {proposal.sd_mm:.1f} mm"


def sd_of(description: str | None) -> float | None:
    """Standard deviation of an accepted proposal in mm; None for a point that somebody placed."""
    found = ACCEPTED.match(description or "")
    return None if found is None else float(found[1])
