"""Displacements as arrays: the padded copy that a VTK grid needs, lengths and Jacobian determinants, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from DeepDiffRegLib.geometry.grid import Geometry

from .spaces import FLIP, grid_points

STILL_MM = 1e-4
"""A border that moves less than this needs no margin."""
SHORTEST_FALL = 4
"""Voxels."""
SLAB_VOXELS = 2**19
Margins = tuple[tuple[int, int], ...]
"""Voxels added before and behind along x, y, z."""


@dataclass(frozen=True)
class Padded:
    """A grid with margins: ``geometry`` of the whole, ``margins`` around the displacement's own grid."""

    geometry: Geometry
    margins: Margins

    @property
    def own(self) -> Geometry:
        """The displacement's own grid."""
        size = tuple(n - a - b for n, (a, b) in zip(self.geometry.size, self.margins))
        return self.geometry.cropped(tuple(before for before, _ in self.margins), size)

    @property
    def inner(self) -> tuple[slice, ...]:
        """Tensor slices of the displacement's own grid."""
        return tuple(slice(before, n - behind) for n, (before, behind) in zip(self.geometry.shape, self.margins[::-1]))


def margins_needed(displacement: np.ndarray, geometry: Geometry) -> Margins:
    """How far beyond each face a (3, Z, Y, X) displacement, mm LPS, must fade so that the map does not fold there.

    VTK carries the border's displacement on forever; the library's maps end half a voxel beyond the border. A face that
    does not move needs no margin. Elsewhere it is one voxel at full strength, then a fall over twice the longest way that
    anything on the face goes outward (only that can fold: the slope across the face then stays under 0.8), at least
    ``SHORTEST_FALL`` voxels and at most half the grid.
    """
    out = []
    for axis in range(3):
        faces = []
        for side, outward in ((0, -1.0), (-1, 1.0)):
            face = displacement[tuple(side if a == 3 - axis else slice(None) for a in range(4))].reshape(3, -1)
            if np.abs(face).max() <= STILL_MM:
                faces.append(0)
                continue
            voxels = float((outward * geometry.rotation[:, axis] @ face).max()) / geometry.spacing_mm[axis]
            longest = max(SHORTEST_FALL, geometry.size[axis] // 2)
            faces.append(1 + int(np.clip(np.ceil(2 * voxels), SHORTEST_FALL, longest)))
        out.append(tuple(faces))
    return tuple(out)


def padded(geometry: Geometry, margins: Margins) -> Padded:
    """The grid with margins around it."""
    start = tuple(-before for before, _ in margins)
    size = tuple(n + before + behind for n, (before, behind) in zip(geometry.size, margins))
    return Padded(geometry.cropped(start, size), margins)


def falloff(count: int) -> np.ndarray:
    """Weights of ``count`` voxels beyond a face: 1, then a half cosine down to 0."""
    return (1 + np.cos(np.pi * np.linspace(0, 1, count))) / 2 if count > 1 else np.zeros(count)


def fill(out: np.ndarray, displacement: np.ndarray, frame: Padded) -> None:
    """Write a (3, Z, Y, X) displacement, mm LPS, into ``out`` (Z, Y, X, 3), mm RAS, fading into the margins."""
    inner = frame.inner
    target = out[inner]
    for z in range(len(target)):
        for c, sign in enumerate(FLIP):
            np.multiply(displacement[c, z], np.float32(sign), out=target[z, ..., c])
    reach = list(inner)
    for axis in range(3):
        before, behind = frame.margins[2 - axis]
        for count, border, step in ((before, inner[axis].start, -1), (behind, inner[axis].stop - 1, 1)):
            for k, weight in enumerate(falloff(count), 1):
                target, source = list(reach), list(reach)
                target[axis], source[axis] = border + step * k, border
                np.multiply(out[tuple(source)], np.float32(weight), out=out[tuple(target)])
        reach[axis] = slice(None)


def slabs(count: int, voxels: int) -> Iterator[slice]:
    """Cut ``count`` slices of a grid of ``voxels`` voxels into handy pieces."""
    thickness = max(1, min(count, SLAB_VOXELS * count // max(voxels, 1)))
    for start in range(0, count, thickness):
        yield slice(start, min(start + thickness, count))


def whole_lengths_mm(displacement: np.ndarray, geometry: Geometry, world: np.ndarray | None = None) -> np.ndarray:
    """|world @ (x + u(x)) - x| per voxel, |u| without ``world``: (Z, Y, X) float32. displacement: (3, Z, Y, X) mm LPS."""
    out = np.empty(displacement.shape[1:], np.float32)
    for rows in slabs(len(out), out.size):
        block = np.asarray(displacement[:, rows], dtype=np.float32)
        if world is not None:
            x = grid_points(geometry, rows) * FLIP
            moved = (x + block.reshape(3, -1).T) @ world[:3, :3].T + world[:3, 3]
            block = (moved - x).T.reshape(block.shape)
        out[rows] = np.sqrt(np.einsum("czyx,czyx->zyx", block, block))
    return out


def determinants(displacement: np.ndarray, geometry: Geometry, world: np.ndarray | None = None) -> np.ndarray:
    """det of d/dx world @ (x + u(x)) by central differences, one-sided at the border: (Z, Y, X) float32.

    displacement: u, (3, Z, Y, X) in the frame (LPS) of ``geometry``. At most 0 means folded.
    """
    scale = 1.0 if world is None else float(np.linalg.det(np.asarray(world)[:3, :3]))
    per_mm = (geometry.rotation / np.array(geometry.spacing_mm)).astype(np.float32)
    out = np.empty(displacement.shape[1:], np.float32)
    last = len(out)
    for rows in slabs(last, out.size):
        low, high = max(rows.start - 1, 0), min(rows.stop + 1, last)
        block = np.asarray(displacement[:, low:high], dtype=np.float32)
        m = [[None] * 3 for _ in range(3)]
        for a in range(3):
            along = np.gradient(block[a])[::-1]
            for b in range(3):
                m[a][b] = sum(along[k] * per_mm[b, k] for k in range(3)) + np.float32(a == b)
        (a, b, c), (d, e, f), (g, h, i) = m
        full = a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)
        out[rows] = scale * full[rows.start - low : rows.stop - low]
    return out
