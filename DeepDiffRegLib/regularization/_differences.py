"""Finite differences of one component along one tensor axis, and their transposes."""

from __future__ import annotations

import torch

from ..checks import check_shape
from ..errors import ShapeError


def check_field(function: str, displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...]) -> None:
    """Raise ``ShapeError`` unless the field is (1, d, [Z,] Y, X) with d spacings."""
    d = displacement_mm.ndim - 2
    check_shape(function, "displacement_mm", displacement_mm, (1, d, *(None,) * d))
    if d not in (2, 3) or len(spacing_mm) != d:
        raise ShapeError(
            f"{function}(): 'spacing_mm' must hold x, y[, z] like the field's {d} axes (2 or 3), got {spacing_mm!r}"
        )


def forward_difference(values: torch.Tensor, axis: int) -> torch.Tensor:
    """values[i + 1] - values[i]: one shorter along ``axis``."""
    n = values.shape[axis]
    return values.narrow(axis, 1, n - 1) - values.narrow(axis, 0, n - 1)


def add_forward_transpose(out: torch.Tensor, values: torch.Tensor, axis: int) -> None:
    """out += D^T values for D = ``forward_difference``; ``out`` is one longer along ``axis``."""
    n = out.shape[axis]
    out.narrow(axis, 1, n - 1).add_(values)
    out.narrow(axis, 0, n - 1).sub_(values)
