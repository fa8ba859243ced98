"""Deformation grids and arrows as line models in the plane of a slice view, in either direction.

Resampling: a regular grid of the fixed space, drawn where the map takes its values from, phi(x). Every point is one look
at the stored map, so a folded map gives lines that overlap, not noise. Forward: a regular grid of the moving space, drawn
where it comes to lie in the fixed space; by the worker's explicit inverse where there is one, else by VTK's iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from DeepDiffRegLib.geometry.grid import Geometry

from .maps import MapNodes, after_matrix, follow
from .spaces import grid_points, index_to_ras

SCALARS = "Color"
FOLDED = 255.0
SAMPLES_PER_CELL = 8
SHORTEST_ARROW_MM = 0.2
Mover = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Lines:
    """points: (N, 3) RAS, undeformed. segments: (M, 2) indices of the points that are joined."""

    points: np.ndarray
    segments: np.ndarray


def mover(maps: MapNodes, direction: str, part: str = "whole") -> Mover:
    """Where points are drawn: (N, 3) RAS to (N, 3).

    direction: ``resampling`` (fixed to moving) or ``forward``. part: ``deformable`` leaves the matrix out, so that the grid
    stays over the fixed scan.
    """
    forward = direction == "forward"
    matrix = after_matrix(maps.transform) if part == "deformable" else np.eye(4)
    back = np.linalg.inv(matrix)

    def move(points: np.ndarray) -> np.ndarray:
        if not forward:
            return _apply(back, follow(maps.transform, points))
        points = _apply(matrix, points)
        if maps.inverse is not None:
            return follow(maps.inverse, points)
        return follow(maps.transform, points, inverse=True)

    return move


def plane_lines(slice_to_ras: np.ndarray, geometry: Geometry, spacing_mm: float, contains) -> Lines:
    """Two families of lines in the plane of a slice, through multiples of ``spacing_mm`` from the grid's center.

    slice_to_ras: (4, 4), first two columns span the plane. contains: (N, 3) RAS points to (N,) bool; lines end there.
    """
    u, v = _ranges(slice_to_ras, geometry, spacing_mm)
    step = spacing_mm / SAMPLES_PER_CELL
    families = []
    for first, (across, along) in enumerate(((u, v), (v, u))):
        fine = np.arange(along[0], along[-1] + step / 2, step)
        a, b = np.meshgrid(across, fine, indexing="ij")
        families.append((np.stack((a, b) if first == 0 else (b, a), -1), a.shape))
    return _joined([(_in_plane(slice_to_ras, plane.reshape(-1, 2)), shape) for plane, shape in families], contains)


def space_lines(geometry: Geometry, spacing_mm: float, contains) -> Lines:
    """Three families of lines along the axes of the fixed grid, for 3-D views."""
    half = geometry.extent_mm / 2
    ticks = [np.arange(-np.floor(h / spacing_mm), np.floor(h / spacing_mm) + 1) * spacing_mm for h in half]
    frame = index_to_ras(geometry)
    axes = frame[:3, :3] / np.array(geometry.spacing_mm)
    center = frame[:3, :3] @ ((np.array(geometry.size) - 1) / 2) + frame[:3, 3]
    families = []
    for axis in range(3):
        fine = np.arange(-half[axis], half[axis] + 1e-6, spacing_mm / 4)
        others = [i for i in range(3) if i != axis]
        a, b, c = np.meshgrid(ticks[others[0]], ticks[others[1]], fine, indexing="ij")
        local = np.zeros((a.size, 3))
        local[:, others[0]], local[:, others[1]], local[:, axis] = a.ravel(), b.ravel(), c.ravel()
        families.append((center + local @ axes.T, (a.shape[0] * a.shape[1], a.shape[2])))
    return _joined(families, contains)


def plane_points(slice_to_ras: np.ndarray, geometry: Geometry, spacing_mm: float, contains) -> np.ndarray:
    """(N, 3) lattice points of a slice plane, for arrows."""
    u, v = _ranges(slice_to_ras, geometry, spacing_mm)
    points = _in_plane(slice_to_ras, np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2))
    return points[contains(points)]


def line_model(lines: Lines, move: Mover, longest_mm: float, folded=None, slice_to_ras=None) -> vtk.vtkPolyData:
    """Deformed lines, colored by how far each point went; magenta where ``folded`` (points, moved) says so.

    slice_to_ras: the plane the result is laid into; None leaves it in space.
    """
    moved = move(lines.points) if len(lines.points) else lines.points
    scalars = _length_scalars(np.linalg.norm(moved - lines.points, axis=1), longest_mm)
    if folded is not None and len(moved):
        scalars[folded(lines.points, moved)] = FOLDED
    return poly_data(moved if slice_to_ras is None else flat(slice_to_ras, moved), lines.segments, scalars)


def arrow_model(points: np.ndarray, move: Mover, longest_mm: float, slice_to_ras: np.ndarray) -> vtk.vtkPolyData:
    """Arrows from each point to where the map takes it, laid into the slice plane, colored by their true length."""
    moved = move(points) if len(points) else points
    length = np.linalg.norm(moved - points, axis=1)
    keep = length > SHORTEST_ARROW_MM
    tail, tip, length = points[keep], flat(slice_to_ras, moved[keep]), length[keep]
    shaft = tip - tail
    normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
    side = np.cross(normal, shaft) * 0.18
    ends = (tail, tip, tip - 0.3 * shaft + side, tip - 0.3 * shaft - side)
    n = len(tail)
    every = np.arange(n)
    segments = np.concatenate([np.stack((every + a * n, every + b * n), -1) for a, b in ((0, 1), (1, 2), (1, 3))])
    return poly_data(np.concatenate(ends), segments, np.tile(_length_scalars(length, longest_mm), 4))


def poly_data(points: np.ndarray, segments: np.ndarray, scalars: np.ndarray) -> vtk.vtkPolyData:
    """Points, two-point lines and one color number per point."""
    out, vertices, lines = vtk.vtkPolyData(), vtk.vtkPoints(), vtk.vtkCellArray()
    vertices.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float32), deep=True))
    lines.SetData(2, numpy_to_vtkIdTypeArray(np.ascontiguousarray(segments, dtype=np.int64).ravel(), deep=True))
    out.SetPoints(vertices)
    out.SetLines(lines)
    values = numpy_to_vtk(np.ascontiguousarray(scalars, dtype=np.float32), deep=True)
    values.SetName(SCALARS)
    out.GetPointData().SetScalars(values)
    return out


def flat(slice_to_ras: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points laid into the plane of a slice along its normal."""
    normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
    return points - ((points - slice_to_ras[:3, 3]) @ normal)[:, None] * normal


