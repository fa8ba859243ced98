"""Files for other programs, written by Slicer's own storage nodes, aside and then renamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DeepDiffRegLib.errors import InputError

from .convert import as_geometry
from .fields import slabs
from .maps import MapNodes, follow, stored_grid
from .spaces import grid_points, index_to_ras, vtk_matrix

WHOLE = (".h5", ".tfm")
"""Hold the transform as it is."""
FIELD = (".nii.gz", ".nii", ".nrrd")
"""Hold one displacement field: the whole map sampled on a grid."""
VOLUME = (".nii.gz", ".nii", ".nrrd", ".mha")


def write_transform(transform, path, reference=None) -> None:
    """Write a transform node, fixed to moving as ITK resamples (TransformPoint maps fixed to moving, LPS).

    .h5, .tfm: as it is. .nii.gz, .nii (intent 1006), .nrrd: one displacement on the map's own grid with its margins, or on
    the grid of ``reference`` (Geometry, Scan or volume node), which a matrix needs. Raises InputError for another suffix,
    a missing reference, or when the file cannot be written.
    """
    path = Path(path)
    kind = suffix_of(path, (*WHOLE, *FIELD))
    node = transform if kind in WHOLE else as_field(transform, path, reference)
    with aside(path, kind) as target:
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(target))
        check(storage.WriteData(node), path, target)


def write_inverse(maps: MapNodes, path, reference=None) -> None:
    """Write the explicit inverse (moving to fixed) as ``write_transform``; InputError while there is none."""
    if maps.inverse is None:
        raise InputError(f"{path}: the inverse is not there yet; it comes with the quality checks")
    write_transform(maps.inverse, path, reference)


def write_volume(volume, path) -> None:
    """Write a volume node as .nii.gz, .nii, .nrrd or .mha."""
    path = Path(path)
    kind = suffix_of(path, VOLUME)
    with aside(path, kind) as target:
        storage = slicer.vtkMRMLNRRDStorageNode() if kind == ".nrrd" else slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(target))
        storage.SetUseCompression(kind != ".nii")
        check(storage.WriteData(volume), path, target)


def as_field(transform, path, reference=None):
    """A transform node, outside any scene, that holds the whole map as one cubic grid from parent."""
    own = stored_grid(transform)
    if own is None and reference is None:
        raise InputError(f"{path}: a matrix has no grid; give a reference volume, or write .h5 or .tfm")
    geometry = own if reference is None else as_geometry(reference)
    image = vtk.vtkImageData()
    image.SetDimensions(geometry.size)
    image.AllocateScalars(vtk.VTK_FLOAT, 3)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*geometry.shape, 3)
    for rows in slabs(geometry.shape[0], geometry.voxels):
        points = grid_points(geometry, rows)
        values[rows] = (follow(transform, points) - points).reshape(-1, *geometry.shape[1:], 3)
    place = index_to_ras(geometry)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(place[:3, 3])
    rotation = np.eye(4)
    rotation[:3, :3] = place[:3, :3] / np.array(geometry.spacing_mm)
    grid = slicer.vtkOrientedGridTransform()
    grid.SetInterpolationModeToCubic()
    grid.SetGridDirectionMatrix(vtk_matrix(rotation))
    grid.SetDisplacementGridData(image)
    node = slicer.vtkMRMLGridTransformNode()
    node.SetName(transform.GetName())
    node.SetAndObserveTransformFromParent(grid)
    return node


def suffix_of(path: Path, allowed: tuple[str, ...]) -> str:
    """The one of ``allowed`` that the name ends with; InputError for others."""
    for suffix in allowed:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: cannot be written; use one of {', '.join(allowed)}")


@contextlib.contextmanager
def aside(path: Path, suffix: str) -> Iterator[Path]:
    """A name beside ``path`` with the same suffix; what is written there takes the place of ``path`` at the end."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder does not exist")
    target = path.with_name(f".{path.name[: -len(suffix)]}.part{suffix}")
    try:
        yield target
        target.replace(path)
    finally:
        target.unlink(missing_ok=True)


def check(written: int, path: Path, target: Path) -> None:
    """InputError unless the storage node says that it has written, and the file is there."""
    if not written or not target.is_file():
        raise InputError(f"{path}: Slicer could not write this file; is the folder writable and the disk not full?")
