"""NIfTI-1 and -2 single files: header checks that ITK leaves out, lean voxel reading, fast compressed writing.

ITK decides where the voxels are (``io_images`` asks it, so that other ITK programs agree); this file only refuses
headers that ITK would silently repair, decodes the voxels in one pass, and writes. RAS appears here because NIfTI is
RAS; nothing outside the reading and writing files sees it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry.grid import DIRECTION_TOLERANCE, Geometry

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_COLORS = {128: 3, 2304: 4}
_TEMPLATE_SPACE = 3
_FLIP = np.array([-1.0, -1.0, 1.0])
_CHUNK = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """The header fields that decide how the voxels are read; ``dims`` in x, y, z, t, ... order, trailing ones removed.

    ``dims`` keeps at least the axes of the first three that the file declares, so (256, 256, 1) stays 3-D.
    """

    dims: tuple[int, ...]
    dtype: np.dtype
    channels: int
    offset: int
    slope: float
    intercept: float
    version: int

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * self.dtype.itemsize * self.channels


def is_nifti(path: str | Path) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return str(path).lower().endswith((".nii", ".nii.gz"))


def read_header(path: Path, head: bytes) -> NiftiHeader:
    """Decode and check the first bytes of a NIfTI file (540 for version 2).

    Raises InputError for what is no NIfTI file, for zero or negative spacing, for axes that are not orthogonal and for
    number types with several values per voxel. A sheared sform is accepted only when it leads to a template space
    (code 3 or more) and a qform places the voxels: that is the case in which ITK reads the qform.
    """
    order, version = _byte_order(path, head)
    if version == 1:
        dim = struct.unpack_from(order + "8h", head, 40)
        (code,) = struct.unpack_from(order + "h", head, 70)
        pixdim = struct.unpack_from(order + "8f", head, 76)
        offset, slope, intercept = struct.unpack_from(order + "3f", head, 108)
        qform, sform = struct.unpack_from(order + "2h", head, 252)
        rows = struct.unpack_from(order + "12f", head, 280)
    else:
        (code,) = struct.unpack_from(order + "h", head, 12)
        dim = struct.unpack_from(order + "8q", head, 16)
        pixdim = struct.unpack_from(order + "8d", head, 104)
        (offset,) = struct.unpack_from(order + "q", head, 168)
        slope, intercept = struct.unpack_from(order + "2d", head, 176)
        qform, sform = struct.unpack_from(order + "2i", head, 344)
        rows = struct.unpack_from(order + "12d", head, 400)
    dims = _dims(path, dim)
    if not 0 <= offset < math.inf:
        raise InputError(f"{path}: the NIfTI header is damaged: its voxels start at byte {offset}")
    if code not in _TYPES and code not in _COLORS:
        raise InputError(f"{path}: NIfTI data type {code} cannot be registered; store the scan as real numbers")
    _check_spacing(path, pixdim[1 : min(len(dims), 3) + 1])
    if sform > 0:
        _check_axes(path, np.array(rows).reshape(3, 4)[:, : min(len(dims), 3)], sform, qform)
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        slope, intercept = 1.0, 0.0
    dtype = np.dtype(_TYPES.get(code, "u1")).newbyteorder(order)
    return NiftiHeader(dims, dtype, _COLORS.get(code, 1), int(offset), float(slope), float(intercept), version)


def read_voxels(path: Path) -> tuple[NiftiHeader, np.ndarray]:
    """Return the header and the stored numbers, unscaled, as an array of shape ``dims[::-1]`` (..., Z, Y, X).

    Colors come first: (..., Z, Y, X, channels). A plain file is mapped, not read. Raises InputError when the file is
    truncated, cannot be decompressed, or holds another amount of data than its header says.
    """
    content = _content(path)
    header = read_header(path, bytes(content[:540]))
    have = len(content) - header.offset
    extra = have - header.bytes
    if extra < 0:
        raise InputError(
            f"{path}: truncated: the header asks for {header.bytes} bytes of voxels, the file holds {max(have, 0)}"
        )
    if extra >= math.prod(header.dims[:2]) * header.dtype.itemsize:
        raise InputError(
            f"{path}: header and data disagree: size {header.dims} needs {header.bytes} bytes of voxels, "
            f"the file holds {have}"
        )
    count = header.bytes // header.dtype.itemsize
    values = np.frombuffer(content, header.dtype, count, header.offset)
    color = (header.channels,) if header.channels > 1 else ()
    return header, values.reshape(*header.dims[::-1], *color)


def write_nifti(
    path: str | Path,
    array: np.ndarray,
    geometry: Geometry,
    intent: int = 0,
    level: int = 1,
    signs: tuple[int, ...] | None = None,
) -> None:
    """Write one NIfTI-1 file (.nii or .nii.gz), qform and sform set with code 1, units mm and seconds.

    array: (Z, Y, X) or, with several components per voxel, (C, Z, Y, X), stored as (x, y, z, 1, C) in the numbers given
    (a displacement must be RAS once multiplied by ``signs``, 1 or -1 per component). geometry: LPS. intent: NIfTI intent code.
    level: gzip level. Works in pieces of 1 MB, without another copy of the voxels. Not atomic.
    """
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _CODES:
        raise InputError(f"write_nifti(): 'array' must hold plain numbers NIfTI knows, got {array.dtype}")
    if array.shape[-geometry.ndim :] != geometry.shape or array.ndim > geometry.ndim + 1:
        raise InputError(f"write_nifti(): 'array' must end in shape {geometry.shape}, got {array.shape}")
    components = array.shape[0] if array.ndim > geometry.ndim else 0
    head = _make_header(geometry, components, dtype, intent)
    path = Path(path)
    packed = path.suffix.lower() == ".gz"
    with _gzip()[0].open(path, "wb", compresslevel=level) if packed else path.open("wb") as stream:
        stream.write(head)
        for piece in _pieces(array, components, signs):
            stream.write(memoryview(piece).cast("B"))


def _pieces(array: np.ndarray, components: int, signs: tuple[int, ...] | None) -> Iterator[np.ndarray]:
    """The voxels in file order as little-endian blocks of whole rows, each component times its sign."""
    rows = array.reshape(max(components, 1), -1, array.shape[-1])
    step = max(1, _CHUNK // max(1, rows.shape[-1] * rows.itemsize))
    for part, sign in zip(rows, signs or (1,) * len(rows)):
        for start in range(0, len(part), step):
            piece = part[start : start + step] if sign > 0 else -part[start : start + step]
            yield np.ascontiguousarray(piece, piece.dtype.newbyteorder("<"))


def ras_affine(geometry: Geometry) -> np.ndarray:
    """(4, 4) matrix from voxel indices to mm RAS; a 2-D grid lies in the plane z = 0."""
    d = geometry.ndim
    matrix = np.eye(4)
    lps = geometry.index_to_world
    matrix[:d, :d], matrix[:d, 3] = lps[:d, :d], lps[:d, d]
    matrix[:3] *= _FLIP[:, None]
    return matrix


def geometry_from_ras(affine: np.ndarray, size: tuple[int, ...]) -> Geometry:
    """The LPS grid of a (4, 4) index-to-RAS matrix; raises GeometryError for zero spacing or sheared axes.

    A 2-D ``size`` takes the x-y part of the matrix.
    """
    d = len(size)
    lps = np.asarray(affine, dtype=float)[:d] * _FLIP[:d, None]
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(lps[:, :d], axis=0)
    direction = lps[:, :d] / np.where(spacing > 0, spacing, 1)
    return Geometry(size, tuple(spacing), tuple(lps[:, 3]), direction.tolist())


def _gzip():
    """The faster of the gzip modules at hand (both write the same format) and what it raises on damaged data."""
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        import gzip

        return gzip, (zlib.error,)
    return igzip, (isal_zlib.error,)


def _content(path: Path):
    if path.suffix.lower() != ".gz":
        return np.memmap(path, dtype=np.uint8, mode="r")
    module, damaged = _gzip()
    try:
        return module.decompress(path.read_bytes())
    except (EOFError, OSError, *damaged) as error:
        raise InputError(f"{path}: truncated or damaged: {error}") from error


def _byte_order(path: Path, head: bytes) -> tuple[str, int]:
    for order in "<>":
        for length, version in ((348, 1), (540, 2)):
            if len(head) >= length and struct.unpack_from(order + "i", head, 0)[0] == length:
                magic = head[344:348] if version == 1 else head[4:8]
                if magic[:2] == b"ni":
                    raise InputError(f"{path}: the voxels are in a separate .img file; convert it to one .nii file")
                if magic[:2] in (b"n+", b"\0\0"):
                    return order, version
    raise InputError(f"{path}: not a NIfTI file, or its header is damaged")


def _dims(path: Path, dim: tuple[int, ...]) -> tuple[int, ...]:
    declared = dim[0]
    if not 1 <= declared <= 7 or min(dim[1 : declared + 1]) < 1:
        raise InputError(f"{path}: the NIfTI header gives impossible sizes {dim}")
    dims = list(dim[1 : declared + 1])
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    return tuple(dims)


def _check_spacing(path: Path, spacing: tuple[float, ...]) -> None:
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        shown = tuple(float(f"{v:.6g}") for v in spacing)
        raise InputError(f"{path}: spacing must be positive, the header gives {shown} mm; correct the header")


def _check_axes(path: Path, columns: np.ndarray, sform: int, qform: int) -> None:
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or lengths.min() == 0:
        raise InputError(f"{path}: the header's sform has an axis of spacing 0 (or not a number); correct the header")
    axes = columns / lengths
    sheared = np.abs(axes.T @ axes - np.eye(axes.shape[1])).max() > DIRECTION_TOLERANCE
    if sheared and not (sform >= _TEMPLATE_SPACE and qform > 0):
        raise InputError(
            f"{path}: the axes are not orthogonal (the header's sform is sheared); "
            "resample the scan onto an orthogonal grid first"
        )


def _make_header(geometry: Geometry, components: int, dtype: np.dtype, intent: int) -> bytes:
    affine = ras_affine(geometry)
    spacing = (*geometry.spacing_mm, *(1.0,) * (3 - geometry.ndim))
    size = (*geometry.size, *(1,) * (3 - geometry.ndim))
    quaternion, handed = _quaternion(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    dims = (5, *size, 1, components, 1, 1) if components else (geometry.ndim, *size, 1, 1, 1, 1)
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, *dims)
    struct.pack_into("<3h", head, 68, intent, _CODES[dtype], dtype.itemsize * 8)
    struct.pack_into("<8f", head, 76, handed, *spacing, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<3f", head, 108, 352.0, 1.0, 0.0)
    head[123] = 2 | 8
    head[148:159] = b"DeepDiffReg"
    struct.pack_into("<2h", head, 252, 1, 1)
    struct.pack_into("<6f", head, 256, *quaternion, *affine[:3, 3])
    struct.pack_into("<12f", head, 280, *affine[:3].ravel())
    head[344:348] = b"n+1\0"
    return bytes(head)


def _quaternion(rotation: np.ndarray) -> tuple[np.ndarray, float]:
    """Imaginary part (b, c, d) of the unit quaternion with a >= 0, and the handedness NIfTI calls qfac."""
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    r = rotation * np.array([1.0, 1.0, handed])
    # The eigenvector of this symmetric matrix is the quaternion (x, y, z, w) nearest to r; stable for every angle.
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    vector = np.linalg.eigh(k)[1][:, -1]
    vector = vector if vector[3] >= 0 else -vector
    return vector[:3], handed
