"""Refuse prompts that do not belong to their scans, before any work."""

from __future__ import annotations

import numpy as np

from ..data.image import Image
from ..data.pair import Pair, Prompts, Stiffness
from ..data.points import Points
from ..errors import ConfigError, InputError
from ..geometry.grid import Geometry
from .labels import check as check_labels
from .masks import check_mask


def check_prompts(pair: Pair) -> None:
    """Raise ``InputError`` for landmarks outside their scans, absent label pairs, and label maps or masks elsewhere.

    A label map on one side only is no prompt (it may be there to be warped), unless label pairs are asked for.
    """
    prompts = pair.prompts
    if prompts.landmarks is not None:
        if not len(prompts.landmarks):
            raise InputError("landmarks: both lists are empty")
        _check_points("fixed", prompts.landmarks.fixed, pair.fixed.geometry)
        _check_points("moving", prompts.landmarks.moving, pair.moving.geometry)
    for role in ("fixed", "moving"):
        scan = getattr(pair, role).geometry
        labels, mask = getattr(prompts, f"{role}_labels"), getattr(prompts, f"{role}_mask")
        if labels is not None:
            _check_map(role, labels, scan)
        if mask is not None:
            check_mask(role, mask, scan)
    if prompts.stiffness is not None:
        _check_stiffness(prompts.stiffness, pair.moving.geometry)
    both = prompts.fixed_labels is not None and prompts.moving_labels is not None
    if both:
        check_labels(prompts.label_pairs, prompts.fixed_labels, prompts.moving_labels)
    elif prompts.label_pairs:
        missing = "fixed" if prompts.fixed_labels is None else "moving"
        raise InputError(f"label pairs were given without a {missing} label map")


def check_steered(prompts: Prompts) -> None:
    """Raise ``ConfigError`` when the scans have no weight and nothing else says where anything belongs."""
    both = prompts.fixed_labels is not None and prompts.moving_labels is not None
    if prompts.landmarks is None and not both:
        raise ConfigError(
            "similarity.weight is 0 and there are neither landmarks nor label pairs: nothing would steer the map; "
            "add prompts, or give the scans a weight"
        )


def _check_points(role: str, points: Points, scan: Geometry) -> None:
    if points.positions_mm.shape[1] != scan.ndim:
        raise InputError(
            f"{role} landmarks have {points.positions_mm.shape[1]} coordinates but the scan is {scan.ndim}-D"
        )
    outside = np.flatnonzero(~scan.contains(points.positions_mm))
    if outside.size:
        named = ", ".join(points.names[i] for i in outside[:5]) + (", ..." if outside.size > 5 else "")
        where = tuple(float(v) for v in points.positions_mm[outside[0]].round(1))
        raise InputError(
            f"{outside.size} of {len(points)} {role} landmarks lie outside the {role} scan: {named} (first at {where} mm LPS); are the lists swapped, or RAS instead of LPS?"
        )


def _check_map(role: str, labels: Image, scan: Geometry) -> None:
    path = f" {labels.path}" if labels.path else ""
    if labels.ndim != scan.ndim:
        raise InputError(f"{role} label map{path} is {labels.ndim}-D but the scan is {scan.ndim}-D")
    if labels.tensor.shape[1] != 1:
        raise InputError(f"{role} label map{path}: expected one label per voxel, got {labels.tensor.shape[1]} values")
    if scan.overlap_fraction(labels.geometry) == 0 and labels.geometry.overlap_fraction(scan) == 0:
        raise InputError(f"{role} label map{path} does not overlap the {role} scan in space")


def _check_stiffness(stiffness: Stiffness, scan: Geometry) -> None:
    """Refuse labels that do not occur, or a label map beside the moving scan; raises ``InputError``."""
    labels = stiffness.labels
    path = f" {labels.path}" if labels.path else ""
    if labels.ndim != scan.ndim:
        raise InputError(f"stiffness label map{path} is {labels.ndim}-D but the scan is {scan.ndim}-D")
    if scan.overlap_fraction(labels.geometry) == 0 and labels.geometry.overlap_fraction(scan) == 0:
        raise InputError(f"stiffness label map{path} does not overlap the moving scan in space")
    present = {int(v) for v in labels.tensor.unique().tolist()}
    for tissue in stiffness.tissues:
        if tissue.label not in present:
            known = ", ".join(str(v) for v in sorted(present - {0})[:10]) or "no labels"
            raise InputError(f"stiffness: segment {tissue.label} is empty in the label map{path}; it has {known}")
