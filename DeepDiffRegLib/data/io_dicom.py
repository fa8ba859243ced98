"""DICOM: one series from a folder, or one file. Slices that are missing, doubled or tilted are refused, not repaired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .io_headers import itk_execute

if TYPE_CHECKING:
    import SimpleITK as sitk

UNEVEN = 0.05
"""Largest accepted deviation of a slice step, relative to the median step."""
TILT = 2e-3
"""Largest accepted sideways shift of the slice stack, relative to its length."""


def is_dicom(path: Path) -> bool:
    """Whether the file carries DICOM's mark at byte 128."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_file(path: Path) -> sitk.Image:
    """One DICOM file as a SimpleITK image, several frames included."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return itk_execute(path, reader.Execute)


def read_series(folder: Path) -> sitk.Image:
    """The one series in a folder as a SimpleITK image.

    Raises InputError when there is none or more than one, when slices are missing or doubled, and for a tilted gantry.
    """
    import SimpleITK as sitk

    find = sitk.ImageSeriesReader
    series = itk_execute(folder, lambda: find.GetGDCMSeriesIDs(str(folder)))
    if not series:
        raise InputError(f"{folder}: no DICOM images in this folder")
    files = {
        name: itk_execute(folder, lambda name=name: find.GetGDCMSeriesFileNames(str(folder), name)) for name in series
    }
    if len(series) > 1:
        counts = ", ".join(f"{len(names)} files" for names in files.values())
        raise InputError(f"{folder}: {len(series)} DICOM series ({counts}); give each a folder of its own")
    names = files[series[0]]
    if len(names) == 1:
        return read_file(Path(names[0]))
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = itk_execute(folder, reader.Execute)
    _check_slices(folder, reader, len(names))
    return image


def _check_slices(folder: Path, reader, count: int) -> None:
    if not all(reader.HasMetaDataKey(i, key) for i in range(count) for key in ("0020|0032", "0020|0037")):
        raise InputError(f"{folder}: slices without position or orientation; this series cannot be placed in space")
    positions = np.array([_numbers(reader.GetMetaData(i, "0020|0032")) for i in range(count)])
    axes = _numbers(reader.GetMetaData(0, "0020|0037")).reshape(2, 3)
    normal = np.cross(*axes)
    steps = np.abs(np.diff(positions @ normal))
    usual = float(np.median(steps))
    if steps.min() < 1e-3:
        raise InputError(f"{folder}: several images at one slice position (4-D or multi-echo series); keep one volume")
    if np.abs(steps - usual).max() > UNEVEN * usual:
        raise InputError(
            f"{folder}: slices are not evenly spaced ({steps.min():g} to {steps.max():g} mm apart); is one missing?"
        )
    way = positions[-1] - positions[0]
    sideways = np.linalg.norm(way - normal * (way @ normal))
    if sideways > TILT * np.linalg.norm(way):
        raise InputError(
            f"{folder}: the axes are not orthogonal (tilted gantry); resample the scan onto an orthogonal grid first"
        )


def _numbers(text: str) -> np.ndarray:
    return np.array([float(v) for v in text.split("\\")])
