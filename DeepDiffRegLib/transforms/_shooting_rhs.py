"""Right-hand sides of momentum shooting, and their exact derivatives.

m, v (..., d, *shape) with components x, y[, z] in mm along the grid's axes, pre-weights h (..., N, *shape); axes before these are a
batch's, for training.
D_j is the fourth-order central difference along axis j of the field mirrored at the grid's faces; the divergence is -D_j^T, the
negative of its exact adjoint. With that pair <m, v> is conserved by the semi-discrete equations whatever the borders do, and the backward
pass of the bilinear right-hand side is the right-hand side again. 3-D float32 fields on the CPU take the fused kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


def is_fused(*fields: torch.Tensor, ndim: int = 3) -> bool:
    """Whether the fused kernels apply: (C, Z, Y, X) without a batch, float32, CPU, at least 2 voxels per axis. ndim: of the grid."""
    plain = all(f.device.type == "cpu" and f.dtype == torch.float32 for f in fields)
    return plain and ndim == 3 and fields[0].ndim == 4 and min(fields[0].shape[1:]) >= 2


def each(field: torch.Tensor, ndim: int) -> tuple[torch.Tensor, ...]:
    """The channels (components, or Gaussians) of (..., C, *shape), each (..., *shape)."""
    return tuple(field.select(-1 - ndim, c) for c in range(field.shape[-1 - ndim]))


def _fused(name: str, fields, spacing: Sequence[float], parities: str, *outputs: torch.Tensor) -> None:
    """Run a kernel of ``_fused_rhs``. parities: which continuations along z and y it needs, ``e`` and ``o``."""
    from . import _fused_rhs

    arrays = [f.detach().contiguous().numpy() for f in fields]
    tables = []
    for axis in (2, 1):
        index, even, odd = _fused_rhs.taps(fields[0].shape[3 - axis], spacing[axis])
        tables += [index, *({"e": even, "o": odd}[p] for p in parities)]
    factors = (np.float32(FAR / spacing[0]), np.float32(NEAR / spacing[0]))
    getattr(_fused_rhs, name)(*arrays, *tables, *factors, *(out.numpy() for out in outputs))


def coadjoint(m: torch.Tensor, v: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """-div(m (x) v) - (Dv)^T m: component i is sum_j D_j^T(m_i v_j) - sum_j m_j D_i v_j; (..., d, *shape)."""
    d = len(spacing)
    if is_fused(m, v, ndim=d):
        out = torch.empty(m.shape)
        _fused("coadjoint", (m, v), spacing, "eo", out)
        return out
    out = torch.zeros_like(m, memory_format=torch.contiguous_format)
    for j, speed in enumerate(each(v, d)):
        axis = m.ndim - 1 - j
        out.add_(adjoint(m * speed.unsqueeze(-1 - d), axis, spacing[j]))
        each(out, d)[j].sub_((m * difference(v, axis, spacing[j])).sum(-1 - d))
    return out


def along(v: torch.Tensor, w: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """(v . D) w - (w . D) v: the derivative of ``coadjoint`` with respect to m, transposed; (..., d, *shape)."""
    d = len(spacing)
    if is_fused(v, w, ndim=d):
        out = torch.empty(v.shape)
        _fused("along", (v, w), spacing, "e", out)
        return out
    out = torch.zeros_like(v, memory_format=torch.contiguous_format)
    for j, (here, there) in enumerate(zip(each(v, d), each(w, d))):
        axis = v.ndim - 1 - j
        out.addcmul_(here.unsqueeze(-1 - d), difference(w, axis, spacing[j]))
        out.addcmul_(there.unsqueeze(-1 - d), difference(v, axis, spacing[j]), value=-1)
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


def carried_by(h, push, v, spacing: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum_i push_i D h_i, -v . D h_i): the source of RDMM's momentum and the rate of its pre-weights."""
    d = len(spacing)
    if is_fused(h, push, v, ndim=d):
        source, rate = torch.empty(v.shape), torch.empty(h.shape)
        _fused("carry", (h, push, v), spacing, "e", source, rate)
        return source, rate
    source, rate = torch.zeros_like(v), torch.zeros_like(h)
    for j, (own, speed) in enumerate(zip(each(source, d), each(v, d))):
        slope = difference(h, h.ndim - 1 - j, spacing[j])
        own.copy_((push * slope).sum(-1 - d))
        rate.sub_(speed.unsqueeze(-1 - d) * slope)
    return source, rate


def carried_back(push, v, wanted, rate, spacing: Sequence[float]) -> torch.Tensor:
    """dE/dh of ``carried_by`` from dE/dsource (wanted) and dE/drate: sum_j D_j^T(push_i wanted_j - rate_i v_j)."""
    d = len(spacing)
    if is_fused(push, v, wanted, rate, ndim=d):
        out = torch.empty(push.shape)
        _fused("carry_back", (push, v, wanted, rate), spacing, "o", out)
        return out
    out = torch.zeros_like(push)
    for j, pair in enumerate(zip(each(wanted, d), each(v, d))):
        change, speed = (f.unsqueeze(-1 - d) for f in pair)
        out.add_(adjoint(push * change - rate * speed, push.ndim - 1 - j, spacing[j]))
    return out


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, push, v, spacing):
        ctx.save_for_backward(h, push, v)
        ctx.spacing = spacing
        return carried_by(h, push, v, spacing)

    @staticmethod
    def backward(ctx, wanted, rate):
        h, push, v = ctx.saved_tensors
        dv, dpush = carried_by(h, rate, wanted, ctx.spacing)
        return carried_back(push, v, wanted, rate, ctx.spacing), dpush.neg_(), dv.neg_(), None


def carry(h, push, v, spacing: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """``carried_by``, differentiable: the derivatives with respect to push and v are the same function again."""
    return _Carry.apply(h, push, v, tuple(spacing))


def epdiff(m: torch.Tensor, v: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """dm/dt of EPDiff, differentiable: ``coadjoint`` with a closed-form backward pass."""
    return _EPDiff.apply(m, v, tuple(spacing))


def gradient(h: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """D h: (N, d, *shape) of scalars (N, *shape), differentiable."""
    return _Gradient.apply(h, tuple(spacing))
