"""The arithmetic of the TM-TVF authors' code where it differs from the method: only for weights that were trained with it.

Three differences: each velocity is composed with itself instead of with the map so far, the half-resolution displacement is not
doubled on its way to full resolution, and the sampler places voxels between the rules of corners and of edges, so that even the
identity enlarges a little. The prediction is the displacement that their code applies, the enlargement included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..geometry.sampling import identity_index, sample
from ._transmorph_parts import enlarged


def placed(index: torch.Tensor) -> torch.Tensor:
    """Where the authors' sampler looks when told ``index`` (B, d, *shape): index * n / (n - 1) - 1/2 per axis."""
    size = torch.tensor(index.shape[:1:-1], dtype=index.dtype, device=index.device)
    return index * (size / (size - 1)).reshape(1, -1, *(1,) * len(size)) - 0.5


def look_up(values: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """``values`` (B, C, *shape) at the place of Id + u (voxels), falling linearly to 0 within a voxel beyond the border."""
    index = placed(identity_index(tuple(u.shape[2:]), u.device, u.dtype) + u)
    return sample(F.pad(values, (1, 1) * (u.ndim - 2)), index + 1, padding="border")


def advanced(u: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """u_t = u_{t-1} + v_t o (Id + v_t), all in voxels of the half grid."""
    return u + look_up(velocity, velocity)


def half_displacement(velocities: Sequence[torch.Tensor], backward: bool = False) -> torch.Tensor:
    """The sum of all steps on the half grid. backward: what the authors take for the inverse, -v_t o (Id - v_t), first to last."""
    u = torch.zeros_like(velocities[0])
    for velocity in velocities:
        u = advanced(u, -velocity if backward else velocity)
    return u


def applied(u: torch.Tensor) -> torch.Tensor:
    """The displacement (B, d, *twice the shape) in voxels that the authors' code applies for u on the half grid."""
    full = enlarged(u)
    index = identity_index(tuple(full.shape[2:]), full.device, full.dtype)
    return placed(index + full) - index
