"""Feature images that correct self-similarity descriptors: what contrast cannot change goes in, what learning adds comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._descriptors import described, descriptor_channels
from ._feature_parts import Convolution
from .base import Architecture, FeatureNetwork

AVERAGE = {2: F.avg_pool2d, 3: F.avg_pool3d}
MAGNITUDE = 2.0
"""Features are so many times as large as descriptors: their squared differences then tell places apart in a cross-entropy."""


@dataclass(frozen=True)
class MINDNetArchitecture(Architecture):
    """hidden: channels between. channels: of the features. scales: how many resolutions. slope: of the leaky ReLU."""

    hidden: int = 16
    channels: int = 16
    scales: int = 3
    slope: float = 0.01


class MINDNet(FeatureNetwork):
    """MIND-SSC descriptors of the scan at each resolution, mixed and corrected by convolutions that also see the coarser resolution.

    Each resolution's features are ``A d + H(1 - d, hidden of the coarser one)``: d are the descriptors (Heinrich et al., 2013) of the
    scan averaged over the stride, A a matrix that starts as the identity, and H three convolutions whose last one starts at 0. The
    weights are the same at all resolutions, and nothing is normalized over the scan. An untrained network compares as MIND does,
    and a scan and its negative always have the same features. 26,160 weights in 3-D.
    """

    centered = True
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "base": MINDNetArchitecture(),
        "light": MINDNetArchitecture(hidden=8, channels=8),
    }

    def __init__(self, architecture: MINDNetArchitecture | None = None):
        super().__init__()
        self.architecture = a = architecture or self.variant()
        count = descriptor_channels(a.ndim)
        self.first = Convolution(a.ndim, count + a.hidden, a.hidden)
        self.second = Convolution(a.ndim, a.hidden, a.hidden)
        self.head = Convolution(a.ndim, a.hidden, a.channels)
        self.mix = Convolution(a.ndim, count, a.channels, kernel=1, bias=False)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, a.slope)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(a.channels, count).reshape(self.mix.weight.shape))
        self.multiple = 2 ** (a.scales - 1)

    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        out, hidden = [], None
        for stride in (s for s in self.strides if s >= finest):
            seen = described(self._averaged(scan, stride))
            if hidden is None:
                above = seen.new_zeros((len(scan), self.architecture.hidden, *seen.shape[2:]))
            else:
                above = F.interpolate(hidden, scale_factor=2, mode="nearest").to(seen.dtype)
            hidden = self._activated(self.first, torch.cat((1 - seen, above), 1))
            hidden = self._activated(self.second, hidden)
            out.append(MAGNITUDE * (self.mix(seen) + self.head(hidden)))
        return tuple(out)

    def _activated(self, layer: Convolution, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(layer(x), self.architecture.slope)

    def _averaged(self, scan: torch.Tensor, stride: int) -> torch.Tensor:
        return AVERAGE[self.architecture.ndim](scan, stride) if stride > 1 else scan
