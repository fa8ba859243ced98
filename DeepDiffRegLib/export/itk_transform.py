"""Transforms from and to the files that ITK programs share (SimpleITK, Slicer, ANTs, elastix).

``.h5`` is written directly in ITK's HDF5 layout: SimpleITK would first turn a field into double precision. On disk a
composite lists its parts as they were added, and ITK applies the last one first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..data.atomic import write_aside
from ..data.io_headers import itk_execute
from ..data.io_images import check_exists
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.vector_fields import slabs
from ..transforms.affine import AffineTransform
from ..transforms.base import Transform
from ..transforms.bspline import BSplineTransform
from ..transforms.composite import CompositeTransform, simplified
from ..transforms.displacement import DisplacementTransform
from .nifti_warp import read_displacement, write_displacement

HDF5 = (".h5", ".hdf5")
TEXT = (".tfm", ".txt", ".mat")
NIFTI = (".nii", ".nii.gz")


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform (fixed_to_moving: TransformPoint maps fixed to moving), aside and then renamed.

    .h5: every transform. .tfm, .txt, .mat: matrices. .nii, .nii.gz: one displacement on the transform's (first) grid.
    Raises InputError for another suffix, for a transform the format cannot hold, and when the file cannot be written.
    """
    path = Path(path)
    transform = simplified(transform)
    suffix = _suffix(path)
    if suffix in HDF5:
        with write_aside(path) as aside:
            _write_hdf5(transform, aside)
    elif suffix in TEXT:
        _write_text(transform, path)
    else:
        grid = _first_grid(transform, path)
        write_displacement(transform.displacement(grid), grid, path)


def read_transform(path: str | Path) -> Transform:
    """Read any of the formats above, written by this or another program.

    Matrices of every ITK kind become ``AffineTransform``; displacement fields, cubic B-splines and (nested) composites
    keep their form. Raises InputError for a missing or damaged file and for other kinds of transform.
    """
    import SimpleITK as sitk

    path = Path(path)
    check_exists(path)
    if _suffix(path) in NIFTI:
        return read_displacement(path)
    return simplified(from_itk(itk_execute(path, lambda: sitk.ReadTransform(str(path))), str(path)))


def from_itk(transform, name: str = "transform") -> Transform:
    """Convert a SimpleITK transform; ``name`` stands in the message of the InputError for kinds that cannot be used."""
    if transform.GetDimension() not in (2, 3):
        raise InputError(f"{name}: expected a 2-D or 3-D transform, got {transform.GetDimension()}-D")
    if transform.IsLinear():
        return _affine_from_itk(transform)
    kind = transform.GetName()
    if kind not in _READERS:
        raise InputError(f"{name}: cannot use an ITK {kind}; export it as a displacement field instead")
    return _READERS[kind](transform, name)


def _affine_from_itk(transform) -> AffineTransform:
    """Exact for every matrix-like kind, whatever its parameters mean: where the origin and the unit vectors go."""
    d = transform.GetDimension()
    origin = np.array(transform.TransformPoint((0.0,) * d))
    columns = [np.array(transform.TransformPoint(tuple(row))) - origin for row in np.eye(d)]
    return AffineTransform(np.stack(columns, 1), origin)


def _field_from_itk(transform, name: str) -> DisplacementTransform:
    import SimpleITK as sitk

    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    geometry = Geometry.from_sitk(image)
    view = sitk.GetArrayViewFromImage(image)
    field = np.empty((1, geometry.ndim, *geometry.shape), np.float32)
    for rows, _ in slabs(geometry):
        field[0, :, rows] = np.moveaxis(view[rows], -1, 0)
    if not np.isfinite(field).all():
        raise InputError(f"{name}: the displacement holds NaN or Inf")
    return DisplacementTransform(torch.from_numpy(field), geometry)


def _bspline_from_itk(transform, name: str) -> BSplineTransform:
    import SimpleITK as sitk

    spline = sitk.BSplineTransform(transform)
    if spline.GetOrder() != 3:
        raise InputError(f"{name}: only cubic B-splines can be used, got order {spline.GetOrder()}")
    d, fixed = spline.GetDimension(), np.array(spline.GetFixedParameters())
    size, origin, spacing = fixed[: 3 * d].reshape(3, d)
    control = Geometry(tuple(size.astype(int)), tuple(spacing), tuple(origin), fixed[3 * d :].tolist())
    coefficients = torch.tensor(spline.GetParameters(), dtype=torch.float32).reshape(1, d, *control.shape)
    return BSplineTransform(coefficients, control)


