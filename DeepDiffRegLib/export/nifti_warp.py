"""Displacement fields as NIfTI, five axes (x, y, z, 1, d): in 3-D intent 1006 with RAS values, as the standard asks.

ITK and Slicer turn the values of intent 1006 to LPS while reading, and of no other intent: the same numbers under intent
1007 (plain vectors) would move two components the wrong way. In 2-D that turn goes wrong in ITK (it takes three
components for granted and flips two thirds of the numbers), so planar fields are written as vectors, 1007, in LPS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..checks import check_shape
from ..data.atomic import write_aside
from ..data.io_headers import itk_execute
from ..data.io_images import check_exists
from ..data.io_nifti import read_voxels, write_nifti
from ..errors import InputError
from ..geometry.grid import Geometry
from ..transforms.displacement import DisplacementTransform

DISPLACEMENT_INTENT = 1006
VECTOR_INTENT = 1007


def write_displacement(displacement_mm: torch.Tensor, geometry: Geometry, path: str | Path) -> None:
    """Write (1, d, [Z,] Y, X) mm LPS as .nii or .nii.gz, aside and then renamed.

    ITK, Slicer and ``read_displacement`` read it as the same LPS displacement. Raises InputError when it cannot be written.
    """
    path = Path(path)
    check_shape("write_displacement", "displacement_mm", displacement_mm, (1, geometry.ndim, *geometry.shape))
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: a displacement is written as .nii or .nii.gz")
    values, intent, signs = displacement_mm[0].detach().float().cpu().numpy(), VECTOR_INTENT, None
    if geometry.ndim == 3:
        intent, signs = DISPLACEMENT_INTENT, (-1, -1, 1)
    with write_aside(path) as aside:
        write_nifti(aside, values, geometry, intent=intent, signs=signs)


def read_displacement(path: str | Path) -> DisplacementTransform:
    """Read a NIfTI displacement field as a transform (mm LPS).

    Intent 1006: values are RAS. Intent 1007 (vectors, what ITK programs such as ANTs write): values are LPS already.
    Raises InputError for other intents, another number of components than axes, and damaged files.
    """
    path = Path(path)
    check_exists(path)
    grid, intent = _header(path)
    if intent not in (DISPLACEMENT_INTENT, VECTOR_INTENT):
        raise InputError(
            f"{path}: not a displacement field: expected NIfTI intent 1006 (or 1007, LPS vectors), got {intent}"
        )
    header, values = read_voxels(path)
    components = header.dims[4] if len(header.dims) == 5 else 0
    if components != grid.ndim or values.size != components * grid.voxels:
        raise InputError(f"{path}: expected sizes (x, y, z, 1, {grid.ndim}) of a displacement field, got {header.dims}")
    field = np.array(values.reshape(components, *grid.shape), dtype=np.float32)
    if (header.slope, header.intercept) != (1.0, 0.0):
        field = field * np.float32(header.slope) + np.float32(header.intercept)
    if intent == DISPLACEMENT_INTENT:
        field[:2] *= -1
    if not np.isfinite(field).all():
        raise InputError(f"{path}: the displacement holds NaN or Inf")
    return DisplacementTransform(torch.from_numpy(field)[None], grid)


def _header(path: Path) -> tuple[Geometry, int]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    itk_execute(path, reader.ReadImageInformation)
    intent = int(reader.GetMetaData("intent_code")) if reader.HasMetaDataKey("intent_code") else 0
    return Geometry.from_sitk(reader), intent
