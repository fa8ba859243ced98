"""Diffusion energy: squared first derivatives."""

from __future__ import annotations

import torch

from ._differences import add_forward_transpose, check_field, forward_difference
from .base import Regularizer


class Diffusion(Regularizer):
    """``(1 / N) sum over voxels, components c and axes a of ((u_c[i + e_a] - u_c[i]) / h_a)^2``.

    N counts all voxels; the difference beyond the last voxel is 0. Dimensionless (mm per mm). Gradient: 2 D^T D u /
    N, mm^-1. Zero exactly for translations. Fischer & Modersitzki, 2002.
    """

    quadratic = True

    def value_and_gradient(self, displacement_mm, spacing_mm):
        check_field("Diffusion.value_and_gradient", displacement_mm, spacing_mm)
        u = displacement_mm.detach()
        gradient = torch.empty_like(u, memory_format=torch.contiguous_format)
        voxels = u[0, 0].numel()
        factors = [1.0 / (h * h * voxels) for h in spacing_mm]
        if u.ndim == 5 and u.device.type == "cpu" and u.dtype == torch.float32:
            from ._diffusion_fused import diffusion

            return diffusion(u[0].contiguous().numpy(), factors, gradient[0].numpy()), gradient
        return _tensor_diffusion(u, factors, gradient), gradient


def _tensor_diffusion(u: torch.Tensor, factors: list[float], gradient: torch.Tensor) -> float:
    """The energy in tensor operations, one component and axis at a time; ``factors`` 1 / (N h^2) in x, y, z order."""
    value = 0.0
    gradient.zero_()
    with torch.no_grad():
        for component, slope in zip(u[0], gradient[0]):
            for axis, factor in enumerate(reversed(factors)):
                difference = forward_difference(component, axis)
                value += factor * float(difference.square().sum())
                add_forward_transpose(slope, difference.mul_(2.0 * factor), axis)
    return value
