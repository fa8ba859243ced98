"""Bending energy: squared second derivatives."""

from __future__ import annotations

import torch

from ._differences import add_forward_transpose, check_field, forward_difference
from .base import Regularizer


class Bending(Regularizer):
    """``(1 / N) sum over voxels and components of sum_a (d_aa u)^2 + 2 sum_{a<b} (d_ab u)^2``, in mm^-2.

    d_aa: second difference over three voxels; d_ab: forward difference of the forward difference along the other
    axis, i.e. the twist of each cell; both divided by the spacings and absent where they would reach beyond the grid.
    N counts all voxels. Zero for affine maps. Gradient: 2 D^T D u / N. Rueckert et al., TMI 1999.
    """

    quadratic = True

    def value_and_gradient(self, displacement_mm, spacing_mm):
        check_field("Bending.value_and_gradient", displacement_mm, spacing_mm)
        u = displacement_mm.detach()
        gradient = torch.zeros_like(u)
        spacing = tuple(reversed(spacing_mm))
        voxels = u[0, 0].numel()
        value = 0.0
        with torch.no_grad():
            for component, slope in zip(u[0], gradient[0]):
                for a in range(len(spacing)):
                    first = forward_difference(component, a)
                    back = torch.zeros_like(first)
                    for b in range(a, len(spacing)):
                        if 0 in first.shape or first.shape[b] < 2:
                            continue
                        factor = (1.0 if a == b else 2.0) / (voxels * (spacing[a] * spacing[b]) ** 2)
                        second = forward_difference(first, b)
                        value += factor * float(second.square().sum())
                        add_forward_transpose(back, second.mul_(2.0 * factor), b)
                    add_forward_transpose(slope, back, a)
        return value, gradient
