"""Smoothers K that turn a momentum into a velocity, as symbols in the basis of their boundary conditions.

A smoother is C^T S C: C holds the orthonormal sines or cosines of every axis (rows: modes), S the kernel's symbol at their
frequencies. So it is self-adjoint to rounding, exact for any symbol, needs no padding and nothing wraps around. Cosines
continue a field evenly beyond the outer faces of the grid; sines, for a component across a pinned face, oddly about the
voxels of that face, which then do not move. Modes whose symbol is below rounding are left out: smooth kernels use few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ConfigError, ShapeError

WEIGHT_TOLERANCE = 1e-6
SMALL_VOXELS = 2**15
Symbol = Callable[[torch.Tensor], torch.Tensor]
"""From squared angular frequencies (1/mm^2) to factors; leading axes of its own mean one kernel per channel."""
Walls = tuple[tuple[bool, bool], ...]
"""Per grid axis x, y[, z]: whether the low and the high end are pinned."""


@dataclass(frozen=True)
class MultiGaussian:
    """K = sum_i weights_i G_sigma_i, each Gaussian with unit integral.

    sigmas_mm: standard deviations. weights: not negative, sum 1. Raises ``ConfigError`` otherwise.
    """

    sigmas_mm: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        for name in ("sigmas_mm", "weights"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if len(self.sigmas_mm) != len(self.weights) or not self.weights:
            raise ConfigError(
                f"MultiGaussian: one weight per sigma, got {len(self.sigmas_mm)} sigmas and {len(self.weights)} weights"
            )
        if not all(np.isfinite(s) and s > 0 for s in self.sigmas_mm):
            raise ConfigError(f"MultiGaussian: sigmas must be positive, got {self.sigmas_mm} mm")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > WEIGHT_TOLERANCE:
            raise ConfigError(f"MultiGaussian: weights must not be negative and sum to 1, got {self.weights}")

    @property
    def largest_mm(self) -> float:
        """Standard deviation of the widest Gaussian."""
        return max(self.sigmas_mm)

    def symbol(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        """sum_i weights_i exp(-sigma_i^2 k^2 / 2)."""
        return sum(w * torch.exp(-0.5 * s**2 * squared_frequency) for w, s in zip(self.weights, self.sigmas_mm))


@dataclass(frozen=True)
class Sobolev:
    """K = (L^dagger L)^-1 for L = (-alpha Laplacian + gamma)^beta (Miller, Trouve & Younes, 2002).

    alpha_mm2 > 0 in mm^2, gamma > 0, beta > 0 without unit. ``operator`` is the symbol of L itself.
    """

    alpha_mm2: float
    gamma: float = 1.0
    beta: float = 2.0

    def __post_init__(self):
        if not all(np.isfinite(v) and v > 0 for v in (self.alpha_mm2, self.gamma, self.beta)):
            raise ConfigError(f"Sobolev: alpha_mm2, gamma and beta must be positive, got {self}")

    @property
    def largest_mm(self) -> float:
        """Length scale sqrt(alpha / gamma) beyond which K flattens out."""
        return math.sqrt(self.alpha_mm2 / self.gamma)

    def operator(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        """(alpha k^2 + gamma)^beta."""
        return (self.alpha_mm2 * squared_frequency + self.gamma) ** self.beta

    def symbol(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        """(alpha k^2 + gamma)^(-2 beta)."""
        return self.operator(squared_frequency) ** -2


Kernel = MultiGaussian | Sobolev


@dataclass(frozen=True)
class _Part:
    """Components that share their walls. modes: per tensor axis, (modes, n). symbol: (modes of z, y, x)."""

    components: list[int]
    modes: list[torch.Tensor]
    symbol: torch.Tensor


class Smoother:
    """Apply a symbol to (..., *shape) scalars or, with ``walls``, to (..., d, *shape) vector fields.

    shape: tensor order. spacing_mm: x, y[, z]. walls: pinned ends per axis, for vector fields; component c is odd about the
    pinned ends of its own axis c. tolerance: modes below this share of the largest symbol are dropped (None: rounding of
    ``dtype``; 0 keeps all, as for a differential operator). Differentiable.
    """

    def __init__(
        self,
        symbol: Symbol,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        walls: Walls | None = None,
        tolerance: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.shape, self.vector = tuple(shape), walls is not None
        tolerance = torch.finfo(dtype).eps if tolerance is None else tolerance
        d = len(self.shape)
        free = ((False, False),) * d
        groups: dict[Walls, list[int]] = {}
        for component in range(d if self.vector else 1):
            own = free if walls is None else tuple(w if a == component else (False, False) for a, w in enumerate(walls))
            groups.setdefault(own, []).append(component)
        self._parts = []
        for own, components in groups.items():
            bases = [axis_modes(n, h, *w) for n, h, w in zip(self.shape[::-1], spacing_mm, own)]
            modes, values = _kept(symbol, bases[::-1], tolerance)
            modes = [m.to(device=device, dtype=dtype) for m in modes]
            self._parts.append(_Part(components, modes, values.to(device=device, dtype=dtype)))

    def __call__(self, field: torch.Tensor) -> torch.Tensor:
        """C^T S C field."""
        d = len(self.shape)
        if tuple(field.shape[-d:]) != self.shape:
            raise ShapeError(f"Smoother(): the field must end with {self.shape}, got {tuple(field.shape)}")
        if len(self._parts) == 1:
            return self._smooth(field, self._parts[0])
        channel = field.ndim - d - 1
        out: list[torch.Tensor | None] = [None] * d
        for part in self._parts:
            some = field.index_select(channel, torch.tensor(part.components, device=field.device))
            for component, smoothed in zip(part.components, self._smooth(some, part).unbind(channel)):
                out[component] = smoothed
        return torch.stack(out, channel)

    def _smooth(self, field: torch.Tensor, part: _Part) -> torch.Tensor:
        spectrum = along_axes(field, part.modes, from_last=True) * part.symbol
        return along_axes(spectrum, [m.T for m in part.modes], from_last=False)


class SmootherBank:
    """Gaussian i on channel i of (..., N, d, *shape) vector fields. Arguments as in ``Smoother``.

    Small grids go through all kernels at once, large ones one by one, since wide kernels need few modes.
    """

    def __init__(self, sigmas_mm: Sequence[float], shape: Sequence[int], spacing_mm, walls: Walls, device, dtype):
        def stacked(sigmas):
            def symbol(squared_frequency):
                squares = torch.tensor(sigmas, dtype=torch.float64).square()
                return torch.exp(-0.5 * squares.reshape(-1, 1, *(1,) * squared_frequency.ndim) * squared_frequency)

            return symbol

        together = math.prod(shape) <= SMALL_VOXELS
        groups = [list(sigmas_mm)] if together else [[s] for s in sigmas_mm]
        self._smoothers = [Smoother(stacked(g), shape, spacing_mm, walls, device=device, dtype=dtype) for g in groups]

    def __call__(self, fields: torch.Tensor) -> torch.Tensor:
        """K_i field_i."""
        if len(self._smoothers) == 1:
            return self._smoothers[0](fields)
        channel = fields.ndim - 2 - len(self._smoothers[0].shape)
        return torch.cat([smooth(fields.narrow(channel, i, 1)) for i, smooth in enumerate(self._smoothers)], channel)


def effective_sigma(weights: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """sqrt(sum_i w_i^2 sigma_i^2 / sum_i w_i^2) of pre-weights (1, N, *shape): (1, 1, *shape), in the unit of the sigmas."""
    squares = weights.square()
    own = weights.new_tensor(sigmas).square().reshape(1, -1, *(1,) * (weights.ndim - 2))
    return ((squares * own).sum(1, keepdim=True) / squares.sum(1, keepdim=True)).sqrt()


def along_axes(field: torch.Tensor, matrices: Sequence[torch.Tensor], from_last: bool = True) -> torch.Tensor:
    """Multiply one matrix (out, in) per trailing axis of ``field`` (..., *in): (..., *out). Differentiable.

    from_last: start with the last axis (cheaper when the matrices shorten the axes), else with the first.
    """
    d = len(matrices)
    lead = field.shape[: field.ndim - d]
    field = field.reshape(-1, *field.shape[-d:])
    for axis in range(d)[:: -1 if from_last else 1]:
        matrix, shape = matrices[axis], list(field.shape)
        shape[axis + 1] = matrix.shape[0]
        if axis == d - 1:
            field = field.reshape(-1, matrix.shape[1]) @ matrix.T
        else:
            field = torch.matmul(matrix, field.reshape(math.prod(field.shape[: axis + 1]), matrix.shape[1], -1))
        field = field.reshape(shape)
    return field.reshape(*lead, *field.shape[1:])


def axis_modes(n: int, spacing_mm: float, low: bool = False, high: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal modes (modes, n) of one axis and their angular frequencies (modes,) in 1/mm, float64.

    A free end is even about the outer face (half a voxel beyond the last one); a pinned end is odd about its last voxel.
    """
    i = torch.arange(n, dtype=torch.float64)
    length = n - 0.5 * (low + high)
    start = 0.0 if low else -0.5
    if low and high:
        order = torch.arange(1, n - 1, dtype=torch.float64)
    elif low or high:
        order = torch.arange(n - 1, dtype=torch.float64) + 0.5
    else:
        order = torch.arange(n, dtype=torch.float64)
    phase = math.pi * order[:, None] * (i - start)[None] / length
    modes = torch.sin(phase) if low else torch.cos(phase)
    return modes / torch.linalg.vector_norm(modes, dim=1, keepdim=True), math.pi * order / (length * spacing_mm)


