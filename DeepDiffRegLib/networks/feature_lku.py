"""Feature images of one scan by large-kernel U-Nets (blocks: Jia et al., 2022; as features: Jena et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..errors import ConfigError
from ._feature_parts import Convolution, Enlarge, InstanceConvolution, LargeKernel
from .base import Architecture, FeatureNetwork

LEVELS = 5
"""Resolutions inside LKU; the coarser four have a head in the authors' network, the coarsest of which is not used."""


@dataclass(frozen=True)
class LKUArchitecture(Architecture):
    """width: channels at full resolution. channels: of the features. scales: how many resolutions come out, 1 to 4."""

    width: int = 8
    channels: int = 16
    scales: int = 3

    def __post_init__(self):
        super().__post_init__()
        if min(self.width, self.channels) < 1 or not 1 <= self.scales < LEVELS:
            raise ConfigError(f"LKUArchitecture: positive sizes and 1 to 4 scales are needed, got {self}")


def down(ndim: int, inputs: int, outputs: int) -> nn.Sequential:
    """Half the voxels, then a large-kernel block."""
    return nn.Sequential(InstanceConvolution(ndim, inputs, outputs, stride=2), LargeKernel(ndim, outputs))


class LKU(FeatureNetwork):
    """Large-kernel U-Net with strided convolutions. 2,295,518 weights in 3-D (``wide``: 8,972,070; ``narrow``: 1,768,992)."""

    centered = False
    multiple = 2 ** (LEVELS - 1)
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": LKUArchitecture(),
        "wide": LKUArchitecture(width=16),
        "narrow": LKUArchitecture(width=7),
        "light": LKUArchitecture(width=3, channels=8),
    }

    def __init__(self, architecture: LKUArchitecture | None = None):
        super().__init__()
        self.architecture = a = architecture or self.variant()
        d, c = a.ndim, a.width
        sizes = (c, 2 * c, 4 * c, 8 * c, 8 * c)
        self.stem = nn.Sequential(InstanceConvolution(d, 1, c), InstanceConvolution(d, c, c))
        self.down = nn.ModuleList(down(d, i, o) for i, o in zip(sizes, sizes[1:]))
        entering, leaving, between = (
            (8 * c, 4 * c, 2 * c, 2 * c),
            (4 * c, 2 * c, 2 * c, 2 * c),
            (8 * c, 4 * c, 4 * c, 2 * c),
        )
        joined = [i + skip for i, skip in zip(entering, sizes[-2::-1])]
        self.up = nn.ModuleList(Enlarge(d, i) for i in entering)
        self.merge = nn.ModuleList(
            nn.Sequential(InstanceConvolution(d, i, m), InstanceConvolution(d, m, o))
            for i, m, o in zip(joined, between, leaving)
        )
        seen = (*joined[:-1], leaving[-1])
        self.head = nn.ModuleList(Convolution(d, i, a.channels, bias=False) for i in seen)

    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        x = self.stem(scan)
        skips, out = [x], []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for number, stride in enumerate((8, 4, 2, 1)):
            x = torch.cat((self.up[number](x), skips.pop()), 1)
            if stride == 1:
                x = self.merge[number](x)
            if stride <= self.strides[0]:
                out.append(self.head[number](x))
            if stride <= finest:
                break
            x = self.merge[number](x)
        return tuple(out)


@dataclass(frozen=True)
class LKUEncodersArchitecture(Architecture):
    """width: channels at full resolution. channels: of the features. scales: how many resolutions come out.

    large_at_full: large-kernel blocks at full resolution, too.
    """

    width: int = 16
    channels: int = 16
    scales: int = 3
    large_at_full: bool = False

    def __post_init__(self):
        super().__post_init__()
        if min(self.width, self.channels, self.scales) < 1:
            raise ConfigError(f"LKUEncodersArchitecture: positive sizes are needed, got {self}")


class LKUEncoders(FeatureNetwork):
    """A large-kernel encoder of its own for each resolution. 1,094,012 weights in 3-D (``full``: 1,308,527)."""

    centered = False
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": LKUEncodersArchitecture(),
        "full": LKUEncodersArchitecture(large_at_full=True),
        "light": LKUEncodersArchitecture(width=4, channels=8),
    }

    def __init__(self, architecture: LKUEncodersArchitecture | None = None):
        super().__init__()
        self.architecture = a = architecture or self.variant()
        self.encoders = nn.ModuleList(self._encoder(level) for level in reversed(range(a.scales)))
        self.multiple = 2 ** (a.scales - 1)

    def _encoder(self, level: int) -> nn.Sequential:
        a = self.architecture
        d, c = a.ndim, a.width
        parts = [InstanceConvolution(d, 1, c)]
        parts += [LargeKernel(d, c), LargeKernel(d, c)] if a.large_at_full else [InstanceConvolution(d, c, c)]
        parts += [down(d, c * 2**k, c * 2 ** (k + 1)) for k in range(level)]
        return nn.Sequential(*parts, Convolution(d, c * 2**level, a.channels, bias=False))

    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        return tuple(encoder(scan) for encoder, s in zip(self.encoders, self.strides) if s >= finest)
