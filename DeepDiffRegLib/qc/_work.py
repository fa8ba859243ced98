"""Both scans on a coarse grid around the fixed anatomy: what the picture-based checks look at.

Picture statistics need no single voxels; about 64 cells across the anatomy show whether organs lie on organs and keep
the checks of a large scan within a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix
from ..memory import give_back

if TYPE_CHECKING:
    from ..data.image import Image
    from ..data.pair import Pair

CELLS = 64
MARGIN = 4


@dataclass(frozen=True)
class WorkGrid:
    """Coarse views, (Z, Y, X) float32 arrays scaled to [0, 1] on ``geometry`` (a box around the fixed anatomy).

    before: the moving scan where its header puts it. moving: the whole moving scan, coarse, on ``moving_geometry``.
    reached: share of each cell that the transform maps inside the moving scan. *_foreground: bool, body against air.
    moving_foreground is the warped moving scan's own foreground.
    """

    geometry: Geometry
    fixed: np.ndarray
    warped: np.ndarray
    before: np.ndarray
    moving: np.ndarray
    moving_geometry: Geometry
    fixed_foreground: np.ndarray
    moving_foreground: np.ndarray
    reached: np.ndarray
    matrix: np.ndarray
    """(d+1, d+1) affine part of the transform, mm LPS, least squares over the fixed anatomy."""

    @classmethod
    def build(cls, pair: Pair, warped: Image, displacement: torch.Tensor) -> WorkGrid:
        """Coarsen, crop to the anatomy, scale. displacement: (1, d, *fixed shape), mm LPS."""
        grid, box = _grid(pair.fixed)
        give_back()
        geometry = grid.cropped([s.start for s in box[::-1]], [s.stop - s.start for s in box[::-1]])
        fixed = _pooled(pair.fixed, grid)[box]
        after = _pooled(warped, grid)[box]
        coarse_u = pooled(displacement, grid)[(slice(None), slice(None), *box)]
        mask = foreground(fixed)
        matrix = affine_part(geometry, coarse_u, mask)
        moving, moving_grid = _coarse_moving(pair.moving, geometry)
        window = _window(moving)
        after_foreground = foreground_level(moving).mask(after)
        moving = _scaled(moving, window)
        before = _scaled(through(moving, moving_grid, geometry, np.eye(grid.ndim + 1)), (0.0, 1.0))
        reached = _reached(coarse_u, geometry, pair.moving.geometry)
        give_back()
        first, after = _scaled(fixed, _window(fixed)), _scaled(after, window)
        return cls(geometry, first, after, before, moving, moving_grid, mask, after_foreground, reached, matrix)

    @property
    def step_mm(self) -> float:
        return float(np.mean(self.geometry.spacing_mm))

    def position_mm(self, index_zyx) -> tuple[float, ...]:
        """World position (LPS) of a cell given in array order."""
        return tuple(round(float(v), 1) for v in self.geometry.to_world(np.asarray(index_zyx)[::-1]))


@dataclass(frozen=True)
class Level:
    """Threshold between air and body; ``dark`` when the body is darker than its surroundings."""

    threshold: float
    dark: bool

    def mask(self, values: np.ndarray) -> np.ndarray:
        return (values < self.threshold) if self.dark else (values > self.threshold)


def foreground_level(values: np.ndarray) -> Level:
    """Otsu's threshold; the class that fills most of the border is taken for air."""
    low, high = np.percentile(values, [0.5, 99.5])
    counts, edges = np.histogram(np.clip(values, low, high), 128)
    centers = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts)[:-1].astype(float)
    moment = np.cumsum(counts * centers)[:-1]
    total, mean = float(counts.sum()), float((counts * centers).sum() / counts.sum())
    between = (mean * weight - moment) ** 2 / np.maximum(weight * (total - weight), 1e-12)
    threshold = float(edges[1 + int(between.argmax())])
    border = [values.take(i, axis).ravel() > threshold for axis in range(values.ndim) for i in (0, -1)]
    return Level(threshold, bool(np.concatenate(border).mean() > 0.5))


def foreground(values: np.ndarray) -> np.ndarray:
    """Body against air, bool."""
    return foreground_level(values).mask(values)


def fine_mask(fixed: Image, work: WorkGrid) -> np.ndarray:
    """The coarse foreground looked up on the fixed scan's own grid."""
    out = np.zeros(fixed.geometry.shape, dtype=bool)
    axes = []
    for component, n in enumerate(fixed.geometry.size):
        index = np.zeros((n, fixed.ndim))
        index[:, component] = np.arange(n)
        cells = np.round(work.geometry.to_index(fixed.geometry.to_world(index))[:, component]).astype(int)
        axes.append(cells)
    inside = [(c >= 0) & (c < n) for c, n in zip(axes, work.geometry.size)]
    target = np.ix_(*(np.flatnonzero(i) for i in inside[::-1]))
    out[target] = work.fixed_foreground[np.ix_(*(c[i] for c, i in zip(axes[::-1], inside[::-1])))]
    return out


