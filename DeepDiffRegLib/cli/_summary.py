"""What a person reads on the terminal at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..qc.base import Finding
    from ..result import Result

_MARKS = {"good": "ok   ", "check": "CHECK", "bad": "BAD  ", "info": "     "}


def print_findings(findings: Iterable[Finding]) -> None:
    """One line per finding: verdict, what, value with unit, limit; the reason below what is not good."""
    for finding in findings:
        value = "n/a" if finding.value is None else f"{finding.value:.4g} {finding.unit}".strip()
        limit = f"  ({finding.limit})" if finding.limit else ""
        print(f"{_MARKS[finding.verdict]}  {finding.label:<44} {value}{limit}")
        if finding.verdict in ("check", "bad"):
            print(f"       {finding.explanation}")


def print_summary(result: Result, outdir: Path) -> None:
    """Findings, how the run ended, how long it took, and where the report lies."""
    from ..qc.verdict import assess

    print_findings(result.findings)
    print(assess(result.findings).headline)
    seconds = sum(result.timings_s.values())
    print(f"{result.status.value}: {result.message}" if result.message else result.status.value)
    print(f"{seconds:.1f} s, at most {result.peak_memory_mb:.0f} MB; open {outdir / 'report.html'}")
