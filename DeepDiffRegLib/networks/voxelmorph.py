"""VoxelMorph: VM-1, VM-2 (Balakrishnan et al., CVPR 2018) and the diffeomorphic, probabilistic one (Dalca et al., 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .base import Architecture, Network
from .blocks import CONVOLVE, Conv
from .unet import UNet, UNetArchitecture

FLOW_SD, LOG_VARIANCE_SD, LOG_VARIANCE_BIAS = 1e-5, 1e-10, -10.0


def head(features: UNet, sd: float, bias: float = 0.0) -> Conv:
    """A convolution to d components without activation, starting near a constant."""
    conv = Conv(features.ndim, features.outputs, features.ndim, slope=None)
    nn.init.normal_(conv.weight, 0.0, sd)
    nn.init.constant_(conv.bias, bias)
    return conv


class VoxelMorph1(Network):
    """VM-1: displacement in voxels at full resolution; nothing keeps it from folding. 259,675 weights in 3-D."""

    kind, stride = "displacement", 1
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": UNetArchitecture(half=(8,), full=(8,)),
        "light": UNetArchitecture(encoder=(8, 16, 16, 16), bottom=(16,), decoder=(16, 16, 16), half=(8,), full=(8,)),
    }

    def __init__(self, architecture: UNetArchitecture | None = None):
        super().__init__()
        self.architecture = architecture or self.variant()
        self.features = UNet(self.architecture)
        self.flow = head(self.features, FLOW_SD)
        self.multiple = self.features.multiple

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], None]:
        return (self.features.headed(pair, self.flow),), None


class VoxelMorph2(VoxelMorph1):
    """VM-2: VM-1 with more channels and one more convolution at full resolution. 300,547 weights in 3-D."""

    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": UNetArchitecture(half=(32,), full=(16, 16)),
        "light": UNetArchitecture(encoder=(8, 16, 16, 16), bottom=(16,), decoder=(16, 16, 16), half=(16,), full=(8, 8)),
    }


class VoxelMorphDiff(Network):
    """Mean and log-variance of a stationary velocity at half resolution, in voxels of that resolution per unit time.

    Variants: ``released`` (266,374 weights in 3-D), ``journal`` (the wider one of the text, skips assumed), ``light``.
    """

    kind, stride = "velocity", 2
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "released": UNetArchitecture(half=(16,)),
        "journal": UNetArchitecture(
            first=(32,), encoder=(64, 64, 64, 64), bottom=(), decoder=(64, 64, 64), half=()
        ),
        "light": UNetArchitecture(encoder=(8, 16, 16, 16), bottom=(16,), decoder=(16, 16, 16), half=(16,)),
    }  # fmt: skip

    def __init__(self, architecture: UNetArchitecture | None = None):
        super().__init__()
        self.architecture = architecture or self.variant()
        self.features = UNet(self.architecture)
        self.flow = head(self.features, FLOW_SD)
        self.log_sigma = head(self.features, LOG_VARIANCE_SD, LOG_VARIANCE_BIAS)
        self.multiple = self.features.multiple

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        x, d = self.features(pair), self.architecture.ndim
        parts = (self.flow, self.log_sigma)
        weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        both = CONVOLVE[d](x, weight, bias, padding=1)  # one convolution for both heads: x is read once
        return (both[:, :d],), both[:, d:]
