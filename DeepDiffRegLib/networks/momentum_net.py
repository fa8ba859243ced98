"""Networks that predict where a flow starts: a momentum, and for RDMM the stiffness too (Shen et al., CVPR and NeurIPS 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from .base import Architecture, Kernels, Network
from .blocks import TRANSPOSED, Conv, laid_out

LEAKY = 0.01
MOMENTUM_SD = 1e-3
FIRST_GAIN = 0.2
"""Of the normalization before the softmax of the pre-weights: they start near their prior."""
WIDEST = (0.05, 0.1, 0.15, 0.2)
LEAST = 1e-3
"""Pre-weights are raised to this before they are normalized."""


@dataclass(frozen=True)
class MomentumArchitecture(Architecture):
    """first: channels at full resolution. encoder: at 1/2, 1/4, ... decoder: after each concatenation, coarse to fine, down to 1/4
    (two convolutions each). last: before the output at 1/2.

    sigmas: of the Gaussians, in shares of the longest edge of the grid. weights: of the Gaussians, sum 1 (with local weights: where
    they start). blur: s.d. of the filter of the pre-weights, likewise. stiffness: channels of the pre-weight network at 1/1 to 1/8.
    """

    first: int = 16
    encoder: tuple[int, ...] = (32, 64, 128, 256)
    decoder: tuple[int, ...] = (128, 32)
    last: int = 16
    sigmas: tuple[float, ...] = WIDEST
    weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    blur: float = 0.03
    stiffness: tuple[int, ...] = (8, 16, 16, 32)

    def __post_init__(self):
        super().__post_init__()
        if len(self.decoder) != len(self.encoder) - 2 or self.first % 2 or self.encoder[0] % 2:
            raise ConfigError(
                "MomentumArchitecture: decoder needs two entries less than encoder, and first and encoder[0] must be even, got "
                f"{self.first}, {self.encoder} and {self.decoder}"
            )
        if len(self.stiffness) < 2:
            raise ConfigError(f"MomentumArchitecture: stiffness needs two levels at least, got {self.stiffness}")
        if not self.blur >= 0:
            raise ConfigError(f"MomentumArchitecture: blur must not be negative, got {self.blur}")
        Kernels(self.sigmas, self.weights)


class MomentumUNet(nn.Module):
    """Residual U-Net: (B, 2, *shape), sizes divisible by 2^len(encoder), to (B, d, *shape / 2).

    Each level of the encoder is one convolution of stride 2 and others whose result is added to it; the first of them keep the two
    scans apart.
    """

    def __init__(self, shape: MomentumArchitecture):
        super().__init__()
        d = shape.ndim

        def conv(inputs: int, outputs: int, slope: float | None = 0.0, stride: int = 1, groups: int = 1) -> Conv:
            return Conv(d, inputs, outputs, stride, slope, "symmetric", groups)

        half = shape.encoder[0]
        self.first = conv(2, shape.first, groups=2)
        self.levels = nn.ModuleList([nn.ModuleList([
            conv(shape.first, half, stride=2, groups=2), conv(half, half, groups=2), conv(half, half, None),
        ])])  # fmt: skip
        for number, (below, here) in enumerate(zip(shape.encoder, shape.encoder[1:]), 2):
            inner = [conv(here, here)] if number < len(shape.encoder) else []
            self.levels.append(nn.ModuleList([conv(below, here, stride=2), *inner, conv(here, here, None)]))
        self.ups, self.merges = nn.ModuleList(), nn.ModuleList()
        channels = shape.encoder[-1]
        for skip, outputs in zip(shape.encoder[-2:0:-1], shape.decoder):
            self.ups.append(Up(d, channels, skip))
            self.merges.append(nn.Sequential(conv(2 * skip, outputs, LEAKY), conv(outputs, outputs, LEAKY)))
            channels = outputs
        self.ups.append(Up(d, channels, half))
        self.merges.append(nn.Sequential(conv(2 * half, shape.last, None), conv(shape.last, d, None)))
        nn.init.normal_(self.merges[-1][-1].weight, 0.0, MOMENTUM_SD)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """The field, linear in the last features."""
        x, skips = self.first(pair), []
        for level in self.levels:
            x = level[0](x)
            inner = x
            for conv in level[1:]:
                inner = conv(inner)
            x = F.relu(x + inner)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.ups, self.merges):
            x = merge(torch.cat((up(x), skips.pop()), 1))
        return x


class WeightUNet(nn.Module):
    """Small U-Net: (B, 2, *shape), sizes divisible by 2^(len(channels) - 1), to (B, N, *shape / 2) of zero mean and their own gains."""

    def __init__(self, ndim: int, channels: tuple[int, ...], outputs: int):
        super().__init__()

        def conv(inputs: int, outputs: int, stride: int = 1, slope: float | None = LEAKY) -> Conv:
            return Conv(ndim, inputs, outputs, stride, slope, "symmetric")

        self.first = conv(2, channels[0])
        self.downs = nn.ModuleList(conv(a, b, 2) for a, b in zip(channels, channels[1:]))
        self.ups = nn.ModuleList(Up(ndim, a, b) for a, b in zip(channels[:1:-1], channels[-2:0:-1]))
        self.merges = nn.ModuleList(conv(2 * c, c) for c in channels[-2:0:-1])
        self.last = conv(channels[1], outputs, slope=None)
        self.norm = nn.GroupNorm(1, outputs)
        nn.init.constant_(self.norm.weight, FIRST_GAIN)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Changes of the logarithms of the pre-weights."""
        x, skips = self.first((pair - 0.5) / 0.5), []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.ups, self.merges):
            x = merge(torch.cat((up(x), skips.pop()), 1))
        return self.norm(self.last(x).contiguous())