def affine_part(geometry: Geometry, displacement: torch.Tensor, mask: np.ndarray) -> np.ndarray:
    """(d+1, d+1) least-squares affine of x + u(x) over ``mask``; the identity where nothing is masked."""
    index = np.argwhere(mask)[:: max(1, int(mask.sum()) // 4000)]
    d = geometry.ndim
    matrix = np.eye(d + 1)
    if len(index) <= d + 1:
        return matrix
    x = geometry.to_world(index[:, ::-1])
    u = displacement[0].numpy()[(slice(None), *index.T)].T
    center = x.mean(0)
    columns = np.concatenate([x - center, np.ones((len(x), 1))], 1)
    solution = np.linalg.lstsq(columns, x + u, rcond=None)[0]
    matrix[:d, :d] = solution[:d].T
    matrix[:d, d] = solution[d] - matrix[:d, :d] @ center
    return matrix


def _grid(fixed: Image) -> tuple[Geometry, tuple[slice, ...]]:
    """The coarsened fixed grid and the box of the anatomy in it (array order)."""
    full = fixed.geometry
    first = full.coarsened([max(1.0, n / 64) for n in full.size], minimum=2)
    extents = _box_extent(foreground(_pooled(fixed, first)), first)
    cell = max(extents.max() / CELLS, min(full.spacing_mm))
    grid = full.coarsened([max(1.0, cell / s) for s in full.spacing_mm], minimum=2)
    mask = foreground(_pooled(fixed, grid))
    where = np.argwhere(mask)
    if len(where) == 0:
        return grid, tuple(slice(0, n) for n in grid.shape)
    low, high = np.maximum(where.min(0) - MARGIN, 0), np.minimum(where.max(0) + 1 + MARGIN, grid.shape)
    return grid, tuple(slice(int(a), int(b)) for a, b in zip(low, high))


def _box_extent(mask: np.ndarray, grid: Geometry) -> np.ndarray:
    where = np.argwhere(mask)
    if len(where) == 0:
        return grid.extent_mm
    return (np.ptp(where, axis=0) + 1)[::-1] * np.array(grid.spacing_mm)


def _pooled(image: Image, grid: Geometry) -> np.ndarray:
    return pooled(image.tensor.detach().cpu().float(), grid)[0, 0].numpy()


def pooled(tensor: torch.Tensor, grid: Geometry) -> torch.Tensor:
    """Means over the cells of a coarser grid with the same outer faces."""
    if tuple(tensor.shape[2:]) == grid.shape:
        return tensor.cpu()
    pool = torch.nn.functional.adaptive_avg_pool3d if grid.ndim == 3 else torch.nn.functional.adaptive_avg_pool2d
    return pool(tensor.cpu(), grid.shape)


def _coarse_moving(moving: Image, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    cell = float(np.mean(geometry.spacing_mm))
    grid = moving.geometry.coarsened([max(1.0, cell / s) for s in moving.geometry.spacing_mm], minimum=2)
    return _pooled(moving, grid), grid


def through(values: np.ndarray, moving: Geometry, grid: Geometry, world: np.ndarray) -> np.ndarray:
    """``values`` on ``moving`` looked up from ``grid`` through a homogeneous matrix in mm; 0 outside."""
    return affine_look_up(values, index_matrix(grid, moving, world), grid.shape)


def affine_look_up(values: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``values`` at matrix @ i for every voxel i of a grid of ``shape``; matrix (d, d+1), x first; 0 outside."""
    from ._blocks_fused import look_up_affine

    d = values.ndim
    out = np.empty((1,) * (3 - d) + tuple(shape), np.float32)
    full = np.zeros((3, 4))
    full[:d, :d], full[:d, 3] = matrix[:, :d], matrix[:, d]
    look_up_affine(values.reshape((1,) * (3 - d) + values.shape), full, out)
    return out.reshape(shape)


def middle_mm(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Middle of a mask in mm LPS; the grid's own middle when the mask is empty."""
    where = np.argwhere(mask)
    return geometry.to_world(where.mean(0)[::-1]) if len(where) else geometry.center_mm


def _scaled(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    scaled = np.clip((values - window[0]) / (window[1] - window[0]), 0, 1).astype(np.float32)
    scaled[scaled < 1e-6] = 0  # squares of smaller values would be denormal, which is slow
    return scaled


def _window(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.8]))
    return low, max(high, low + 1e-6 + 1e-6 * abs(low))


def _reached(displacement: torch.Tensor, grid: Geometry, moving: Geometry) -> np.ndarray:
    """Whether each cell's center maps inside the moving scan, float32; row by row of the first axis."""
    out = np.empty(grid.shape, np.float32)
    for i, row in enumerate(displacement[0].numpy().swapaxes(0, 1)):
        index = np.stack(np.meshgrid([i], *(np.arange(n) for n in grid.shape[1:]), indexing="ij"), -1)[0, ..., ::-1]
        out[i] = moving.contains(grid.to_world(index) + np.moveaxis(row, 0, -1))
    return out
