"""The convergence curve as inline SVG: one panel per stage, one colored band per level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..result import HistoryEntry

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460, 190, 52, 22, 26


@dataclass(frozen=True)
class Curve:
    """A panel. bands: (x, width, text) per level; path: the line; ticks: (y, text); iterations: how many in all."""

    stage: str
    bands: tuple[tuple[float, float, str], ...]
    paths: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    iterations: int
    size: tuple[int, int] = (WIDTH, HEIGHT)


def curves(history: Sequence[HistoryEntry]) -> list[Curve]:
    """One ``Curve`` per stage in the order they ran; stages without a finite loss are left out."""
    panels = []
    for stage, entries in groupby(history, key=lambda entry: entry.stage):
        entries = [e for e in entries if np.isfinite(e.loss)]
        if len(entries) > 1:
            panels.append(_curve(stage, entries))
    return panels


def _curve(stage: str, entries: list[HistoryEntry]) -> Curve:
    losses = np.array([e.loss for e in entries])
    low, high = _range(losses)
    x = LEFT + (WIDTH - LEFT - 8) * np.arange(len(entries)) / (len(entries) - 1)
    y = TOP + (HEIGHT - TOP - BOTTOM) * (high - np.clip(losses, low, high)) / (high - low)
    bands, paths, start = [], [], 0
    for level, group in groupby(entries, key=lambda entry: entry.level):
        stop = start + len(list(group))
        right = x[stop] if stop < len(x) else x[-1]
        bands.append((round(float(x[start]), 1), round(float(right - x[start]), 1), f"level {level + 1}"))
        paths.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[start:stop], y[start:stop])))
        start = stop
    ticks = []
    for share in (0.0, 0.5, 1.0):
        value = high - share * (high - low)
        ticks.append((round(TOP + (HEIGHT - TOP - BOTTOM) * share, 1), f"{value:.3g}"))
    return Curve(stage, tuple(bands), tuple(paths), tuple(ticks), len(entries))


def _range(losses: np.ndarray) -> tuple[float, float]:
    """All losses but a few extreme first ones; never empty."""
    low, high = float(losses.min()), float(np.percentile(losses, 99.5))
    margin = 0.05 * (high - low) or 0.05 * max(abs(low), 1e-6)
    return low - margin, high + margin
