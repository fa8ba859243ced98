"""Local correlation at several window sizes (mk-LNCC)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from ..errors import ConfigError
from .base import Similarity, check_pair
from .lncc import lncc_sums, loss_from_sums


def default_windows(shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Windows (voxels), their weights and the dilation for an image whose shortest axis has S voxels.

    S >= 128: S/16, S/8, S/4 with .1, .3, .6, dilation 2; 64 <= S < 128: S/4, S/2 with .3, .7, dilation 2; below: S/2,
    dilation 1.
    """
    size = min(shape)
    if size >= 128:
        return (size // 16, size // 8, size // 4), (0.1, 0.3, 0.6), 2
    if size >= 64:
        return (size // 4, size // 2), (0.3, 0.7), 2
    return (max(size // 2, 2),), (1.0,), 1


def _phases(ndim: int, dilation: int) -> Iterator[tuple[slice, ...]]:
    """Index every ``dilation``-th voxel from each starting phase."""
    starts = itertools.product(range(dilation), repeat=ndim)
    return ((slice(None), slice(None), *(slice(s, None, dilation) for s in start)) for start in starts)


def dilated_lncc(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None, radius: int, epsilon: float, dilation: int
) -> tuple[float, torch.Tensor]:
    """``LNCC``'s loss and gradient for windows of ``2 radius + 1`` voxels per axis that lie ``dilation`` voxels apart.

    A window with dilation d sees only voxels of its own phase, so the image splits into d^ndim independent smaller
    ones, each with an ordinary window: the cost per voxel stays that of ``LNCC``.
    """
    if dilation == 1:
        return loss_from_sums(*lncc_sums(fixed, warped, weight, radius, epsilon))
    gradient = torch.zeros_like(warped, requires_grad=False)
    value, mass = 0.0, 0.0
    for phase in _phases(fixed.ndim - 2, dilation):
        if 0 in fixed[phase].shape:
            continue
        part = None if weight is None else weight[phase].contiguous()
        found, counted, slope = lncc_sums(fixed[phase].contiguous(), warped[phase].contiguous(), part, radius, epsilon)
        value, mass = value + found, mass + counted
        gradient[phase] = slope
    return loss_from_sums(value, mass, gradient)


class MultiKernelLNCC(Similarity):
    """Loss ``sum_s omega_s (1 - mean LNCC_s)`` over windows of several sizes. Shen et al., CVPR 2019.

    windows: voxels per axis, rounded up to odd so that a window has a center; weights: omega, one per window, used as
    given; dilation: voxels between the samples of a window (2 doubles its reach). Left out, they follow the image
    size by ``default_windows``. Every LNCC_s is ``LNCC``'s (variance epsilon, weights, truncated borders). The
    published version evaluates a window at every (s + 1) / 4-th voxel; here one stands at every voxel, since running
    sums make that free.
    """

    def __init__(
        self,
        windows: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        dilation: int | None = None,
        epsilon: float = 1e-5,
    ):
        if (windows is None) != (weights is None) or (windows is not None and len(windows) != len(weights)):
            raise ConfigError(
                "MultiKernelLNCC: 'windows' and 'weights' must be equally long or both left out, "
                f"got {windows!r}, {weights!r}"
            )
        if windows is not None and (not windows or min(windows) < 2):
            raise ConfigError(f"MultiKernelLNCC: 'windows' must be at least 2 voxels each, got {windows!r}")
        if dilation is not None and dilation < 1:
            raise ConfigError(f"MultiKernelLNCC: 'dilation' must be at least 1, got {dilation!r}")
        if not epsilon > 0:
            raise ConfigError(f"MultiKernelLNCC: 'epsilon' must be positive, got {epsilon!r}")
        self.windows = None if windows is None else tuple(int(w) for w in windows)
        self.weights = None if weights is None else tuple(float(w) for w in weights)
        self.dilation = dilation
        self.epsilon = float(epsilon)

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("MultiKernelLNCC.value_and_gradient", fixed, warped, weight)
        windows, weights, dilation = default_windows(tuple(fixed.shape[2:]))
        if self.windows is not None:
            windows, weights = self.windows, self.weights
        dilation = dilation if self.dilation is None else self.dilation
        value, gradient = 0.0, torch.zeros_like(warped, requires_grad=False)
        for window, omega in zip(windows, weights):
            loss, slope = dilated_lncc(fixed, warped, weight, max(window // 2, 1), self.epsilon, dilation)
            value += omega * loss
            gradient.add_(slope, alpha=omega)
        return value, gradient
