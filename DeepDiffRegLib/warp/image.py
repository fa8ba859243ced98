"""Bring a moving image onto another grid through a transform."""

from __future__ import annotations

import torch

from ..data.image import Image
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, sample
from ..geometry.vector_fields import linear_field, slabs
from ..transforms.base import Transform


def warp_image(image: Image, transform: Transform, reference: Geometry) -> Image:
    """The moving image on the ``reference`` grid: out(x) = image(phi(x)), phi = fixed_to_moving.

    Each output voxel is one look-up in the moving voxels (linear; nearest neighbor for label maps), 0 outside, exactly as
    ITK's resampling. Works in slabs on the image's device. Returns (1, C, *reference.shape) of the same kind.
    """
    if not image.ndim == transform.ndim == reference.ndim:
        raise InputError(
            f"warp_image(): image, transform and reference must agree, got {image.ndim}-D, {transform.ndim}-D and "
            f"{reference.ndim}-D"
        )
    values = image.tensor
    out = values.new_empty((1, values.shape[1], *reference.shape))
    mode = "nearest" if image.kind == "labels" else "linear"
    for rows, slab in slabs(reference):
        moved = transform.follow(None, slab).to(values.device)
        out[:, :, rows] = sample(values, moving_index(moved, slab, image.geometry), mode)
    return Image(out, reference, image.kind, image.path)


def moving_index(displacement_mm: torch.Tensor, grid: Geometry, moving: Geometry) -> torch.Tensor:
    """Continuous ``moving`` voxel indices of x + u(x): (1, d, *grid.shape). displacement_mm: u, LPS, on ``grid``."""
    to_voxels = moving.world_to_index[:-1, :-1]
    return linear_field(index_matrix(grid, moving), grid.shape, displacement_mm, to_voxels)
