"""The U-Net of the VoxelMorph family: strided convolutions down, enlarge-and-concatenate up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ConfigError
from ._descriptors import described, descriptor_channels
from .base import Architecture
from .blocks import PADDINGS, Conv, UpConv

SLAB_ROWS = 16
"""Rows of the first axis that full-resolution layers work on at a time when nothing is differentiated."""

SEEN = ("scans", "descriptors")
"""Gray values as they are, or what contrast does not change (``_descriptors``)."""


@dataclass(frozen=True)
class UNetArchitecture(Architecture):
    """Channels of each convolution, in the order of the data.

    first: at full resolution. encoder: stride 2 each. bottom: at the coarsest level. decoder: after each enlargement, with the
    encoder's features of that level. half: at the last of these levels. full: after one more enlargement with the input pair
    (empty: the output stays at half resolution). slope: of the LeakyReLU. padding: ``blocks.PADDINGS``. sees: of ``SEEN``, what the
    encoder is shown; ``descriptors`` are the same in many contrasts.
    """

    first: tuple[int, ...] = ()
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    bottom: tuple[int, ...] = (32,)
    decoder: tuple[int, ...] = (32, 32, 32)
    half: tuple[int, ...] = (8,)
    full: tuple[int, ...] = ()
    slope: float = 0.2
    padding: str = "tensorflow"
    sees: str = "scans"

    def __post_init__(self):
        super().__post_init__()
        if self.sees not in SEEN:
            raise ConfigError(f"UNetArchitecture: sees must be one of {SEEN}, got {self.sees!r}")
        if len(self.decoder) != len(self.encoder) - 1 or not self.encoder:
            raise ConfigError(
                f"UNetArchitecture: decoder needs one entry less than encoder, got {len(self.decoder)} and {len(self.encoder)}"
            )
        if self.padding not in PADDINGS:
            raise ConfigError(f"UNetArchitecture: padding must be one of {PADDINGS}, got {self.padding!r}")


class UNet(nn.Module):
    """Features of a pair: (B, 2, *shape), sizes divisible by 2^len(encoder), to (B, outputs, *shape or *shape / 2)."""

    def __init__(self, shape: UNetArchitecture):
        super().__init__()
        d, slope = shape.ndim, shape.slope
        self.ndim, self.sees = d, shape.sees
        inputs = 2 if self.sees == "scans" else 2 * descriptor_channels(d)

        def convs(inputs: int, channels: tuple[int, ...], stride: int = 1) -> nn.ModuleList:
            sizes = (inputs, *channels)
            return nn.ModuleList(Conv(d, a, b, stride, slope, shape.padding) for a, b in zip(sizes, sizes[1:]))

        self.first = convs(inputs, shape.first)
        self.encoder = convs((inputs, *shape.first)[-1], shape.encoder, stride=2)
        self.bottom = convs(shape.encoder[-1], shape.bottom)
        channels = (*shape.encoder, *shape.bottom)[-1]
        self.decoder = nn.ModuleList()
        for skip, outputs in zip(shape.encoder[-2::-1], shape.decoder):
            self.decoder.append(UpConv(d, channels, skip, outputs, slope))
            channels = outputs
        self.at_half = convs(channels, shape.half)
        channels = (channels, *shape.half)[-1]
        self.at_full = nn.ModuleList()
        if shape.full:
            self.at_full.append(UpConv(d, channels, 2, shape.full[0], slope))
            self.at_full.extend(convs(shape.full[0], shape.full[1:]))
            channels = shape.full[-1]
        self.outputs = channels
        self.multiple = 2 ** len(shape.encoder)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """All features at the output's resolution."""
        x = self.coarse(pair)
        if not self.at_full:
            return x
        x = self.at_full[0](x, pair)
        for conv in self.at_full[1:]:
            x = conv(x)
        return x

    def coarse(self, pair: torch.Tensor) -> torch.Tensor:
        """Features at half resolution."""
        x, skips = pair if self.sees == "scans" else 1 - described(pair), []
        for conv in self.first:
            x = conv(x)
        for conv in self.encoder:
            x = conv(x)
            skips.append(x)
        skips.pop()
        for conv in self.bottom:
            x = conv(x)
        for up in self.decoder:
            x = up(x, skips.pop())
        for conv in self.at_half:
            x = conv(x)
        return x

    def headed(self, pair: torch.Tensor, head: Conv) -> torch.Tensor:
        """``head(self(pair))`` without ever holding all full-resolution features (when nothing is differentiated).

        Rows of the first axis are worked on in slabs, each with as many rows around it as the convolutions see.
        """
        if not self.at_full or torch.is_grad_enabled():
            return head(self(pair))
        x, halo = self.coarse(pair), len(self.at_full) + 1
        halo += halo % 2
        rows = pair.shape[2]
        out = pair.new_empty((pair.shape[0], head.weight.shape[0], *pair.shape[2:]))
        for start in range(0, rows, SLAB_ROWS):
            stop = min(start + SLAB_ROWS, rows)
            low, high = max(start - halo, 0), min(stop + halo, rows)
            out[:, :, start:stop] = self._slab(x, pair, head, low, high)[:, :, start - low : stop - low]
        return out

    def _slab(self, x: torch.Tensor, pair: torch.Tensor, head: Conv, low: int, high: int) -> torch.Tensor:
        """The head's values of rows ``low`` to ``high``; those near a cut are not to be used."""
        y = self.at_full[0](x[:, :, low // 2 : high // 2], pair[:, :, low:high])
        for conv in self.at_full[1:]:
            y = conv(y)
        return head(y)
