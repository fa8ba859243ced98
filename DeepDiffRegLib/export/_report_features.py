"""What the report shows of learned features: how both scans look to the network, and how far their cost leads back to the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..qc.base import Context
from ..qc.feature_figures import feature_views
from ..qc.landscape import Landscape, Profile, directions, landscape

if TYPE_CHECKING:
    from ..result import Result

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 340, 170, 30, 10, 30
COLORS = ("#6b7280", "#e0914e", "#0b84e0", "#2e9d5b", "#b07cc6")
"""Of the scans, then of the features from coarse to fine."""
UNRELATED = {2: "0.64", 3: "0.50"}
"""Mean |cos| of directions that have nothing to do with each other."""


def feature_values(result: Result, context: Context) -> dict | None:
    """Values for the template; None for a map that was not made from learned features."""
    if result.features is None:
        return None
    fixed, moving = result.features
    found = landscape(context, fixed, moving)
    return {
        "rows": list(zip(feature_views(context, fixed, moving), directions(context, fixed, moving))),
        "charts": [chart(found, axis) for axis in range(len(found.axes))],
        "key": [
            (COLORS[i % len(COLORS)], {"name": profile.name, "text": reach(profile, found)})
            for i, profile in enumerate(found.profiles)
        ],
        "unrelated": UNRELATED[context.pair.fixed.ndim],
    }


def reach(profile: Profile, found: Landscape) -> str:
    """For people: from how far the cost finds back."""
    farthest = float(found.offsets_mm[-1])
    return f"{profile.reach_mm:.0f} mm" if profile.reach_mm < 0.99 * farthest else f"{farthest:.0f} mm or more"


def chart(found: Landscape, axis: int) -> dict:
    """One axis as SVG: a path per profile, ticks in mm."""
    x = LEFT + (WIDTH - LEFT - 10) * np.linspace(0, 1, len(found.offsets_mm))
    return {
        "axis": found.axes[axis],
        "size": (WIDTH, HEIGHT),
        "paths": [(COLORS[i % len(COLORS)], _path(x, profile, axis)) for i, profile in enumerate(found.profiles)],
        "ticks": [(round(float(x[at]), 1), f"{found.offsets_mm[at]:.0f}") for at in (0, len(x) // 2, len(x) - 1)],
        "bottom": HEIGHT - BOTTOM,
        "top": TOP,
    }


def _path(x: np.ndarray, profile: Profile, axis: int) -> str:
    y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - profile.costs[axis])
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y))
