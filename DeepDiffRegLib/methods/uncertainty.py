"""How sure a probabilistic network is of its map: spread of the displacement and of the Jacobian over sampled velocities."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.sampling import per_component
from ..geometry.vector_fields import jacobian_determinant
from ..networks.base import Prediction
from ..networks.posterior import Posterior
from ..transforms.integrate import integrate


@dataclass(frozen=True)
class Uncertainty:
    """Maps (1, 1, *shape) on ``geometry``. displacement_sd_mm: root of the summed variances of the components. jacobian_sd:
    of det(I + du/dx). relative_to_prior: predicted variance of the velocity over the prior's bound (1: nothing was learnt
    from the scans); None when the prior is not known.
    """

    geometry: Geometry
    displacement_sd_mm: torch.Tensor
    jacobian_sd: torch.Tensor
    relative_to_prior: torch.Tensor | None
    samples: int


class Welford:
    """Running mean and variance of fields, in the memory of two."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, None, None

    def add(self, value: torch.Tensor) -> None:
        """One more sample."""
        if self.mean is None:
            self.mean, self.squares = torch.zeros_like(value), torch.zeros_like(value)
        self.count += 1
        before = value - self.mean
        self.mean.add_(before, alpha=1 / self.count)
        self.squares.add_(before.mul_(value - self.mean))

    def variance(self) -> torch.Tensor:
        """Unbiased; 0 for a single sample."""
        return self.squares / max(self.count - 1, 1)


def uncertainty(
    prediction: Prediction,
    grid: Geometry,
    samples: int = 20,
    seed: int = 0,
    precision: float | None = None,
    smoothing_voxels: float = 0.0,
    steps: int | None = None,
) -> Uncertainty:
    """Draw ``samples`` velocities of a ``velocity`` prediction made on ``grid`` and integrate each.

    precision: lambda of the prior that the network was trained with. smoothing_voxels: s.d. of its covariance's filter, 0 for a
    diagonal covariance. steps: squarings, None chooses. The maps lie on the prediction's own grid. Raises ``InputError`` for a
    prediction without variance and for fewer than 2 samples.
    """
    if prediction.log_variance is None:
        raise InputError("uncertainty(): the network does not predict a variance; use voxelmorph-diff")
    if samples < 2:
        raise InputError(f"uncertainty(): samples must be at least 2, got {samples}")
    spacing = tuple(h * r for h, r in zip(grid.spacing_mm, prediction.spacing_voxels))
    own = Geometry(prediction.field.shape[:1:-1], spacing, grid.origin_mm, grid.direction)
    posterior = Posterior(prediction.field, prediction.log_variance, smoothing_voxels)
    generator = torch.Generator().manual_seed(seed)
    per_point = prediction.unit_voxels / per_component(prediction.spacing_voxels, prediction.field)
    displacements, determinants = Welford(), Welford()
    with torch.no_grad():
        for _ in range(samples):
            u = integrate(posterior.draw(generator) * per_point, steps=steps)
            u_mm = u * per_component(own.spacing_mm, u)
            displacements.add(u_mm)
            determinants.add(jacobian_determinant(u_mm, own.spacing_mm))
        prior = None if precision is None else posterior.relative_to_prior(precision)
    sd = displacements.variance().sum(1, keepdim=True).sqrt()
    return Uncertainty(own, sd, determinants.variance().sqrt(), prior, samples)
