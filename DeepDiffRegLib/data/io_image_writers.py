"""Images to files: NIfTI, NRRD, MetaImage, MGH/MGZ, NumPy; written aside first, then renamed into place."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry.grid import Geometry
from . import io_nifti
from .atomic import quiet_stderr, write_aside
from .image import Image

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".npz")


def write_image(image: Image, path: str | Path) -> None:
    """Write an image in the format its file name asks for, aside first, then renamed into place.

    Label maps get the smallest integer type that holds them, masks uint8 (float32 when they hold fractions), intensities
    float32. NIfTI is compressed at level 1 and carries the grid as qform and sform, code 1. Raises InputError for a
    vector image, an unknown format, and a place that cannot be written.
    """
    path = Path(path)
    if image.tensor.shape[1] != 1:
        raise InputError(f"write_image(): expected one value per voxel, got {image.tensor.shape[1]}")
    suffix = image_suffix(path)
    if suffix not in WRITABLE:
        raise InputError(f"{path}: cannot write this format; use one of {', '.join(WRITABLE)}")
    array = _smallest(image)
    with write_aside(path) as aside:
        _WRITERS[suffix](aside, array, image.geometry)


def image_suffix(path: Path) -> str:
    """The format suffix in lower case, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _smallest(image: Image) -> np.ndarray:
    array = image.numpy()
    if image.kind == "labels":
        low, high = int(array.min()), int(array.max())
        fits = (t for t in ("u1", "i2", "u2", "i4") if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
        return array.astype(next(fits))
    if image.kind == "mask" and np.isin(array, (0, 1)).all():
        return array.astype(np.uint8)
    return array.astype(np.float32, copy=False)


def _write_itk(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.rotation.ravel().tolist())
    try:
        with quiet_stderr():
            sitk.WriteImage(image, str(path), True, -1)
    except RuntimeError as error:
        raise OSError(f"the {path.suffix} writer failed") from error


def _write_mgh(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    import nibabel

    array = array.astype(np.int32) if array.dtype == np.uint16 else array
    volume = array if array.ndim == 3 else array[None]
    nibabel.save(nibabel.MGHImage(volume.T, io_nifti.ras_affine(geometry)), path)


def _write_npz(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    grid = {"spacing": geometry.spacing_mm, "origin": geometry.origin_mm, "direction": geometry.rotation}
    np.savez_compressed(path, image=array, **grid)


_WRITERS = {
    **dict.fromkeys((".nii", ".nii.gz"), io_nifti.write_nifti),
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), _write_itk),
    **dict.fromkeys((".mgz", ".mgh"), _write_mgh),
    ".npz": _write_npz,
}
