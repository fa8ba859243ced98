"""Does a step of the solver lead home? A measure of feature images whose true map is known.

The moving features are looked up through the true map and a smooth error on top of it. The force that squared differences then
give, smoothed as the solver smooths it, should be the error itself up to one factor: then the step takes the most of it away.
Features can tell a partner from each of its neighbors and still send the solver elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ..geometry.sampling import identity_index, sample
from ..geometry.smoothing import gaussian
from ._synthetic_fields import Source, noise
from .base import Batch

SMOOTHING_VOXELS = 1.7
"""Of the force, as the solver's own."""
SIZES = (0.4, 3.0)
"""Root mean square of an error in voxels of the scale, least and largest."""
CELLS = (4.0, 10.0)
"""Its length of change, likewise, but no less than ``STEEPEST`` times its size."""
STEEPEST = 2.5
LEAST = 1e-24


def homing(
    batch: Batch, fixed: torch.Tensor, moving: torch.Tensor, stride: int, offset: float, seed: int, *counters: int
):
    """Correlation in [-1, 1] of the force with the error, over the voxels with a known partner; 1 is the best. One pair.

    fixed, moving: features (1, C, *shape / stride), strides in voxels of the scan; ``offset``: where their first voxel lies in it.
    Differentiable in both. The error is a function of ``seed`` and ``counters``.
    """
    shape, d = tuple(fixed.shape[2:]), fixed.ndim - 2
    source = Source(seed, *counters, device=fixed.device)
    size = source.log_uniform(*SIZES)
    error = noise(source, shape, max(source.uniform(*CELLS), STEEPEST * size), d)[None].to(fixed.dtype) * (
        size / np.sqrt(d)
    )
    place = identity_index(shape, fixed.device).to(fixed.dtype) * stride + offset
    known = (sample(batch["known"].to(fixed.dtype), place, padding="border") > 0.99).to(fixed.dtype)
    partner = (place + sample(batch["displacement"], place, padding="border") - offset) / stride
    seen = sample(moving, partner + error, padding="border")
    difference = seen - fixed
    slopes = [(difference * slope).sum(1, keepdim=True) for slope in _slopes(seen)]
    force = gaussian(torch.cat(slopes, 1) * known, SMOOTHING_VOXELS) * known
    error = error * known
    return (force * error).sum() / (force.square().sum() * error.square().sum()).clamp(min=LEAST).sqrt()


def _slopes(values: torch.Tensor) -> list[torch.Tensor]:
    """Central differences of (1, C, *shape) along x, y[, z]; 0 at the border."""
    out = []
    for axis in range(values.ndim - 1, 1, -1):
        n = values.shape[axis]
        if n < 3:
            out.append(torch.zeros_like(values))
            continue
        middle = (values.narrow(axis, 2, n - 2) - values.narrow(axis, 0, n - 2)) / 2
        ends = [v for other in range(values.ndim - 1, 1, -1) for v in ((1, 1) if other == axis else (0, 0))]
        out.append(F.pad(middle, ends))
    return out
