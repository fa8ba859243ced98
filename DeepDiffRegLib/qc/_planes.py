"""Standard views through the fixed space, whatever the scans' own grids: axial, coronal, sagittal; one view in 2-D.

Every view is resampled on an axis-aligned world grid with square pixels, so that voxels of any shape and oblique or flipped
grids are shown in the radiological way: the patient's right on the left of the picture, front at the top of axial views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data.image import Image
from ..geometry.grid import Geometry
from ..geometry.sampling import sample

PIXELS = 300
"""Pixels along the longest side of the largest view."""

VIEWS = {
    3: (
        ("axial", (1, 0, 0), (0, 1, 0), ("R", "L", "A", "P")),
        ("coronal", (1, 0, 0), (0, 0, -1), ("R", "L", "S", "I")),
        ("sagittal", (0, 1, 0), (0, 0, -1), ("A", "P", "S", "I")),
    ),
    2: (("plane", (1, 0), (0, 1), ("", "", "", "")),),
}
"""name, world direction of columns and of rows (LPS), letters at left, right, top, bottom."""


@dataclass(frozen=True)
class Plane:
    """One view. start_mm: first pixel, LPS. right, down: unit world vectors of columns and rows. pixel_mm: square."""

    name: str
    start_mm: np.ndarray
    right: np.ndarray
    down: np.ndarray
    letters: tuple[str, str, str, str]
    pixel_mm: float
    shape: tuple[int, int]

    @property
    def points_mm(self) -> np.ndarray:
        """(H, W, d) positions of the pixels, made when asked for: all views' together would be larger than their pictures."""
        rows, columns = (np.arange(n)[:, None] * self.pixel_mm for n in self.shape)
        return self.start_mm + columns[None] * self.right + rows[:, None] * self.down

    def look_up(self, values: torch.Tensor, geometry: Geometry, padding: str = "zeros") -> np.ndarray:
        """(1, C, *shape) values on ``geometry`` at the view's pixels: (H, W) for one channel, else (C, H, W)."""
        return self.look_up_at(values, geometry, self.points_mm, padding)

    def look_up_at(self, values: torch.Tensor, geometry: Geometry, points_mm, padding: str = "zeros") -> np.ndarray:
        """As ``look_up`` at other (H, W, d) positions."""
        index = np.moveaxis(geometry.to_index(points_mm), -1, 0).astype(np.float32)
        index = torch.from_numpy(np.ascontiguousarray(index))[None]
        if geometry.ndim == 3:
            index = index[:, :, None]
        out = sample(values.detach().cpu().float(), index, padding=padding)[0].numpy()
        out = out.reshape(out.shape[0], *self.shape)
        return out[0] if len(out) == 1 else out

    def pixels(self, points_mm: np.ndarray) -> np.ndarray:
        """(..., d) world positions projected into the view: (..., 2) column and row."""
        away = points_mm - self.start_mm
        return np.stack([away @ self.right, away @ self.down], -1) / self.pixel_mm


def standard_planes(box: Geometry, center_mm: np.ndarray, pixels: int = PIXELS) -> list[Plane]:
    """Views through ``center_mm`` that show the whole of ``box``; all have the same scale."""
    d = box.ndim
    corners = box.to_world(np.array(np.meshgrid(*([-0.5, n - 0.5] for n in box.size))).reshape(d, -1).T)
    low, high = corners.min(0), corners.max(0)
    pixel = float((high - low).max()) / pixels
    return [_plane(view, low, high, np.asarray(center_mm), pixel) for view in VIEWS[d]]


def _plane(view, low, high, center, pixel: float) -> Plane:
    name, right, down, letters = view
    right, down = np.array(right, float), np.array(down, float)
    start, spans = center.copy(), []
    for direction in (right, down):
        axis = int(np.abs(direction).argmax())
        spans.append(max(8, int(np.ceil((high[axis] - low[axis]) / pixel))))
        start[axis] = (low[axis] + pixel / 2) if direction[axis] > 0 else (high[axis] - pixel / 2)
    return Plane(name, start, right, down, letters, pixel, (spans[1], spans[0]))


def center_of(image: Image, mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Middle of a mask in mm, moved to the nearest masked cell; the image's middle when the mask is empty."""
    where = np.argwhere(mask)
    if not len(where):
        return image.geometry.center_mm
    nearest = where[np.square(where - where.mean(0)).sum(1).argmin()]
    return geometry.to_world(nearest[::-1])
