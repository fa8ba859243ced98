"""One smoother everywhere: vector-momentum shooting (LDDMM) and its stationary relative (vSVF)."""

from __future__ import annotations

import torch

from ._shooting_metric import Constant
from ._shooting_model import ShootingModel
from .kernels import MultiGaussian, Sobolev


class LDDMMModel(ShootingModel):
    """The initial momentum of a geodesic (Beg et al., IJCV 2005; Vialard et al., IJCV 2012).

    Options of ``ShootingModel``. operator: (length, beta) of L = (1 - length^2 Laplacian)^beta instead of the Gaussians; the
    length is in ``sigma_unit``.
    """

    stationary = False

    def __init__(self, operator: tuple[float, float] | None = None, **options):
        super().__init__(**options)
        self.length_and_order = operator
        if operator is not None:
            self.sigmas = (float(operator[0]),)
            Sobolev(float(operator[0]) ** 2, 1.0, float(operator[1]))
        else:
            MultiGaussian(self.sigmas, self.weights)

    def _metric(self, sigmas_mm: tuple[float, ...]) -> Constant:
        if self.length_and_order is None:
            return Constant(MultiGaussian(sigmas_mm, self.weights), self.stationary)
        return Constant(Sobolev(sigmas_mm[0] ** 2, 1.0, float(self.length_and_order[1])), self.stationary)

    def _mean_symbol(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        return self.metric.kernel.symbol(squared_frequency)


class VSVFModel(LDDMMModel):
    """A stationary velocity v = K m made from a momentum (Shen et al., CVPR 2019). Options as in ``LDDMMModel``."""

    stationary = True
