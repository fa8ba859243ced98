"""How far the inverse transform misses: |phi(phi^-1(y)) - y|."""

from __future__ import annotations

import numpy as np

from .base import Context, Finding, graded


def compute(context: Context) -> list[Finding]:
    """The inverse's stated error in mm and voxels (voxel: the moving scan's mean spacing)."""
    error = context.inverse.error
    voxel = float(np.mean(context.pair.moving.geometry.spacing_mm))
    verdict = "bad" if not np.isfinite(error.mean) else graded(error.p99 / voxel, 1.0, 5.0)
    return [
        Finding(
            "inverse_error",
            "Error of the inverse transform (99th percentile)",
            round(error.p99, 4),
            "mm",
            f"at most {voxel:.2g} mm (one voxel)",
            verdict,
            f"Going to the fixed scan and back misses the starting point by {error.mean:.3g} mm on average and "
            f"{error.max:.3g} mm at most. Points and surfaces brought to the fixed scan are off by as much.",
            details={
                "mean_mm": error.mean,
                "max_mm": error.max,
                "mean_voxels": error.mean / voxel,
                "p99_voxels": error.p99 / voxel,
                "max_voxels": error.max / voxel,
            },
        )
    ]
