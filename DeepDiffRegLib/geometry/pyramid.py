"""Coarse-to-fine grids and anti-aliased images on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from .grid import Geometry
from .sampling import index_matrix, sample, warp
from .smoothing import gaussian

BLUR_PER_FACTOR = 0.5
"""Standard deviation of the anti-aliasing Gaussian, in source voxels per unit of down-sampling beyond 1."""
FINE_ENOUGH = 1.2
"""An image whose finest spacing is at most this times that of a grid is fine enough for it."""


@dataclass(frozen=True)
class Pyramid:
    """One scan's channels at one or several resolutions: (1, C, *shape) with its grid each, coarse to fine."""

    images: tuple[tuple[torch.Tensor, Geometry], ...]

    def serving(self, target: Geometry) -> int:
        """Number of the coarsest image that is fine enough for ``target`` (the last one where none is)."""
        for number, (_, geometry) in enumerate(self.images):
            if min(geometry.spacing_mm) <= FINE_ENOUGH * min(target.spacing_mm):
                return number
        return len(self.images) - 1

    def on(self, target: Geometry, number: int = -1) -> torch.Tensor:
        """That image on ``target``, (1, C, *target.shape), in single precision even where it is stored in half."""
        tensor, geometry = self.images[number]
        return resample(tensor.float(), geometry, target)


def strided(geometry: Geometry, stride: int, offset_voxels: float = 0.0) -> Geometry:
    """The grid of every ``stride``-th voxel of ``geometry``, its first one at ``offset_voxels`` on all axes."""
    size = tuple(-(-n // stride) for n in geometry.size)
    spacing = tuple(stride * h for h in geometry.spacing_mm)
    return Geometry(size, spacing, tuple(geometry.to_world((offset_voxels,) * geometry.ndim)), geometry.direction)


def turned_to(geometry: Geometry, direction: np.ndarray) -> Geometry:
    """The same voxels with axes exchanged and reversed so that they point along ``direction`` (columns) as nearly as can be."""
    likeness = np.asarray(direction, dtype=float).T @ geometry.rotation
    d = geometry.ndim
    axes = list(max(permutations(range(d)), key=lambda p: sum(abs(likeness[i, a]) for i, a in enumerate(p))))
    signs = [1.0 if likeness[i, a] >= 0 else -1.0 for i, a in enumerate(axes)]
    if axes == list(range(d)) and min(signs) > 0:
        return geometry
    first = np.zeros(d)
    for a, sign in zip(axes, signs):
        first[a] = 0 if sign > 0 else geometry.size[a] - 1
    size, spacing = (tuple(values[a] for a in axes) for values in (geometry.size, geometry.spacing_mm))
    return Geometry(size, spacing, tuple(geometry.to_world(first)), (geometry.rotation[:, axes] * signs).tolist())


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
