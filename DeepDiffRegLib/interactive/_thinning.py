"""Maps for a scene: of a large grid every second voxel, and what that costs. Files are written from the whole map.

A displacement has three numbers per voxel, its inverse as many: whole, both would need six times the memory of the scan in the
front end, and a view could not follow a new map at once. Front ends read the kept voxels with cubic convolution.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from ..transforms.base import residual_mm
from .messages import Map

WHOLE_VOXELS = 2**20
"""Grids of at most this size are passed on whole."""


def for_a_scene(whole: Map) -> Map:
    """The map itself when it is small, else every second voxel of it."""
    large = whole.geometry is not None and whole.geometry.voxels > WHOLE_VOXELS
    return whole.every(2) if large else whole


def cost_mm(*wholes: Map) -> dict[str, float]:
    """mean, p99 and max distance (mm) over all voxels between each map and what ``for_a_scene`` keeps; the worst of several."""
    rows = [asdict(residual_mm(_distances(whole))) for whole in wholes if for_a_scene(whole) is not whole]
    return {name: max((row[name] for row in rows), default=0.0) for name in ("mean", "p99", "max")}


def _distances(whole: Map) -> np.ndarray:
    squares = np.zeros(whole.displacement.shape[1:], np.float32)
    for component in whole.displacement:
        read = component[::2, ::2, ::2]
        for axis, n in enumerate(component.shape):
            read = between(read, axis, n)
        squares += np.square(read - component)
    # Lengths are the same before and after a rotation, not after scales and shears.
    return np.sqrt(squares) * float(np.linalg.norm(whole.world[:3, :3], 2))


def between(kept: np.ndarray, axis: int, n: int) -> np.ndarray:
    """``n`` values of which every second is ``kept``: cubic convolution (Keys, 1981, a = -1/2), clamped at the ends."""
    kept = np.moveaxis(kept, axis, 0)
    last = len(kept) - 1
    before, here, after, beyond = (kept[np.clip(np.arange(last + 1) + k, 0, last)] for k in (-1, 0, 1, 2))
    out = np.empty((2 * (last + 1), *kept.shape[1:]), np.float32)
    out[::2] = kept
    out[1::2] = (9 * (here + after) - before - beyond) / 16
    return np.moveaxis(out[:n], 0, axis)
