"""The pair to register: two scans and what the user knows about them. It checks itself before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
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
class Tissue:
    """Label ``label`` is tissue of this ``kind``: a name the transform model knows, such as ``stiff`` or ``soft``."""

    label: int
    kind: str


@dataclass(frozen=True)
class Stiffness:
    """Which parts of the moving scan are stiff and which may deform. labels: a label map of the moving scan, on any grid."""

    labels: Image
    tissues: tuple[Tissue, ...]

    def __post_init__(self):
        if not self.tissues:
            raise InputError("stiffness: no segment is named; say which are stiff or soft, as in 1:stiff,2:soft")
        named = [t.label for t in self.tissues]
        twice = sorted({label for label in named if named.count(label) > 1})
        if twice:
            raise InputError(f"stiffness: segment {twice[0]} is named twice; every segment can be of one tissue only")

    @classmethod
    def from_masks(cls, masks: Sequence[tuple[Image, str]]) -> Stiffness:
        """One mask per segment with its tissue, all on one grid; ``InputError`` for an empty mask or two that overlap."""
        if not masks:
            raise InputError("stiffness: no segment is given")
        geometry = masks[0][0].geometry
        merged = np.zeros(geometry.shape, dtype=np.int32)
        for number, (mask, kind) in enumerate(masks, 1):
            if not mask.geometry.same_grid(geometry):
                raise InputError("stiffness: all segments must lie on one grid; resample them onto the first one's")
            inside = mask.numpy() > 0
            if not inside.any():
                raise InputError(f"stiffness: segment {number} ({kind}) is empty")
            shared = np.unique(merged[inside & (merged > 0)])
            if shared.size:
                raise InputError(
                    f"stiffness: segments {shared[0]} ({masks[shared[0] - 1][1]}) and {number} ({kind}) overlap in "
                    f"{int((inside & (merged == shared[0])).sum())} voxels; a voxel can be of one tissue only"
                )
            merged[inside] = number
        labels = Image.from_array(merged, geometry, "labels")
        return cls(labels, tuple(Tissue(number, kind) for number, (_, kind) in enumerate(masks, 1)))


@dataclass(frozen=True)
class Prompts:
    """What the user adds to steer: corresponding landmarks, corresponding labels, masks on either side, stiffness.

    label_pairs: empty means every label present in both maps. Label maps and masks may lie on grids of their own.
    """

    landmarks: Landmarks | None = None
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    label_pairs: tuple[LabelPair, ...] = ()
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    stiffness: Stiffness | None = None


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
