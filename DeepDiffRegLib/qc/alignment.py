"""Does every part of the picture lie where it should? Block matching on the coarse grid, blind to contrast.

The fixed anatomy is cut into overlapping blocks. Each is compared (squared correlation, so inverted contrast counts as
agreement) with the warped scan at its own place and at places up to six cells away. Where the scans are aligned the
block's own place wins; where they are not, another place wins by a margin. The margin ("gain") and the distance of the
winner need no labels and no knowledge of the modality.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ._work import WorkGrid

RADIUS = {2: 5, 3: 3}
"""Half width of a block in cells, by dimension."""
REGION = 7
STEPS = (1, 2, 4, 6)
MAXIMUM_BLOCKS = 3000
STRUCTURE = 0.05
"""Least standard deviation of a block, relative to the intensity range, for it to say anything."""
NOISE = 0.015**2
EDGE_NOISE = 0.05
"""Gradient (per cell, of the intensity range) below which a cell hardly counts as an edge."""
CLEAR_GAIN = 0.1
"""A better place counts only when its squared correlation is higher by this much."""


@dataclass(frozen=True)
class Alignment:
    """scores: (N, S) squared correlations, column 0 at the block's own place. centers: (N, d) cells, array order."""

    centers: np.ndarray
    shifts: np.ndarray
    scores: np.ndarray
    step_mm: float
    measure: str = "brightness"

    @property
    def agreement(self) -> float:
        """Mean squared correlation at the blocks' own places, 0 to 1."""
        return float(self.scores[:, 0].mean()) if len(self.scores) else 0.0

    @property
    def chance(self) -> float:
        """What unrelated places reach: mean over the farthest shifts."""
        lengths = np.linalg.norm(self.shifts, axis=1)
        far = lengths >= 0.8 * lengths.max()
        return float(self.scores[:, far].mean()) if len(self.scores) else 0.0

    @property
    def clarity(self) -> float:
        """Agreement above chance, as a share of what is possible: 0 unrelated, 1 identical."""
        return (self.agreement - self.chance) / max(1 - self.chance, 1e-6)

    @property
    def gains(self) -> np.ndarray:
        """(N,) how much better the best place within reach matches than the block's own place."""
        return np.maximum(self.scores[:, 1:].max(1) - self.scores[:, 0], 0)

    @property
    def offsets_mm(self) -> np.ndarray:
        """(N,) distance of the best place, 0 where it is not clearly better."""
        best = self.scores[:, 1:].argmax(1) + 1
        lengths = np.linalg.norm(self.shifts[best], axis=1) * self.step_mm
        return np.where(self.gains > CLEAR_GAIN, lengths, 0.0)

    def worst_region(self, minimum: int = 6) -> tuple[float, np.ndarray]:
        """Largest mean gain over a neighborhood of blocks, and the middle of that neighborhood (cells)."""
        if not len(self.scores):
            return 0.0, np.zeros(self.centers.shape[1])
        cells = self.centers // REGION
        _, group = np.unique(cells, axis=0, return_inverse=True)
        group = group.ravel()
        counts = np.bincount(group)
        sums = np.bincount(group, self.gains)
        mean = np.where(counts >= min(minimum, counts.max()), sums / counts, 0)
        worst = int(mean.argmax())
        return float(mean[worst]), self.centers[group == worst].mean(0)


def match_blocks(work: WorkGrid, warped: np.ndarray, shifts: np.ndarray | None = None, most: int = MAXIMUM_BLOCKS):
    """Compare ``warped`` (on the work grid) with the fixed scan block by block; ``Alignment``."""
    d = work.fixed.ndim
    shifts = search_shifts(d) if shifts is None else shifts
    centers = block_centers(work.fixed, work.fixed_foreground, most, work.reached)
    return Alignment(centers, shifts, block_correlations(work.fixed, warped, centers, shifts), work.step_mm)


def search_shifts(d: int, steps: tuple[int, ...] = STEPS) -> np.ndarray:
    """(S, d) integer shifts: none first, then all 3^d - 1 directions at each distance."""
    rows = [(0,) * d]
    for step in steps:
        for direction in itertools.product((-1, 0, 1), repeat=d):
            if any(direction):
                length = np.linalg.norm(direction)
                rows.append(tuple(round(step * v / length) for v in direction))
    return np.array(list(dict.fromkeys(rows)))