def _kept(symbol: Symbol, bases, tolerance: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Modes per tensor axis whose own symbol counts, and the symbol on their product grid."""
    largest = max(float(symbol(f[:1].square()).abs().max()) for _, f in bases)
    modes, squares = [], []
    for matrix, frequency in bases:
        keep = symbol(frequency.square()).abs().reshape(-1, len(frequency)).amax(0) >= tolerance * largest
        keep[0] = True
        modes.append(matrix[keep])
        squares.append(frequency[keep].square())
    total = torch.zeros((), dtype=torch.float64)
    for axis, values in enumerate(squares):
        total = total + values.reshape(-1, *(1,) * (len(squares) - 1 - axis))
    return modes, symbol(total)


def interpolation_matrix(source: int, target: int, cubic: bool = False) -> torch.Tensor:
    """(target, source) float64: interpolation between two samplings of one interval with the same outer faces.

    Positions are clamped to the outermost source samples. Linear, which cannot fold a displacement that is whole on the source
    grid, or by cubic convolution (Keys, 1981, a = -1/2). Rows sum to 1; equal sizes give the identity.
    """
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    base = position.floor()
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for tap in range(-1, 3):
        distance = (position - base - tap).abs()
        if cubic:
            near = 1.5 * distance**3 - 2.5 * distance**2 + 1
            far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
            weight = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
        else:
            weight = (1 - distance).clamp(min=0)
        index = (base + tap).clamp(0, source - 1).long()
        matrix[torch.arange(target), index] += weight
    return matrix
