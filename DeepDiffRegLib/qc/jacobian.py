"""Local volume change: range, SDlogJ, folded voxels."""

from __future__ import annotations

import numpy as np

from ..geometry.vector_fields import strict_folds
from .base import Context, Finding, graded

SLAB = 1 << 21


def compute(context: Context) -> list[Finding]:
    """Statistics of det(d phi / dx) over interior voxels (a one-voxel rim left out), whole image and inside the anatomy."""
    d = context.jacobian.ndim - 2
    interior = (slice(1, -1),) * d if min(context.jacobian.shape[2:]) > 2 else (slice(None),) * d
    determinant = context.jacobian[0, 0].numpy()[interior]
    anatomy = context.anatomy[interior]
    offset = np.array([s.start or 0 for s in interior])
    inside = determinant[anatomy] if anatomy.any() else determinant.ravel()
    context.between()
    findings = _folds(context, determinant, anatomy, offset)
    context.between()
    findings += _range(context, determinant, anatomy, inside, offset)
    return findings + _spread(determinant, inside)


def sd_log(determinant: np.ndarray) -> float:
    """Standard deviation of log clip(det, 1e-9, 1e9), in slabs."""
    flat = determinant.reshape(-1)
    total = square = 0.0
    for start in range(0, flat.size, SLAB):
        logs = np.log(np.clip(flat[start : start + SLAB], 1e-9, 1e9))
        total += float(logs.sum(dtype=np.float64))
        square += float(np.einsum("i,i->", logs, logs, dtype=np.float64))
    mean = total / max(flat.size, 1)
    return float(np.sqrt(max(square / max(flat.size, 1) - mean * mean, 0.0)))


def _folds(context: Context, determinant: np.ndarray, anatomy: np.ndarray, offset: np.ndarray) -> list[Finding]:
    geometry = context.pair.fixed.geometry
    folded = determinant <= 0
    count = int(folded.sum())
    strict = strict_folds(context.displacement, geometry.spacing_mm, geometry.rotation)
    percent, strict_percent = 100 * count / determinant.size, 100 * strict / geometry.voxels
    worst = _place(context, determinant, offset, int(determinant.argmin())) if count else None
    central = Finding(
        "folds",
        "Folded voxels",
        float(count),
        "voxels",
        "0",
        "good" if count == 0 else "check" if percent < 0.01 else "bad",
        f"Voxels where the deformation turns tissue inside out ({percent:.3g} % of the scan, {int((folded & anatomy).sum())} "
        "inside the anatomy). Nothing measured there is meaningful, and the inverse does not exist.",
        worst,
        {"percent": percent, "sum_negative": float(-determinant[folded].sum()) if count else 0.0},
    )
    finer = Finding(
        "strict_folds",
        "Folded voxels, strict test",
        float(strict),
        "voxels",
        "at most 0.1 %",
        graded(strict_percent, 0.1, 1.0),
        f"As above with one-sided differences in every direction, which also finds folds between voxels ({strict_percent:.3g} "
        "%).",
        details={"percent": strict_percent},
    )
    return [central, finer]


def _range(context: Context, determinant, anatomy, inside, offset) -> list[Finding]:
    """1st and 99th percentile decide, because single voxels at the border of the scan are not anatomy."""
    sample = inside[:: max(1, inside.size // 500_000)]
    low, middle, high = (float(v) for v in np.percentile(sample, [1, 50, 99]))
    masked = np.where(anatomy, determinant, np.float32(np.inf)) if anatomy.any() else determinant
    smallest = int(masked.argmin())
    shrunk = Finding(
        "jacobian_low",
        "Strongest compression",
        round(low, 3),
        "x volume",
        "at least 0.15",
        graded(low, 0.15, 0.03),
        f"1 % of the anatomy is compressed to less than {low:.2f} of its volume (smallest {float(inside.min()):.3g}). Seen "
        "from the fixed scan: below 1 the structure is smaller in the moving scan.",
        _place(context, determinant, offset, smallest),
        {"minimum": float(inside.min())},
    )
    masked = np.where(anatomy, determinant, np.float32(-np.inf)) if anatomy.any() else determinant
    grown = Finding(
        "jacobian_high",
        "Strongest expansion",
        round(high, 3),
        "x volume",
        "at most 6",
        graded(high, 6.0, 15.0),
        f"1 % of the anatomy is stretched to more than {high:.2f} times its volume (largest {float(inside.max()):.3g}).",
        _place(context, determinant, offset, int(masked.argmax())),
        {"maximum": float(inside.max())},
    )
    overall = Finding(
        "jacobian_median",
        "Typical change of volume",
        round(middle, 3),
        "x volume",
        "between 0.4 and 2.5",
        graded(abs(np.log(max(middle, 1e-9))), np.log(2.5), np.log(4.0)),
        "Half of the anatomy grows more, half less. Far from 1 the scans differ in size: a child and an adult, a wrong "
        "voxel size in one header, or a collapsed transform.",
        details={"whole_minimum": float(determinant.min()), "whole_maximum": float(determinant.max())},
    )
    return [shrunk, grown, overall]


def _spread(determinant: np.ndarray, inside: np.ndarray) -> list[Finding]:
    whole, within = sd_log(determinant), sd_log(inside)
    return [
        Finding(
            "sdlogj",
            "Roughness of the deformation (SDlogJ), anatomy",
            round(within, 3),
            "",
            "at most 0.6",
            graded(within, 0.6, 1.0),
            "Standard deviation of the logarithm of the volume change inside the anatomy. Within one person 0.1 to 0.25 is "
            "usual, between persons 0.2 to 0.45; high values mean an erratic deformation.",
        ),
        Finding(
            "sdlogj_whole",
            "Roughness of the deformation (SDlogJ), whole scan",
            round(whole, 3),
            "",
            "at most 1",
            graded(whole, 1.0, 2.0),
            "The same over the whole scan, air included.",
        ),
    ]


def _place(context: Context, determinant: np.ndarray, offset: np.ndarray, flat: int) -> tuple[float, ...]:
    return context.position_mm(np.array(np.unravel_index(flat, determinant.shape)) + offset)
