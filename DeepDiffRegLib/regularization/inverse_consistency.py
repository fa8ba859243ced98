"""Inverse consistency: how far phi o phi^-1 is from the identity."""

from __future__ import annotations

import itertools

import torch

from ..checks import check_shape
from ..errors import ConfigError
from ..geometry.vector_fields import compose
from ._differences import check_field
from .base import Regularizer

CHUNK = 2**18
"""Voxels at a time: bounds the corner indices and weights."""


def _per_axis(values, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def approximate_inverse(displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...], iterations: int) -> torch.Tensor:
    """w of ``w <- -u o (Id + w)`` from w = -u after some iterations, mm: right where u is a contraction."""
    d = displacement_mm.shape[1]
    scale = _per_axis(spacing_mm, displacement_mm).reshape(1, d, *(1,) * d)
    u = displacement_mm / scale
    w = -u
    for _ in range(iterations):
        # w + u o (Id + w) is the residual
        w = w - compose(u, w)
    return w * scale


class _Corners:
    """The 2^d voxels around each sampling position x + u(x), clamped to the grid, for some voxels of a field."""

    def __init__(self, u_flat: torch.Tensor, part: slice, shape: tuple[int, ...], spacing_mm: tuple[float, ...]):
        d = len(shape)
        number = torch.arange(part.start, part.stop, device=u_flat.device)
        self.low, self.fraction, self.free, self.strides = [], [], [], []
        stride = 1
        for c, (n, h) in enumerate(zip(reversed(shape), spacing_mm)):
            position = (number // stride % n).to(u_flat.dtype) + u_flat[c, part] / h
            clamped = position.clamp(0, n - 1)
            low = clamped.floor().clamp(max=max(n - 2, 0))
            self.low.append(low.long() * stride)
            self.fraction.append(clamped - low)
            self.free.append((position > 0) & (position < n - 1))
            self.strides.append(stride if n > 1 else 0)
            stride *= n
        self.corners = list(itertools.product((0, 1), repeat=d))
        self.spacing_mm = spacing_mm

    def _index(self, corner) -> torch.Tensor:
        return sum(low + b * stride for low, b, stride in zip(self.low, corner, self.strides))

    def _weight(self, corner, skip: int | None = None) -> torch.Tensor:
        weight = torch.ones_like(self.fraction[0])
        for axis, (b, f) in enumerate(zip(corner, self.fraction)):
            if axis != skip:
                weight = weight * (f if b else 1 - f)
        return weight

    def look_up(self, values_flat: torch.Tensor) -> torch.Tensor:
        """Interpolated values: (C, n)."""
        return sum(values_flat[:, self._index(corner)] * self._weight(corner) for corner in self.corners)

    def pull(self, values_flat: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """(D values)^T residual: the derivative through the sampling position, (d, n), mm^-1 times the values' unit."""
        out = torch.zeros_like(torch.stack(self.fraction))
        for corner in self.corners:
            looked_up = (values_flat[:, self._index(corner)] * residual).sum(0)
            for axis, b in enumerate(corner):
                out[axis] += (1 if b else -1) * self._weight(corner, axis) * looked_up
        for axis, (free, h) in enumerate(zip(self.free, self.spacing_mm)):
            out[axis] *= free / h
        return out

    def spread(self, out_flat: torch.Tensor, residual: torch.Tensor) -> None:
        """out += the transpose of ``look_up`` applied to ``residual``."""
        for corner in self.corners:
            out_flat.index_add_(1, self._index(corner), residual * self._weight(corner))


def _one_way(u, w, shape, spacing_mm, gradient_u, gradient_w, scale: float) -> float:
    """``scale sum_x |u(x) + w(x + u(x))|^2``; adds its derivatives to the gradients (None: w is held constant)."""
    value = 0.0
    for start in range(0, u.shape[1], CHUNK):
        part = slice(start, min(start + CHUNK, u.shape[1]))
        corners = _Corners(u, part, shape, spacing_mm)
        residual = u[:, part] + corners.look_up(w)
        value += scale * float(residual.square().sum())
        residual.mul_(2.0 * scale)
        gradient_u[:, part] += residual + corners.pull(w, residual)
        if gradient_w is not None:
            corners.spread(gradient_w, residual)
    return value


class InverseConsistency(Regularizer):
    """``(1 / N) sum_x |u(x) + w(x + u(x))|^2`` in mm^2, w an inverse displacement, linearly interpolated,
    border-clamped.

    ``value_and_gradient(u)`` computes w from u by ``iterations`` fixed-point steps and then **holds it constant**:
    the gradient is ``2 (I + Dw(x + u))^T r / N`` with r the residual. A true inverse leaves r = 0, so this acts where
    the few steps do not converge, which is where the map nearly folds or folds.

    ``value_and_gradients(forward, backward)`` couples two fields that are both being optimized: the mean of both
    directions, and the exact gradient with respect to both, including that of the field that is looked up.
    """

    def __init__(self, iterations: int = 5):
        if int(iterations) != iterations or iterations < 0:
            raise ConfigError(
                f"InverseConsistency: 'iterations' must be a whole number of at least 0, got {iterations!r}"
            )
        self.iterations = int(iterations)

    def value_and_gradient(self, displacement_mm, spacing_mm):
        check_field("InverseConsistency.value_and_gradient", displacement_mm, spacing_mm)
        with torch.no_grad():
            inverse = approximate_inverse(displacement_mm.detach(), spacing_mm, self.iterations)
            return self.against(displacement_mm, inverse, spacing_mm)

    def against(
        self, displacement_mm: torch.Tensor, inverse_mm: torch.Tensor, spacing_mm: tuple[float, ...]
    ) -> tuple[float, torch.Tensor]:
        """The energy with a given inverse w, held constant, and its exact gradient with respect to u."""
        check_field("InverseConsistency.against", displacement_mm, spacing_mm)
        check_shape("InverseConsistency.against", "inverse_mm", inverse_mm, tuple(displacement_mm.shape))
        with torch.no_grad():
            shape = tuple(displacement_mm.shape[2:])
            u, w = (t.detach()[0].flatten(1) for t in (displacement_mm, inverse_mm))
            gradient = torch.zeros_like(u)
            value = _one_way(u, w, shape, spacing_mm, gradient, None, 1.0 / u.shape[1])
            return value, gradient.reshape(displacement_mm.shape)

    def value_and_gradients(
        self, forward_mm: torch.Tensor, backward_mm: torch.Tensor, spacing_mm: tuple[float, ...]
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """``(1 / 2N) sum |u + w o (Id + u)|^2 + |w + u o (Id + w)|^2`` and its gradients with respect to u and w.

        forward_mm u, backward_mm w: (1, d, [Z,] Y, X) on one grid, mm along its axes.
        """
        check_field("InverseConsistency.value_and_gradients", forward_mm, spacing_mm)
        check_shape("InverseConsistency.value_and_gradients", "backward_mm", backward_mm, tuple(forward_mm.shape))
        with torch.no_grad():
            shape = tuple(forward_mm.shape[2:])
            u, w = (t.detach()[0].flatten(1) for t in (forward_mm, backward_mm))
            gradient_u, gradient_w = torch.zeros_like(u), torch.zeros_like(w)
            scale = 0.5 / u.shape[1]
            value = _one_way(u, w, shape, spacing_mm, gradient_u, gradient_w, scale)
            value += _one_way(w, u, shape, spacing_mm, gradient_w, gradient_u, scale)
            return value, gradient_u.reshape(forward_mm.shape), gradient_w.reshape(forward_mm.shape)
