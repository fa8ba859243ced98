"""Signed distances to structures, and the soft segmentations made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distance_to(inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance of every voxel's center to the nearest True voxel's center, mm: float32, the shape of ``inside``.

    inside: bool [Z,] Y, X. spacing_mm: x, y[, z]. Infinity when nothing is True.
    """
    from ._distance_fused import FAR, sweep

    squared = np.where(inside, np.float32(0), FAR)
    for axis, spacing in enumerate(reversed(tuple(spacing_mm))):
        shape = inside.shape
        lines = squared.reshape(int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :])))
        sweep(lines, float(spacing))
    squared[squared >= FAR] = np.inf
    return np.sqrt(squared, out=squared)


def signed_distance(inside: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance to the structure's surface in mm, negative inside: float32, the shape of ``inside``.

    The surface runs half way between inner and outer voxel centers: half a (geometric mean) voxel is taken off both
    sides. The edge of the array is no surface.
    """
    half = 0.5 * float(np.prod(spacing_mm)) ** (1 / len(tuple(spacing_mm)))
    if inside.all():
        return np.full(inside.shape, -np.inf, dtype=np.float32)
    outer = distance_to(inside, spacing_mm)
    inner = distance_to(~inside, spacing_mm)
    outer -= inner
    outer += np.where(inside, np.float32(half), np.float32(-half))
    return outer


def soft_segment(distance_mm: np.ndarray, tau_mm: float) -> np.ndarray:
    """(1 - tanh(s / tau)) / 2 of the signed distance s: 1 deep inside, 1/2 on the surface, 0 far outside."""
    out = np.tanh(distance_mm / np.float32(tau_mm))
    out *= -0.5
    out += 0.5
    return out
