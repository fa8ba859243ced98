"""Where tissue is stiff: pre-weights h(0) of the Gaussians, from a label map or given as a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..data.pair import Stiffness
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.pyramid import BLUR_PER_FACTOR, resample
from ..geometry.sampling import index_matrix, warp
from ..geometry.smoothing import gaussian
from ..registry import nearest

SMALLEST = 1e-3
"""Pre-weights below this are raised to it before normalizing, so that no direction is closed for good."""
EDGE_VOXELS = 1.0
"""Standard deviation of the Gaussian on label edges, in voxels of the flow's grid: what its differences can resolve."""


class WeightSource(Protocol):
    """Anything that can say h(0) on a grid: a label map, a field, a network."""

    def pre_weights(self, geometry: Geometry, device: torch.device | str) -> torch.Tensor:
        """(N, *shape) with sum_i h_i^2 = 1 at every voxel, in the space of the moving scan before the affine part."""


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """Pre-weights as a field: (1, N, *geometry.shape), not negative, normalized when they are read."""

    field: torch.Tensor
    geometry: Geometry

    def pre_weights(self, geometry: Geometry, device: torch.device | str) -> torch.Tensor:
        """The field on another grid."""
        return normalized(resample(self.field.to(device), self.geometry, geometry)[0])


@dataclass(frozen=True, eq=False)
class LabelWeights:
    """One vector of shares per tissue, looked up by a label map of the moving scan.

    tissues: name -> shares of the Gaussians (sum 1). background: the tissue of every voxel that is not listed. world: the
    affine part A (mm), homogeneous, from the space of the flow to the moving scan.
    """

    stiffness: Stiffness
    tissues: Mapping[str, Sequence[float]]
    background: str
    world: np.ndarray

    def __post_init__(self):
        for tissue in (self.background, *(t.kind for t in self.stiffness.tissues)):
            if tissue not in self.tissues:
                raise ConfigError(f"unknown tissue {tissue!r}{nearest(tissue, self.tissues)}")

    def pre_weights(self, geometry: Geometry, device: torch.device | str) -> torch.Tensor:
        """h = sqrt(shares) of each tissue, blended over label edges of about a voxel."""
        labels = self.stiffness.labels
        matrix = index_matrix(geometry, labels.geometry, self.world)
        still = torch.zeros((1, geometry.ndim, *geometry.shape))
        coarser = np.maximum(np.array(geometry.spacing_mm) / np.array(labels.geometry.spacing_mm), 1.0)
        rest = torch.ones((1, 1, *geometry.shape))
        h = torch.zeros((len(self.tissues[self.background]), *geometry.shape))
        for kind in dict.fromkeys(t.kind for t in self.stiffness.tissues):
            values = [t.label for t in self.stiffness.tissues if t.kind == kind]
            inside = torch.isin(labels.tensor.cpu(), torch.tensor(values, dtype=labels.tensor.dtype)).float()
            part = warp(gaussian(inside, np.where(coarser > 1.01, BLUR_PER_FACTOR * coarser, 0.0)), still, matrix)
            rest = rest - part
            h += _column(self.tissues[kind], geometry.ndim).sqrt() * part[0]
        h += _column(self.tissues[self.background], geometry.ndim).sqrt() * rest[0].clamp(min=0)
        return normalized(gaussian(h[None], EDGE_VOXELS)[0]).to(device)


def normalized(h: torch.Tensor) -> torch.Tensor:
    """(N, *shape) raised to ``SMALLEST`` and divided by its 2-norm over N."""
    h = h.clamp(min=SMALLEST)
    return h / torch.linalg.vector_norm(h, dim=0, keepdim=True)


def check_tissues(tissues: Mapping[str, Sequence[float]], count: int) -> dict[str, tuple[float, ...]]:
    """Every tissue needs ``count`` shares, not negative, sum 1; raises ``ConfigError`` naming the tissue."""
    checked = {}
    for name, shares in tissues.items():
        shares = tuple(float(s) for s in shares)
        if len(shares) != count or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"tissue {name!r}: expected {count} shares that sum to 1, got {shares}")
        checked[name] = shares
    return checked


def _column(values: Sequence[float], ndim: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, *(1,) * ndim)
