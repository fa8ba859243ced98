"""Penalty on folds: the Jacobian determinant below a margin."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..geometry.vector_fields import jacobian_determinant
from ._differences import check_field
from .base import Regularizer

CHUNK = 2**18
"""Voxels below the margin handled at once: bounds the scratch memory when most of a field is folded."""


def _cofactors(m: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """Cofactor matrix: d det / d m[c][a]."""
    if len(m) == 2:
        return [[m[1][1], -m[1][0]], [-m[0][1], m[0][0]]]
    rows = [(1, 2), (2, 0), (0, 1)]
    return [[m[i][k] * m[j][n] - m[i][n] * m[j][k] for k, n in rows] for i, j in rows]


class _Neighbors:
    """Central differences at chosen voxels (flat numbers), one-sided in the outermost ones, and their transpose."""

    def __init__(self, number: torch.Tensor, shape: tuple[int, ...], spacing_mm: tuple[float, ...], dtype: torch.dtype):
        self.steps = []
        stride = 1
        for n, h in zip(reversed(shape), spacing_mm):
            place = number // stride % n
            upper, lower = (place < n - 1).long(), (place > 0).long()
            factor = 1.0 / (h * (upper + lower).to(dtype))
            self.steps.append((number + stride * upper, number - stride * lower, factor))
            stride *= n

    def difference(self, component: torch.Tensor, axis: int) -> torch.Tensor:
        upper, lower, factor = self.steps[axis]
        return (component[upper] - component[lower]) * factor

    def add_transpose(self, out: torch.Tensor, values: torch.Tensor, axis: int) -> None:
        upper, lower, factor = self.steps[axis]
        scaled = values * factor
        out.index_add_(0, upper, scaled)
        out.index_add_(0, lower, scaled, alpha=-1)


class Folding(Regularizer):
    """``(1 / N) sum over voxels of max(0, margin - det J)^2`` with J = I + du/dx.

    Derivatives are central differences, one-sided in the outermost voxels; every axis needs at least 2 voxels.
    Rotating the grid does not change det J, so the field along the grid's own axes serves. Zero and without force
    wherever det J is at least ``margin``. Gradient, exact: -2 max(0, margin - det J) cof(J) / N through the
    transposed differences.
    """

    def __init__(self, margin: float = 0.1):
        if not margin >= 0:
            raise ConfigError(f"Folding: 'margin' must be at least 0, got {margin!r}")
        self.margin = float(margin)

    def value_and_gradient(self, displacement_mm, spacing_mm):
        check_field("Folding.value_and_gradient", displacement_mm, spacing_mm)
        with torch.no_grad():
            u = displacement_mm.detach()
            gradient = torch.zeros_like(u, memory_format=torch.contiguous_format)
            low = (jacobian_determinant(u, spacing_mm) < self.margin).reshape(-1).nonzero()[:, 0]
            flat, shape = u[0].flatten(1), tuple(u.shape[2:])
            slope, voxels = gradient[0].view(flat.shape), flat.shape[1]
            value = 0.0
            for part in low.split(CHUNK):
                neighbors = _Neighbors(part, shape, spacing_mm, u.dtype)
                value += self._add(flat, neighbors, slope, voxels)
        return value / voxels, gradient

    def _add(self, u: torch.Tensor, neighbors: _Neighbors, gradient: torch.Tensor, voxels: int) -> float:
        """Sum of the squared lacks at the chosen voxels; adds their part of the gradient."""
        axes = range(u.shape[0])
        jacobian = [[neighbors.difference(u[c], a) for a in axes] for c in axes]
        for c in axes:
            jacobian[c][c] = jacobian[c][c] + 1.0
        cofactors = _cofactors(jacobian)
        determinant = sum(jacobian[0][a] * cofactors[0][a] for a in axes)
        lack = (self.margin - determinant).clamp_(min=0.0)
        for c in axes:
            for a in axes:
                neighbors.add_transpose(gradient[c], lack * cofactors[c][a] * (-2.0 / voxels), a)
        return float(lack.square().sum())
