"""Coarse-to-fine grids and anti-aliased images on them."""

from __future__ import annotations

import numpy as np
import torch

from .grid import Geometry
from .sampling import index_matrix, sample, warp
from .smoothing import gaussian

BLUR_PER_FACTOR = 0.5
"""Standard deviation of the anti-aliasing Gaussian, in source voxels per unit of down-sampling beyond 1."""


def level_geometry(geometry: Geometry, spacing_mm: float, minimum_size: int = 16, refine: float = 1.0) -> Geometry:
    """The grid over the same outer faces with voxels of about ``spacing_mm`` on every axis.

    No axis gets fewer than ``minimum_size`` voxels (or its own number, if that is smaller), nor voxels more than ``refine``
    times finer than its own: thick slices can be brought closer to isotropic, within reason.
    """
    own = np.array(geometry.spacing_mm)
    size = np.round(geometry.extent_mm / np.maximum(spacing_mm, own / refine)).astype(int)
    size = np.maximum(size, np.minimum(minimum_size, geometry.size))
    return geometry.resized(tuple(int(n) for n in size))


def resample(
    tensor: torch.Tensor, source: Geometry, target: Geometry, padding: str = "border", blur: bool = True
) -> torch.Tensor:
    """Bring (1, C, *source.shape) onto ``target``, blurred first along the axes that get coarser.

    Linear interpolation; both grids may differ in everything (physical positions decide).
    """
    if source.same_grid(target):
        return tensor
    if blur:
        factors = np.maximum(np.array(target.spacing_mm) / np.array(source.spacing_mm), 1.0)
        tensor = gaussian(tensor, np.where(factors > 1.01, BLUR_PER_FACTOR * factors, 0.0))
    matrix = index_matrix(target, source)
    return warp(tensor, tensor.new_zeros((1, target.ndim, *target.shape)), matrix, padding)


def resample_displacement(displacement: torch.Tensor, source: Geometry, target: Geometry) -> torch.Tensor:
    """A displacement (1, d, *source.shape) in voxels of ``source`` to voxels of ``target`` (parallel grids).

    Positions outside ``source`` take its border value.
    """
    if source.same_grid(target):
        return displacement
    index = _parallel_index(source, target, displacement)
    ratio = np.array(source.spacing_mm) / np.array(target.spacing_mm)
    out = sample(displacement, index, padding="border")
    return out.mul_(out.new_tensor(ratio).reshape(1, -1, *(1,) * source.ndim))


def _parallel_index(source: Geometry, target: Geometry, like: torch.Tensor) -> torch.Tensor:
    matrix = index_matrix(target, source)
    axes = [
        torch.arange(n, device=like.device, dtype=like.dtype) * float(matrix[i, i]) + float(matrix[i, -1])
        for i, n in enumerate(target.size)
    ]
    grids = torch.meshgrid(*axes[::-1], indexing="ij")[::-1]
    return torch.stack(grids)[None]
