"""Separable Gaussian smoothing with replicated borders; sigma per axis, so anisotropic voxels are no special case."""

from __future__ import annotations

from collections.abc import Sequence

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
    sigmas = [float(s) for s in np.broadcast_to(sigma_voxels, (d,))]
    taps = [gaussian_taps(s) for s in sigmas]
    plain = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not tensor.requires_grad
    return (_fused if d == 3 and len(tensor) == 1 and plain else _torch)(tensor, taps, out)


def _fused(tensor: torch.Tensor, taps: list[np.ndarray], out: torch.Tensor | None) -> torch.Tensor:
    from ._fused_smoothing import smooth_xy, smooth_z

    out = torch.empty_like(tensor) if out is None else out
    halves = [_half(t) for t in taps]
    scratch = np.empty(tuple(tensor.shape[2:]), dtype=np.float32)
    for channel in range(tensor.shape[1]):
        smooth_xy(tensor[0, channel].numpy(), halves[0], halves[1], scratch)
        smooth_z(scratch, halves[2], out[0, channel].numpy())
    return out


def _half(taps: np.ndarray) -> np.ndarray:
    """The taps from the center outward, zero-padded to 1 + 3 n entries as the fused kernels want them."""
    half = taps[taps.size // 2 :]
    return np.pad(half, (0, -(half.size - 1) % 3))


def _torch(tensor: torch.Tensor, taps: list[np.ndarray], out: torch.Tensor | None) -> torch.Tensor:
    d = tensor.ndim - 2
    result = tensor.flatten(0, 1)[:, None]
    convolve = torch.nn.functional.conv3d if d == 3 else torch.nn.functional.conv2d
    for component, weights in enumerate(taps):
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
