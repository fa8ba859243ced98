"""Self-similarity descriptors that two modalities share (MIND-SSC)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from ..checks import check_shape
from ..errors import ConfigError
from .lncc import box_sum
from .mean_squares import SquaredDifferences

VARIANCE_RANGE = (1e-3, 1e3)
"""The local noise estimate is kept within this range times its mean over the image."""
SLAB_ROWS = 16


def neighbor_pairs(ndim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of face neighbors that are not opposite each other: 12 in 3-D, 4 in 2-D; offsets in tensor axis order."""
    faces = [tuple(sign * (axis == a) for a in range(ndim)) for axis in range(ndim) for sign in (-1, 1)]
    return [(p, q) for p, q in itertools.combinations(faces, 2) if any(a + b for a, b in zip(p, q))]


class MIND(SquaredDifferences):
    """Mean squared difference of MIND-SSC descriptors, averaged over channels. Heinrich et al., MICCAI 2013.

    ``features`` computes, for each pair (p, q) of neighboring patches around a voxel, ``exp(-(D_pq - min D) / V)``: D
    is the mean squared difference of the two patches (boxes of ``2 radius_voxels + 1``), V the mean of D - min D over
    the pairs. distance_voxels: how far the patches lie from the voxel, in voxels of the finest axis; along coarser
    axes the nearest whole number of voxels of that length, at least one. Constant regions give descriptors of 1.

    What is compared are descriptors (fixed J, warped I): ``sum w mean_c (I_c - J_c)^2 / sum w``. The
    derivative is with respect to the warped descriptors, which are warped instead of recomputed.
    """

    oriented = True

    def __init__(self, radius_voxels: int = 1, distance_voxels: int = 2):
        for name, value in (("radius_voxels", radius_voxels), ("distance_voxels", distance_voxels)):
            if int(value) != value or value < 1:
                raise ConfigError(f"MIND: {name!r} must be a whole number of at least 1, got {value!r}")
        self.radius_voxels, self.distance_voxels = int(radius_voxels), int(distance_voxels)

    def features(self, scan, spacing_mm, dtype=None):
        ndim = scan.ndim - 2
        check_shape("MIND.features", "scan", scan, (1, 1, *(None,) * ndim))
        finest = min(spacing_mm)
        steps = [max(1, round(self.distance_voxels * finest / h)) for h in reversed(spacing_mm)]
        out = scan.new_empty((1, len(neighbor_pairs(ndim)), *scan.shape[2:]), dtype=dtype or scan.dtype)
        keeps = out.dtype == scan.dtype
        with torch.no_grad():
            padded = F.pad(scan, [p for step in reversed(steps) for p in (step, step)], mode="replicate")
            total = 0.0
            for rows in _slabs(scan.shape[2]):
                distances = self._distances(padded, steps, scan.shape[2:], rows)
                total += float(distances.mean(1).sum(dtype=torch.float64))
                if keeps:
                    out[:, :, rows] = distances
            typical = total / scan.numel()
            if typical == 0.0:
                return out.fill_(1.0)
            for rows in _slabs(scan.shape[2]):
                distances = out[:, :, rows] if keeps else self._distances(padded, steps, scan.shape[2:], rows)
                variance = distances.mean(1, keepdim=True)
                variance.clamp_(VARIANCE_RANGE[0] * typical, VARIANCE_RANGE[1] * typical)
                out[:, :, rows] = distances.div_(variance).neg_().exp_()
        return out

    def _distances(self, padded: torch.Tensor, steps: list[int], shape: torch.Size, rows: slice) -> torch.Tensor:
        """(1, pairs, rows, ...) mean squared patch differences above the voxel's least one, for some rows of the first axis.

        padded: the image (``shape``) continued by its border's values, ``steps`` voxels on each side of each axis.
        """
        wide = slice(max(0, rows.start - self.radius_voxels), min(shape[0], rows.stop + self.radius_voxels))
        inside = slice(rows.start - wide.start, rows.stop - wide.start)
        pairs = neighbor_pairs(len(shape))
        count = box_sum(padded.new_ones((1, 1, wide.stop - wide.start, *shape[1:])), self.radius_voxels)[:, :, inside]
        out = padded.new_empty((1, len(pairs), rows.stop - rows.start, *shape[1:]))
        for channel, pair in enumerate(pairs):
            p, q = (_shifted(padded, offset, steps, shape, wide) for offset in pair)
            difference = (p - q).square_()
            sums = box_sum(difference, self.radius_voxels)[:, :, inside]
            torch.div(sums, count, out=out[:, channel : channel + 1])
        return out.sub_(out.amin(1, keepdim=True))


def _slabs(rows: int) -> list[slice]:
    """Rows of the first axis in groups of ``SLAB_ROWS``, so that scratch memory does not grow with the scan's depth."""
    return [slice(first, min(first + SLAB_ROWS, rows)) for first in range(0, rows, SLAB_ROWS)]


def _shifted(padded: torch.Tensor, offset, steps, shape, rows: slice) -> torch.Tensor:
    """View of some rows of the image moved by ``offset * steps`` voxels."""
    starts = [step * (1 + o) for o, step in zip(offset, steps)]
    first = slice(starts[0] + rows.start, starts[0] + rows.stop)
    window = (slice(start, start + n) for start, n in zip(starts[1:], shape[1:]))
    return padded[(slice(None), slice(None), first, *window)]
