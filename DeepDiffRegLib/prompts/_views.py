"""Both scans as matching looks at them: descriptors, brightness and what is known, on any small lattice of places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid, level_geometry, resample
from ..geometry.sampling import sample
from ..similarity.mind import MIND
from ..transforms.base import Transform

SCALES = (4, 2, 1)
"""Spacings of the windows, in working spacings: coarse patches say roughly where, fine ones exactly."""
MIND_MARGIN = 3
MOMENT_VOXELS = 50_000
"""Mean and deviation of learned features are taken over about so many voxels."""

Sight = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Descriptors (C, Z, Y, X), brightness and weight (Z, Y, X) on a window, float32; one slice in 2-D."""


@dataclass(frozen=True)
class Views:
    """Both scans as matching looks at them.

    scans: normalized, fixed and moving, one image per scale. learned: features to be compared instead, or None: MIND-SSC
    descriptors are computed in each window. seen: weights of both scans' masks on grids of their own, None for 1.
    spacing_mm: of the finest windows.
    """

    scans: tuple[Pyramid, Pyramid]
    spacing_mm: float
    learned: tuple[Pyramid, Pyramid] | None = None
    seen: tuple[tuple[torch.Tensor, Geometry] | None, tuple[torch.Tensor, Geometry] | None] = (None, None)

    @classmethod
    def of(
        cls,
        scans: tuple[tuple[torch.Tensor, Geometry], tuple[torch.Tensor, Geometry]],
        spacing_mm: float,
        learned: tuple[Pyramid, Pyramid] | None = None,
        seen=(None, None),
    ) -> Views:
        """scans: ((1, 1, *shape) in [0, 1], grid) of fixed and moving. Raises nothing; the scans are blurred for each scale."""
        return cls(tuple(_pyramid(*scan, spacing_mm) for scan in scans), spacing_mm, learned, seen)

    @property
    def ndim(self) -> int:
        return self.scans[0].images[0][1].ndim

    @property
    def grids(self) -> tuple[Geometry, Geometry]:
        """The finest grids of both scans."""
        return tuple(pyramid.images[-1][1] for pyramid in self.scans)

    @cached_property
    def spread(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Mean and standard deviation (1, C, 1, ...) of the learned features of both scans together, per resolution."""
        both = zip(*(pyramid.images for pyramid in self.learned))
        return tuple(_moments([tensor for tensor, _ in images]) for images in both)

    @property
    def margin(self) -> int:
        """Voxels around a window that its descriptors look at."""
        return MIND_MARGIN if self.learned is None else 0

    def sight(self, side: int, number: int, positions: torch.Tensor, spacing_mm: float) -> Sight:
        """What is seen of a scan at positions in mm, without the margin.

        side: 0 fixed, 1 moving. number: of the scale. positions: (1, d, *window), LPS, on a lattice of ``spacing_mm``.
        """
        inner = (..., *(slice(self.margin, -self.margin or None),) * self.ndim)
        brightness = looked_up(*self.scans[side].images[number], positions)
        if self.learned is None:
            channels = MIND().features(brightness, (spacing_mm,) * self.ndim)[0]
        else:
            serving = self._serving(spacing_mm)
            mean, deviation = self.spread[serving]
            channels = ((looked_up(*self.learned[side].images[serving], positions) - mean) / deviation)[0]
        known = self.known(side, positions)
        one = _lifted(brightness[0][inner], self.ndim)[0], _lifted(known[None][inner], self.ndim)[0]
        return _lifted(channels[inner], self.ndim), *one

    def _serving(self, spacing_mm: float) -> int:
        return self.learned[0].serving(Geometry.identity((2,) * self.ndim, spacing_mm))

    def known(self, side: int, positions: torch.Tensor) -> torch.Tensor:
        """(*window) weight: 0 outside the scan or its mask."""
        geometry = self.grids[side]
        index = to_index(positions, geometry)
        last = index.new_tensor(geometry.size).reshape(1, -1, *(1,) * (index.ndim - 2)) - 0.5
        inside = ((index >= -0.5) & (index < last)).all(1)[0].float()
        if self.seen[side] is not None:
            inside = inside * looked_up(*self.seen[side], positions)[0, 0]
        return inside


def looked_up(tensor: torch.Tensor, geometry: Geometry, positions: torch.Tensor) -> torch.Tensor:
    """(1, C, *window) values of (1, C, *geometry.shape) at (1, d, *window) positions in mm, linear, edge-clamped, on the CPU.

    Only the part of the tensor that is needed is converted to single precision.
    """
    index = to_index(positions, geometry)
    flat, size = index[0].flatten(1), torch.as_tensor(geometry.size, dtype=index.dtype)
    low = torch.minimum(flat.amin(1).floor().clamp(min=0), size - 2).clamp(min=0).long()
    high = torch.minimum(torch.maximum(flat.amax(1).ceil() + 1, low + 2), size).long()
    part = tensor[(slice(None), slice(None), *(slice(int(a), int(b)) for a, b in zip(low.flip(0), high.flip(0))))]
    shift = low.to(index.dtype).reshape(1, -1, *(1,) * geometry.ndim)
    return sample(part.float().cpu().contiguous(), index - shift, padding="border")


def to_index(positions: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Positions in mm (1, d, *shape) as continuous voxel indices."""
    matrix = torch.as_tensor(geometry.world_to_index[:-1], dtype=torch.float64)
    flat = matrix[:, :-1] @ positions[0].flatten(1).double() + matrix[:, -1:]
    return flat.float().reshape(positions.shape)


def lattice(center_mm: np.ndarray, rotation: np.ndarray, reach: int, spacing_mm: float) -> Geometry:
    """The grid of ``2 reach + 1`` voxels per axis around a place, along the columns of ``rotation``."""
    d = len(center_mm)
    origin = center_mm - rotation @ np.full(d, reach * spacing_mm)
    return Geometry((2 * reach + 1,) * d, (spacing_mm,) * d, tuple(origin), rotation.tolist())


def seen_from(geometry: Geometry, transform: Transform | None) -> torch.Tensor:
    """World positions (1, d, *shape) float64 of a grid's voxels, sent through the map when there is one."""
    index = np.indices(geometry.shape, dtype=np.float64)[::-1].reshape(geometry.ndim, -1).T
    places = torch.from_numpy(np.ascontiguousarray(geometry.to_world(index).T)).reshape(
        1, geometry.ndim, *geometry.shape
    )
    return places if transform is None else places + transform.displacement(geometry).double()


def _lifted(tensor: torch.Tensor, ndim: int) -> np.ndarray:
    """(C, [Z,] Y, X) as a contiguous (C, Z, Y, X) array."""
    tensor = tensor if ndim == 3 else tensor[:, None]
    return np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32)


def _moments(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    every = [(slice(None), *(slice(None, None, _stride(t)),) * (t.ndim - 2)) for t in tensors]
    flat = torch.cat([t[0][places].float().cpu().flatten(1) for t, places in zip(tensors, every)], 1)
    shape = (1, -1, *(1,) * (tensors[0].ndim - 2))
    return flat.mean(1).reshape(shape), flat.std(1).clamp(min=1e-6).reshape(shape)


def _stride(tensor: torch.Tensor) -> int:
    return max(1, round((tensor[0, 0].numel() / MOMENT_VOXELS) ** (1 / (tensor.ndim - 2))))


def _pyramid(scan: torch.Tensor, geometry: Geometry, spacing_mm: float) -> Pyramid:
    levels = [level_geometry(geometry, scale * spacing_mm, 8) for scale in SCALES]
    return Pyramid(tuple((resample(scan, geometry, level).cpu(), level) for level in levels))