def _composite_from_itk(transform, name: str) -> CompositeTransform:
    import SimpleITK as sitk

    composite = sitk.CompositeTransform(transform)
    parts = [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]
    return CompositeTransform([from_itk(part, name) for part in reversed(parts)])


_READERS: dict[str, Callable] = {
    "DisplacementFieldTransform": _field_from_itk,
    "BSplineTransform": _bspline_from_itk,
    "CompositeTransform": _composite_from_itk,
}


def _write_hdf5(transform: Transform, path: Path) -> None:
    import h5py

    parts = list(reversed(transform.transforms)) if isinstance(transform, CompositeTransform) else [transform]
    d = transform.ndim
    with h5py.File(path, "w") as file:
        groups = file.create_group("TransformGroup")
        if isinstance(transform, CompositeTransform):
            _kind(groups.create_group("0"), f"CompositeTransform_double_{d}_{d}")
        for part in parts:
            part = getattr(part, "finished", part)  # velocities and momenta as the map they lead to
            writer = _WRITERS.get(type(part))
            if writer is None:
                raise InputError(f"write_transform(): cannot write a {type(part).__name__} to {path.name}")
            writer(groups.create_group(str(len(groups))), part)


def _kind(group, kind: str) -> None:
    import h5py

    group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))


def _affine_to_hdf5(group, transform: AffineTransform) -> None:
    d = transform.ndim
    _kind(group, f"AffineTransform_double_{d}_{d}")
    group["TransformFixedParameters"] = np.zeros(d)
    group["TransformParameters"] = np.concatenate([transform.matrix.ravel(), transform.translation_mm])


def _field_to_hdf5(group, transform: DisplacementTransform) -> None:
    d, geometry = transform.ndim, transform.geometry
    _kind(group, f"DisplacementFieldTransform_float_{d}_{d}")
    group["TransformFixedParameters"] = _grid_parameters(geometry)
    values = group.create_dataset("TransformParameters", (geometry.voxels * d,), np.float32)
    row = geometry.voxels // geometry.shape[0] * d
    for rows, _ in slabs(geometry):
        slab = transform.tensor[0, :, rows].detach().movedim(0, -1).cpu().contiguous().numpy()
        values[rows.start * row : rows.stop * row] = slab.ravel()


def _bspline_to_hdf5(group, transform: BSplineTransform) -> None:
    d = transform.ndim
    _kind(group, f"BSplineTransform_double_{d}_{d}")
    group["TransformFixedParameters"] = _grid_parameters(transform.control_grid)
    group["TransformParameters"] = transform.coefficients.detach().cpu().double().numpy().ravel()


_WRITERS: dict[type, Callable] = {
    AffineTransform: _affine_to_hdf5,
    DisplacementTransform: _field_to_hdf5,
    BSplineTransform: _bspline_to_hdf5,
}


def _write_text(transform: Transform, path: Path) -> None:
    import SimpleITK as sitk

    if not isinstance(transform, AffineTransform):
        raise InputError(f"{path}: {_suffix(path)} holds matrices only; write this transform as .h5")
    with write_aside(path) as aside:
        itk_execute(path, lambda: sitk.WriteTransform(transform.to_itk(), str(aside)))


def _grid_parameters(geometry: Geometry) -> np.ndarray:
    """Size, origin, spacing, direction: ITK's fixed parameters of fields and splines."""
    return np.concatenate([geometry.size, geometry.origin_mm, geometry.spacing_mm, geometry.rotation.ravel()])


def _first_grid(transform: Transform, path: Path) -> Geometry:
    parts = transform.transforms if isinstance(transform, CompositeTransform) else (transform,)
    for part in parts:
        grid = getattr(part, "geometry", None) or getattr(part, "domain", None)
        if grid is not None:
            return grid
    raise InputError(f"{path}: a matrix has no grid to write a displacement on; write it as .tfm or .h5")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for suffix in (*HDF5, *TEXT, ".nii.gz", ".nii"):
        if name.endswith(suffix):
            return suffix
    raise InputError(f"{path}: not a transform format of this program; use one of {', '.join((*HDF5, *TEXT, *NIFTI))}")
