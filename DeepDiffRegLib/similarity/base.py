"""What a similarity is: a number (lower is better) and its derivative with respect to the warped scan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch

from ..checks import check_shape


class Similarity(ABC):
    """Compares two tensors on one grid. Instances hold options only, so one serves any number of pairs.

    ``features`` turns a scan into the channels that are compared (the scan itself unless overridden, as by MIND): it is
    applied once per level to both scans, before warping. oriented: whether they depend on the directions of the grid's
    axes, so that both scans must lie on parallel grids when they are computed; 0 is then no neutral value outside either.
    separable: whether the loss is the mean of the channels' own losses, so that they may be compared one at a time.
    """

    oriented: ClassVar[bool] = False
    separable: ClassVar[bool] = False

    def features(
        self, scan: torch.Tensor, spacing_mm: tuple[float, ...], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """(1, 1, ...) scan -> (1, C, ...) features on the same grid. dtype: how descriptors are kept (None: as the scan).

        Unless overridden, all channels that come are compared as they are.
        """
        return scan if dtype is None else scan.to(dtype)

    @abstractmethod
    def value_and_gradient(
        self, fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None = None
    ) -> tuple[float, torch.Tensor]:
        """Weighted mean loss over voxels and its exact gradient with respect to ``warped``.

        fixed, warped: (1, C, [Z,] Y, X), one floating type (float32 in use, float64 in tests). weight: (1, 1, ...) in
        [0, 1] or None for 1 everywhere; voxels of weight 0 influence neither value nor gradient. The gradient is that
        of the returned mean and has ``warped``'s shape.
        """

    def laid_out(self, features: torch.Tensor) -> torch.Tensor:
        """The same (1, C, *shape), in memory as ``force`` works fastest on it."""
        return features

    def force(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor | None,
        displacement: torch.Tensor,
        matrix: np.ndarray,
        derivative: str,
    ) -> tuple[float, torch.Tensor] | None:
        """Value and force at ``sampling.warp(moving, displacement, matrix)`` at once; None where it takes the steps one by one.

        derivative: as ``transforms.model.Model`` says. The force is (1, d, *shape): that of ``sampling.pull_gradient`` for
        ``pull``, of ``sampling.warped_gradient`` for ``warped``.
        """
        return None

    def value(self, fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None = None) -> float:
        return self.value_and_gradient(fixed, warped, weight)[0]


def check_pair(function: str, fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None) -> None:
    """Raise ``ShapeError`` unless ``warped`` has ``fixed``'s shape and ``weight`` one channel of it."""
    check_shape(function, "warped", warped, tuple(fixed.shape))
    if weight is not None:
        check_shape(function, "weight", weight, (1, 1, *fixed.shape[2:]))


def runs_fused(fixed: torch.Tensor, warped: torch.Tensor) -> bool:
    """Whether the compiled CPU kernels apply: both float32, on the CPU."""
    return fixed.device.type == "cpu" and fixed.dtype == warped.dtype == torch.float32


def flat_arrays(
    fixed: torch.Tensor, warped: torch.Tensor, weight: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Arguments of a fused kernel over voxels: fixed, warped, weight (any array without one), whether weighted."""
    flat = [t.detach().reshape(-1).numpy() for t in (fixed, warped)]
    masked = weight is not None
    return *flat, weight.detach().to(torch.float32).reshape(-1).numpy() if masked else flat[0], masked
