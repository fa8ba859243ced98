"""Local normalized cross-correlation (LNCC) with its closed-form gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..errors import ConfigError
from .base import Similarity, check_pair, runs_fused

MINIMUM_FILL = 0.1 - 1e-4
"""A window counts when its weights sum to 10 % of its voxels inside the image, less an allowance for rounding."""


def box_sum(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum over the window of ``2 radius + 1`` voxels per axis, truncated at the border of the grid.

    values: (B, C, [Z,] Y, X); same shape returned. Small windows by shifted additions, large ones by a running sum
    (accumulated in float64, since differences of long sums lose digits).
    """
    for axis in range(2, values.ndim):
        values = _box_sum_axis(values, axis, radius)
    return values


def _box_sum_axis(values: torch.Tensor, axis: int, radius: int) -> torch.Tensor:
    size = values.shape[axis]
    if radius > 4:
        total = F.pad(values.movedim(axis, -1), (radius + 1, radius)).to(torch.float64).cumsum(-1)
        return (total[..., 2 * radius + 1 :] - total[..., :size]).to(values.dtype).movedim(-1, axis)
    out = values.clone()
    for step in range(1, min(radius, size - 1) + 1):
        out.narrow(axis, 0, size - step).add_(values.narrow(axis, step, size - step))
        out.narrow(axis, step, size - step).add_(values.narrow(axis, 0, size - step))
    return out


def lncc_sums(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None, radius: int, epsilon: float
) -> tuple[float, float, torch.Tensor]:
    """Sum of w LNCC over voxels and channels, sum of the w that counted, derivative of the first by ``warped``.

    fixed, warped: (1, C, [Z,] Y, X); weight: (1, 1, ...) or None. 3-D float32 on the CPU runs fused, without temporary
    volumes; everything else in tensor operations.
    """
    fused = runs_fused(fixed, warped) and fixed.ndim == 5
    return (_fused_sums if fused else tensor_sums)(fixed, warped, weight, radius, epsilon)


def tensor_sums(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None, radius: int, epsilon: float
) -> tuple[float, float, torch.Tensor]:
    """``lncc_sums`` in tensor operations: any device, any floating type, 2-D or 3-D, no autograd graph."""
    with torch.no_grad():
        ones = torch.ones_like(fixed[:, :1])
        w = ones if weight is None else weight.to(fixed.dtype)
        axes = tuple(range(2, fixed.ndim))
        some = w.sum(axes, keepdim=True).clamp_(min=1e-6)
        j, i = (t - (t * w).sum(axes, keepdim=True) / some for t in (fixed, warped))
        mass = box_sum(w, radius)
        full = mass if weight is None else box_sum(ones, radius)
        kept = torch.where(mass >= MINIMUM_FILL * full, w, torch.zeros_like(w))
        scale = torch.where(kept > 0, 1.0 / mass, torch.zeros_like(mass))
        wi, wj = w * i, w * j
        mean_i, mean_j = box_sum(wi, radius) * scale, box_sum(wj, radius) * scale
        covariance = box_sum(wi * j, radius) * scale - mean_i * mean_j
        variance_i = (box_sum(wi * i, radius) * scale - mean_i**2).clamp_(min=0) + epsilon
        variance_j = (box_sum(wj * j, radius) * scale - mean_j**2).clamp_(min=0) + epsilon
        ratio = kept * covariance / (variance_i * variance_j)
        value = float((covariance * ratio).sum())
        a = 2 * ratio * scale
        b = a * covariance / variance_i
        c = b * mean_i - a * mean_j
        gradient = j * box_sum(a, radius) - i * box_sum(b, radius) + box_sum(c, radius)
        return value, float(kept.sum()) * fixed.shape[1], gradient.mul_(w)


def _fused_sums(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None, radius: int, epsilon: float
) -> tuple[float, float, torch.Tensor]:
    from ._lncc_fused import lncc_channel

    gradient = torch.empty_like(warped, memory_format=torch.contiguous_format, requires_grad=False)
    mask = None if weight is None else weight.detach().to(torch.float32).contiguous()[0, 0].numpy()
    value, mass = 0.0, 0.0
    for channel in range(fixed.shape[1]):
        planes = [t.detach()[0, channel].contiguous().numpy() for t in (fixed, warped)]
        found, counted = lncc_channel(*planes, mask, radius, epsilon, gradient[0, channel].numpy())
        value, mass = value + found, mass + counted
    return value, mass, gradient


def loss_from_sums(value: float, mass: float, gradient: torch.Tensor) -> tuple[float, torch.Tensor]:
    """``1 - value / mass`` and its gradient (in place); where nothing counted, 1 and no force."""
    if mass <= 0.0:
        return 1.0, gradient.zero_()
    return 1.0 - value / mass, gradient.mul_(-1.0 / mass)


class LNCC(Similarity):
    """Loss ``1 - sum_p w_p LNCC(p) / sum_p w_p`` with the squared correlation in a box around every voxel.

    LNCC(p) = A^2 / ((B + epsilon) (C + epsilon)), A the covariance of warped I and fixed J, B and C their variances
    over the window of ``2 radius_voxels + 1`` voxels per axis, weighted by w and truncated at the border: every mean
    is divided by n_p, the sum of weights in the window. Windows whose weights sum to less than 10 % of their voxels
    are left out. Several channels: mean over channels. Avants et al., Medical Image Analysis 2008.

    Gradient, with a = 2 w A / (n (B + e)(C + e)), b = a A / (B + e), c = b mean(I) - a mean(J) and box() the window
    sum: d(sum w LNCC) / dI = w (J box(a) - I box(b) + box(c)).

    epsilon: variance added to either image, for intensities in [0, 1]. The default 1e-5 is a standard deviation of
    0.003: uncorrelated noise of 0.001 on a constant background scores below 0.01 and pulls with about a hundredth of
    the force it would have without, while tissue contrast of 0.03 loses 2 %. It is added to each variance, not to
    their product, so noise in one image is damped even where the other has strong contrast.
    """

    def __init__(self, radius_voxels: int = 2, epsilon: float = 1e-5):
        if int(radius_voxels) != radius_voxels or radius_voxels < 1:
            raise ConfigError(f"LNCC: 'radius_voxels' must be a whole number of at least 1, got {radius_voxels!r}")
        if not epsilon > 0:
            raise ConfigError(f"LNCC: 'epsilon' must be positive, got {epsilon!r}")
        self.radius_voxels = int(radius_voxels)
        self.epsilon = float(epsilon)

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("LNCC.value_and_gradient", fixed, warped, weight)
        return loss_from_sums(*lncc_sums(fixed, warped, weight, self.radius_voxels, self.epsilon))
