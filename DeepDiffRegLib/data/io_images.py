"""Images from files: NIfTI, NRRD, MetaImage, DICOM, MGH/MGZ, NumPy. World positions leave here as mm LPS (writing: ``io_image_writers``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import GeometryError, InputError
from ..geometry.grid import Geometry
from . import io_dicom, io_headers, io_nifti
from .image import Image, Kind
from .io_image_writers import image_suffix

READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".npz", ".npy", ".dcm")


@dataclass(frozen=True)
class _Stored:
    """What a file holds. values: ([T,] [Z,] Y, X) as stored; geometry: of one frame; components: values per voxel;
    flat: one slice means 2-D; owner: keeps the memory behind ``values`` alive."""

    values: np.ndarray
    geometry: Geometry
    components: int = 1
    slope: float = 1.0
    intercept: float = 0.0
    flat: bool = False
    owner: object = None


def read_image(
    path: str | Path,
    kind: Kind = "intensity",
    frame: int | None = None,
    *,
    spacing_mm: float | Sequence[float] | None = None,
    ndim: int | None = None,
) -> Image:
    """Read a scan, label map or mask; a folder is read as one DICOM series.

    kind: ``intensity`` gives float32; ``labels`` int32, non-integer values are refused; ``mask`` float32, 1 where the
    file is not 0. frame: which volume of a 4-D file, from 0. spacing_mm: x, y[, z] of a .npy or .npz file that holds none
    (its arrays are (Z, Y, X) or (Y, X); the keys spacing, origin, direction of an .npz are honored). ndim: 2 reads a 3-D
    file of a single slice as a 2-D image, 3 insists on a volume. Without it 2-D files are 2-D, and a scan of a single
    slice is refused, as is one that is one voxel thick along another axis; label maps and masks may be that thin. A
    single-slice DICOM file counts as 2-D. A slice of a volume keeps its world x and y when it lies in the x-y plane,
    else positions count along its own rows and columns.

    Raises InputError in one line that names the file: missing, empty, truncated, unreadable, several values per voxel,
    zero or negative spacing, axes not orthogonal, size and data that disagree, 4-D without ``frame``.
    """
    path = Path(path)
    check_exists(path)
    stored = _read(path, kind, spacing_mm)
    if stored.components > 1:
        raise InputError(
            f"{path}: {stored.components} values per voxel (RGB or vector image); a scan needs one, convert it to gray"
        )
    values = _pick_frame(path, stored, frame)
    geometry = stored.geometry
    if geometry.ndim == 3 and geometry.size[2] == 1 and (ndim == 2 or (stored.flat and ndim is None)):
        values, geometry = values.reshape(values.shape[-2:]), _plane(geometry)
    if ndim is not None and geometry.ndim != ndim:
        raise InputError(f"{path}: expected a {ndim}-D image, got {geometry.ndim}-D of size {geometry.size}")
    if kind == "intensity" and min(geometry.size) < 2:
        raise InputError(_thin(path, geometry))
    array = _convert(path, values, stored.slope, stored.intercept, kind)
    return Image.from_array(array, geometry, kind, str(path))


def check_exists(path: Path) -> None:
    """Raise InputError unless ``path`` is a folder or a file that is not empty and may be read."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")


def _read(path: Path, kind: Kind, spacing_mm) -> _Stored:
    try:
        if path.is_dir():
            return _from_itk(io_dicom.read_series(path))
        suffix = image_suffix(path)
        if suffix in (".npy", ".npz"):
            return _read_numpy(path, kind, spacing_mm)
        if spacing_mm is not None:
            raise InputError(f"{path}: spacing_mm is only for .npy and .npz files; this format holds its own spacing")
        if suffix in _READERS:
            return _READERS[suffix](path)
        if suffix == ".dcm" or io_dicom.is_dicom(path):
            return _from_itk(io_dicom.read_file(path), flat=True)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    raise InputError(
        f"{path}: not an image format this program reads; use one of {', '.join(READABLE)} or a DICOM folder"
    )


def _read_nifti(path: Path) -> _Stored:
    header, values = io_nifti.read_voxels(path)
    d = min(len(header.dims), 3)
    if len(header.dims) == 1:
        raise InputError(f"{path}: a scan needs 2 or 3 axes, the header gives size {header.dims}")
    if len(header.dims) > 4 or header.channels > 1:
        last = header.channels if header.channels > 1 else int(np.prod(header.dims[4:]))
        return _Stored(values, Geometry.identity(header.dims[:d]), last)
    if header.version == 2:  # ITK reads version 1 only
        geometry = io_nifti.geometry_from_ras(io_headers.nibabel_load(path)[0].affine, header.dims[:d])
    else:
        size, spacing, origin, direction = io_headers.itk_grid(path)
        matrix = np.array(direction).reshape(len(size), -1)[:d, :d]
        geometry = Geometry(header.dims[:d], spacing[:d], origin[:d], matrix.tolist())
    return _Stored(values, geometry, 1, header.slope, header.intercept)


def _read_itk(path: Path) -> _Stored:
    import SimpleITK as sitk

    io_headers.check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    return _from_itk(io_headers.itk_execute(path, reader.Execute))


