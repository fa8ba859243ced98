"""A scan as a network wants to see it: nothing spurious outside its mask, on the grid and in the range of intensities it knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..data.image import Image
from ..geometry.grid import Geometry
from ..geometry.pyramid import BLUR_PER_FACTOR
from ..geometry.sampling import index_matrix, warp
from ..geometry.smoothing import gaussian
from ..networks.weights import Intensities
from ..preprocess.intensity import percentiles

INSIDE = 0.5
"""Weight of a mask from which a voxel keeps its own value."""


def on_grid(image: Image, grid: Geometry, world: np.ndarray) -> torch.Tensor:
    """The scan sampled at world(x) for every voxel x of the grid, blurred first along axes that get coarser."""
    if np.array_equal(world, np.eye(grid.ndim + 1)) and image.geometry.same_grid(grid):
        return image.tensor
    lowest = image.tensor.amin()
    factors = np.maximum(min(grid.spacing_mm) / np.array(image.geometry.spacing_mm), 1.0)
    blurred = gaussian(image.tensor - lowest, np.where(factors > 1.01, BLUR_PER_FACTOR * factors, 0.0))
    still = blurred.new_zeros((1, grid.ndim, *grid.shape))
    return warp(blurred, still, index_matrix(grid, image.geometry, world)) + lowest


def filled(image: Image, weight: torch.Tensor | None) -> Image:
    """The scan with each voxel outside a mask replaced by the nearest one inside (in mm); the mask's border is then no edge.

    weight: (1, 1, *shape) of the mask on the scan's grid, None for no mask. A mask that reaches ``INSIDE`` nowhere counts from
    half of its largest weight.
    """
    if weight is None:
        return image
    from scipy.ndimage import distance_transform_edt

    values = weight[0, 0].cpu().numpy()
    outside = values < min(INSIDE, 0.5 * float(values.max()))
    if not outside.any():
        return image
    spacing = image.geometry.spacing_mm[::-1]
    nearest = distance_transform_edt(outside, spacing, return_distances=False, return_indices=True)
    place = np.ravel_multi_index(tuple(axis[outside] for axis in nearest), outside.shape)
    tensor = image.tensor.clone()
    flat, where = tensor.flatten(2), torch.from_numpy(outside.ravel()).to(tensor.device)
    flat[..., where] = flat[..., torch.from_numpy(place).to(tensor.device)]
    return replace(image, tensor=tensor)


def as_trained(scan: torch.Tensor, intensities: Intensities) -> torch.Tensor:
    """The scan with the two percentiles of the card at 0 and ``top``, clamped to [0, 1]."""
    low, high = percentiles(scan, intensities.clip_percentiles)
    return ((scan - low) * (intensities.top / max(high - low, 1e-12))).clamp_(0.0, 1.0)
