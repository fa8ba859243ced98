"""Values of the protocol to and from those of the library. Runs in the worker."""

from __future__ import annotations

import numpy as np
import torch

from ..data.image import Image
from ..data.pair import LabelPair, Prompts, Stiffness, Tissue
from ..data.points import Landmarks, Points
from ..errors import InputError
from ..geometry.grid import Geometry
from ..methods.iterative import split
from ..transforms.affine import AffineTransform, LinearModel
from ..transforms.base import Transform
from ..transforms.composite import CompositeTransform
from ..transforms.displacement import DisplacementTransform, to_world
from ..transforms.model import Model
from .messages import Map, PromptSet, Scan

PREVIEW_VOXELS = 1_000_000
"""A preview has fewer voxels than this: every second or third voxel of a fine level."""


def image_of(scan: Scan | None) -> Image | None:
    """The scan as an image, sharing its voxels."""
    return None if scan is None else Image.from_array(scan.array, scan.geometry, scan.kind)


def scan_of(image: Image, name: str) -> Scan:
    """The image's first channel, sharing its voxels."""
    return Scan(image.numpy(), image.geometry, image.kind, name)


def prompts_of(prompts: PromptSet) -> Prompts:
    """The library's prompts; landmarks that are switched off are left out."""
    used = [pair for pair in prompts.landmarks if pair.enabled]
    landmarks = None
    if used:
        names = tuple(pair.label for pair in used)
        sides = [Points(np.array([getattr(p, side) for p in used]), names) for side in ("fixed_mm", "moving_mm")]
        landmarks = Landmarks(*sides, sd_mm=np.array([pair.sd_mm for pair in used]))
    images = {
        name: image_of(getattr(prompts, name))
        for name in ("fixed_labels", "moving_labels", "fixed_mask", "moving_mask")
    }
    pairs = tuple(LabelPair(*pair) for pair in prompts.label_pairs if pair[2] > 0)
    return Prompts(landmarks, label_pairs=pairs, **images, stiffness=_stiffness(prompts))


def _stiffness(prompts: PromptSet) -> Stiffness | None:
    """Which structures of the moving scan are stiff or soft."""
    if not prompts.stiffness:
        return None
    if prompts.stiffness_labels is None:
        raise InputError("stiffness needs the structures of the moving scan: choose a label map there")
    tissues = tuple(Tissue(value, kind) for value, kind in sorted(prompts.stiffness.items()))
    return Stiffness(image_of(prompts.stiffness_labels), tissues)


def transform_of(map: Map) -> Transform:
    """The library's transform. Raises InputError for a displacement that is not finite."""
    world = AffineTransform.from_homogeneous(map.world)
    if map.displacement is None:
        return world
    tensor = torch.from_numpy(np.ascontiguousarray(map.displacement, dtype=np.float32))[None]
    if not bool(tensor.isfinite().all()):
        raise InputError("the map holds displacements that are not finite")
    return CompositeTransform([DisplacementTransform(tensor, map.geometry), world])


def map_of(transform: Transform, fixed: Geometry) -> Map:
    """A fixed_to_moving map in the protocol's form; on the ``fixed`` grid when it has no grid of voxels of its own."""
    parts = split(transform, 3)
    if parts.inner is None:
        return Map(parts.world.homogeneous)
    # Flows are followed once, on their own grid.
    inner = getattr(parts.inner, "finished", parts.inner)
    if not isinstance(inner, DisplacementTransform):
        inner = DisplacementTransform(inner.displacement(fixed), fixed)
    return Map(parts.world.homogeneous, inner.tensor[0].detach().cpu().numpy(), inner.geometry)


def inverse_map_of(transform: Transform, inverse: Transform, moving: Geometry) -> Map:
    """moving_to_fixed in the protocol's form: A^-1 (y + u(y)) with u(y) = A phi^-1(y) - y on the ``moving`` grid."""
    parts = split(transform, 3)
    back = parts.world.inverse().transform
    if parts.inner is None:
        return Map(back.homogeneous)
    u = CompositeTransform([inverse, parts.world]).displacement(moving)
    return Map(back.homogeneous, u[0].detach().cpu().numpy(), moving)


def preview_of(model: Model, world: np.ndarray) -> Map:
    """The map that a model has reached, on few voxels; a copy."""
    if isinstance(model, LinearModel):
        return Map(world @ model.finish().homogeneous)
    geometry = model.geometry
    stride = max(1, int(np.ceil((geometry.voxels / PREVIEW_VOXELS) ** (1 / 3))))
    step = (..., *(slice(None, None, stride),) * 3)
    u = to_world(model.displacement().detach()[step].contiguous(), geometry)
    size = tuple(u.shape[:1:-1])
    coarse = Geometry(size, tuple(stride * s for s in geometry.spacing_mm), geometry.origin_mm, geometry.direction)
    return Map(world, u[0].cpu().numpy(), coarse)
