"""Self-similarity descriptors that two modalities share (MIND-SSC)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from ..checks import check_shape
from ..errors import ConfigError
from .base import Similarity, check_pair
from .lncc import box_sum
from .mean_squares import mean_squares

VARIANCE_RANGE = (1e-3, 1e3)
"""The local noise estimate is kept within this range times its mean over the image."""


def neighbor_pairs(ndim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of face neighbors that are not opposite each other: 12 in 3-D, 4 in 2-D; offsets in tensor axis order."""
    faces = [tuple(sign * (axis == a) for a in range(ndim)) for axis in range(ndim) for sign in (-1, 1)]
    return [(p, q) for p, q in itertools.combinations(faces, 2) if any(a + b for a, b in zip(p, q))]


class MIND(Similarity):
    """Mean squared difference of MIND-SSC descriptors, averaged over channels. Heinrich et al., MICCAI 2013.

    ``features`` computes, for each pair (p, q) of neighboring patches around a voxel, ``exp(-(D_pq - min D) / V)``: D
    is the mean squared difference of the two patches (boxes of ``2 radius_voxels + 1``), V the mean of D - min D over
    the pairs. distance_voxels: how far the patches lie from the voxel, in voxels of the finest axis; along coarser
    axes the nearest whole number of voxels of that length, at least one. Constant regions give descriptors of 1.

    ``value_and_gradient`` compares descriptors (fixed J, warped I): ``sum w mean_c (I_c - J_c)^2 / sum w``. The
    derivative is with respect to the warped descriptors, which are warped instead of recomputed.
    """

    oriented = True

    def __init__(self, radius_voxels: int = 1, distance_voxels: int = 2):
        for name, value in (("radius_voxels", radius_voxels), ("distance_voxels", distance_voxels)):
            if int(value) != value or value < 1:
                raise ConfigError(f"MIND: {name!r} must be a whole number of at least 1, got {value!r}")
        self.radius_voxels, self.distance_voxels = int(radius_voxels), int(distance_voxels)

    def features(self, scan, spacing_mm):
        ndim = scan.ndim - 2
        check_shape("MIND.features", "scan", scan, (1, 1, *(None,) * ndim))
        finest = min(spacing_mm)
        steps = [max(1, round(self.distance_voxels * finest / h)) for h in reversed(spacing_mm)]
        with torch.no_grad():
            out = self._distances(scan, steps)
            out.sub_(out.amin(1, keepdim=True))
            variance = out.mean(1, keepdim=True)
            typical = float(variance.mean())
            if typical == 0.0:
                return out.fill_(1.0)
            variance.clamp_(VARIANCE_RANGE[0] * typical, VARIANCE_RANGE[1] * typical)
            return out.div_(variance).neg_().exp_()

    def _distances(self, scan: torch.Tensor, steps: list[int]) -> torch.Tensor:
        """(1, pairs, ...) mean squared patch differences; positions beyond the border take the border's value."""
        shape, ndim = scan.shape[2:], scan.ndim - 2
        pairs = neighbor_pairs(ndim)
        pads = [p for step in reversed(steps) for p in (step, step)]
        padded = F.pad(scan, pads, mode="replicate")
        count = box_sum(torch.ones_like(scan), self.radius_voxels)
        out = scan.new_empty((1, len(pairs), *shape))
        for channel, pair in enumerate(pairs):
            p, q = (_shifted(padded, offset, steps, shape) for offset in pair)
            difference = (p - q).square_()
            torch.div(box_sum(difference, self.radius_voxels), count, out=out[:, channel : channel + 1])
        return out

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("MIND.value_and_gradient", fixed, warped, weight)
        return mean_squares(fixed, warped, weight)


def _shifted(padded: torch.Tensor, offset, steps, shape) -> torch.Tensor:
    """View of the image moved by ``offset * steps`` voxels."""
    window = (slice(step * (1 + o), step * (1 + o) + n) for o, step, n in zip(offset, steps, shape))
    return padded[(slice(None), slice(None), *window)]
