"""What a regularizer is: an energy of the displacement field and its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch


class Regularizer(ABC):
    """Instances hold options only. quadratic: whether the gradient is linear in the displacement."""

    quadratic: ClassVar[bool] = False

    @abstractmethod
    def value_and_gradient(
        self, displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...]
    ) -> tuple[float, torch.Tensor]:
        """Mean energy over voxels and its exact gradient.

        displacement_mm: (1, d, [Z,] Y, X), mm along the grid's own axes (components x, y, z). spacing_mm: x, y, z.
        """
