"""TransMorph with a sequence of velocities (TM-TVF and TM-TVF_LDDMM, Chen et al.): each step sees what the last one left."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ..geometry.sampling import identity_index, sample
from ..transforms.integrate import time_step
from ._authors_tvf import advanced, applied, look_up
from ._transmorph_parts import NormConv, TransMorphArchitecture, Trunk, UpBlock, enlarged, half_size, head
from .base import Architecture, Network

_LARGE = TransMorphArchitecture(channels=128, depths=(2, 2, 12, 2), heads=(4, 4, 8, 16))


class Step(nn.Module):
    """One velocity at half resolution from the shared features, the moving scan as warped so far and the fixed scan."""

    def __init__(self, shape: TransMorphArchitecture):
        super().__init__()
        d, c, narrow = shape.ndim, shape.channels, shape.head_channels
        self.see, self.up, self.flow = NormConv(d, 2, c // 2), UpBlock(d, c, c // 2, narrow), head(d, narrow)

    def forward(self, features: torch.Tensor, scans: torch.Tensor) -> torch.Tensor:
        """features: of both scans, brought to half resolution; scans: (B, 2, *shape) there. Returns (B, d, *shape)."""
        return self.flow(self.up.joined(features, self.see(scans)))


class TransMorphTVF(Network):
    """N velocities at half resolution, in voxels of that resolution per step, applied one after the other.

    ``paper``: 8 steps on the large backbone (108,611,336 weights in 3-D); ``released``: 12 steps, as the authors trained;
    ``lddmm``: the network of TM-TVF_LDDMM, which differs in its loss; ``base``, ``light``: smaller backbones. Architectures
    with ``authors_exact`` predict the one displacement that the authors' code makes of the velocities (``_authors_tvf``).
    """

    kind, stride = "time_varying", 2
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": _LARGE,
        "released": _LARGE.replace(steps=12),
        "lddmm": _LARGE,
        "base": TransMorphArchitecture(),
        "light": TransMorphArchitecture(backbone="convolutions", channels=16, depths=(2, 2, 2), heads=(2, 2, 4)),
    }

    def __init__(self, architecture: TransMorphArchitecture | None = None):
        super().__init__()
        self.architecture = shape = architecture or self.variant()
        self.multiple = shape.multiple
        if shape.authors_exact:
            self.kind, self.stride = "displacement", 1
        self.trunk = Trunk(shape)
        self.steps = nn.ModuleList(Step(shape) for _ in range(shape.steps))

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], None]:
        features, scans = enlarged(self.trunk(pair)), half_size(pair)
        moving, fixed = scans[:, :1], scans[:, 1:]
        warped, velocities = moving, []
        # a field's unit is 2 voxels of the input; the half grid's points lie a little farther apart
        units = [2 * (m - 1) / max(n - 1, 1) for n, m in zip(pair.shape[2:], fixed.shape[2:])]
        per_point = moving.new_tensor(units[::-1]).reshape(1, -1, *(1,) * len(units))
        u = torch.zeros_like(moving).expand(-1, moving.ndim - 2, *moving.shape[2:])
        for number, step in enumerate(self.steps):
            velocities.append(step(features, torch.cat((warped, fixed), 1)))
            if self.architecture.authors_exact:
                u = advanced(u, velocities[-1])
                warped = look_up(moving, u)
            elif number + 1 < len(self.steps):
                u = time_step(velocities[-1] * per_point, u)
                warped = sample(moving, identity_index(tuple(u.shape[2:]), u.device, u.dtype) + u)
        return (applied(u),) if self.architecture.authors_exact else tuple(velocities), None
