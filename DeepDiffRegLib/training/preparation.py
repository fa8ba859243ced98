"""Scans brought to the model's grid and intensities, once: from then on they are read from the cache as they are needed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..affine.gradient import align
from ..config import Config, Preprocess, Start
from ..data.atomic import write_aside
from ..data.image import Image
from ..data.io import read_image, read_surface
from ..data.pair import Pair
from ..errors import Cancelled, InputError
from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, sample, warp_index
from ..methods.feedforward import as_trained, laid_over, on_grid
from ..networks.weights import CanonicalGrid
from ..preprocess.intensity import normalized
from ..preprocess.region import foreground_box_mm
from ..problem import Problem
from ..progress import Progress, Step
from .config import Data
from .scans import Scan, ScanList
from .surfaces import from_labels, from_mesh

STAGE = "preparing scans"


@dataclass(frozen=True)
class Prepared:
    """Numbered as ``ScanList.all``. grid: the model's, as its card says. labels: those in use, in order; the channels of
    distances are theirs, and one more that of surface files. files: folder of each scan's arrays."""

    grid: CanonicalGrid
    labels: tuple[int, ...]
    files: tuple[Path, ...]
    any_labels: bool

    def image(self, number: int) -> torch.Tensor:
        """(1, 1, *shape) in [0, 1]."""
        return self._array(number, "image")[None, None]

    def label_map(self, number: int) -> torch.Tensor:
        """(1, 1, *shape) integers; only labels in use."""
        return self._array(number, "labels")[None, None]

    def distance(self, number: int) -> torch.Tensor:
        """(1, S, *shape) signed distances to surfaces, mm."""
        return self._array(number, "distance")[None]

    def surface(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All points (N, d) of the surfaces in voxels (x, y[, z]) and the channel (N,) of each."""
        return self._array(number, "points"), self._array(number, "structure")

    def _array(self, number: int, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(np.load(self.files[number] / f"{name}.npy", mmap_mode="r")))


def prepare(
    scans: ScanList,
    data: Data,
    cache: Path,
    progress: Progress,
    surfaces: bool = False,
    ndim: int | None = None,
) -> Prepared:
    """Every scan on the model's grid, read, checked and cached. surfaces: also distances and points of structures.

    ndim: of the network, which the scans must have.

    Scans of other sizes, spacings, axes and intensity scales come out alike. Without alignment every scan is laid with the
    middle of its anatomy where the reference has it, unless it is on the model's grid already.
    """
    reference = _read(scans.all[0])
    if ndim not in (None, reference.ndim):
        raise InputError(f"network.architecture: ndim is {ndim}, but the scans are {reference.ndim}-D")
    grid = data.grid or _own_grid(reference)
    if len(grid.size) != reference.ndim:
        raise InputError(f"data.grid is {len(grid.size)}-D, but the scans are {reference.ndim}-D")
    frame = laid_over(reference.geometry, lambda: _box(reference), grid)
    has_labels = all(scan.labels is not None for scan in scans.all)
    labels = data.labels
    if has_labels and not labels:
        labels = tuple(sorted({int(v) for scan in scans.all for v in _read_labels(scan).tensor.unique() if v > 0}))
        if not labels:
            raise InputError(f"{data.scans}: all label maps are empty")
    files = []
    for number, scan in enumerate(scans.all):
        if progress.cancelled():
            raise Cancelled("cancelled while preparing scans; those that are ready stay in the cache")
        progress.report(Step(STAGE, iteration=number + 1, iterations=len(scans.all)))
        files.append(_cached(scan, scans, data, grid, frame, labels if has_labels else (), surfaces, cache))
    return Prepared(grid, labels, tuple(files), has_labels)


def _cached(
    scan: Scan, scans: ScanList, data: Data, grid, frame: Geometry, labels, surfaces: bool, cache: Path
) -> Path:
    """Folder with the arrays of one scan, made unless it is there."""
    own = scan.labels if labels else None
    reference = scans.all[0] if data.align != "none" else None
    sources = [_stamp(p) for p in (scan.image, own, scan.surface if surfaces else None, reference and reference.image)]
    key = json.dumps([sources, asdict(grid), asdict(data.intensities), data.align, list(labels), surfaces])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (folder / "image.npy").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _arrays(scan, reference, data, grid, frame, labels, surfaces)
        for name, array in sorted(arrays.items(), key=lambda item: item[0] == "image"):
            with write_aside(folder / f"{name}.npy") as aside:
                np.save(aside, array)
    return folder


def _arrays(scan: Scan, reference: Scan | None, data: Data, grid, frame: Geometry, labels, surfaces: bool) -> dict:
    image = _read(scan)
    if image.ndim != frame.ndim:
        raise InputError(f"{scan.image}: is {image.ndim}-D, but the first scan is {frame.ndim}-D")
    world = np.eye(frame.ndim + 1)
    if reference is None:
        frame = laid_over(image.geometry, lambda: _box(image), grid)
    elif scan.image != reference.image:
        world = _aligned(_read(reference), image, data.align)
    arrays = {"image": as_trained(on_grid(image, frame, world), data.intensities)[0, 0].numpy()}
    if labels:
        mapped = _read_labels(scan)
        index = warp_index(torch.zeros((1, frame.ndim, *frame.shape)), index_matrix(frame, mapped.geometry, world))
        found = sample(mapped.tensor, index, mode="nearest")[0, 0].numpy()
        arrays["labels"] = np.where(np.isin(found, labels), found, 0).astype(np.int32)
    if surfaces:
        own = from_labels(arrays["labels"], labels, frame.spacing_mm) if labels else None
        mesh = from_mesh(read_surface(scan.surface), frame, world) if scan.surface is not None else None
        parts = [part for part in (own, mesh) if part is not None]
        first = np.cumsum([0, *(len(part.distance) for part in parts)])
        arrays["distance"] = np.concatenate([part.distance for part in parts])
        arrays["points"] = np.concatenate([part.points for part in parts])
        arrays["structure"] = np.concatenate([part.structure + start for part, start in zip(parts, first)])
        if not len(arrays["points"]):
            raise InputError(f"{scan.labels or scan.surface}: no surface of any structure lies on the model's grid")
    return arrays


def _aligned(fixed: Image, moving: Image, transform: str) -> np.ndarray:
    """Homogeneous matrix (mm, LPS) from the reference to the scan, by the library's affine stage."""
    config = Config(start=Start(transform=transform))
    problem = Problem.prepare(Pair(fixed, moving), config, torch.device("cpu"))
    return align(problem, config, Progress(), (0.0, 1.0)).transform.homogeneous


def _read(scan: Scan) -> Image:
    image = read_image(scan.image)
    if not bool(image.tensor.isfinite().all()):
        raise InputError(f"{scan.image}: holds NaN or Inf")
    if float(image.tensor.amax()) == float(image.tensor.amin()):
        raise InputError(f"{scan.image}: is the same value everywhere")
    return image


def _read_labels(scan: Scan) -> Image:
    return read_image(scan.labels, "labels")


def _box(image: Image) -> np.ndarray:
    return foreground_box_mm(normalized(image, Preprocess()), image.geometry)


def _own_grid(reference: Image) -> CanonicalGrid:
    """The reference's grid; the middle of its anatomy is where others are to have theirs."""
    geometry, box = reference.geometry, _box(reference)
    center = geometry.to_index((box.min(0) + box.max(0)) / 2)
    rounded = tuple(round(float(v), 3) for v in center)
    return CanonicalGrid(geometry.size, geometry.spacing_mm, geometry.direction, rounded)


def _stamp(path: Path | None) -> list | None:
    if path is None:
        return None
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]