class Up(nn.Module):
    """Transposed convolution of width and stride 2, then LeakyReLU: (B, inputs, *shape) to (B, outputs, *(2 shape))."""

    def __init__(self, ndim: int, inputs: int, outputs: int):
        super().__init__()
        self.ndim = ndim
        self.weight = nn.Parameter(torch.empty((inputs, outputs, *(2,) * ndim)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(TRANSPOSED[self.ndim](laid_out(x), self.weight, self.bias, stride=2), LEAKY)


class LDDMMNet(Network):
    """Initial momentum of a geodesic at half resolution, in longest axes of the scan. Variants ``paper`` and ``light``."""

    kind, stride, centered, local_reach = "momentum", 2, True, False
    stationary: ClassVar[bool] = False
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": MomentumArchitecture(),
        "light": MomentumArchitecture(first=8, encoder=(16, 32, 32, 48), decoder=(32, 24), last=16),
    }

    def __init__(self, architecture: MomentumArchitecture | None = None):
        super().__init__()
        self.architecture = shape = architecture or self.variant()
        self.momentum = MomentumUNet(shape)
        self.multiple = 2 ** len(shape.encoder)

    @property
    def kernels(self) -> Kernels:
        """The metric that turns the momentum into a velocity."""
        shape = self.architecture
        return Kernels(shape.sigmas, shape.weights, stationary=self.stationary)

    def unit_voxels(self, size: tuple[int, ...]) -> float:
        return float(max(size))

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], None]:
        # bounded like the optimised one of the authors: nothing moves farther than the scan is long, so that no flow diverges
        return (self.momentum(pair).clamp(-1.0, 1.0),), None


class VSVFNet(LDDMMNet):
    """Momentum of a stationary velocity v = K m."""

    stationary = True


class RDMMNet(LDDMMNet):
    """Momentum and pre-weights h(0): softmax of what a second network says, sqrt(weights) where it says nothing; |h| = 1."""

    local = True

    def __init__(self, architecture: MomentumArchitecture | None = None):
        super().__init__(architecture)
        shape = self.architecture
        self.stiffness = WeightUNet(shape.ndim, shape.stiffness, len(shape.sigmas))
        self.multiple = 2 ** max(len(shape.encoder), len(shape.stiffness) - 1)

    @property
    def kernels(self) -> Kernels:
        shape = self.architecture
        return Kernels(shape.sigmas, shape.weights, shape.blur)

    def predict_weights(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 2, *shape) to h(0), (B, N, *shape / 2)."""
        said = self.stiffness(pair)
        first = said.new_tensor(self.architecture.weights).clamp(min=LEAST**2).log() / 2
        h = torch.softmax(said + first.reshape(1, -1, *(1,) * (said.ndim - 2)), 1).clamp(min=LEAST)
        return h / torch.linalg.vector_norm(h, dim=1, keepdim=True)
