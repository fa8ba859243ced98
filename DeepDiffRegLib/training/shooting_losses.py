"""Energies of networks that predict a momentum or a matrix, and the consistency of a pair seen both ways (Shen et al., 2019)."""

from __future__ import annotations

import math

import torch

from ..errors import ConfigError
from ..geometry.vector_fields import compose
from .base import Deformed, Loss


class KineticLoss(Loss):
    """<m, v> / (2 L^2), mean over the voxels of the flow's grid, L the longest edge; the sum over the looks at a pair."""

    kinds = ("momentum",)

    def __call__(self, case: Deformed) -> torch.Tensor:
        return sum(look.shot.energy for look in case.mapping.looks)


class TransportLoss(Loss):
    """Cost of local weights w: sum_i w_i^2 log(sigma_max / sigma_i)^power / log(sigma_max / sigma_min)^power, mean over voxels.

    0 where all belongs to the widest Gaussian, 1 where all belongs to the narrowest. Mean over the looks at a pair.
    """

    kinds, local = ("momentum",), True

    def __init__(self, power: float = 1.0):
        if not power >= 1:
            raise ConfigError(f"loss 'omt': power must be at least 1, got {power!r}")
        self.power = power

    def __call__(self, case: Deformed) -> torch.Tensor:
        looks = case.mapping.looks
        return sum(self._cost(look.shot) for look in looks) / len(looks)

    def _cost(self, shot) -> torch.Tensor:
        sigmas = shot.prediction.kernels.sigmas
        whole = max(math.log(max(sigmas) / min(sigmas)), 1e-12)
        w = shot.weights
        price = w.new_tensor([(math.log(max(sigmas) / s) / whole) ** self.power for s in sigmas])
        return (w.square() * price.reshape(1, -1, *(1,) * (w.ndim - 2))).sum(1).mean()


class WeightRangeLoss(Loss):
    """Distance of local weights from those the architecture starts with: sum_i (w_i - w_i^0)^2, mean over voxels and looks."""

    kinds, local = ("momentum",), True

    def __call__(self, case: Deformed) -> torch.Tensor:
        looks = case.mapping.looks
        return sum(self._distance(look.shot) for look in looks) / len(looks)

    @staticmethod
    def _distance(shot) -> torch.Tensor:
        w = shot.weights
        first = w.new_tensor(shot.prediction.kernels.weights).sqrt()
        return (w - first.reshape(1, -1, *(1,) * (w.ndim - 2))).square().sum(1).mean()


class InverseLoss(Loss):
    """Mean |phi_ab o phi_ba - Id|^2 in shares of the longest axis: each pair is shown to the network both ways.

    Of matrices x -> A x + b: |A_ab A_ba - I|^2 + |A_ab b_ba + b_ab|^2, translations in shares of half that axis.
    """

    both_ways = True

    def __call__(self, case: Deformed) -> torch.Tensor:
        if case.prediction.kind == "affine":
            return self._matrices(case)
        there, back = case.mapping.forward.chunk(2)
        rest = compose(there, back) / max(case.mapping.shape)
        return rest.square().sum(1).mean()

    @staticmethod
    def _matrices(case: Deformed) -> torch.Tensor:
        there, back = case.mapping.matrix.chunk(2)
        a, b = there[:, :, :-1], there[:, :, -1:]
        turn = a @ back[:, :, :-1] - torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        shift = (a @ back[:, :, -1:] + b) * (2 / max(case.mapping.shape))
        return (turn.square().sum((1, 2)) + shift.square().sum((1, 2))).mean()


class IdentityLoss(Loss):
    """|A - I|^2 + |b|^2 of the whole matrix, b in shares of half the longest axis."""

    kinds = ("affine",)

    def __call__(self, case: Deformed) -> torch.Tensor:
        matrix = case.mapping.matrix
        d = matrix.shape[1]
        turn = matrix[:, :, :-1] - torch.eye(d, dtype=matrix.dtype, device=matrix.device)
        shift = matrix[:, :, -1] * (2 / max(case.mapping.shape))
        return (turn.square().sum((1, 2)) + shift.square().sum(1)).mean()
