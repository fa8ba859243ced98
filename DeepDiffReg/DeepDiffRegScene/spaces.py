"""Where things lie: RAS and LPS, matrices, parent transforms, and reading an image on another grid."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from DeepDiffRegLib.errors import GeometryError
from DeepDiffRegLib.geometry.grid import DIRECTION_TOLERANCE, Geometry

FLIP = np.array([-1.0, -1.0, 1.0])
"""RAS to LPS and back."""
TINY_SHEAR = DIRECTION_TOLERANCE / 10
"""Axes this orthogonal are single-precision headers; beyond, a scan is resampled."""


def the_scene(scene=None):
    """``scene``, or the application's own when it is None."""
    return slicer.mrmlScene if scene is None else scene


def ras(points_lps) -> np.ndarray:
    """(..., 3) LPS points or vectors to RAS, float64."""
    return np.asarray(points_lps, dtype=float) * FLIP


def lps(points_ras) -> np.ndarray:
    """(..., 3) RAS points or vectors to LPS, float64."""
    return np.asarray(points_ras, dtype=float) * FLIP


def matrix_ras(matrix_lps) -> np.ndarray:
    """A (4, 4) map between LPS points as the same map between RAS points."""
    flip = np.append(FLIP, 1.0)
    return flip[:, None] * np.asarray(matrix_lps, dtype=float) * flip


matrix_lps = matrix_ras
"""The other way round: the flip is its own inverse."""


def vtk_matrix(matrix) -> vtk.vtkMatrix4x4:
    """(4, 4) array to a VTK matrix."""
    out = vtk.vtkMatrix4x4()
    out.DeepCopy(np.asarray(matrix, dtype=float).ravel())
    return out


def numpy_matrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A VTK matrix to (4, 4) float64."""
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def geometry_from_ras(size, index_to_ras) -> Geometry:
    """Geometry (LPS) of ``size`` voxels whose (4, 4) index-to-RAS matrix is given; GeometryError when it is sheared."""
    matrix = np.diag([*FLIP, 1.0]) @ index_to_ras
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if min(spacing) <= 0:
        raise GeometryError("geometry_from_ras(): the grid's axes must not be degenerate")
    direction = matrix[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > TINY_SHEAR:
        raise GeometryError("geometry_from_ras(): the grid is sheared; resample it onto an orthogonal one")
    return Geometry(tuple(int(n) for n in size), tuple(spacing), tuple(matrix[:3, 3]), direction.tolist())


def index_to_ras(geometry: Geometry) -> np.ndarray:
    """(4, 4) voxel index (x, y, z) to RAS."""
    return np.diag([*FLIP, 1.0]) @ geometry.index_to_world


def local_index_to_ras(volume) -> np.ndarray:
    """(4, 4) voxel index to the RAS of the node itself, before its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return numpy_matrix(matrix)


def to_world_matrix(node) -> np.ndarray | None:
    """(4, 4) of a node's parent transforms (identity without), None when one of them is not linear."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    return numpy_matrix(matrix) if parent.GetMatrixTransformToWorld(matrix) else None


def from_world(node) -> vtk.vtkGeneralTransform:
    """World points to the node's own RAS through all its parents, as a VTK transform."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node.GetParentTransformNode(), transform)
    return transform


def voxels_of(image: vtk.vtkImageData) -> np.ndarray:
    """(Z, Y, X) view of a one-component image, (Z, Y, X, C) of others."""
    scalars = image.GetPointData().GetScalars()
    shape = image.GetDimensions()[::-1]
    return vtk_to_numpy(scalars).reshape(
        *shape, *((scalars.GetNumberOfComponents(),) * (scalars.GetNumberOfComponents() > 1))
    )


def image_from(array: np.ndarray) -> vtk.vtkImageData:
    """A VTK image (unit spacing, origin 0) with its own copy of (Z, Y, X) or (Z, Y, X, C) values."""
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    components = array.shape[3] if array.ndim == 4 else 1
    image.AllocateScalars(get_vtk_array_type(array.dtype), components)
    voxels_of(image)[...] = array
    return image


def resliced(
    image: vtk.vtkImageData,
    image_index_to_ras: np.ndarray,
    world_to_image: vtk.vtkAbstractTransform,
    reference: Geometry,
    linear: bool = True,
    background: float = 0.0,
) -> vtk.vtkImageData:
    """Read ``image`` at every voxel of ``reference``.

    image_index_to_ras: (4, 4) to the image's own RAS. world_to_image: from world RAS to that RAS, any VTK transform.
    linear: trilinear, otherwise nearest neighbor. Outside the image: ``background``.
    """
    plain = vtk.vtkImageData()
    plain.ShallowCopy(image)
    plain.SetSpacing(1, 1, 1)
    plain.SetOrigin(0, 0, 0)
    chain = vtk.vtkGeneralTransform()
    chain.PostMultiply()
    chain.Concatenate(vtk_matrix(index_to_ras(reference)))
    chain.Concatenate(world_to_image)
    chain.Concatenate(vtk_matrix(np.linalg.inv(image_index_to_ras)))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(plain)
    reslice.SetResliceTransform(chain)
    reslice.SetOutputExtent(0, reference.size[0] - 1, 0, reference.size[1] - 1, 0, reference.size[2] - 1)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetBackgroundLevel(background)
    reslice.SetInterpolationModeToLinear() if linear else reslice.SetInterpolationModeToNearestNeighbor()
    reslice.Update()
    return reslice.GetOutput()


def transformed(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    """(N, 3) points through a VTK transform in one bulk call, float64."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for each in (source, target):
        each.SetDataTypeToDouble()
    source.SetNumberOfPoints(len(points))
    if len(points) == 0:
        return np.zeros((0, 3))
    vtk_to_numpy(source.GetData())[...] = points
    transform.TransformPoints(source, target)
    return vtk_to_numpy(target.GetData()).copy()


def as_rotation(matrix: vtk.vtkMatrix4x4 | None) -> np.ndarray:
    """Upper (3, 3) of a VTK matrix, identity for None."""
    return np.eye(3) if matrix is None else numpy_matrix(matrix)[:3, :3]


def grid_points(geometry: Geometry, rows: slice = slice(None)) -> np.ndarray:
    """(N, 3) RAS positions of the voxels of the slices ``rows``, x fastest."""
    z = np.arange(geometry.shape[0])[rows]
    index = np.stack(np.meshgrid(z, *(np.arange(n) for n in geometry.shape[1:]), indexing="ij")[::-1], -1)
    matrix = index_to_ras(geometry)
    return index.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]


def get_vtk_type(array: np.ndarray) -> int:
    """VTK's number type for an array's."""
    return get_vtk_array_type(array.dtype)