def fold_test(maps: MapNodes, direction: str, step_mm: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Which points of a drawn grid lie where the map is folded: det of its derivative, by central differences, at most 0."""

    def folded(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
        return determinants_at(maps.transform, moved if direction == "forward" else points, step_mm) <= 0

    return folded


def determinants_at(transform, points_ras: np.ndarray, step_mm: float) -> np.ndarray:
    """(N,) determinants of the derivative of phi at RAS points, central differences over +-``step_mm``."""
    points = np.asarray(points_ras, dtype=float).reshape(-1, 3)
    offsets = np.concatenate([np.eye(3), -np.eye(3)]) * step_mm
    there = follow(transform, (points[None] + offsets[:, None]).reshape(-1, 3)).reshape(6, -1, 3)
    return np.linalg.det(np.moveaxis((there[:3] - there[3:]) / (2 * step_mm), 0, -1))


def longest_mm(move: Mover, geometry: Geometry, contains=None) -> float:
    """99th percentile of how far the map moves the points of a coarse lattice of the fixed grid."""
    coarse = geometry.resized(tuple(min(n, 17) for n in geometry.size))
    points = grid_points(coarse)
    if contains is not None and (inside := contains(points)).any():
        points = points[inside]
    return float(np.percentile(np.linalg.norm(move(points) - points, axis=1), 99))


def put(model, poly: vtk.vtkPolyData) -> None:
    """Give a model node new lines; the node keeps its poly data object, so nothing is observed anew."""
    if model.GetPolyData() is None:
        model.SetAndObservePolyData(poly)
    else:
        model.GetPolyData().ShallowCopy(poly)


def points_of(poly: vtk.vtkPolyData) -> np.ndarray:
    """(N, 3) points of poly data."""
    return vtk_to_numpy(poly.GetPoints().GetData()) if poly.GetNumberOfPoints() else np.zeros((0, 3))


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _length_scalars(length_mm: np.ndarray, longest: float) -> np.ndarray:
    return np.clip(length_mm / longest, 0, 1) * (FOLDED - 1.5)


def _ranges(slice_to_ras: np.ndarray, geometry: Geometry, spacing_mm: float) -> list[np.ndarray]:
    """Multiples of the spacing, from the grid's center, that cover the grid's corners along both axes of the plane."""
    corners = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in geometry.size), indexing="ij"), -1).reshape(-1, 3)
    frame = index_to_ras(geometry)
    local = _to_plane(slice_to_ras, _apply(frame, corners))
    center = local.mean(0)
    reach = np.floor((local.max(0) - center) / spacing_mm)
    return [center[i] + np.arange(-reach[i], reach[i] + 1) * spacing_mm for i in range(2)]


def _to_plane(slice_to_ras: np.ndarray, points: np.ndarray) -> np.ndarray:
    axes = slice_to_ras[:3, :2] / np.linalg.norm(slice_to_ras[:3, :2], axis=0)
    return (points - slice_to_ras[:3, 3]) @ axes


def _in_plane(slice_to_ras: np.ndarray, plane: np.ndarray) -> np.ndarray:
    axes = slice_to_ras[:3, :2] / np.linalg.norm(slice_to_ras[:3, :2], axis=0)
    return slice_to_ras[:3, 3] + plane @ axes.T


def _joined(families, contains) -> Lines:
    """One set of lines from families of (count * samples, 3) points; a segment needs both of its ends inside."""
    points, segments, before = [], [], 0
    for family, (count, samples) in families:
        index = before + np.arange(count * samples).reshape(count, samples)
        segments.append(np.stack((index[:, :-1], index[:, 1:]), -1).reshape(-1, 2))
        points.append(family)
        before += len(family)
    points, segments = np.concatenate(points), np.concatenate(segments)
    inside = contains(points)
    segments = segments[inside[segments].all(1)]
    used, renumbered = np.unique(segments, return_inverse=True)
    return Lines(points[used], renumbered.reshape(-1, 2))
