"""Pictures of how sure a probabilistic network is: one row of views per map, over the fixed scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._planes import center_of, standard_planes
from .base import Context
from .figures import Legend, Picture, _Gray, _near_anatomy, css, png, ramp, ramped

HIGHEST = 99
"""Percentile of the views at which the colors end."""


@dataclass(frozen=True)
class UncertaintyRow:
    """The views of one map. legend: its title holds the unit."""

    name: str
    title: str
    help: str
    pictures: tuple[Picture, ...]
    legend: Legend


def uncertainty_rows(context: Context) -> tuple[UncertaintyRow, ...]:
    """One row per map; none without a probabilistic network."""
    found = context.uncertainty
    if found is None:
        return ()
    work = context.work
    planes = standard_planes(work.geometry, center_of(context.pair.fixed, work.fixed_foreground, work.geometry))
    gray = _Gray(context)
    scans, near = [gray.fixed(p) for p in planes], [_near_anatomy(context, p) for p in planes]
    rows = []
    for quantity, values in found.maps():
        shown = [p.look_up(values, found.geometry, "border") for p in planes]
        body = np.concatenate([s[n > 0.6] for s, n in zip(shown, near)])
        low, high = _limits(body if body.size else np.concatenate([s.ravel() for s in shown]))
        pixels = [ramped(scan, (s - low) / (high - low), n) for scan, s, n in zip(scans, shown, near)]
        pictures = tuple(Picture(p.name, p.letters, png(x), p.shape[::-1]) for p, x in zip(planes, pixels))
        rows.append(
            UncertaintyRow(quantity.name, quantity.title, quantity.help, pictures, _legend(low, high, quantity.unit))
        )
    return tuple(rows)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colors: from 0, or from the lowest value where all are alike."""
    low, high = float(values.min()), float(np.percentile(values, HIGHEST))
    low = 0.0 if low < 0.5 * high else low
    return low, max(high, low + 1e-6)


def _legend(low: float, high: float, unit: str) -> Legend:
    colors = tuple(css(c) for c in ramp(np.linspace(0, 1, 16)))
    ticks = tuple((s, f"{low + s * (high - low):.3g}") for s in (0.0, 0.5, 1.0))
    return Legend(colors, ticks, unit or "ratio")
