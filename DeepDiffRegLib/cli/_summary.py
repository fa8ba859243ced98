"""What a person reads on the terminal at the end of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..qc.base import Finding
    from ..result import Result

_MARKS = {"good": "ok   ", "check": "CHECK", "bad": "BAD  ", "info": "     "}


def print_findings(findings: Iterable[Finding]) -> None:
    """One line per finding: verdict, what, value with unit, limit; the reason below what is not good."""
    rows = [(finding, _value(finding)) for finding in findings]
    wide = max((len(finding.label) for finding, _ in rows), default=0)
    wider = max((len(value) for _, value in rows), default=0)
    for finding, value in rows:
        print(f"{_MARKS[finding.verdict]}  {finding.label:<{wide}}  {value:<{wider}}  {finding.limit}".rstrip())
        if finding.verdict in ("check", "bad"):
            print(textwrap.indent(textwrap.fill(finding.explanation, 100), " " * 7))


def _value(finding: Finding) -> str:
    return "n/a" if finding.value is None else f"{finding.value:.4g} {finding.unit}".strip()


def print_summary(result: Result, outdir: Path) -> None:
    """Findings, how the run ended, how long it took, and where the report lies."""
    from ..qc.verdict import assess

    print_findings(result.findings)
    seconds = sum(result.timings_s.values())
    print()
    print(assess(result.findings).headline)
    print(f"ended   {result.ending}")
    print(f"took    {seconds:.1f} s, at most {result.peak_memory_mb:.0f} MB")
    print(f"report  {outdir / 'report.html'}")
