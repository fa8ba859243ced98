"""Target registration error: where fixed landmarks land, against where they should."""

from __future__ import annotations

import numpy as np

from .base import STEERED, Context, Finding, graded


def compute(context: Context) -> list[Finding]:
    """Mean, 95th percentile and maximum of |phi(p_fixed) - p_moving|; rows per landmark in ``details``."""
    landmarks = context.landmarks
    if landmarks is None or len(landmarks) == 0:
        return []
    mapped = context.transform.map_points(landmarks.fixed.positions_mm)
    error = np.linalg.norm(mapped - landmarks.moving.positions_mm, axis=1)
    before = landmarks.distances_mm
    voxel = float(max(context.pair.fixed.geometry.spacing_mm))
    good, bad = max(3.0, 1.5 * voxel), max(8.0, 4.0 * voxel)
    worst = int(error.argmax())
    rows = [
        {
            "name": name,
            "error_mm": round(float(e), 3),
            "before_mm": round(float(b), 3),
            "fixed_mm": [round(float(v), 2) for v in p],
            "verdict": graded(float(e), good, bad),
        }
        for name, e, b, p in zip(landmarks.fixed.names, error, before, landmarks.fixed.positions_mm)
    ]
    missed = (
        " Either the registration misses this place or the landmark was set wrongly." if error.max() >= good else ""
    )
    place = tuple(round(float(v), 1) for v in landmarks.fixed.positions_mm[worst])
    return [
        Finding(
            "tre_mean",
            "Landmark error (TRE), mean",
            round(float(error.mean()), 3),
            "mm",
            f"at most {good:.1f} mm",
            graded(float(error.mean()), good, bad),
            f"Mean distance between where {len(error)} landmarks land and where they should; before {before.mean():.1f} mm."
            + (f" {STEERED}" if context.steered else ""),
            place,
            {"p95_mm": float(np.percentile(error, 95)), "before_mm": float(before.mean()), "landmarks": rows},
        ),
        Finding(
            "tre_max",
            "Landmark error (TRE), worst",
            round(float(error.max()), 3),
            "mm",
            f"at most {bad:.1f} mm",
            "good" if error.max() < bad else "check",
            f"Landmark {landmarks.fixed.names[worst]!r}; 95 % are within {np.percentile(error, 95):.1f} mm." + missed,
            place,
        ),
    ]
