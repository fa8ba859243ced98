"""Mean squared difference."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry.sampling import side_by_side, warp
from .base import Similarity, check_pair, flat_arrays, runs_fused


def mean_squares(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[float, torch.Tensor]:
    """``sum_p w_p mean_c (I_c(p) - J_c(p))^2 / sum_p w_p`` and its gradient ``2 w (I - J) / (C sum w)``.

    fixed J, warped I: (1, C, [Z,] Y, X); weight w: (1, 1, ...) or None for 1. Channel by channel, so that features of
    many channels need no more scratch memory than one. With no weight at all the value is 0.
    """
    channels = fixed.shape[1]
    gradient = torch.empty_like(warped, memory_format=torch.contiguous_format, requires_grad=False)
    compute = _fused_squares if runs_fused(fixed, warped) else _tensor_squares
    with torch.no_grad():
        mass = float(fixed[0, 0].numel()) if weight is None else float(weight.sum())
        if mass <= 0.0:
            return 0.0, gradient.zero_()
        scale = 2.0 / (mass * channels)
        mask = None if weight is None else weight[0, 0]
        value = sum(compute(fixed[0, c], warped[0, c], mask, scale, gradient[0, c]) for c in range(channels))
    return value / (mass * channels), gradient


def _fused_squares(fixed, warped, weight, scale, gradient) -> float:
    from ._pointwise_fused import squares

    return float(squares(*flat_arrays(fixed, warped, weight), np.float32(scale), gradient.view(-1).numpy()))


def _tensor_squares(fixed, warped, weight, scale, gradient) -> float:
    """Sum of w (I - J)^2 of one channel; writes scale w (I - J)."""
    difference = torch.sub(warped, fixed, out=gradient)
    square = difference.square()
    if weight is not None:
        square.mul_(weight)
        difference.mul_(weight)
    difference.mul_(scale)
    return float(square.sum())


class SquaredDifferences(Similarity):
    """What compares channels by ``mean_squares``. Several channels lie side by side in memory: places are worked out once for all."""

    separable = True

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair(f"{type(self).__name__}.value_and_gradient", fixed, warped, weight)
        return mean_squares(fixed, warped, weight)

    def laid_out(self, features):
        if not runs_fused(features, features):
            return features
        return features.contiguous(memory_format=torch.channels_last if features.ndim == 4 else torch.channels_last_3d)

    def force(self, fixed, moving, weight, displacement, matrix, derivative):
        fits = runs_fused(fixed, moving) and displacement.dtype == torch.float32 and min(moving.shape[2:]) > 1
        if not (fits and side_by_side(fixed) and side_by_side(moving)):
            return None
        from . import _squares_fused as fused

        u = displacement.detach()
        out = torch.empty_like(u, memory_format=torch.contiguous_format)
        weights = np.empty((0,) * (u.ndim - 2), np.float32) if weight is None else weight[0, 0].contiguous().numpy()
        compared = _beside(fixed), weights, weight is not None
        if derivative == "pull":
            kernel = fused.pulled_volume if u.ndim == 5 else fused.pulled_plane
            single = np.ascontiguousarray(matrix, dtype=np.float32)
            total = kernel(_beside(moving), *compared, u[0].contiguous().numpy(), single, out[0].numpy())
        else:
            kernel = fused.warped_volume if u.ndim == 5 else fused.warped_plane
            total = kernel(_beside(warp(moving.detach(), u, matrix)), *compared, out[0].numpy())
        mass = (float(fixed[0, 0].numel()) if weight is None else float(weight.sum())) * fixed.shape[1]
        return (float(total) / mass, out.mul_(2.0 / mass)) if mass > 0 else (0.0, out.zero_())


class MeanSquares(SquaredDifferences):
    """Mean squared difference, see ``mean_squares``; channels are averaged."""


def _beside(image: torch.Tensor) -> np.ndarray:
    """(1, C, *shape) as (*shape, C), contiguous; no copy of what lies so."""
    return image.detach()[0].movedim(0, -1).contiguous().numpy()
