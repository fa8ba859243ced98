"""Right-hand sides of momentum shooting, and their exact derivatives.

Fields have no batch axis: m, v (d, *shape) with components x, y[, z] in mm along the grid's axes, pre-weights h (N, *shape).
D_j is the fourth-order central difference along axis j of the field mirrored at the grid's faces; the divergence is -D_j^T, the
negative of its exact adjoint. With that pair <m, v> is conserved by the semi-discrete equations whatever the borders do, and the backward
pass of the bilinear right-hand side is the right-hand side again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

NEAR, FAR = 8 / 12, 1 / 12


def difference(values: torch.Tensor, axis: int, spacing: float) -> torch.Tensor:
    """D: d values / d axis by fourth-order central differences of the evenly continued field."""
    return _stencil(values, axis, spacing, 1.0)


def adjoint(values: torch.Tensor, axis: int, spacing: float) -> torch.Tensor:
    """D^T: minus the same differences of the oddly continued field."""
    return _stencil(values, axis, -spacing, -1.0)


def _stencil(values: torch.Tensor, axis: int, spacing: float, parity: float) -> torch.Tensor:
    """Differences of the field mirrored at its faces with a sign."""
    n = values.shape[axis]
    ends = [values.narrow(axis, i, 2).flip(axis) for i in (0, n - 2)]
    if parity < 0:
        ends = [end.neg_() for end in ends]
    extended = torch.cat((ends[0], values, ends[1]), axis)
    out = (extended.narrow(axis, 3, n) - extended.narrow(axis, 1, n)).mul_(NEAR / spacing)
    out.sub_(extended.narrow(axis, 4, n), alpha=FAR / spacing)
    return out.add_(extended.narrow(axis, 0, n), alpha=FAR / spacing)


def coadjoint(m: torch.Tensor, v: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """-div(m (x) v) - (Dv)^T m: component i is sum_j D_j^T(m_i v_j) - sum_j m_j D_i v_j; (d, *shape)."""
    out = torch.zeros_like(m, memory_format=torch.contiguous_format)
    for j in range(m.shape[0]):
        axis = m.ndim - 1 - j
        out.add_(adjoint(m * v[j], axis, spacing[j]))
        out[j].sub_((m * difference(v, axis, spacing[j])).sum(0))
    return out


def along(v: torch.Tensor, w: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """(v . D) w - (w . D) v: the derivative of ``coadjoint`` with respect to m, transposed; (d, *shape)."""
    out = torch.zeros_like(v, memory_format=torch.contiguous_format)
    for j in range(v.shape[0]):
        axis = v.ndim - 1 - j
        out.addcmul_(v[j], difference(w, axis, spacing[j]))
        out.addcmul_(w[j], difference(v, axis, spacing[j]), value=-1)
    return out


class _EPDiff(torch.autograd.Function):
    @staticmethod
    def forward(ctx, m, v, spacing):
        ctx.save_for_backward(m, v)
        ctx.spacing = spacing
        return coadjoint(m, v, spacing)

    @staticmethod
    def backward(ctx, wanted):
        m, v = ctx.saved_tensors
        wanted = wanted.contiguous()
        return along(v, wanted, ctx.spacing), -coadjoint(m, wanted, ctx.spacing), None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, spacing):
        ctx.spacing = spacing
        return torch.stack([difference(h, h.ndim - 1 - j, s) for j, s in enumerate(spacing)], 1)

    @staticmethod
    def backward(ctx, wanted):
        parts = (adjoint(wanted[:, j], wanted.ndim - 2 - j, s) for j, s in enumerate(ctx.spacing))
        return sum(parts), None


def epdiff(m: torch.Tensor, v: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """dm/dt of EPDiff, differentiable: ``coadjoint`` with a closed-form backward pass."""
    return _EPDiff.apply(m, v, tuple(spacing))


def gradient(h: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """D h: (N, d, *shape) of scalars (N, *shape), differentiable."""
    return _Gradient.apply(h, tuple(spacing))
