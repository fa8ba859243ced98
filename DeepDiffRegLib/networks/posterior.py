"""The velocity's distribution that VoxelMorph-diff predicts, and the prior it is measured against (Dalca et al., MedIA 2019).

Prior: mean 0, precision lambda L with L = D - A, the Laplacian of the grid's neighbor graph, per component. Posterior:
covariance G^2 with G = diag(s.d.), or C G G C^T with C a Gaussian filter. Units: the network's (half-resolution voxels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..geometry.smoothing import gaussian, gaussian_taps


@dataclass(frozen=True)
class Posterior:
    """mean, log_variance: (B, d, *shape). smoothing_voxels: s.d. of C; 0 for a diagonal covariance."""

    mean: torch.Tensor
    log_variance: torch.Tensor
    smoothing_voxels: float = 0.0

    def draw(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """One velocity, mean + C G r with r standard normal; differentiable in mean and log-variance."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        scaled = noise * (self.log_variance / 2).exp()
        return self.mean + (gaussian(scaled, self.smoothing_voxels) if self.smoothing_voxels else scaled)

    def relative_to_prior(self, precision: float) -> torch.Tensor:
        """(1, 1, *shape): variance over that which the prior alone allows; 1 says that the scans added nothing."""
        if not precision > 0:
            raise InputError(f"relative_to_prior(): precision must be positive, got {precision}")
        if self.smoothing_voxels:
            bound = 1 / (precision * dirichlet_energy(self.smoothing_voxels, self.mean.ndim - 2))
        else:
            bound = 1 / (precision * degree(tuple(self.mean.shape[2:])).to(self.mean.device))
        return self.log_variance.exp().mean(1, keepdim=True) / bound


def degree(shape: tuple[int, ...]) -> torch.Tensor:
    """Neighbors of each grid point that lie inside: (1, 1, *shape); 2 d inside, fewer at faces, edges and corners."""
    out = torch.zeros((1, 1, *shape))
    for axis, n in enumerate(shape):
        ends = torch.full((n,), 2.0)
        ends[0] -= 1
        ends[-1] -= 1
        out += ends.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return out


def smoothing_for(precision: float, ndim: int) -> float:
    """S.d. of C in voxels for which the kernel's peak is 1 / (2 d lambda): the d-th root of 2 d lambda over sqrt(2 pi)."""
    return (2 * ndim * precision) ** (1 / ndim) / math.sqrt(2 * math.pi)


def dirichlet_energy(smoothing_voxels: float, ndim: int) -> float:
    """c^T L c of the Gaussian kernel c of C: the sum of its squared forward differences. It stands for the degree with C."""
    taps = torch.as_tensor(gaussian_taps(smoothing_voxels), dtype=torch.float64)
    padded = torch.nn.functional.pad(taps, (1, 1))
    mass, steps = float(taps.square().sum()), float(padded.diff().square().sum())
    return ndim * steps * mass ** (ndim - 1)
