"""What the TransMorph networks share: their architecture, the encoder of either kind, the decoder to a quarter resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from .base import Architecture
from .blocks import CONVOLVE, laid_out
from .swin import SwinEncoder

BACKBONES = ("swin", "convolutions")
SLOPE = 0.01
HEAD_SD = 1e-5
POOLING = {2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class TransMorphArchitecture(Architecture):
    """backbone: ``swin`` (windowed attention) or ``convolutions`` (light). channels: C at 1/4 resolution, doubled per stage.

    depths, heads: per stage; convolutions use only the number of depths. window: in tensor order, the last ``ndim`` count.
    head_channels: before the last convolution. Of the time-varying network alone: steps, the number of velocities;
    authors_exact, whether they are followed as in the authors' code, for weights that were trained with it.
    """

    backbone: str = "swin"
    channels: int = 96
    depths: tuple[int, ...] = (2, 2, 4, 2)
    heads: tuple[int, ...] = (4, 4, 8, 8)
    window: tuple[int, ...] = (5, 6, 7)
    mlp_ratio: int = 4
    drop_path: float = 0.3
    head_channels: int = 16
    steps: int = 8
    authors_exact: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.backbone not in BACKBONES:
            raise ConfigError(f"TransMorphArchitecture: backbone must be one of {BACKBONES}, got {self.backbone!r}")
        if len(self.heads) != len(self.depths) or len(self.depths) < 2 or len(self.window) < self.ndim:
            raise ConfigError(
                "TransMorphArchitecture: depths and heads need the same length, at least 2, and window one size per axis, "
                f"got {self.depths}, {self.heads} and {self.window}"
            )
        if self.channels % 2 or any(self.channels * 2**i % n for i, n in enumerate(self.heads)):
            raise ConfigError(
                f"TransMorphArchitecture: channels must be even and divisible by the heads, got {self.channels}, {self.heads}"
            )

    @property
    def multiple(self) -> int:
        """Sizes of the input must be divisible by this."""
        return 4 * 2 ** (len(self.depths) - 1)


class NormConv(nn.Module):
    """3-wide convolution without bias, each channel normalized over the image, LeakyReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.ndim, self.stride = ndim, stride
        self.weight = nn.Parameter(torch.empty((outputs, inputs, *(3,) * ndim)))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = CONVOLVE[self.ndim](laid_out(x), self.weight, None, self.stride, 1)
        if x[0, 0].numel() > 1:  # a single voxel has no variance to normalize by
            x = F.instance_norm(x)
        return F.leaky_relu(x, SLOPE, inplace=True)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    """(B, C, *shape) at twice the size, linear in between, outer faces kept."""
    return F.interpolate(x, scale_factor=2, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


class UpBlock(nn.Module):
    """Linear enlargement twice, the skip beside it, two convolutions."""

    def __init__(self, ndim: int, below: int, skip: int, outputs: int):
        super().__init__()
        self.first, self.second = NormConv(ndim, below + skip, outputs), NormConv(ndim, outputs, outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """x: (B, below, *shape); skip: (B, skip, *2 shape)."""
        return self.joined(enlarged(x), skip)

    def joined(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The same with x enlarged already."""
        return self.second(self.first(torch.cat((x, skip), 1)))


class ConvEncoder(nn.Module):
    """The light backbone: the same scales and channels as the attention's, by convolutions of stride 2."""

    def __init__(self, ndim: int, channels: int, stages: int):
        super().__init__()
        sizes = [channels * 2**i for i in range(stages)]
        self.first = NormConv(ndim, 2, channels // 2, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(NormConv(ndim, a, b, stride=2), NormConv(ndim, b, b))
            for a, b in zip((channels // 2, *sizes), sizes)
        )

    def forward(self, pair: torch.Tensor) -> list[torch.Tensor]:
        x, features = self.first(pair), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Trunk(nn.Module):
    """Encoder and decoder that all heads share: a pair to features at 1/4 resolution with C channels."""

    def __init__(self, shape: TransMorphArchitecture):
        super().__init__()
        d, c, stages = shape.ndim, shape.channels, len(shape.depths)
        if shape.backbone == "swin":
            window = shape.window[-d:]
            self.encoder = SwinEncoder(d, c, shape.depths, shape.heads, window, shape.mlp_ratio, shape.drop_path)
        else:
            self.encoder = ConvEncoder(d, c, stages)
        sizes = [c * 2**i for i in range(stages)]
        self.decoder = nn.ModuleList(UpBlock(d, 2 * n, n, n) for n in reversed(sizes[:-1]))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        *skips, x = self.encoder(pair)
        for block in self.decoder:
            x = block(x, skips.pop())
        return x


def head(ndim: int, inputs: int) -> nn.Module:
    """Convolution to d components that starts near zero."""
    convolution = (nn.Conv2d if ndim == 2 else nn.Conv3d)(inputs, ndim, 3, padding=1)
    nn.init.normal_(convolution.weight, 0.0, HEAD_SD)
    nn.init.zeros_(convolution.bias)
    return convolution


def half_size(scans: torch.Tensor) -> torch.Tensor:
    """The mean over 3 voxels per axis (zeros outside) at half as many points; the outermost points stay."""
    mode = "bilinear" if scans.ndim == 4 else "trilinear"
    means = POOLING[scans.ndim - 2](scans, 3, 1, 1)
    return F.interpolate(means, [n // 2 for n in scans.shape[2:]], mode=mode, align_corners=True)
