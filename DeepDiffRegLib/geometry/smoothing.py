"""Separable Gaussian smoothing with replicated borders; sigma per axis, so anisotropic voxels are no special case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

TRUNCATE = 3.0
"""Kernels end at this many sigma and are renormalised to sum 1."""


def gaussian_taps(sigma_voxels: float, truncate: float = TRUNCATE) -> np.ndarray:
    """Odd-length float32 Gaussian kernel, sum 1; ``[1]`` for sigma 0."""
    radius = int(np.ceil(truncate * sigma_voxels)) if sigma_voxels > 0.05 else 0
    x = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (x / sigma_voxels) ** 2) if radius else np.ones(1)
    return (taps / taps.sum()).astype(np.float32)


def gaussian(
    tensor: torch.Tensor, sigma_voxels: float | Sequence[float], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth every channel of (B, C, [Z,] Y, X).

    sigma_voxels: one value or x, y[, z]. out: where to write (may be ``tensor`` itself); allocated when absent.
    """
    d = tensor.ndim - 2
    sigmas = [float(sigma_voxels)] * d if np.isscalar(sigma_voxels) else [float(s) for s in sigma_voxels]
    plain = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not tensor.requires_grad
    if plain and d == 2:
        return _fused_planes(tensor, sigmas, out)
    return (_fused if d == 3 and len(tensor) == 1 and plain else _torch)(tensor, sigmas, out)


def _fused(tensor: torch.Tensor, sigmas: list[float], out: torch.Tensor | None) -> torch.Tensor:
    from ._fused_smoothing import smooth_xy, smooth_z

    out = torch.empty_like(tensor) if out is None else out
    halves = [_half(s) for s in sigmas]
    scratch = np.empty(tuple(tensor.shape[2:]), dtype=np.float32)
    for channel in range(tensor.shape[1]):
        smooth_xy(tensor[0, channel].numpy(), halves[0], halves[1], scratch)
        smooth_z(scratch, halves[2], out[0, channel].numpy())
    return out


def _fused_planes(tensor: torch.Tensor, sigmas: list[float], out: torch.Tensor | None) -> torch.Tensor:
    from ._fused_smoothing import smooth_xy

    values = tensor.contiguous()
    target = out if out is not None and out.is_contiguous() else torch.empty_like(values)
    smooth_xy(values.flatten(0, 1).numpy(), _half(sigmas[0]), _half(sigmas[1]), target.flatten(0, 1).numpy())
    return target if out is None or target is out else out.copy_(target)


@lru_cache(maxsize=64)
def _half(sigma_voxels: float) -> np.ndarray:
    """The taps from the center outward, zero-padded to 1 + 3 n entries as the fused kernels want them."""
    taps = gaussian_taps(sigma_voxels)
    half = taps[taps.size // 2 :]
    return np.pad(half, (0, -(half.size - 1) % 3))


def _torch(tensor: torch.Tensor, sigmas: list[float], out: torch.Tensor | None) -> torch.Tensor:
    d = tensor.ndim - 2
    result = tensor.flatten(0, 1)[:, None]
    convolve = torch.nn.functional.conv3d if d == 3 else torch.nn.functional.conv2d
    for component, weights in enumerate(map(gaussian_taps, sigmas)):
        if weights.size == 1:
            continue
        axis = d - 1 - component
        shape = [1] * d
        shape[axis] = weights.size
        pad = [0] * (2 * d)
        pad[2 * component] = pad[2 * component + 1] = weights.size // 2
        kernel = torch.as_tensor(weights, device=tensor.device, dtype=tensor.dtype).reshape(1, 1, *shape)
        result = convolve(torch.nn.functional.pad(result, pad, mode="replicate"), kernel)
    result = result.reshape(tensor.shape)
    return result.contiguous() if out is None else out.copy_(result)
