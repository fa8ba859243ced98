"""Volume change and Jacobian percentiles of every structure of the fixed label map."""

from __future__ import annotations

import numpy as np

from ._labels import on_grid
from .base import Context, Finding

LARGE_PERCENT = 50.0
"""Structures that change by more are counted in the explanation."""
MOST_STRUCTURES = 1000


def compute(context: Context) -> list[Finding]:
    """One finding; its ``details["segments"]`` hold a row per positive label.

    volume_change_percent: 100 (mean det J - 1) over the label's fixed voxels: how much larger the structure is in the moving
    scan. jacobian_p1, _p50, _p99: percentiles of det J there; folded: its voxels with det J <= 0.
    """
    if context.fixed_labels is None:
        return []
    labels = on_grid(context.fixed_labels, context.pair.fixed.geometry)
    rows = segment_rows(labels, context.jacobian[0, 0].numpy())
    if not rows:
        return []
    worst = max(rows, key=lambda row: abs(np.log(max(1 + row["volume_change_percent"] / 100, 1e-6))))
    large = sum(abs(row["volume_change_percent"]) > LARGE_PERCENT for row in rows)
    place = np.argwhere(labels == worst["label"]).mean(0)
    return [
        Finding(
            "segment_volume",
            "Largest volume change of a structure",
            worst["volume_change_percent"],
            "%",
            "none",
            "info",
            f"Label {worst['label']}, from the fixed to the moving scan; {large} of {len(rows)} structures change by more than "
            f"{LARGE_PERCENT:.0f} %. Whether that is plausible depends on the anatomy.",
            context.position_mm(place),
            {"segments": rows},
        )
    ]


def segment_rows(labels: np.ndarray, jacobian: np.ndarray) -> list[dict]:
    """One row per positive label, in their order, of at most ``MOST_STRUCTURES``. Both arrays (*shape)."""
    inside = labels > 0
    values, determinants = labels[inside], jacobian[inside]
    order = np.argsort(values, kind="stable")
    values, determinants = values[order], determinants[order]
    found, first = np.unique(values, return_index=True)
    parts = np.split(determinants, first[1:])
    return [_row(int(label), part) for label, part in zip(found[:MOST_STRUCTURES], parts)]


def _row(label: int, determinants: np.ndarray) -> dict:
    low, middle, high = (float(v) for v in np.percentile(determinants, [1, 50, 99]))
    return {
        "label": label,
        "voxels": int(determinants.size),
        "volume_change_percent": round(100 * (float(determinants.mean(dtype=np.float64)) - 1), 2),
        "jacobian_p1": round(low, 4),
        "jacobian_p50": round(middle, 4),
        "jacobian_p99": round(high, 4),
        "folded": int((determinants <= 0).sum()),
    }
