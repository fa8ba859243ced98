"""Mean squared difference."""

from __future__ import annotations

import numpy as np
import torch

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


class MeanSquares(Similarity):
    """Mean squared difference, see ``mean_squares``; channels are averaged."""

    separable = True

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("MeanSquares.value_and_gradient", fixed, warped, weight)
        return mean_squares(fixed, warped, weight)

    def pulled(self, fixed, moving, weight, displacement, matrix):
        """For several channels that lie side by side in memory (``channels_last``)."""
        tensors = (fixed, moving)
        if not (runs_fused(fixed, moving) and fixed.shape[1] > 1 and all(map(side_by_side, tensors))):
            return None
        if displacement.dtype != torch.float32 or min(moving.shape[2:]) < 2:
            return None
        from . import _pulled_fused as fused

        kernel = fused.volume if fixed.ndim == 5 else fused.plane
        there, values = (t.detach()[0].movedim(0, -1).numpy() for t in tensors)
        weights = np.empty((0,) * (fixed.ndim - 2), np.float32) if weight is None else weight[0, 0].contiguous().numpy()
        u, single = displacement.detach()[0].contiguous().numpy(), np.ascontiguousarray(matrix, dtype=np.float32)
        force = torch.empty_like(displacement, memory_format=torch.contiguous_format, requires_grad=False)
        total = float(kernel(values, there, weights, weight is not None, u, single, force[0].numpy()))
        mass = (float(fixed[0, 0].numel()) if weight is None else float(weight.sum())) * fixed.shape[1]
        return (total / mass, force.mul_(2.0 / mass)) if mass > 0 else (0.0, force.zero_())


def side_by_side(image: torch.Tensor) -> bool:
    """Whether the channels of (1, C, *shape) are the fastest axis in memory."""
    return image.movedim(1, -1).is_contiguous()
