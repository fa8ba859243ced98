"""How far the anatomy moves, in all and beyond a rigid or affine motion."""

from __future__ import annotations

import numpy as np

from .base import Context, Finding, graded


def compute(context: Context) -> list[Finding]:
    """Lengths of the displacement over the anatomy, and of what is left after its affine part."""
    work, field = context.work, context.displacement[0]
    anatomy = context.anatomy
    step = max(1, int(np.ceil((max(int(anatomy.sum()), 1) / 300_000) ** (1 / anatomy.ndim))))
    thin = (slice(None, None, step),) * anatomy.ndim
    index = np.argwhere(anatomy[thin]) * step
    if not len(index):
        index = np.argwhere(np.ones_like(anatomy[thin])) * step
    u = field.numpy()[(slice(None), *index.T)].T.astype(np.float64)
    x = context.pair.fixed.geometry.to_world(index[:, ::-1])
    rest = u - (x @ (work.matrix[:-1, :-1] - np.eye(x.shape[1])).T + work.matrix[:-1, -1])
    length, bent = np.linalg.norm(u, axis=1), np.linalg.norm(rest, axis=1)
    size = float(np.ptp(x, axis=0).max()) if len(x) > 1 else 1.0
    return [
        Finding(
            "displacement",
            "Displacement of the anatomy",
            round(float(length.mean()), 2),
            "mm",
            "",
            "info",
            f"Mean over the anatomy; 95 % move less than {np.percentile(length, 95):.1f} mm, the farthest point "
            f"{length.max():.1f} mm.",
            context.position_mm(index[int(length.argmax())]),
            {"p95_mm": float(np.percentile(length, 95)), "max_mm": float(length.max())},
        ),
        Finding(
            "deformation",
            "Deformation beyond the affine part",
            round(float(bent.mean()), 2),
            "mm",
            f"95 % at most {0.2 * size:.0f} mm (a fifth of the anatomy)",
            graded(float(np.percentile(bent, 95)) / size, 0.2, 0.4),
            f"What is left after position, turn, size and shear are taken out; 95 % below {np.percentile(bent, 95):.1f} mm, at "
            f"most {bent.max():.1f} mm.",
            context.position_mm(index[int(bent.argmax())]),
            {"p95_mm": float(np.percentile(bent, 95)), "max_mm": float(bent.max())},
        ),
    ]
