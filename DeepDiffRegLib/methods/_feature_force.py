"""The force of feature images on a map, as a differentiable function: its vector-Jacobian product in closed form.

The force is itself a derivative of interpolated images, so differentiating it with a library's interpolation would need that
library's second derivatives. Here every derivative of the linear interpolation is written out, corner by corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from ..geometry.sampling import pull_gradient, warp, warp_index, warped_gradient
from ..similarity.mean_squares import MeanSquares

CHUNK = 2**22
"""Values of a group of channels that are worked on at once: bounds the scratch memory."""


def feature_force(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    displacement: torch.Tensor,
    matrix: np.ndarray,
    weight: torch.Tensor | None = None,
    derivative: str = "pull",
) -> torch.Tensor:
    """dE/du of E = sum_x w(x) mean_c (M_c(phi(x)) - F_c(x))^2 / sum w: (1, d, *shape), differentiable in F, M and u.

    fixed F: (1, C, *shape). moving M: (1, C, *moving shape). displacement u: (1, d, *shape) in voxels. matrix: (d, d+1), from
    the fixed grid's voxels to the moving one's (``index_matrix``). weight: (1, 1, *shape), a constant. derivative: as
    ``transforms.model.Model`` says; ``warped`` is that of compositions, by central differences of the warped features.
    """
    if derivative == "pull":
        return _PullForce.apply(fixed, moving, displacement, weight, matrix)
    warped = warp(moving, displacement, matrix)
    return warped_gradient(warped, _residual(fixed, warped, weight))


def _residual(fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """dE/dwarped."""
    scaled = (warped - fixed) * (2.0 / (_mass(fixed, weight) * fixed.shape[1]))
    return scaled if weight is None else scaled * weight


def _mass(fixed: torch.Tensor, weight: torch.Tensor | None) -> float:
    mass = float(fixed[0, 0].numel()) if weight is None else float(weight.sum())
    return mass if mass > 0 else float("inf")


class _PullForce(torch.autograd.Function):
    """rho_j = 2 / (m C) sum_c w r_c sum_k A_kj d_k M_c, r = M o phi - F, m = sum w, A the linear part of ``matrix``."""

    @staticmethod
    def forward(ctx, fixed, moving, displacement, weight, matrix):
        ctx.save_for_backward(fixed, moving, displacement, weight)
        ctx.matrix = matrix
        found = MeanSquares().force(fixed, moving, weight, displacement, matrix, derivative="pull")
        if found is not None:
            return found[1]
        residual = _residual(fixed, warp(moving, displacement, matrix), weight)
        return pull_gradient(moving, displacement, matrix, residual)

    @staticmethod
    def backward(ctx, cotangent):
        fixed, moving, displacement, weight = ctx.saved_tensors
        gradients = force_vjp(cotangent, fixed, moving, displacement, ctx.matrix, weight, ctx.needs_input_grad[:3])
        return *gradients, None, None


def force_vjp(
    cotangent: torch.Tensor,
    fixed: torch.Tensor,
    moving: torch.Tensor,
    displacement: torch.Tensor,
    matrix: np.ndarray,
    weight: torch.Tensor | None = None,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Derivatives of <g, rho> with respect to F, M and u, g the cotangent (1, d, *shape); rho and the others as in ``feature_force``.

    With h = 2 w A g / (m C) at each voxel, D_c = <h, grad M_c(phi)>, and q the corners around phi(x) with weights w_q:
    dF_c = -D_c;  dM_c(q) += w_q D_c + r_c <h, grad w_q>;  du = A^T sum_c (D_c grad M_c + r_c grad <h, grad M_c>).
    The last gradient holds the mixed second derivatives of the weights; the pure ones of a linear interpolation vanish.
    """
    channels, d = fixed.shape[1], displacement.shape[1]
    with torch.no_grad():
        linear = torch.as_tensor(matrix[:, :-1], dtype=fixed.dtype, device=fixed.device)
        h = torch.einsum("kj,jn->kn", linear, cotangent[0].flatten(1)) * (2.0 / (_mass(fixed, weight) * channels))
        h = h if weight is None else h * weight[0].flatten(1)
        place = _Place.of(warp_index(displacement, matrix)[0].flatten(1), moving.shape[:1:-1])
        to_fixed = torch.empty_like(fixed, memory_format=torch.contiguous_format) if wanted[0] else None
        to_moving = torch.zeros_like(moving, memory_format=torch.contiguous_format) if wanted[1] else None
        to_map = fixed.new_zeros((d, h.shape[1]))
        step = max(1, CHUNK // h.shape[1])
        for first in range(0, channels, step):
            part = slice(first, first + step)
            values, seen = moving[0, part].flatten(1), fixed[0, part].flatten(1)
            found, along = _interpolated(values, place, h)
            residual = found.sub_(seen)
            if wanted[0]:
                to_fixed[0, part] = -along.reshape(to_fixed[0, part].shape)
            if wanted[1]:
                target = to_moving[0, part].flatten(1)
                for corner in place.corners():
                    share = along * corner.weight + residual * (h * corner.slope).sum(0)
                    target.index_add_(1, corner.index, share)
                to_moving[0, part] = target.reshape(to_moving[0, part].shape)
            if wanted[2]:
                for corner in place.corners(second=True):
                    value = values[:, corner.index]
                    turn = torch.einsum("kln,ln->kn", corner.mixed, h)
                    to_map += corner.slope * (value * along).sum(0) + turn * (value * residual).sum(0)
        to_map = torch.einsum("kj,kn->jn", linear, to_map).reshape(displacement.shape) if wanted[2] else None
    return to_fixed, to_moving, to_map


def _interpolated(values: torch.Tensor, place: _Place, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, N) values at the places, and their derivatives along h."""
    found = along = 0.0
    for corner in place.corners():
        value = values[:, corner.index]
        found = found + value * corner.weight
        along = along + value * (h * corner.slope).sum(0)
    return found, along


@dataclass(frozen=True)
class _Corner:
    """One of the 2^d voxels around each place: its flat index (N), weight (N), d weight (d, N),
    d^2 weight (d, d, N) where asked for."""

    index: torch.Tensor
    weight: torch.Tensor
    slope: torch.Tensor
    mixed: torch.Tensor | None


@dataclass(frozen=True)
class _Place:
    """Where N positions lie between the voxels of a grid.

    lower: (d, N) voxel below. fraction: (d, N) way to the next one. moves: (d, N) 1 where the interpolation follows the position,
    0 where it is clamped to the border. inside: (N) 1, or 0 where nothing is seen; sizes: x, y[, z]. As ``geometry.sampling``.
    """

    lower: torch.Tensor
    fraction: torch.Tensor
    moves: torch.Tensor
    inside: torch.Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, index: torch.Tensor, sizes: tuple[int, ...]) -> _Place:
        last = torch.as_tensor(sizes, dtype=index.dtype, device=index.device)[:, None] - 1
        inside = ((index >= -0.5) & (index < last + 0.5)).all(0).to(index.dtype)
        moves = ((index > 0) & (index < last)).to(index.dtype)
        clamped = torch.minimum(index.clamp(min=0), last)
        lower = clamped.floor()
        return cls(lower.long(), clamped - lower, moves, inside, tuple(sizes))

    def corners(self, second: bool = False) -> Iterator[_Corner]:
        d = len(self.sizes)
        for bits in product((0, 1), repeat=d):
            flat = torch.zeros_like(self.lower[0])
            for axis in reversed(range(d)):
                at = (self.lower[axis] + bits[axis]).clamp(max=self.sizes[axis] - 1)
                flat = flat * self.sizes[axis] + at
            values = [self.fraction[a] if bit else 1 - self.fraction[a] for a, bit in enumerate(bits)]
            slopes = [self.moves[a] if bit else -self.moves[a] for a, bit in enumerate(bits)]
            values[0], slopes[0] = values[0] * self.inside, slopes[0] * self.inside

            def weight(*differentiated: int, values=values, slopes=slopes) -> torch.Tensor:
                out = slopes[0] if 0 in differentiated else values[0]
                for axis in range(1, d):
                    out = out * (slopes[axis] if axis in differentiated else values[axis])
                return out

            mixed = None
            if second:
                zero = torch.zeros_like(values[0])
                rows = [[zero if k == m else weight(k, m) for m in range(d)] for k in range(d)]
                mixed = torch.stack([torch.stack(row) for row in rows])
            yield _Corner(flat, weight(), torch.stack([weight(k) for k in range(d)]), mixed)
