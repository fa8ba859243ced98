"""The pair to register: two scans and what the user knows about them. It checks itself before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .image import Image
from .points import Landmarks


@dataclass(frozen=True)
class LabelPair:
    """Label ``fixed`` of the fixed label map corresponds to label ``moving`` of the moving one."""

    fixed: int
    moving: int
    weight: float = 1.0


@dataclass(frozen=True)
class Prompts:
    """What the user adds to steer: corresponding landmarks, corresponding labels, masks on either side.

    label_pairs: empty means every label present in both maps. Label maps and masks may lie on grids of their own.
    """

    landmarks: Landmarks | None = None
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    label_pairs: tuple[LabelPair, ...] = ()
    fixed_mask: Image | None = None
    moving_mask: Image | None = None


@dataclass(frozen=True)
class Pair:
    """Fixed and moving scan with optional prompts. The grids may differ in everything but dimension."""

    fixed: Image
    moving: Image
    prompts: Prompts = field(default_factory=Prompts)

    def __post_init__(self):
        if self.fixed.ndim != self.moving.ndim:
            raise InputError(
                f"Pair: fixed is {self.fixed.ndim}-D and moving is {self.moving.ndim}-D; both must be 2-D or both 3-D"
            )
        for role in ("fixed", "moving"):
            check_scan(role, getattr(self, role))


def check_scan(role: str, image: Image) -> None:
    """Refuse a scan that cannot be registered: NaN/Inf, constant, vector-valued or one voxel thick."""
    name = f"{role} scan {image.path}" if image.path else f"{role} scan"
    tensor = image.tensor
    if tensor.shape[1] != 1:
        raise InputError(f"{name}: expected one value per voxel, got {tensor.shape[1]} (RGB or vector image)")
    if min(image.geometry.size) < 2:
        raise InputError(f"{name}: every axis needs at least 2 voxels, got size {image.geometry.size}")
    low, high = (float(v) for v in tensor.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~tensor.isfinite()).sum())
        raise InputError(f"{name}: {bad} of its voxels NaN or Inf; replace by a number (0, for example) and try again")
    if not high > low:
        raise InputError(f"{name}: all voxels have the value {low:g}; there is nothing to align")
    if not np.isfinite(np.float32(high) - np.float32(low)):
        raise InputError(f"{name}: the intensity range {low:g} to {high:g} is too large for single precision")
