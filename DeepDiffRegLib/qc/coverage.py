"""How much of the fixed anatomy the moving scan covers, and whether body lies on body."""

from __future__ import annotations

import numpy as np

from .base import Context, Finding, graded


def compute(context: Context) -> list[Finding]:
    """Share of the fixed anatomy that maps inside the moving scan, and the overlap of both bodies."""
    return [_covered(context), _outline(context)]


def _covered(context: Context) -> Finding:
    work = context.work
    inside = work.reached[work.fixed_foreground]
    share = 100 * float(inside.mean()) if inside.size else 0.0
    lost = np.argwhere(work.fixed_foreground & (work.reached < 0.5))
    return Finding(
        "coverage",
        "Fixed anatomy inside the moving scan",
        round(share, 1),
        "%",
        "at least 90 %",
        graded(share, 90.0, 60.0),
        "All of the fixed anatomy is seen in the moving scan."
        if share == 100.0
        else "The rest of the anatomy maps outside the moving scan's field of view: nothing is known there, the registered "
        "scan is black and the displacement is a guess.",
        work.position_mm(lost.mean(0)) if len(lost) else None,
    )


def _outline(context: Context) -> Finding:
    """Dice of the two foregrounds. Which side of the threshold is body is not always clear (chest CT), so both count."""
    work = context.work
    reached = work.reached > 0.5
    fixed = work.fixed_foreground & reached
    dice = max(_dice(fixed, moving & reached) for moving in (work.moving_foreground, ~work.moving_foreground))
    differ = np.argwhere(fixed ^ (work.moving_foreground & reached))
    return Finding(
        "outline_overlap",
        "Overlap of the bodies' outlines (Dice)",
        round(dice, 3),
        "",
        "at least 0.75",
        graded(dice, 0.75, 0.5),
        "Body against air in both scans, found automatically, inside the common field of view. Low values mean missing "
        "anatomy, a remaining shift or another organ; between modalities the outline itself may differ.",
        work.position_mm(differ.mean(0)) if len(differ) and dice < 0.75 else None,
    )


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum() + second.sum())
    return 2 * float((first & second).sum()) / total if total else 0.0
