"""Windowed self-attention with shifted windows (Swin, Liu et al., ICCV 2021) in 2-D and 3-D: an image to features of 4 scales."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import padded_to_multiple

PATCH = 4
WINDOWS_AT_ONCE = 64
"""Windows that attention is computed for at a time: bounds the memory of bias and mask."""
Shape = tuple[int, ...]


class Attention(nn.Module):
    """Self-attention inside windows with a learnt bias per relative position. tokens: (windows, n, channels)."""

    def __init__(self, channels: int, heads: int, window: Shape):
        super().__init__()
        self.heads, self.full = heads, window
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        entries = 1
        for n in window:
            entries *= 2 * n - 1
        self.bias = nn.Parameter(torch.empty((entries, heads)))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, tokens: torch.Tensor, window: Shape, mask: torch.Tensor | None) -> torch.Tensor:
        """window: sizes of these windows, at most the full ones. mask: (windows of one image, n, n), 0 or -inf."""
        parts = []
        bias = self.bias[relative_positions(window, self.full).to(self.bias.device)].permute(2, 0, 1)
        for start in range(0, len(tokens), WINDOWS_AT_ONCE):
            part = tokens[start : start + WINDOWS_AT_ONCE]
            here = bias
            if mask is not None:
                which = torch.arange(start, start + len(part), device=mask.device) % len(mask)
                here = bias + mask[which, None]
            parts.append(self._attend(part, here))
        return torch.cat(parts)

    def _attend(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        b, n, c = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.project(out.transpose(1, 2).reshape(b, n, c))


@lru_cache(maxsize=32)
def relative_positions(window: Shape, full: Shape) -> torch.Tensor:
    """(n, n) rows of the bias table (made for windows of size ``full``) for every two places of a window."""
    axes = torch.meshgrid(*(torch.arange(n) for n in window), indexing="ij")
    place = torch.stack(axes).flatten(1)
    offset = place[:, :, None] - place[:, None, :]
    row = torch.zeros_like(offset[0])
    for axis, n in enumerate(full):
        row = row * (2 * n - 1) + offset[axis] + n - 1
    return row


@lru_cache(maxsize=32)
def window_mask(shape: Shape, window: Shape, shift: Shape) -> torch.Tensor | None:
    """(windows, n, n), -inf between places that are no neighbors: across the image's ends, or padding; None when all are."""
    sizes = tuple(n + (-n) % w for n, w in zip(shape, window))
    if sizes == shape and not any(shift):
        return None
    region = torch.zeros(sizes)
    for axis, (n, padded, w, s) in enumerate(zip(shape, sizes, window, shift)):
        place = torch.arange(padded)
        side = (place >= padded - w).float() + (place >= padded - s).float() if s else torch.zeros(padded)
        side = side + 3.0 * (torch.roll(place, -s) >= n)
        region = 10 * region + side.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    ids = windows(region[None, ..., None], window)[..., 0]
    return torch.zeros((), dtype=torch.float32).where(ids[:, :, None] == ids[:, None, :], float("-inf"))


def windows(x: torch.Tensor, window: Shape) -> torch.Tensor:
    """(B, *shape, C) cut into (B * windows, n, C); shapes are multiples of the window."""
    d = len(window)
    counts = [n // w for n, w in zip(x.shape[1:-1], window)]
    x = x.reshape(x.shape[0], *(v for pair in zip(counts, window) for v in pair), x.shape[-1])
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
    n = 1
    for w in window:
        n *= w
    return x.permute(order).reshape(-1, n, x.shape[-1])


def merged_windows(tokens: torch.Tensor, window: Shape, shape: Shape) -> torch.Tensor:
    """The inverse of ``windows``: (B, *shape, C)."""
    d = len(window)
    counts = [n // w for n, w in zip(shape, window)]
    x = tokens.reshape(-1, *counts, *window, tokens.shape[-1])
    order = (0, *(v for axis in range(d) for v in (1 + axis, 1 + d + axis)), 2 * d + 1)
    return x.permute(order).reshape(-1, *shape, tokens.shape[-1])


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); every second block has its windows shifted by half."""

    def __init__(self, channels: int, heads: int, window: Shape, shifted: bool, mlp_ratio: int, drop: float):
        super().__init__()
        self.window, self.shifted, self.drop = window, shifted, drop
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, window)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, *shape, C) to the same shape. Windows larger than the image are cut to it and not shifted."""
        shape = tuple(x.shape[1:-1])
        window = tuple(min(w, n) for w, n in zip(self.window, shape))
        shift = tuple(w // 2 if self.shifted and n > w else 0 for w, n in zip(window, shape))
        axes = tuple(range(1, len(shape) + 1))
        y = _padded(self.norm1(x), window)
        sizes = tuple(y.shape[1:-1])
        y = torch.roll(y, [-s for s in shift], axes)
        mask = window_mask(shape, window, shift)
        y = self.attention(windows(y, window), window, None if mask is None else mask.to(x.device))
        y = torch.roll(merged_windows(y, window, sizes), shift, axes)
        x = x + self._kept(y[(slice(None), *(slice(0, n) for n in shape))])
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, branch: torch.Tensor) -> torch.Tensor:
        """While training, the branch is left out of some of the batch's images (stochastic depth)."""
        if not self.training or self.drop == 0.0:
            return branch
        keep = torch.rand((len(branch), *(1,) * (branch.ndim - 1)), device=branch.device) >= self.drop
        return branch * keep / (1 - self.drop)


def _padded(x: torch.Tensor, window: Shape) -> torch.Tensor:
    """(B, *shape, C) continued by zeros to multiples of the window."""
    missing = [(-n) % w for n, w in zip(x.shape[1:-1], window)]
    return F.pad(x, [0, 0, *(v for m in reversed(missing) for v in (0, m))]) if any(missing) else x


class Merging(nn.Module):
    """2 voxels per axis to one with twice the channels."""

    def __init__(self, ndim: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(2**ndim * channels)
        self.reduce = nn.Linear(2**ndim * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, *shape, C) to (B, *shape / 2, 2 C)."""
        d = x.ndim - 2
        x = padded_to_multiple(x.movedim(-1, 1), 2).movedim(1, -1)
        shape = [n // 2 for n in x.shape[1:-1]]
        x = x.reshape(x.shape[0], *(v for n in shape for v in (n, 2)), x.shape[-1])
        order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
        return self.reduce(self.norm(x.permute(order).reshape(x.shape[0], *shape, -1)))


class SwinEncoder(nn.Module):
    """A pair (B, 2, *shape) to features at 1/4, 1/8, 1/16, ... with C, 2 C, 4 C, ... channels, each (B, C, *shape / s)."""

    def __init__(
        self, ndim: int, channels: int, depths: Shape, heads: Shape, window: Shape, mlp_ratio: int, drop_path: float
    ):
        super().__init__()
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.embed = convolution(2, channels, PATCH, PATCH)
        self.embed_norm = nn.LayerNorm(channels)
        drops = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages, self.merges, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, (depth, number) in enumerate(zip(depths, heads)):
            size = channels * 2**stage
            blocks = [Block(size, number, window, i % 2 == 1, mlp_ratio, drops.pop(0)) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            self.norms.append(nn.LayerNorm(size))
            if stage < len(depths) - 1:
                self.merges.append(Merging(ndim, size))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pair: torch.Tensor) -> list[torch.Tensor]:
        x = self.embed_norm(self.embed(pair).movedim(1, -1))
        features = []
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms)):
            x = stage(x)
            features.append(norm(x).movedim(-1, 1))
            if number < len(self.merges):
                x = self.merges[number](x)
        return features
