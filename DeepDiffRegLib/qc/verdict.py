"""From many findings to one answer in plain language."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..memory import give_back
from . import CHECKS
from .base import SEVERITY, Context, Finding, Verdict

HEADLINES: dict[str, str] = {
    "good": "The registration looks plausible. No check found a problem.",
    "check": "Look before you use this result: some checks are outside their limits.",
    "bad": "This registration looks wrong. Do not use it without correction.",
}


@dataclass(frozen=True)
class Assessment:
    """verdict: ``good``, ``check`` or ``bad``. warnings: one sentence or two per problem, worst first."""

    verdict: Verdict
    headline: str
    warnings: tuple[str, ...]


def run_checks(context: Context) -> tuple[Finding, ...]:
    """All registered checks, in order."""
    findings: list[Finding] = []
    for name in CHECKS:
        context.between()
        findings += CHECKS.load(name)(context)
        give_back()
    return tuple(findings)


def assess(findings: Iterable[Finding]) -> Assessment:
    """The worst finding decides; ``info`` never does. Without any verdict the answer is ``check``."""
    judged = sorted(
        (f for f in findings if f.verdict in HEADLINES), key=lambda finding: SEVERITY[finding.verdict], reverse=True
    )
    if not judged:
        return Assessment("check", "Nothing could be checked.", ())
    verdict = judged[0].verdict
    warnings = tuple(_sentence(f) for f in judged if f.verdict != "good")
    return Assessment(verdict, HEADLINES[verdict], warnings)


def _sentence(finding: Finding) -> str:
    value = "not available" if finding.value is None else f"{finding.value:g}{_unit(finding.unit)}"
    place = ""
    if finding.worst_mm is not None:
        place = " Worst place: (" + ", ".join(f"{v:.0f}" for v in finding.worst_mm) + ") mm LPS."
    return f"{finding.label}: {value} (limit: {finding.limit}). {finding.explanation}{place}"


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