def _from_itk(image, flat: bool = False) -> _Stored:
    import SimpleITK as sitk

    size = image.GetSize()
    d = min(len(size), 3)
    matrix = np.array(image.GetDirection()).reshape(len(size), -1)[:d, :d]
    geometry = Geometry(size[:d], image.GetSpacing()[:d], image.GetOrigin()[:d], matrix.tolist())
    components = image.GetNumberOfComponentsPerPixel()
    return _Stored(sitk.GetArrayViewFromImage(image), geometry, components, flat=flat, owner=image)


def _read_mgh(path: Path) -> _Stored:
    image, values = io_headers.nibabel_load(path)
    zooms = image.header.get_zooms()[:3]
    if not np.isfinite(zooms).all() or min(zooms) <= 0:
        raise GeometryError(f"spacing must be positive, the header gives {tuple(float(v) for v in zooms)} mm")
    size = (*values.shape[:3], *(1,) * (3 - values.ndim))
    return _Stored(values.reshape(*size, *values.shape[3:]).T, io_nifti.geometry_from_ras(image.affine, size))


def _read_numpy(path: Path, kind: Kind, spacing_mm) -> _Stored:
    values, held = io_headers.read_numpy(path, kind)
    spacing = spacing_mm if spacing_mm is not None else held.get("spacing")
    if spacing is None:
        raise InputError(
            f"{path}: holds no spacing; store an .npz with the key 'spacing' (x, y, z in mm) or pass spacing_mm"
        )
    spacing = np.atleast_1d(np.asarray(spacing, dtype=float)).ravel()
    d = len(spacing) if len(spacing) > 1 else min(values.ndim, 3)
    if d not in (2, 3) or values.ndim not in (d, d + 1):
        raise InputError(f"{path}: an array of shape {values.shape} does not fit a spacing of {len(spacing)} numbers")
    spacing = np.broadcast_to(spacing, (d,))
    origin = np.asarray(held.get("origin", np.zeros(d)), dtype=float).ravel()
    direction = np.asarray(held.get("direction", np.eye(d)), dtype=float)
    if origin.size != d or direction.size != d * d:
        raise InputError(f"{path}: origin and direction must be {d}-D, got {origin.size} and {direction.size} numbers")
    geometry = Geometry(values.shape[::-1][:d], tuple(spacing), tuple(origin), direction.reshape(d, d).tolist())
    return _Stored(values, geometry)


def _pick_frame(path: Path, stored: _Stored, frame: int | None) -> np.ndarray:
    values, d = stored.values, stored.geometry.ndim
    frames = values.shape[0] if values.ndim > d else 1
    if values.ndim > d + 1:
        raise InputError(
            f"{path}: {values.ndim} axes of shape {values.shape[::-1]}; a scan has at most 3 and a time axis"
        )
    if frame is None and frames > 1:
        raise InputError(
            f"{path}: {d + 1}-D with {frames} frames; choose one, 0 to {frames - 1} (--frame or --moving-frame)"
        )
    frame = 0 if frame is None else frame
    if not 0 <= frame < frames:
        raise InputError(f"{path}: frame {frame} does not exist; the file has {frames}, counted from 0")
    return values[frame] if values.ndim > d else values


def _plane(geometry: Geometry) -> Geometry:
    axes, origin = geometry.rotation[:, :2], np.array(geometry.origin_mm)
    if np.abs(axes[2]).max() < 1e-4:
        return Geometry(geometry.size[:2], geometry.spacing_mm[:2], tuple(origin[:2]), axes[:2].tolist())
    return Geometry(geometry.size[:2], geometry.spacing_mm[:2], tuple(origin @ axes), np.eye(2).tolist())


def _thin(path: Path, geometry: Geometry) -> str:
    axis = int(np.argmin(geometry.size))
    advice = "; if it is a 2-D image, store it as one (or read it with ndim=2)" if axis == 2 else ""
    return f"{path}: one voxel thick along axis {'xyz'[axis]} (size {geometry.size}){advice}"


def _convert(path: Path, values: np.ndarray, slope: float, intercept: float, kind: Kind) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: voxels of type {values.dtype} cannot be used; store real numbers")
    scaled = (slope, intercept) != (1.0, 0.0)
    if kind == "labels":
        return _integers(path, values * slope + intercept if scaled else values)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is Inf, which the pair refuses
        array = values.astype(np.float32)
        if scaled:
            array *= np.float32(slope)
            array += np.float32(intercept)
    if kind == "mask":
        if not np.isfinite(array).all():
            raise InputError(f"{path}: a mask must be finite, it holds NaN or Inf")
        array = (array != 0).astype(np.float32)
    return array


def _integers(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}: a label map must hold whole numbers, it holds NaN or Inf")
    limits = np.iinfo(np.int32)
    if values.dtype.itemsize >= 4 and values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        raise InputError(f"{path}: labels must fit 32-bit integers, got {values.min():g} to {values.max():g}")
    array = np.round(values).astype(np.int32) if values.dtype.kind == "f" else values.astype(np.int32)
    if values.dtype.kind == "f" and not np.allclose(array, values, rtol=0, atol=1e-4):
        worst = values.ravel()[int(np.abs(array - values).argmax())]
        raise InputError(f"{path}: a label map must hold whole numbers, got {worst:g}; is this a scan or a soft mask?")
    return array


_READERS = {
    **dict.fromkeys((".nii", ".nii.gz"), _read_nifti),
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), _read_itk),
    **dict.fromkeys((".mgz", ".mgh"), _read_mgh),
}
