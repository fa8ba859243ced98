"""Intensities to [0, 1], so that every option means the same for every scanner."""

from __future__ import annotations

import numpy as np
import torch

from ..config import Preprocess
from ..data.image import Image
from ..errors import InputError

SAMPLED_VOXELS = 500_000
"""Percentiles are taken over about this many voxels, evenly spread."""


def normalized(image: Image, options: Preprocess) -> torch.Tensor:
    """(1, 1, *shape) float32 in [0, 1]: clipped to the window or percentiles of ``options``, then scaled linearly."""
    low, high = options.window if options.window is not None else percentiles(image.tensor, options.clip_percentiles)
    if not high > low:
        raise InputError(f"normalized(): the intensity window must be increasing, got {low:g} to {high:g}")
    return image.tensor.clamp(low, high).sub_(low).div_(high - low)


def percentiles(tensor: torch.Tensor, shares: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles (0 to 100) of evenly spread voxels; least and largest value where they are equal."""
    flat = tensor.flatten()
    low, high = np.percentile(flat[:: max(1, flat.numel() // SAMPLED_VOXELS)].cpu().numpy(), shares)
    if high > low:
        return float(low), float(high)
    return tuple(float(v) for v in tensor.aminmax())
