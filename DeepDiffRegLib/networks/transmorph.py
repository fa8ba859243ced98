"""TransMorph (Chen et al., MedIA 2022): windowed attention to a displacement at full resolution."""

from __future__ import annotations

from typing import ClassVar

import torch

from ._transmorph_parts import NormConv, TransMorphArchitecture, Trunk, UpBlock, half_size, head
from .base import Architecture, Network


class TransMorph(Network):
    """Displacement in voxels at full resolution; nothing keeps it from folding. 46.8 million weights in 3-D."""

    kind, stride = "displacement", 1
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": TransMorphArchitecture(),
        "large": TransMorphArchitecture(channels=128, depths=(2, 2, 12, 2), heads=(4, 4, 8, 16)),
        "light": TransMorphArchitecture(
            backbone="convolutions", channels=16, depths=(2, 2, 2), heads=(2, 2, 4), head_channels=8
        ),
    }

    def __init__(self, architecture: TransMorphArchitecture | None = None):
        super().__init__()
        self.architecture = shape = architecture or self.variant()
        d, c, narrow = shape.ndim, shape.channels, shape.head_channels
        self.multiple = shape.multiple
        self.trunk = Trunk(shape)
        self.skip_half, self.skip_full = NormConv(d, 2, c // 2), NormConv(d, 2, narrow)
        self.up_half, self.up_full = UpBlock(d, c, c // 2, c // 2), UpBlock(d, c // 2, narrow, narrow)
        self.flow = head(d, narrow)

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], None]:
        x = self.up_half(self.trunk(pair), self.skip_half(half_size(pair)))
        return (self.flow(self.up_full(x, self.skip_full(pair))),), None
