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
        """(N, *shape) in the space of the moving scan before the affine part; sum_i h_i^2 is 1, or less where tissue is heavy."""


@dataclass(frozen=True, eq=False)
class GivenWeights:
    """Pre-weights as a field: (1, N, *geometry.shape), not negative; their 2-norm is cut to 1 where it is larger."""

    field: torch.Tensor
    geometry: Geometry

    def pre_weights(self, geometry: Geometry, device: torch.device | str) -> torch.Tensor:
        """The field on another grid."""
        field = self.field.to(device)
        mass = torch.linalg.vector_norm(field, dim=1, keepdim=True).clamp(max=1.0)
        h = resample(torch.cat([field, mass], 1), self.geometry, geometry)[0]
        return normalized(h[:-1]) * h[-1:]


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
        """h = sqrt(shares) of each tissue, blended over label edges of about a voxel, and so is its 2-norm."""
        labels = self.stiffness.labels
        matrix = index_matrix(geometry, labels.geometry, self.world)
        still = torch.zeros((1, geometry.ndim, *geometry.shape))
        coarser = np.maximum(np.array(geometry.spacing_mm) / np.array(labels.geometry.spacing_mm), 1.0)
        rest = torch.ones((1, 1, *geometry.shape))
        h = torch.zeros((1 + len(self.tissues[self.background]), *geometry.shape))
        for kind in dict.fromkeys(t.kind for t in self.stiffness.tissues):
            values = [t.label for t in self.stiffness.tissues if t.kind == kind]
            inside = torch.isin(labels.tensor.cpu(), torch.tensor(values, dtype=labels.tensor.dtype)).float()
            part = warp(gaussian(inside, np.where(coarser > 1.01, BLUR_PER_FACTOR * coarser, 0.0)), still, matrix)
            rest = rest - part
            h += self._tissue(kind) * part[0]
        h += self._tissue(self.background) * rest[0].clamp(min=0)
        h = gaussian(h[None], EDGE_VOXELS)[0]
        return (normalized(h[:-1]) * h[-1:]).to(device)

    def _tissue(self, kind: str) -> torch.Tensor:
        """sqrt(shares) and the root of their sum, one voxel of (N + 1, 1, ...)."""
        shares = self.tissues[kind]
        return _column((*shares, sum(shares)), self.stiffness.labels.ndim).sqrt()


def normalized(h: torch.Tensor) -> torch.Tensor:
    """(N, *shape) raised to ``SMALLEST`` and divided by its 2-norm over N."""
    h = h.clamp(min=SMALLEST)
    return h / torch.linalg.vector_norm(h, dim=0, keepdim=True)


def check_tissues(tissues: Mapping[str, Sequence[float]], count: int) -> dict[str, tuple[float, ...]]:
    """Every tissue needs ``count`` shares, not negative, that sum to 1, or to less: the smaller the sum, the less it moves.

    Raises ``ConfigError`` naming the tissue.
    """
    checked = {}
    for name, shares in tissues.items():
        shares = tuple(float(s) for s in shares)
        if len(shares) != count or min(shares) < 0 or not 0 < sum(shares) <= 1 + 1e-6:
            raise ConfigError(
                f"tissue {name!r}: expected {count} shares whose sum is above 0 and at most 1, got {shares}"
            )
        checked[name] = shares
    return checked


def _column(values: Sequence[float], ndim: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, *(1,) * ndim)
