"""Mutual information from a Parzen-window joint histogram."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import ConfigError
from .base import Similarity, check_pair, flat_arrays, runs_fused

CHUNK = 2**16
"""Voxels at a time in the tensor version: bounds its (voxels, bins) weight matrices."""


def information(histogram: np.ndarray) -> tuple[float, np.ndarray]:
    """Mutual information in nats of a joint histogram (rows fixed f, columns warped m), and its derivative by bin.

    MI = sum p log(p / (p_f p_m)). As the window weights of a voxel always sum to 1, only ``log(p / p_m)`` of the
    derivative counts: (dMI/dp)_fm up to terms that vanish, divided by the total weight. Empty bins get 0.
    """
    mass = histogram.sum()
    if mass <= 0.0:
        return 0.0, np.zeros_like(histogram)
    p = histogram / mass
    column = np.broadcast_to(p.sum(0, keepdims=True), p.shape)
    row = np.broadcast_to(p.sum(1, keepdims=True), p.shape)
    filled = p > 0
    table = np.zeros_like(p)
    table[filled] = np.log(p[filled] / column[filled])
    value = float((p[filled] * (table[filled] - np.log(row[filled]))).sum())
    return value, table / mass


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Cubic B-spline."""
    a = x.abs()
    return torch.where(a < 1, 2 / 3 - a**2 + a**3 / 2, (2 - a).clamp(min=0) ** 3 / 6)


def _cubic_slope(x: torch.Tensor) -> torch.Tensor:
    a = x.abs()
    return torch.where(a < 1, 1.5 * a**2 - 2 * a, -((2 - a).clamp(min=0) ** 2) / 2) * x.sign()


class MutualInformation(Similarity):
    """Loss ``-MI`` in nats (0 at worst), MI of the joint histogram of both images. Mattes et al., TMI 2003.

    bins: per axis, of which two at either end only take the window's tails. fixed_order: 0 (each fixed intensity
    counts in one bin) or 3 (cubic B-spline window, as always used for the warped image). limits: intensities of the
    first and last bin; what lies outside is clamped and feels no force. They are constants, so that the gradient is
    exact. Several channels: mean over channels.

    dMI/dI = (w / sum w) (dbin/dI) sum_fm beta(f) beta3'(m) log(p_fm / p_m), beta and beta3 the windows at the voxel.
    """

    def __init__(self, bins: int = 32, fixed_order: int = 0, limits: tuple[float, float] = (0.0, 1.0)):
        if int(bins) != bins or bins < 6:
            raise ConfigError(f"MutualInformation: 'bins' must be a whole number of at least 6, got {bins!r}")
        if fixed_order not in (0, 3):
            raise ConfigError(f"MutualInformation: 'fixed_order' must be 0 or 3, got {fixed_order!r}")
        if not limits[1] > limits[0]:
            raise ConfigError(f"MutualInformation: 'limits' must be (low, high) with low < high, got {limits!r}")
        self.bins, self.fixed_order = int(bins), int(fixed_order)
        self.limits = (float(limits[0]), float(limits[1]))

    @property
    def _scale(self) -> float:
        return (self.bins - 4) / (self.limits[1] - self.limits[0])

    @property
    def _shift(self) -> float:
        return 2.0 - self.limits[0] * self._scale

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("MutualInformation.value_and_gradient", fixed, warped, weight)
        channels = fixed.shape[1]
        gradient = torch.empty_like(warped, memory_format=torch.contiguous_format, requires_grad=False)
        compute = self._fused if runs_fused(fixed, warped) else self._tensors
        mask = None if weight is None else weight.detach().to(fixed.dtype).reshape(-1)
        total = 0.0
        with torch.no_grad():
            for channel in range(channels):
                flat = [t.detach()[0, channel].reshape(-1) for t in (fixed, warped)]
                total += compute(*flat, mask, gradient[0, channel].view(-1))
            return -total / channels, gradient.mul_(-1.0 / channels)

    def _fused(self, fixed, warped, weight, gradient) -> float:
        from . import _mi_fused as fused

        arrays = (*flat_arrays(fixed, warped, weight), self.fixed_order == 3)
        scale, shift = np.float32(self._scale), np.float32(self._shift)
        value, table = information(fused.histogram(*arrays, scale, shift, self.bins))
        # scaled up for float32: the entries are of the order of 1 / voxels
        size = float(fixed.numel())
        fused.pull(*arrays, scale, shift, (table * size).astype(np.float32), gradient.numpy())
        gradient.mul_(1.0 / size)
        return value

    def _tensors(self, fixed, warped, weight, gradient) -> float:
        """The same in tensor operations, for other devices and types."""
        chunks = [slice(start, start + CHUNK) for start in range(0, fixed.numel(), CHUNK)]
        histogram = fixed.new_zeros((self.bins, self.bins), dtype=torch.float64 if fixed.device.type == "cpu" else None)
        for part in chunks:
            rows = self._fixed_window(fixed[part])
            if weight is not None:
                rows = rows * weight[part, None]
            histogram += rows.T @ _cubic(self._offsets(warped[part])[0])
        value, table = information(histogram.double().cpu().numpy())
        table = torch.as_tensor(table, dtype=fixed.dtype, device=fixed.device)
        for part in chunks:
            offsets, free = self._offsets(warped[part])
            # d(offset)/dI is the scale: the window is evaluated at (bin number - bin)
            slope = (_cubic_slope(offsets) * (self._fixed_window(fixed[part]) @ table)).sum(1) * self._scale * free
            gradient[part] = slope if weight is None else slope * weight[part]
        return value

    def _position(self, values):
        position = values * self._scale + self._shift
        return position.clamp(2.0, self.bins - 2.0), (position > 2.0) & (position < self.bins - 2.0)

    def _offsets(self, values):
        """(n, bins) distances of each intensity from each bin, and (n,) whether it lies within the limits."""
        position, free = self._position(values)
        return position[:, None] - torch.arange(self.bins, dtype=values.dtype, device=values.device), free

    def _fixed_window(self, values):
        if self.fixed_order == 3:
            return _cubic(self._offsets(values)[0])
        position = self._position(values)[0]
        return torch.nn.functional.one_hot(position.long().clamp(max=self.bins - 3), self.bins).to(values.dtype)
