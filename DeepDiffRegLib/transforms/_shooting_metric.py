"""Metrics: which velocity belongs to a momentum, and how both go on in time.

A state is (m,) or, with local weights, (m, h): momentum (d, *shape), pre-weights (N, *shape), either with a batch's axis before.
Velocities and lengths are mm along the grid's axes per unit time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ._shooting_rhs import carry, epdiff
from .kernels import Kernel, MultiGaussian, Smoother, SmootherBank, Walls

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Constant:
    """v = K m, the same kernel everywhere. stationary: m stays as it is (vSVF), else it follows EPDiff (LDDMM)."""

    kernel: Kernel
    stationary: bool = False

    @property
    def largest_mm(self) -> float:
        return self.kernel.largest_mm

    def on(self, shape: Sequence[int], spacing_mm: Sequence[float], walls: Walls, device, dtype) -> ConstantFlow:
        """The metric made ready for one grid."""
        return ConstantFlow(self, shape, spacing_mm, walls, device, dtype)


@dataclass(frozen=True)
class Regional:
    """v = sum_i w_i K_i (w_i m) with w_i = G_blur h_i (RDMM; Shen et al., NeurIPS 2019), K_i Gaussians of ``sigmas_mm``.

    source: factor of the term that keeps <m, v> constant while the weights move; 1 but for experiments.
    """

    sigmas_mm: tuple[float, ...]
    blur_mm: float
    source: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "sigmas_mm", tuple(float(s) for s in self.sigmas_mm))
        if not self.sigmas_mm or min(self.sigmas_mm) <= 0 or not self.blur_mm >= 0:
            raise ConfigError(
                f"Regional: sigmas must be positive and blur_mm not negative, got {self.sigmas_mm} and {self.blur_mm} mm"
            )

    stationary = False

    @property
    def largest_mm(self) -> float:
        return max(self.sigmas_mm)

    def on(self, shape: Sequence[int], spacing_mm: Sequence[float], walls: Walls, device, dtype) -> RegionalFlow:
        """The metric made ready for one grid."""
        return RegionalFlow(self, shape, spacing_mm, walls, device, dtype)


Metric = Constant | Regional


class ConstantFlow:
    """``Constant`` on a grid."""

    def __init__(self, metric: Constant, shape, spacing_mm, walls, device, dtype):
        self.spacing = tuple(float(s) for s in spacing_mm)
        self.smooth = Smoother(metric.kernel.symbol, shape, spacing_mm, walls, device=device, dtype=dtype)

    def velocity(self, state: State) -> torch.Tensor:
        """K m."""
        return self.smooth(state[0])

    def rates(self, state: State) -> tuple[torch.Tensor, State]:
        """(v, (dm/dt,))."""
        v = self.velocity(state)
        return v, (epdiff(state[0], v, self.spacing),)

    def precondition(self, m: torch.Tensor) -> torch.Tensor:
        """K m: what a change of the momentum does to the velocity."""
        return self.smooth(m)


class RegionalFlow:
    """``Regional`` on a grid."""

    def __init__(self, metric: Regional, shape, spacing_mm, walls, device, dtype):
        self.spacing, self.source = tuple(float(s) for s in spacing_mm), metric.source
        self.bank = SmootherBank(metric.sigmas_mm, shape, spacing_mm, walls, device, dtype)
        self.count = len(metric.sigmas_mm)
        self.blur = None
        if metric.blur_mm > 0:
            symbol = MultiGaussian((metric.blur_mm,), (1.0,)).symbol
            self.blur = Smoother(symbol, shape, spacing_mm, device=device, dtype=dtype)

    def blurred(self, scalars: torch.Tensor) -> torch.Tensor:
        """G_blur of (N, *shape)."""
        return scalars if self.blur is None else self.blur(scalars)

    def _parts(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """v and nu_i = K_i (w_i m), (..., N, d, *shape)."""
        m, h = state
        d = len(self.spacing)
        w = self.blurred(h).unsqueeze(-1 - d)
        nu = self.bank(w * m.unsqueeze(-2 - d))
        return (w * nu).sum(-2 - d), nu

    def velocity(self, state: State) -> torch.Tensor:
        """sum_i w_i K_i (w_i m)."""
        return self._parts(state)[0]

    def rates(self, state: State) -> tuple[torch.Tensor, State]:
        """(v, (dm/dt, dh/dt)); the source is sum_i G_blur(m . nu_i) D h_i with the gradient of today's h."""
        m, h = state
        v, nu = self._parts(state)
        d = len(self.spacing)
        source, dh = carry(h, self.blurred((m.unsqueeze(-2 - d) * nu).sum(-1 - d)), v, self.spacing)
        return v, (epdiff(m, v, self.spacing) + self.source * source, dh)

    def precondition(self, m: torch.Tensor) -> torch.Tensor:
        """The mean of all kernels, for scaling steps only."""
        return self.bank(m.expand(self.count, *m.shape)).mean(0)
