"""Generated pairs of a disk and a C, whole batches at once: the test of large deformations of Dalca et al., MedIA 2019.

Both shapes are white on black around the middle of a square picture; every length is a share of its side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError
from ..geometry.smoothing import gaussian

LEAST_SIZE = 16
BLUR_PIXELS = 0.7
"""Gaussian that softens the edges of the drawn masks."""

Range = tuple[float, float]


@dataclass(frozen=True)
class CShapeRanges:
    """What is drawn evenly from where. disk: its radius; outer, inner: radii of the C (shares of the picture's side).

    opening_deg: half the angle of the sector that is cut out. turn_deg: where its middle points, from x towards y. The default
    radii are our reading of the figures of the publication, which does not state them; so is the opening.
    """

    disk: Range = (1 / 5, 1 / 3)
    outer: Range = (1 / 3.5, 1 / 2.5)
    inner: Range = (1 / 6.5, 1 / 5.5)
    opening_deg: Range = (20.0, 35.0)
    turn_deg: Range = (-180.0, 180.0)


@dataclass(frozen=True)
class CShapes:
    """disks, cs: (B, 1, size, size) float32 in [0, 1]; disk_labels, c_labels: int32, 1 in the drawn mask, before the blur."""

    disks: torch.Tensor
    cs: torch.Tensor
    disk_labels: torch.Tensor
    c_labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.disks)

    def each(self) -> list[CShapes]:
        """The pairs one by one."""
        parts = (t.split(1) for t in (self.disks, self.cs, self.disk_labels, self.c_labels))
        return [CShapes(*tensors) for tensors in zip(*parts)]


def make_c_shapes(rng: np.random.Generator, count: int, size: int, ranges: CShapeRanges | None = None) -> CShapes:
    """``count`` pairs of ``size`` x ``size`` pixels.

    A pixel belongs to the disk when its center does; to the C when its distance to the middle is between the two radii and
    its direction is more than the opening's half angle away from where that points. Raises InputError for a small picture.
    """
    if size < LEAST_SIZE:
        raise InputError(f"make_c_shapes(): 'size' must be at least {LEAST_SIZE} pixels, got {size}")
    ranges = ranges or CShapeRanges()

    def drawn(low_high: Range) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(*low_high, count)).reshape(-1, 1, 1, 1)

    axis = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.hypot(x, y)
    disk = radius <= drawn(ranges.disk)
    ring = (radius <= drawn(ranges.outer)) & (radius > drawn(ranges.inner))
    turn = torch.deg2rad(drawn(ranges.turn_deg))
    along = (x * turn.cos() + y * turn.sin()) / radius.clamp(min=1e-9)
    c = ring & (along < torch.deg2rad(drawn(ranges.opening_deg)).cos())
    disks, cs = (gaussian(mask.float(), BLUR_PIXELS) for mask in (disk, c))
    return CShapes(disks, cs, disk.int(), c.int())
