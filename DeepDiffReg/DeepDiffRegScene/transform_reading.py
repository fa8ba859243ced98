"""What a transform node does, read from it: its map, points through it, its grid and matrix."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Map

from . import fields
from .convert import as_geometry
from .spaces import as_rotation, geometry_from_ras, grid_points, matrix_lps, matrix_ras, numpy_matrix, transformed

MARGINS_ATTRIBUTE = "DeepDiffReg.Margins"
MOST_SAMPLES = 2**20
"""A transform of a kind that the library does not know is sampled at no more points than this."""


def map_of(transform, reference=None) -> Map:
    """The map fixed_to_moving of any transform node: what resamples the moving scan under it (from world to the node).

    Matrices, grids and a grid followed by a matrix are taken over as they are (the module's own margins cut off); every
    other kind, such as B-splines, is sampled on ``reference`` (Geometry, Scan or volume node), coarsened to a million points.
    Raises InputError when a reference is needed and missing.
    """
    matrix = vtk.vtkMatrix4x4()
    if transform.IsTransformToWorldLinear():
        transform.GetMatrixTransformToWorld(matrix)
        return Map(matrix_lps(np.linalg.inv(numpy_matrix(matrix))))
    if transform.GetParentTransformNode() is None:
        parts = _parts_of(transform.GetTransformFromParent())
        if parts is not None:
            return _map_of_parts(*parts, transform.GetAttribute(MARGINS_ATTRIBUTE))
    if reference is None:
        raise InputError(f"map_of(): {transform.GetName()!r} must be sampled; a reference volume is needed")
    geometry = as_geometry(reference)
    geometry = geometry.coarsened(max(1.0, (geometry.voxels / MOST_SAMPLES) ** (1 / 3)), minimum=2)
    chain = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, transform, chain)
    u = np.empty((3, *geometry.shape), np.float32)
    for rows in fields.slabs(geometry.shape[0], geometry.voxels):
        points = grid_points(geometry, rows)
        moved = (transformed(chain, points) - points) * fields.FLIP
        u[:, rows] = moved.T.reshape(3, rows.stop - rows.start, *geometry.shape[1:])
    return Map(np.eye(4), u, geometry)


def follow(transform, points_ras, inverse: bool = False) -> np.ndarray:
    """(N, 3) points of the fixed space to the moving space, float64, RAS; inverse: the other way, by VTK's iteration."""
    points = np.asarray(points_ras, dtype=float).reshape(-1, 3)
    chain = vtk.vtkGeneralTransform()
    ends = (transform, None) if inverse else (None, transform)
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*ends, chain)
    return transformed(chain, points)


def _parts_of(transform) -> tuple | None:
    """(grid, matrix) of a grid that acts first and matrices that act after it; None for anything else."""
    parts = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(parts, transform)
    grid, after = None, np.eye(4)
    for i in range(parts.GetNumberOfItems()):
        part = parts.GetItemAsObject(i)
        if part.IsA("vtkLinearTransform"):
            if grid is None and not np.allclose(numpy_matrix(part.GetMatrix()), np.eye(4)):
                return None
            after = numpy_matrix(part.GetMatrix()) @ after
        elif part.IsA("vtkOrientedGridTransform") and grid is None and not part.GetInverseFlag():
            grid = part
        else:
            return None
    return None if grid is None else (grid, after)


def _map_of_parts(grid, after: np.ndarray, margins: str | None) -> Map:
    geometry = _grid_geometry(grid)
    values = vtk_to_numpy(grid.GetDisplacementGrid().GetPointData().GetScalars()).reshape(*geometry.shape, 3)
    if margins:
        pairs = np.array(margins.split(), dtype=int).reshape(3, 2)
        inner = fields.Padded(geometry, tuple(map(tuple, pairs))).inner
        values = values[inner]
        geometry = geometry.cropped(tuple(pairs[:, 0]), values.shape[2::-1])
    u = np.empty((3, *geometry.shape), np.float32)
    for c in range(3):
        u[c] = (values[..., c] * grid.GetDisplacementScale() + grid.GetDisplacementShift()) * fields.FLIP[c]
    return Map(matrix_lps(after), u, geometry)


def after_matrix(transform) -> np.ndarray:
    """(4, 4) RAS matrix that acts after the displacement of an output transform; the whole map when it has none."""
    if transform.IsTransformToWorldLinear():
        return matrix_ras(map_of(transform).world)
    parts = _parts_of(transform.GetTransformFromParent())
    return np.eye(4) if parts is None else parts[1]


def grid_spacing_mm(transform) -> float:
    """Smallest voxel edge of an output transform's grid, 1 mm where it has none."""
    parts = None if transform.IsTransformToWorldLinear() else _parts_of(transform.GetTransformFromParent())
    return 1.0 if parts is None else float(min(parts[0].GetDisplacementGrid().GetSpacing()))


def stored_grid(transform) -> Geometry | None:
    """Grid of an output transform, margins included; None for a matrix."""
    parts = None if transform.IsTransformToWorldLinear() else _parts_of(transform.GetTransformFromParent())
    return None if parts is None else _grid_geometry(parts[0])


def _grid_geometry(grid) -> Geometry:
    image = grid.GetDisplacementGrid()
    place = np.eye(4)
    place[:3, :3] = as_rotation(grid.GetGridDirectionMatrix()) * np.array(image.GetSpacing())
    place[:3, 3] = image.GetOrigin()
    return geometry_from_ras(image.GetDimensions(), place)
