"""What prompts share: the image-like term that a solver adds to its own, and the balance between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..geometry.grid import Geometry
    from ..similarity.base import Similarity

SCANS, PROMPTS = "scans", "prompts"
"""Groups of terms; also the name of the term that compares the scans: the forces of all other terms are balanced against it."""


@dataclass(frozen=True)
class ImageTerm:
    """Two multi-channel images to be matched: what is compared of the scans, or what a prompt adds.

    fixed: (1, C, *level shape). moving: (1, C, *moving_geometry.shape), sampled through the current map with zeros outside.
    similarity: compares the channels. weight: force relative to the scans' (kappa of ``balance``). fixed_weight:
    (1, 1, *level shape) in [0, 1], or None for 1 everywhere. moving_weight: the same on the moving grid, to be warped.
    group: terms of one group make one force; models may give every group but the scans' a step of its own.
    """

    name: str
    fixed: torch.Tensor
    moving: torch.Tensor
    moving_geometry: Geometry
    similarity: Similarity
    weight: float = 1.0
    fixed_weight: torch.Tensor | None = None
    moving_weight: torch.Tensor | None = None
    group: str = SCANS


def balance(prompt_gradient_max: float, image_gradient_max: float, kappa: float = 1.0) -> float:
    """Factor that makes a prompt's largest (smoothed) gradient ``kappa`` times the scans'.

    Terms in different units then need no tuning. A vanishing gradient on either side leaves nothing to balance: kappa.
    """
    values = (prompt_gradient_max, image_gradient_max, kappa)
    if not all(np.isfinite(v) and v >= 0 for v in values):
        raise ConfigError(f"balance(): gradients and 'kappa' must be finite and not negative, got {values}")
    if prompt_gradient_max == 0 or image_gradient_max == 0:
        return float(kappa)
    return float(kappa * image_gradient_max / prompt_gradient_max)


def look_up(field: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """Values of (1, C, [Z,] Y, X) at (N, d) continuous voxel indices x, y[, z]: (N, C) float64, edge-clamped.

    Linear interpolation in double precision; only the corner values leave the device.
    """
    places, weight = _corners(field, index)
    values = field.detach()[0][(slice(None), *places)].cpu().double().numpy()
    return np.einsum("ckn,kn->nc", values, weight)


def spread(values: np.ndarray, index: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """The transpose of ``look_up``: (N, C) values at (N, d) voxel indices added onto zeros shaped as ``like``."""
    out = torch.zeros_like(like)
    places, weight = _corners(like, index)
    shares = torch.as_tensor(np.einsum("nc,kn->ckn", values, weight), dtype=like.dtype, device=like.device)
    for channel, share in zip(out[0], shares):
        channel.index_put_(places, share, accumulate=True)
    return out


def _corners(field: torch.Tensor, index: np.ndarray) -> tuple[tuple[torch.Tensor, ...], np.ndarray]:
    """Tensor indices (2^d, N per axis) of the voxels around each position, and their linear weights (2^d, N)."""
    size = np.array(field.shape[:1:-1])
    index = np.clip(np.asarray(index, dtype=np.float64), 0, size - 1)
    lower = np.minimum(index.astype(int), np.maximum(size - 2, 0))
    fraction = index - lower
    corners = np.array(list(np.ndindex(*(2,) * len(size))))
    at = np.minimum(lower[None] + corners[:, None], size - 1)
    weight = np.where(corners[:, None] == 1, fraction[None], 1 - fraction[None]).prod(-1)
    return tuple(torch.as_tensor(at[..., axis], device=field.device) for axis in reversed(range(len(size)))), weight