def block_centers(
    fixed: np.ndarray, foreground: np.ndarray, most: int = MAXIMUM_BLOCKS, reached: np.ndarray | None = None
) -> np.ndarray:
    """(N, d) cells around which the fixed anatomy has structure, evenly thinned to at most ``most``.

    reached: blocks that lie partly outside the moving scan (0 there) are left out; the coverage check tells of those.
    """
    mean, square = _box(fixed), _box(fixed * fixed)
    near = _box(foreground.astype(np.float32)) > 0.15
    if reached is not None:
        near &= _box(reached) > 0.95
    centers = np.argwhere((square - mean * mean > STRUCTURE**2) & near)
    if len(centers) <= most:
        return centers
    keep = np.random.default_rng(0).choice(len(centers), most, replace=False)
    return centers[np.sort(keep)]


def match_edges(work: WorkGrid, warped: np.ndarray, most: int = 1200) -> Alignment:
    """As ``match_blocks`` for the directions of edges (both senses alike), which survive any change of contrast.

    Blocks are compared by the cosine of the outer products n n^T of their cells' normalized gradients n.
    """
    from ._blocks_fused import edge_scores

    d = work.fixed.ndim
    centers, shifts = block_centers(work.fixed, work.fixed_foreground, most, work.reached), search_shifts(d)
    out = np.zeros((len(centers), len(shifts)), np.float32)
    if len(centers):
        edges = [_edge_directions(v) for v in (work.fixed, warped)]
        edges = [v.reshape(d, *(1,) * (3 - d), *v.shape[1:]) for v in edges]
        edge_scores(*edges, *lifted(centers, shifts), out)
    return Alignment(centers, shifts, out, work.step_mm, "edge directions")


def best_alignment(work: WorkGrid) -> Alignment:
    """Brightness or edges, whichever shows the clearer match: the judge must understand the pair of modalities."""
    return max(match_blocks(work, work.warped), match_edges(work, work.warped), key=lambda a: a.clarity)


def block_correlations(fixed: np.ndarray, warped: np.ndarray, centers: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """(N, S) squared correlations of the fixed blocks with the warped blocks ``shifts`` away; arrays on one grid."""
    from ._blocks_fused import block_scores

    out = np.zeros((len(centers), len(shifts)), np.float32)
    if not len(centers):
        return out
    d = fixed.ndim
    reach = RADIUS[d] + int(np.abs(shifts).max())
    fixed, warped = (np.pad(v.astype(np.float32, copy=False), reach, mode="edge") for v in (fixed, warped))
    fixed, warped = (np.ascontiguousarray(v.reshape((1,) * (3 - d) + v.shape)) for v in (fixed, warped))
    centers, shifts, radius = lifted(centers + reach, shifts)
    block_scores(fixed, warped, centers, shifts, radius, np.float32(NOISE), out)
    return out


def lifted(centers: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centers, shifts and block radii for the 3-D kernels; a 2-D grid becomes one slice."""
    d = centers.shape[1]
    flat = [np.concatenate([np.zeros((len(v), 3 - d), np.int64), v], 1).astype(np.int64) for v in (centers, shifts)]
    return *flat, np.array([0] * (3 - d) + [RADIUS[d]] * d)


def _edge_directions(values: np.ndarray) -> np.ndarray:
    """(d, *shape) float32: gradients g normalized as n = g / sqrt(|g|^2 + eps^2)."""
    out = np.empty((values.ndim, *values.shape), np.float32)
    for axis in range(values.ndim):
        out[axis] = np.gradient(values, axis=axis)
    length = np.einsum("i...,i...->...", out, out)
    out /= np.sqrt(length + np.float32(EDGE_NOISE**2), out=length)
    return out


def _box(values: np.ndarray) -> np.ndarray:
    """Mean over (2 radius + 1)^d cells, edges replicated; single precision, by running sums along each axis."""
    radius = RADIUS[values.ndim]
    width = 2 * radius + 1
    out = values.astype(np.float32)
    for axis in range(values.ndim):
        n = out.shape[axis]
        rows = np.moveaxis(out, axis, 0)
        source = rows.copy()
        total = source[np.clip(np.arange(-radius, radius + 1), 0, n - 1)].sum(0, dtype=np.float64)
        for i in range(n):
            rows[i] = total / width
            total += source[min(i + radius + 1, n - 1)] - source[max(i - radius, 0)].astype(np.float64)
    return out
