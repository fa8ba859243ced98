"""Checks at public entries: shape, grid and finiteness, each with expected and got in the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ShapeError

if TYPE_CHECKING:
    import torch


def check_shape(function: str, name: str, tensor: torch.Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise ``ShapeError`` unless ``tensor`` has the expected shape; ``None`` accepts any size on that axis."""
    got = tuple(tensor.shape)
    fits = len(got) == len(expected) and all(e is None or e == g for e, g in zip(expected, got))
    if not fits:
        wanted = "(" + ", ".join("any" if e is None else str(e) for e in expected) + ")"
        raise ShapeError(f"{function}(): {name!r} must have shape {wanted}, got {got}; tensors are (B, C, Z, Y, X)")


def check_finite(function: str, name: str, tensor: torch.Tensor) -> None:
    """Raise ``ShapeError`` when ``tensor`` holds NaN or Inf, saying how many."""
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise ShapeError(f"{function}(): {name!r} must be finite, got {bad} NaN or Inf values")
