"""Which part of the fixed grid has to be solved on, and which of its faces must not move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry, resample

FOREGROUND = 0.05
"""Normalized intensity above which a (coarse) voxel counts as anatomy."""
FACE_SHARE = 0.005
"""Share of a face's voxels that must be anatomy for the face to cut through it."""
COARSE_MM = 4.0


@dataclass(frozen=True)
class Region:
    """start, size: box in voxels of the fixed grid. geometry: of the box. pinned: faces with only air behind them."""

    start: tuple[int, ...]
    size: tuple[int, ...]
    geometry: Geometry
    pinned: tuple[tuple[int, int], ...]


def foreground_box_mm(scan: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """World positions (2^d, d) of the corners of the box around the anatomy in a normalized scan."""
    coarse = level_geometry(geometry, COARSE_MM, 8)
    found = (resample(scan, geometry, coarse)[0, 0] > FOREGROUND).nonzero().cpu().numpy()[:, ::-1]
    low, high = (found.min(0) - 0.5, found.max(0) + 0.5) if len(found) else (-0.5, np.array(coarse.size) - 0.5)
    low, high = np.broadcast_to(low, (geometry.ndim,)), np.broadcast_to(high, (geometry.ndim,))
    corners = np.array(list(np.ndindex(*(2,) * geometry.ndim)))
    return coarse.to_world(np.where(corners, high, low))


def cut_faces(scan: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """(component, side) of the faces of the grid that cut through anatomy."""
    faces = []
    for component in range(scan.ndim - 2):
        for side in (0, -1):
            face = scan.select(scan.ndim - 1 - component, side)
            if float((face > FOREGROUND).float().mean()) > FACE_SHARE:
                faces.append((component, side))
    return tuple(faces)


def solving_region(scan: torch.Tensor, geometry: Geometry, points_mm: np.ndarray, margin_mm: float) -> Region:
    """The box around ``points_mm`` (N, d) plus a margin, inside the fixed grid.

    A face of the box is pinned (no motion there) unless it lies on the grid's border where the scan is cut through anatomy:
    a field that ended inside the grid at anything but zero would tear it.
    """
    index = geometry.to_index(points_mm)
    margin = margin_mm / np.array(geometry.spacing_mm)
    low = np.clip(np.floor(index.min(0) - margin), 0, None).astype(int)
    high = np.clip(np.ceil(index.max(0) + margin), None, np.array(geometry.size) - 1).astype(int)
    if (high - low < 3).any():
        low, high = np.zeros(geometry.ndim, int), np.array(geometry.size) - 1
    cut = cut_faces(scan)
    pinned = []
    for component in range(geometry.ndim):
        if low[component] > 0 or (component, 0) not in cut:
            pinned.append((component, 0))
        if high[component] < geometry.size[component] - 1 or (component, -1) not in cut:
            pinned.append((component, -1))
    start, size = tuple(int(v) for v in low), tuple(int(v) for v in high - low + 1)
    return Region(start, size, geometry.cropped(start, size), tuple(pinned))
