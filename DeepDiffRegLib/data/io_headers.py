"""What has to be asked of a file before its voxels are trusted: ITK repairs or ignores some bad headers in silence."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InputError
from .atomic import quiet_stderr

_META_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_NRRD_BYTES = {
    "signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1,
    "short": 2, "int16": 2, "int16_t": 2, "ushort": 2, "unsigned short": 2, "uint16": 2, "uint16_t": 2,
    "int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4,
    "float": 4, "double": 8,
}  # fmt: skip
_NUMPY_KEYS = {
    "intensity": ("image", "intensity", "vol", "volume", "data"),
    "labels": ("labels", "seg", "segmentation", "image"),
    "mask": ("mask", "labels", "seg", "image"),
}
_GRID_KEYS = ("spacing", "origin", "direction")
_HEAD = 1 << 16
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    tokenize.TokenError,
)
"""What the Python readers raise when a file is not what its name says."""


def itk_execute(path: Path, action: Callable):
    """Run a SimpleITK reading action; its multi-line complaint becomes one InputError and nothing else is printed."""
    try:
        with quiet_stderr():
            return action()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise InputError(
                f"{path}: the axes are not orthogonal; resample the scan onto an orthogonal grid first"
            ) from error
        kind = path.suffix.lstrip(".") or "image"
        raise InputError(f"{path}: truncated, damaged or not a {kind} file") from error


def itk_grid(path: Path) -> tuple[tuple, tuple, tuple, tuple]:
    """Size, spacing, origin and direction as ITK understands the header; the voxels are not read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    itk_execute(path, reader.ReadImageInformation)
    return reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()


def nibabel_load(path: Path) -> tuple:
    """A nibabel image and its stored voxels; damage becomes one InputError and nothing is printed."""
    import nibabel

    try:
        with quiet_stderr():
            image = nibabel.load(path)
            return image, np.asanyarray(image.dataobj)
    except (*_DAMAGED, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise InputError(f"{path}: truncated or damaged: {' '.join(str(error).split())}") from error


def check_text_header(path: Path) -> None:
    """Refuse MetaImage and NRRD headers with zero or negative spacing, and plain data of another size than announced.

    ITK turns a negative spacing into a flipped axis and ignores data that are left over.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    check = _check_meta if path.suffix.lower() in (".mha", ".mhd") else _check_nrrd
    try:
        check(path, head)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: the header is damaged: {error}") from error


def read_numpy(path: Path, kind: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of a .npy or .npz file and, from an .npz, the keys spacing, origin and direction that it holds."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, {}
        with loaded:
            held = {key: loaded[key] for key in _GRID_KEYS if key in loaded}
            return loaded[_array_key(path, list(loaded), kind)], held
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(f"{path}: truncated, damaged or not a NumPy file of plain numbers") from error


def _array_key(path: Path, keys: list[str], kind: str) -> str:
    candidates = [key for key in keys if key not in _GRID_KEYS]
    if len(candidates) == 1:
        return candidates[0]
    for key in _NUMPY_KEYS[kind]:
        if key in candidates:
            return key
    raise InputError(
        f"{path}: cannot tell which array is meant; expected the key {_NUMPY_KEYS[kind][0]!r}, "
        f"got {', '.join(candidates) or 'none'}"
    )


def _check_meta(path: Path, head: bytes) -> None:
    fields, end = {}, None
    position = 0
    for line in head.split(b"\n"):
        position += len(line) + 1
        name, _, value = line.decode("latin-1").partition("=")
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            end = position
            break
    _check_positive(path, fields.get("elementspacing") or fields.get("elementsize") or "1")
    plain = fields.get("compresseddata", "false").lower() not in ("true", "1")
    if end is None or not plain or fields["elementdatafile"].upper() != "LOCAL" or "headersize" in fields:
        return
    item = _META_BYTES.get(fields.get("elementtype", "").upper())
    if item:
        channels = int(fields.get("elementnumberofchannels", "1") or 1)
        _check_amount(path, fields.get("dimsize", ""), item * channels, path.stat().st_size - end)


def _check_nrrd(path: Path, head: bytes) -> None:
    text, blank, _ = head.replace(b"\r\n", b"\n").partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in text.decode("latin-1").split("\n") if ": " in line)
    if "spacings" in fields:
        _check_positive(path, " ".join(v for v in fields["spacings"].split() if v.lower() != "nan"))
    for vector in fields.get("space directions", "").replace(")", "(").split("("):
        numbers = [float(v) for v in vector.split(",")] if "," in vector else [1.0]
        if not np.any(numbers):
            raise InputError(f"{path}: spacing must be positive, the header gives a zero axis; correct the header")
    plain = fields.get("encoding", "raw").strip().lower() == "raw" and b"\r\n" not in head[: len(text)]
    item = _NRRD_BYTES.get(fields.get("type", "").strip().lower())
    if (
        blank
        and plain
        and item
        and not any(key in fields for key in ("data file", "datafile", "byte skip", "line skip"))
    ):
        _check_amount(path, fields.get("sizes", ""), item, path.stat().st_size - len(text) - 2)


def _check_positive(path: Path, numbers: str) -> None:
    spacing = [float(v) for v in numbers.split()]
    if not np.isfinite(spacing).all() or min(spacing, default=1.0) <= 0:
        raise InputError(f"{path}: spacing must be positive, the header gives ({numbers}) mm; correct the header")


def _check_amount(path: Path, sizes: str, item: int, have: int) -> None:
    need = math.prod(int(v) for v in sizes.split()) * item
    if have < need:
        raise InputError(f"{path}: truncated: the header asks for {need} bytes of voxels, the file holds {have}")
    if have > need:
        raise InputError(
            f"{path}: header and data disagree: size ({sizes}) needs {need} bytes of voxels, the file holds {have}"
        )
