"""Layers of the feature networks, in 2-D and 3-D (Jena et al., 2024: blocks of its U-Nets and large-kernel U-Nets)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..registry import nearest
from .blocks import CONVOLVE, laid_out

GROUPS = 8
FADING = 0.02
"""Share of the newest scan in the statistics of a training."""
POOL = {2: F.max_pool2d, 3: F.max_pool3d}
ENLARGE = {2: "bilinear", 3: "trilinear"}
KERNELS = (3, 5, 1)
"""Of the parallel convolutions of a large-kernel block."""


class Convolution(nn.Module):
    """Odd kernel, zeros outside, so that (B, C, *shape) keeps its size, or half of it with stride 2."""

    def __init__(self, ndim: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, bias: bool = True):
        super().__init__()
        self.ndim, self.stride, self.padding = ndim, stride, kernel // 2
        self.weight = nn.Parameter(torch.empty((outputs, inputs, *(kernel,) * ndim)))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias = None
        if bias:
            bound = 1 / math.sqrt(inputs * kernel**ndim)
            self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return CONVOLVE[self.ndim](laid_out(x), self.weight, self.bias, self.stride, self.padding)


class KeptNorm(nn.GroupNorm):
    """Group normalization that keeps the mean statistics of the scans it is trained on and, evaluated, goes by those.

    A scan's own mean and variance depend on how much of a body it shows, and every feature with them.
    """

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels)
        for name, value in (("mean", torch.zeros(groups)), ("square", torch.ones(groups)), ("seen", torch.zeros(()))):
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._keep(x.detach())
            return super().forward(x)
        per_group = self.num_channels // self.num_groups
        mean, square = (t.repeat_interleave(per_group) for t in (self.mean, self.square))
        scale = self.weight * ((square - mean**2).clamp(min=0) + self.eps).rsqrt()
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul((self.bias - mean * scale).reshape(shape), x, scale.reshape(shape))

    def _keep(self, x: torch.Tensor) -> None:
        """The first scans count alike, later ones fade away."""
        with torch.no_grad():
            variance, mean = torch.var_mean(x.float().reshape(len(x), self.num_groups, -1), -1, correction=0)
            self.seen += 1
            rate = (1 / self.seen).clamp(min=FADING)
            self.mean.lerp_(mean.mean(0), rate)
            self.square.lerp_((variance + mean**2).mean(0), rate)


STATISTICS = {"scan": nn.GroupNorm, "training": KeptNorm}
"""Whose mean and variance a trained network normalizes by."""


def check_statistics(name: str) -> None:
    """``ConfigError`` for a word that is not of ``STATISTICS``."""
    if name not in STATISTICS:
        raise ConfigError(f"statistics: unknown value {name!r}{nearest(name, STATISTICS)}")


class GroupConvolution(nn.Module):
    """Group normalization, convolution without bias, leaky ReLU (slope 0: plain)."""

    def __init__(self, ndim: int, inputs: int, outputs: int, slope: float, statistics: str = "scan"):
        super().__init__()
        self.slope = slope
        self.normalize = STATISTICS[statistics](GROUPS if inputs % GROUPS == 0 else 1, inputs)
        self.convolve = Convolution(ndim, inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.convolve(self.normalize(x)), self.slope, inplace=True)


def twice(ndim: int, inputs: int, outputs: int, slope: float, down: bool, statistics: str = "scan") -> nn.Sequential:
    """Two of them; on the way down the first one has half the channels of the second, but no fewer than come in."""
    between = max(outputs // 2, inputs) if down else outputs
    return nn.Sequential(
        GroupConvolution(ndim, inputs, between, slope, statistics),
        GroupConvolution(ndim, between, outputs, slope, statistics),
    )


class InstanceConvolution(nn.Module):
    """Convolution, instance normalization, PReLU."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.convolve = Convolution(ndim, inputs, outputs, stride=stride)
        self.activate = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activate(F.instance_norm(self.convolve(x)))


class LargeKernel(nn.Module):
    """PReLU of the input plus three normalized convolutions of it, with kernels of 3, 5 and 1 voxels."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        self.convolve = nn.ModuleList(Convolution(ndim, channels, channels, kernel) for kernel in KERNELS)
        self.activate = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x
        for convolve in self.convolve:
            total = total + F.instance_norm(convolve(x))
        return self.activate(total)


class Enlarge(nn.Module):
    """Twice the voxels by linear interpolation between the outermost ones, convolution, PReLU."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        self.mode = ENLARGE[ndim]
        self.convolve = Convolution(ndim, channels, channels)
        self.activate = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=True)
        return self.activate(self.convolve(wide))
