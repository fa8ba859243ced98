"""Random numbers, smooth random fields and diffeomorphisms of generated pairs: small matrix products, no large filters."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ..geometry.sampling import identity_index
from ..transforms.integrate import scaling_squaring
from .streams import numbers, tensors

SPREAD = 0.479
"""Sum of squares of cubic B-spline weights, averaged over positions: the variance that one axis leaves of white noise."""
SPLINE_SUPPORT = 4
SQUARINGS = 6


class Source:
    """All random numbers of one generated pair: a function of the seed and the counters alone, whatever the device."""

    def __init__(self, seed: int, *counters: int, device: torch.device | str = "cpu"):
        self.rng = numbers(seed, *counters)
        self.generator = tensors(seed, *counters)
        self.device = torch.device(device)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def log_uniform(self, low: float, high: float) -> float:
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def whole(self, low: int, high: int) -> int:
        """low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def vector(self, low, high, size: int = 3) -> np.ndarray:
        """``size`` numbers, each between its own ``low`` and ``high``."""
        return self.rng.uniform(low, high, size)

    def normal(self, *shape: int) -> torch.Tensor:
        """White noise of sd 1, drawn on the CPU."""
        return torch.randn(shape, generator=self.generator).to(self.device)


def noise(source: Source, shape: tuple[int, ...], cell_voxels: float, channels: int = 1) -> torch.Tensor:
    """Smooth random fields (channels, *shape) of mean 0 and sd about 1: cubic B-splines on a lattice of ``cell_voxels``."""
    return _raised(source.normal(channels, *_lattice(shape, cell_voxels)), shape, cell_voxels)


def waves(source: Source, shape: tuple[int, ...], cell_voxels: float) -> torch.Tensor:
    """As ``noise`` with one channel, without its slow part: bands of one width that wind about, as folds of a cortex do."""
    coarse = source.normal(1, *_lattice(shape, cell_voxels))
    pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
    coarse = coarse - pool(coarse, 3, stride=1, padding=1, count_include_pad=False)
    field = _raised(coarse, shape, cell_voxels)[0]
    return field / field.std().clamp(min=1e-6)


def _lattice(shape: tuple[int, ...], cell: float) -> tuple[int, ...]:
    return tuple(int((n - 1) / cell) + SPLINE_SUPPORT for n in shape)


def _raised(coarse: torch.Tensor, shape: tuple[int, ...], cell: float) -> torch.Tensor:
    """(C, *lattice) to (C, *shape), one axis after the other."""
    for axis, n in enumerate(shape, 1):
        weights = _weights(n, coarse.shape[axis], cell).to(coarse.device)
        coarse = torch.tensordot(coarse, weights, dims=([axis], [1])).movedim(-1, axis)
    return coarse.contiguous() / SPREAD ** (len(shape) / 2)


def _weights(n: int, count: int, cell: float) -> torch.Tensor:
    """(n, count) weights of cubic B-splines around the points of a lattice."""
    away = (torch.arange(n)[:, None] / cell + 1 - torch.arange(count)).abs()
    near = 2 / 3 - away.square() + away**3 / 2
    return torch.where(away < 1, near, (2 - away).clamp(min=0) ** 3 / 6)


def velocity(source: Source, shape: tuple[int, ...], strength: float) -> torch.Tensor:
    """A stationary velocity (1, d, *shape) in voxels: shift, turn and stretch of all, and bending at three scales.

    strength: 1 bends by about 6 % of the longest axis.
    """
    d, longest = len(shape), max(shape)
    field = torch.zeros((d, *shape), device=source.device)
    for share, amplitude in ((0.5, 0.032), (0.22, 0.014), (0.1, 0.0045)):
        size = amplitude * strength * longest * source.uniform(0.3, 1.3)
        field += size * noise(source, shape, max(share * longest, 2.0), d)
    matrix = source.rng.normal(0, 0.06 * strength, (d, d))
    shift = source.rng.normal(0, 0.03 * strength * longest, d)
    middle = (np.array(shape[::-1]) - 1) / 2
    around = identity_index(shape, source.device)[0] - _column(middle, field)
    linear = torch.as_tensor(matrix, dtype=torch.float32, device=source.device)
    return (field + torch.tensordot(linear, around, dims=1) + _column(shift, field))[None]


def _column(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(-1, *(1,) * (like.ndim - 1))


def diffeomorphism(field: torch.Tensor) -> torch.Tensor:
    """The displacement of exp(v), voxels."""
    return scaling_squaring(field, SQUARINGS)
