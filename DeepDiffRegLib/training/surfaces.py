"""Surfaces of structures for the surface loss: points on them, below a voxel's size, and the distance of every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.io import surface_points
from ..errors import InputError
from ..geometry.grid import Geometry
from ..prompts.distance import signed_distance

ZOOM = 2
NEAR_VOXELS = 0.5
MESH_POINTS = 50_000
POINTS_STREAM = 2018


@dataclass(frozen=True)
class Surfaces:
    """distance: (S, *shape) float32, mm (signed for label maps; squared where used). points: (N, d) float32 in voxels
    (x, y[, z]), about as many per area everywhere. structure: (N,) int32, the channel of each."""

    distance: np.ndarray
    points: np.ndarray
    structure: np.ndarray


def from_labels(labels: np.ndarray, wanted: Sequence[int], spacing_mm: Sequence[float]) -> Surfaces:
    """Signed distance to each label and points where it is 0; a label that is absent has distance 0 and no points.

    Points are the centers of voxels of half the size within half a voxel of the surface, moved onto it along the gradient.
    """
    distance = np.zeros((len(wanted), *labels.shape), np.float32)
    points, structure = [], []
    for channel, label in enumerate(wanted):
        inside = labels == label
        if not inside.any() or inside.all():
            continue
        distance[channel] = signed_distance(inside, spacing_mm)
        found = zero_points(distance[channel], spacing_mm)
        points.append(found)
        structure.append(np.full(len(found), channel, np.int32))
    none = np.zeros((0, labels.ndim), np.float32), np.zeros(0, np.int32)
    if not points:
        return Surfaces(distance, *none)
    return Surfaces(distance, np.concatenate(points).astype(np.float32), np.concatenate(structure))


def zero_points(distance: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """(N, d) positions in voxels (x, y[, z]) on the zero level of a signed distance (mm)."""
    from scipy.ndimage import map_coordinates

    voxel = float(np.min(spacing_mm))
    near = np.argwhere(np.abs(distance) < voxel + NEAR_VOXELS * float(np.max(spacing_mm)))
    offsets = (np.indices((ZOOM,) * distance.ndim).reshape(distance.ndim, -1).T + 0.5) / ZOOM - 0.5
    index = (near[:, None] + offsets[None]).reshape(-1, distance.ndim)
    index = index[((index >= 0) & (index <= np.array(distance.shape) - 1)).all(1)]
    steps = np.array(spacing_mm[::-1])
    slopes = [g.astype(np.float32) for g in np.gradient(distance, *steps)]
    value = map_coordinates(distance, index.T, order=1, mode="nearest")
    index = index[np.abs(value) < NEAR_VOXELS * voxel]
    for _ in range(2):
        value = map_coordinates(distance, index.T, order=1, mode="nearest")
        slope = np.stack([map_coordinates(g, index.T, order=1, mode="nearest") for g in slopes], 1)
        length = np.maximum((slope**2).sum(1, keepdims=True), 0.25)
        index = index - value[:, None] * slope / length / steps
    return np.clip(index, 0, np.array(distance.shape) - 1)[:, ::-1]


def from_mesh(surface, grid: Geometry, world: np.ndarray) -> Surfaces:
    """One structure from a triangle mesh in mm (LPS): points spread over its area and the distance of every voxel to them.

    world: homogeneous matrix from the grid's space to the mesh's.
    """
    from scipy.spatial import cKDTree

    if grid.ndim != 3:
        raise InputError("surface files need 3-D scans; use label maps for 2-D ones")
    vertices = surface_points(surface)
    triangles = _triangles(surface)
    back = np.linalg.inv(world)
    vertices = vertices @ back[:-1, :-1].T + back[:-1, -1]
    corners = vertices[triangles]
    sides = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(*sides), axis=1)
    if not area.sum() > 0:
        raise InputError("a surface file holds no triangles")
    rng = np.random.default_rng(POINTS_STREAM)
    chosen = rng.choice(len(area), MESH_POINTS, p=area / area.sum())
    a, b = rng.random((2, MESH_POINTS, 1))
    outside = a + b > 1
    a, b = np.where(outside, 1 - a, a), np.where(outside, 1 - b, b)
    points = corners[chosen, 0] + a * sides[0][chosen] + b * sides[1][chosen]
    axes = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1)
    distance = np.empty(grid.shape, np.float32)
    tree = cKDTree(points)
    for plane in range(grid.shape[0]):
        distance[plane] = tree.query(grid.to_world(axes[plane]))[0]
    kept = grid.contains(points)
    index = grid.to_index(points[kept]).astype(np.float32)
    return Surfaces(distance[None], index, np.zeros(len(index), np.int32))


def _triangles(surface) -> np.ndarray:
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter

    split = vtkTriangleFilter()
    split.SetInputData(surface)
    split.Update()
    return vtk_to_numpy(split.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(int)
