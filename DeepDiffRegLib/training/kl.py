"""How far the predicted distribution of the velocity is from its prior (Dalca et al., MedIA 2019)."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..errors import ConfigError
from ..networks.posterior import degree, dirichlet_energy, smoothing_for
from .base import Deformed, Loss
from .field_losses import mean_squared_steps

MODES = ("released", "paper")
COVARIANCES = ("diagonal", "smoothed")


class KL(Loss):
    """Posterior N(mu, Sigma) against the prior of precision lambda L on the velocity's grid; lambda is ``precision``.

    paper: 1/2 [sum_i (lambda D_i s_i^2 - log s_i^2) + lambda sum_edges |mu_i - mu_j|^2], divided by the number of voxels of the
    scan; with the ``mse`` loss in its paper scaling the sum is then the published energy per voxel. released: what the authors'
    code computes, d/2 [mean(lambda D s^2 - log s^2) + lambda/2 * mean squared step of mu], whose smoothing is 2 d times weaker.
    covariance ``smoothed``: Sigma = C G G C^T; the Dirichlet energy of C's kernel stands for D_i. smoothing_voxels: its s.d.,
    None derives it from the precision.
    """

    kinds, probabilistic = ("velocity",), True

    def __init__(
        self,
        precision: float = 10.0,
        mode: str = "released",
        covariance: str = "diagonal",
        smoothing_voxels: float | None = None,
    ):
        for name, value, known in (("mode", mode, MODES), ("covariance", covariance, COVARIANCES)):
            if value not in known:
                raise ConfigError(f"loss 'kl': {name} must be one of {known}, got {value!r}")
        if not precision > 0 or not (smoothing_voxels is None or smoothing_voxels > 0):
            raise ConfigError("loss 'kl': precision and smoothing_voxels must be positive")
        self.precision, self.mode, self.covariance, self._smoothing = precision, mode, covariance, smoothing_voxels

    def smoothing_voxels(self, ndim: int) -> float:
        """S.d. of C on the velocity's grid; 0 for the diagonal covariance."""
        if self.covariance == "diagonal":
            return 0.0
        return smoothing_for(self.precision, ndim) if self._smoothing is None else self._smoothing

    def __call__(self, case: Deformed) -> torch.Tensor:
        mean, log_variance = case.prediction.field, case.prediction.log_variance
        d = mean.ndim - 2
        smoothing = self.smoothing_voxels(d)
        pull = dirichlet_energy(smoothing, d) if smoothing else _degree(tuple(mean.shape[2:])).to(mean)
        spread = self.precision * pull * log_variance.exp() - log_variance
        if self.mode == "released":
            return d / 2 * (spread.mean() + self.precision / 2 * mean_squared_steps(mean))
        steps = sum(mean.diff(dim=axis).square().sum() for axis in range(2, mean.ndim))
        return (spread.sum() + self.precision * steps) / (2 * case.batch["fixed"].numel())


@lru_cache(maxsize=4)
def _degree(shape: tuple[int, ...]) -> torch.Tensor:
    return degree(shape)
