"""Feature images of one scan by U-Nets with group normalization (Jena et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ._feature_parts import POOL, Convolution, GroupConvolution, check_statistics, twice
from .base import Architecture, FeatureNetwork


@dataclass(frozen=True)
class FeatureUNetArchitecture(Architecture):
    """levels: channels per level, fine to coarse. channels: of the features. scales: how many resolutions come out.

    heads: levels that have weights for an output, fine to coarse; those beyond ``scales`` exist in the authors' network only.
    slope: of the leaky ReLU. statistics: mean and variance of each ``scan``, or, once trained, those of the ``training``: features
    then do not depend on how much a scan shows, and follow other contrasts less well.
    """

    levels: tuple[int, ...] = (16, 16, 32, 32, 64)
    channels: int = 16
    scales: int = 3
    heads: int = 5
    slope: float = 0.01
    statistics: str = "scan"

    def __post_init__(self):
        super().__post_init__()
        check_statistics(self.statistics)
        if not 1 <= self.scales <= self.heads <= len(self.levels):
            raise ConfigError(
                f"FeatureUNetArchitecture: 1 <= scales <= heads <= number of levels is needed, got scales {self.scales}, heads "
                f"{self.heads} and {len(self.levels)} levels"
            )


class FeatureUNet(FeatureNetwork):
    """U-Net with max-pooling; each resolution sees the whole scan. 523,546 weights in 3-D."""

    centered = True
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": FeatureUNetArchitecture(),
        "wide": FeatureUNetArchitecture(levels=(16, 32, 32, 64, 64)),
        "light": FeatureUNetArchitecture(levels=(8, 8, 16, 16), channels=8, heads=3),
    }

    def __init__(self, architecture: FeatureUNetArchitecture | None = None):
        super().__init__()
        self.architecture = a = architecture or self.variant()
        d, slope, own = a.ndim, a.slope, {"statistics": a.statistics}
        self.down = nn.ModuleList(twice(d, i, o, slope, down=True, **own) for i, o in zip((1, *a.levels), a.levels))
        coarse_to_fine = a.levels[::-1]
        self.up = nn.ModuleList(
            twice(d, below + here, here, slope, down=False, **own)
            for below, here in zip(coarse_to_fine, coarse_to_fine[1:])
        )
        self.head = nn.ModuleList(
            nn.Sequential(GroupConvolution(d, c, a.channels, slope, **own), Convolution(d, a.channels, a.channels))
            for c in a.levels[: a.heads]
        )
        self.multiple = 2 ** (len(a.levels) - 1)

    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        a, skips, out = self.architecture, [], []
        x = scan
        for number, block in enumerate(self.down):
            x = block(POOL[a.ndim](x, 2) if number else x)
            skips.append(x)
        skips.pop()
        level = len(a.levels) - 1
        while True:
            if level < a.scales:
                out.append(self.head[level](x))
            if 2**level <= finest:
                return tuple(out)
            below = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.up[len(a.levels) - 1 - level](torch.cat((skips.pop(), below), 1))
            level -= 1


@dataclass(frozen=True)
class EncodersArchitecture(Architecture):
    """levels: channels per level, fine to coarse; the encoder of stride 2^k has the first k + 1. channels: of the features.

    slope: of the leaky ReLU, 0 for the plain one. statistics: as in ``FeatureUNetArchitecture``.
    """

    levels: tuple[int, ...] = (16, 32, 64)
    channels: int = 16
    slope: float = 0.0
    statistics: str = "scan"

    def __post_init__(self):
        super().__post_init__()
        check_statistics(self.statistics)

    @property
    def scales(self) -> int:
        """One per level."""
        return len(self.levels)


class FeatureUNetEncoders(FeatureNetwork):
    """An encoder of its own for each resolution, so that fine features see little of the scan. 184,174 weights in 3-D."""

    centered = True
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": EncodersArchitecture(),
        "light": EncodersArchitecture(levels=(8, 16, 32), channels=8),
    }

    def __init__(self, architecture: EncodersArchitecture | None = None):
        super().__init__()
        self.architecture = a = architecture or self.variant()
        self.encoders = nn.ModuleList()
        for count in range(len(a.levels), 0, -1):
            sizes = a.levels[:count]
            blocks = nn.ModuleList(
                twice(a.ndim, i, o, a.slope, down=True, statistics=a.statistics) for i, o in zip((1, *sizes), sizes)
            )
            blocks.append(Convolution(a.ndim, sizes[-1], a.channels))
            self.encoders.append(blocks)
        self.multiple = 2 ** (len(a.levels) - 1)

    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        return tuple(self._encoded(blocks, scan) for blocks, s in zip(self.encoders, self.strides) if s >= finest)

    def _encoded(self, blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        *encoder, head = blocks
        for number, block in enumerate(encoder):
            x = block(POOL[self.architecture.ndim](x, 2) if number else x)
        return head(x)
