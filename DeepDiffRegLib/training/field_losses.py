"""How smooth a displacement or a sequence of velocities is, and how far from the known one."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..transforms.kernels import Sobolev, along_axes, axis_modes
from .base import Deformed, Loss


class DiffusionLoss(Loss):
    """Mean squared forward difference of the displacement in voxels, over axes, components and voxels."""

    def __call__(self, case: Deformed) -> torch.Tensor:
        return mean_squared_steps(case.mapping.forward)


class LDDMMLoss(Loss):
    """sum_t mean over voxels of |L v_t|^2 with L = (-alpha Laplacian + gamma)^beta, velocities in voxels of their own grid.

    The Laplacian is that of the grid's neighbors with free borders: the cosine k of an axis of n points belongs to
    2 (1 - cos(pi k / n)).
    """

    kinds = ("velocity", "time_varying")

    def __init__(self, alpha: float = 0.01, gamma: float = 0.01, beta: float = 2.0):
        self.operator = Sobolev(alpha, gamma, beta).operator

    def __call__(self, case: Deformed) -> torch.Tensor:
        return sum(self._norm(field) for field in case.prediction.fields)

    def _norm(self, field: torch.Tensor) -> torch.Tensor:
        modes, eigenvalues = _neumann(tuple(field.shape[2:]))
        spectrum = along_axes(field, [m.to(field) for m in modes])
        return (spectrum * self.operator(eigenvalues).to(field)).square().sum(1).mean()


class KnownMapLoss(Loss):
    """Mean squared distance in voxels of the map to the true one where it is known: for generated pairs.

    The batch holds ``displacement`` (B, d, *shape), voxels, and ``known`` (B, 1, *shape). 0 where nothing is known.
    """

    needs = ("displacement", "known")

    def __call__(self, case: Deformed) -> torch.Tensor:
        known = case.batch["known"].to(case.mapping.forward.dtype)
        missed = (case.mapping.forward - case.batch["displacement"]).square().sum(1, keepdim=True)
        return (known * missed).sum() / known.sum().clamp(min=1.0)


def mean_squared_steps(field: torch.Tensor) -> torch.Tensor:
    """Mean over axes of the mean squared forward difference along them, all components: (B, d, *shape) to a scalar."""
    axes = range(2, field.ndim)
    return sum(field.diff(dim=axis).square().mean() for axis in axes) / len(axes)


@lru_cache(maxsize=4)
def _neumann(shape: tuple[int, ...]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Cosines per tensor axis and the eigenvalues of minus the grid's Laplacian on their product."""
    modes, total = [], torch.zeros((), dtype=torch.float64)
    for axis, n in enumerate(shape):
        matrix, frequency = axis_modes(n, 1.0)
        modes.append(matrix)
        total = total + (2 * (1 - frequency.cos())).reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return modes, total
