"""A scan on the grid and in the range of intensities that a network knows."""

from __future__ import annotations

import numpy as np
import torch

from ..data.image import Image
from ..geometry.grid import Geometry
from ..geometry.pyramid import BLUR_PER_FACTOR
from ..geometry.sampling import index_matrix, warp
from ..geometry.smoothing import gaussian
from ..networks.weights import Intensities
from ..preprocess.intensity import percentiles


def on_grid(image: Image, grid: Geometry, world: np.ndarray) -> torch.Tensor:
    """The scan sampled at world(x) for every voxel x of the grid, blurred first along axes that get coarser."""
    if np.array_equal(world, np.eye(grid.ndim + 1)) and image.geometry.same_grid(grid):
        return image.tensor
    lowest = image.tensor.amin()
    factors = np.maximum(min(grid.spacing_mm) / np.array(image.geometry.spacing_mm), 1.0)
    blurred = gaussian(image.tensor - lowest, np.where(factors > 1.01, BLUR_PER_FACTOR * factors, 0.0))
    still = blurred.new_zeros((1, grid.ndim, *grid.shape))
    return warp(blurred, still, index_matrix(grid, image.geometry, world)) + lowest


def as_trained(scan: torch.Tensor, intensities: Intensities) -> torch.Tensor:
    """The scan with the two percentiles of the card at 0 and ``top``, clamped to [0, 1]."""
    low, high = percentiles(scan, intensities.clip_percentiles)
    return ((scan - low) * (intensities.top / max(high - low, 1e-12))).clamp_(0.0, 1.0)
