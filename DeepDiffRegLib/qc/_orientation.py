"""Is the moving file mirrored or turned? Every mirroring gets its chance to fit, with a small rigid search after it.

Only the affine part of the transform is used, because a deformation can make a mirrored organ fit. The search runs on a grid
of about 32 cells across the anatomy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix
from ._work import WorkGrid, affine_look_up, foreground, middle_mm, pooled
from .alignment import NOISE, RADIUS, block_centers, block_correlations, lifted

BLOCKS = 250
CANDIDATES = 2
SWEEPS = 2
STEPS = ((16.0, 2.0, 0.08), (8.0, 1.0, 0.04), (4.0, 0.5, 0.02))
"""Degrees, cells and relative size that are tried, coarse to fine."""
NAMES = ("left-right", "front-back", "head-foot")


@dataclass(frozen=True)
class Orientation:
    """Mean squared block correlation as the file lies (own) and for the best mirrored file (flipped); axes in words."""

    own: float
    flipped: float
    axes: str


def compare_flips(work: WorkGrid) -> Orientation:
    """Fit the moving file as it is and mirrored along every set of its axes (two axes: a half turn)."""
    search = _Search.build(work)
    d = work.fixed.ndim
    if not len(search.centers):
        return Orientation(0.0, 0.0, "")
    own = search.refined(_Pose.start(search, ()), STEPS)
    flips = [axes for k in range(1, d + 1) for axes in itertools.combinations(range(d), k)]
    rough = [search.refined(_Pose.start(search, axes), STEPS[:1]) for axes in flips]
    rough.sort(key=lambda pose: -pose.score)
    best = max((search.refined(pose, STEPS[1:]) for pose in rough[:CANDIDATES]), key=lambda pose: pose.score)
    names = [NAMES[i] for i in np.abs(work.moving_geometry.rotation).argmax(0)][::-1]
    return Orientation(own.score, best.score, " and ".join(names[axis] for axis in best.axes))


@dataclass(frozen=True)
class _Pose:
    """axes: what is mirrored (array order). values: rotations (degrees), shifts (cells), relative size."""

    axes: tuple[int, ...]
    values: np.ndarray
    score: float

    @classmethod
    def start(cls, search: _Search, axes: tuple[int, ...]) -> _Pose:
        """The best common shift of up to four cells."""
        d = search.geometry.ndim
        values = np.zeros((1 if d == 2 else 3) + d + 1)
        shifts = np.array(list(itertools.product((0, -4, -2, 2, 4), repeat=d)))
        scores = search.scores(axes, values, shifts)
        best = int(scores.argmax())
        along_grid = shifts[best][::-1] * np.array(search.geometry.spacing_mm)
        values[-1 - d : -1] = search.geometry.rotation @ along_grid / np.mean(search.geometry.spacing_mm)
        return cls(axes, values, float(scores[best]))


@dataclass(frozen=True)
class _Search:
    fixed: np.ndarray
    geometry: Geometry
    moving: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]
    moving_geometry: Geometry
    matrix: np.ndarray
    centers: np.ndarray
    middle: np.ndarray
    padded: np.ndarray

    @classmethod
    def build(cls, work: WorkGrid) -> _Search:
        fixed, geometry = _halved(work.fixed, work.geometry)
        moving, moving_geometry = _halved(work.moving, work.moving_geometry)
        mask, body = foreground(fixed), foreground(moving)
        here = middle_mm(body, moving_geometry)
        files = {}
        for axes in (a for k in range(moving.ndim + 1) for a in itertools.combinations(range(moving.ndim), k)):
            move = np.eye(moving.ndim + 1)
            move[:-1, -1] = middle_mm(np.flip(body, axes), moving_geometry) - here
            files[axes] = np.ascontiguousarray(np.flip(moving, axes)), move
        centers = block_centers(fixed, mask, BLOCKS)
        padded = np.pad(fixed, RADIUS[fixed.ndim], mode="edge")
        return cls(fixed, geometry, files, moving_geometry, work.matrix, centers, middle_mm(mask, geometry), padded)

    def index_matrix(self, axes: tuple[int, ...], values: np.ndarray) -> np.ndarray:
        """From this grid's voxels to the mirrored moving file's, through a nudge and the affine part."""
        move = self.moving[axes][1]
        return index_matrix(self.geometry, self.moving_geometry, move @ self.matrix @ self.nudge(values))

    def scores(self, axes: tuple[int, ...], values: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Mean squared block correlation for each of several shifts (S, d), array order."""
        picture = affine_look_up(self.moving[axes][0], self.index_matrix(axes, values), self.geometry.shape)
        return block_correlations(self.fixed, picture, self.centers, shifts).mean(0)

    def score(self, axes: tuple[int, ...], values: np.ndarray) -> float:
        """As ``scores`` without a shift; some hundred of these are needed, so nothing is padded again."""
        from ._blocks_fused import block_scores_serial

        d, radius = self.geometry.ndim, RADIUS[self.geometry.ndim]
        matrix = self.index_matrix(axes, values)
        matrix[:, -1] -= radius * matrix[:, :-1].sum(1)
        picture = affine_look_up(self.moving[axes][0], matrix, self.padded.shape)
        centers, still, radii = lifted(self.centers + radius, np.zeros((1, d), int))
        out = np.empty((len(centers), 1), np.float32)
        first, second = (v.reshape((1,) * (3 - d) + v.shape) for v in (self.padded, picture))
        block_scores_serial(first, second, centers, still, radii, np.float32(NOISE), out)
        return float(out.mean())

    def nudge(self, values: np.ndarray) -> np.ndarray:
        """Homogeneous matrix of rotation, shift and size about the anatomy's middle."""
        d = self.geometry.ndim
        linear = (1 + values[-1]) * _rotation(values[: -1 - d], d)
        out = np.eye(d + 1)
        out[:-1, :-1] = linear
        out[:-1, -1] = self.middle - linear @ self.middle + values[-1 - d : -1] * np.mean(self.geometry.spacing_mm)
        return out

    def refined(self, pose: _Pose, steps: tuple[tuple[float, float, float], ...]) -> _Pose:
        """Pattern search over rotation, shift and size."""
        d = self.geometry.ndim
        best, values = pose.score, pose.values
        for degrees, cells, size in steps:
            reach = np.array([degrees] * (1 if d == 2 else 3) + [cells] * d + [size])
            for _ in range(SWEEPS):
                before = best
                for i, sign in itertools.product(range(len(values)), (1, -1)):
                    tried = values.copy()
                    tried[i] += sign * reach[i]
                    score = self.score(pose.axes, tried)
                    if score > best:
                        best, values = score, tried
                if best <= before + 1e-3:
                    break
        return _Pose(pose.axes, values, best)


def _halved(values: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    coarse = geometry.coarsened([2.0 if n >= 16 else 1.0 for n in geometry.size])
    return pooled(torch.from_numpy(np.ascontiguousarray(values))[None, None], coarse)[0, 0].numpy(), coarse


def _rotation(degrees: np.ndarray, d: int) -> np.ndarray:
    out = np.eye(d)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (0, 1) if d == 2 else [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(d)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out
