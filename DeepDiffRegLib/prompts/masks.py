"""Masks: where a scan counts. They weight the loss, never the field, which stays smooth across them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.image import Image
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample

SMALLEST_WEIGHT = 1e-4
"""Below this everywhere a mask counts as empty."""


def mask_weights(mask: Image) -> torch.Tensor:
    """(1, 1, *shape) float32 in [0, 1] on the mask's own grid.

    Label maps, and files with values above 1 (0 and 255, say), mean 1 wherever they are not 0. Raises ``InputError`` for
    several channels or values that are not finite.
    """
    tensor = mask.tensor
    if tensor.shape[1] != 1:
        raise InputError(f"{_name(mask)}: expected one value per voxel, got {tensor.shape[1]}")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise InputError(f"{_name(mask)}: some voxels are NaN or Inf; a mask needs 0 (out) and 1 (in)")
    if mask.kind == "labels" or not tensor.is_floating_point() or float(tensor.max()) > 1:
        return (tensor > 0).float()
    return tensor.float().clamp(min=0)


def level_weight(
    mask: Image, level_geometry: Geometry, exclude: bool = False, allow_empty: bool = False
) -> torch.Tensor:
    """The mask on another grid, by physical position: (1, 1, *level shape) float32 in [0, 1].

    Blurred first along axes that get coarser, so that small parts keep their share. Beyond its own grid a mask is 0.
    exclude: the complement (a pathology to be ignored). Raises ``InputError`` when nothing is left, unless allowed.
    """
    if mask.ndim != level_geometry.ndim:
        raise InputError(f"{_name(mask)}: is {mask.ndim}-D but the scan is {level_geometry.ndim}-D")
    weight = resample(mask_weights(mask), mask.geometry, level_geometry, padding="zeros").clamp(0, 1)
    weight = 1 - weight if exclude else weight
    if not allow_empty and float(weight.max()) < SMALLEST_WEIGHT:
        what = "covers the whole scan, so nothing is left to compare" if exclude else "is empty inside the scan"
        raise InputError(f"{_name(mask)}: {what}; check that it belongs to this scan")
    return weight


def check_mask(role: str, mask: Image, scan: Geometry) -> None:
    """Refuse a mask without a positive voxel inside the scan (``role`` names it in the message)."""
    if mask.ndim != scan.ndim:
        raise InputError(f"{role} mask: is {mask.ndim}-D but the scan is {scan.ndim}-D")
    weights = mask_weights(mask)
    if not bool((weights > 0).any()):
        raise InputError(f"{role} mask{_path(mask)} is empty: no voxel is above 0")

    if not bool((resample(weights, mask.geometry, scan, padding="zeros") > 0).any()):
        raise InputError(f"{role} mask{_path(mask)} is empty inside the {role} scan: it lies elsewhere in space")


@dataclass(frozen=True)
class MaskPrompt:
    """Where the scans are compared. Each mask may be None (everywhere); ``exclude_*`` turns one into what to leave out."""

    fixed: Image | None = None
    moving: Image | None = None
    exclude_fixed: bool = False
    exclude_moving: bool = False

    def fixed_weight(self, level_geometry: Geometry) -> torch.Tensor | None:
        """Weight of the fixed side on its level grid (1, 1, *shape), or None for 1 everywhere."""
        return None if self.fixed is None else level_weight(self.fixed, level_geometry, self.exclude_fixed)

    def moving_weight(self, level_geometry: Geometry) -> torch.Tensor | None:
        """Weight of the moving side on its own level grid; to be warped, and not differentiated through."""
        return None if self.moving is None else level_weight(self.moving, level_geometry, self.exclude_moving)


def _path(mask: Image) -> str:
    return f" {mask.path}" if mask.path else ""


def _name(mask: Image) -> str:
    return f"mask{_path(mask)}"
