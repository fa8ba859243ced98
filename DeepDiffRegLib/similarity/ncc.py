"""Global normalized cross-correlation."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import ConfigError
from .base import Similarity, check_pair, flat_arrays, runs_fused


def correlation(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None, epsilon: float, gradient: torch.Tensor
) -> float:
    """``r = A / sqrt((B + epsilon) (C + epsilon))`` of one channel; writes dr / d warped to ``gradient``.

    fixed J, warped I: ([Z,] Y, X); weight w of that shape or None. A is the weighted covariance, B and C the weighted
    variances of I and J, all divided by W = sum w.
    dr/dI = (w / W) ((J - mean J) / sqrt(..) - r (I - mean I) / (B + epsilon)).
    """
    moments = _fused_moments if runs_fused(fixed, warped) else _tensor_moments
    mass, mean_i, mean_j, variance_i, variance_j, covariance = moments(fixed, warped, weight)
    if mass <= 0.0:
        gradient.zero_()
        return 0.0
    root = ((variance_i + epsilon) * (variance_j + epsilon)) ** 0.5
    r = covariance / root
    along, against = 1.0 / (mass * root), r / (mass * (variance_i + epsilon))
    if runs_fused(fixed, warped):
        from ._pointwise_fused import combine

        numbers = (np.float32(v) for v in (mean_j, mean_i, along, against))
        combine(*flat_arrays(fixed, warped, weight), *numbers, gradient.view(-1).numpy())
    else:
        torch.sub(fixed, mean_j, out=gradient).mul_(along).sub_(warped - mean_i, alpha=against)
        if weight is not None:
            gradient.mul_(weight)
    return r


def _tensor_moments(fixed, warped, weight) -> tuple[float, ...]:
    """sum w, means of I and J, variances of I and J, covariance."""
    w = torch.ones_like(fixed) if weight is None else weight
    mass = float(w.sum())
    if mass <= 0.0:
        return (0.0,) * 6
    mean_i, mean_j = (float((t * w).sum()) / mass for t in (warped, fixed))
    i, j = warped - mean_i, fixed - mean_j
    return mass, mean_i, mean_j, *(float((w * a * b).sum()) / mass for a, b in ((i, i), (j, j), (i, j)))


def _fused_moments(fixed, warped, weight) -> tuple[float, ...]:
    from ._pointwise_fused import moments

    arrays = flat_arrays(fixed, warped, weight)
    some = slice(None, None, 61)
    share = arrays[2][some] if arrays[3] else np.ones(1, np.float32)
    total = max(float(share.sum(dtype=np.float64) if arrays[3] else arrays[0][some].size), 1e-6)
    # rough means from every 61st voxel: measured from there, little cancels in float32
    centers = [float((a[some] * share).sum(dtype=np.float64)) / total for a in arrays[:2]]
    mass, i1, j1, i2, j2, ij = moments(*arrays, np.float32(centers[0]), np.float32(centers[1]))
    if mass <= 0.0:
        return (0.0,) * 6
    i1, j1 = i1 / mass, j1 / mass
    variances = (max(i2 / mass - i1 * i1, 0.0), max(j2 / mass - j1 * j1, 0.0))
    means = (float(np.float32(centers[1])) + i1, float(np.float32(centers[0])) + j1)
    return float(mass), *means, *variances, ij / mass - i1 * j1


class NCC(Similarity):
    """Loss ``1 - mean_c r_c``, r the weighted correlation of the whole images (see ``correlation``); between 0 and 2.

    The sign counts: inverted contrast is a bad match here (it is a good one for ``LNCC``, which squares). epsilon:
    variance added to either image, for intensities in [0, 1], so that a constant image has r = 0.
    """

    def __init__(self, epsilon: float = 1e-8):
        if not epsilon > 0:
            raise ConfigError(f"NCC: 'epsilon' must be positive, got {epsilon!r}")
        self.epsilon = float(epsilon)

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("NCC.value_and_gradient", fixed, warped, weight)
        channels = fixed.shape[1]
        gradient = torch.empty_like(warped, memory_format=torch.contiguous_format, requires_grad=False)
        mask = None if weight is None else weight[0, 0]
        total = 0.0
        with torch.no_grad():
            for channel in range(channels):
                part = (fixed[0, channel], warped[0, channel], mask)
                total += correlation(*part, self.epsilon, gradient[0, channel])
            return 1.0 - total / channels, gradient.mul_(-1.0 / channels)
