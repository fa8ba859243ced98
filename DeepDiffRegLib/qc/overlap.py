"""Overlap of corresponding structures: Dice, HD95 and mean surface distance per label, in mm."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ._labels import on_grid
from .base import STEERED, Context, Finding, graded

SMALL_VOXELS = 100
"""Structures with fewer voxels in either map are listed but do not count in the mean: one voxel changes their Dice too much."""


def compute(context: Context) -> list[Finding]:
    """Mean Dice, HD95 and surface distance over the label pairs; a row per label in ``details``."""
    if context.fixed_labels is None or context.moving_labels is None or not context.label_pairs:
        return []
    fixed = on_grid(context.fixed_labels, context.pair.fixed.geometry)
    warped = _warped_labels(context)
    before = on_grid(context.moving_labels, context.pair.fixed.geometry)
    spacing = context.pair.fixed.geometry.spacing_mm[::-1]
    boxes = [label_boxes(v) for v in (fixed, warped, before)]
    with ThreadPoolExecutor(2) as pool:
        rows = pool.map(lambda pair: _row(pair, fixed, warped, before, boxes, spacing, context), context.label_pairs)
        rows = [row for row in rows if row is not None]
    return _findings(rows, context.steered) if rows else []


def surface_distances(first: np.ndarray, second: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Distances (mm) from each surface voxel of one mask to the other mask's surface, both ways.

    first, second: bool, not empty, cropped alike. spacing: mm per array axis.
    """
    from scipy.spatial import cKDTree

    rims = [np.argwhere(rim(mask)) * np.asarray(spacing, float) for mask in (first, second)]
    trees = [cKDTree(points, balanced_tree=False, compact_nodes=False) for points in rims]
    return trees[1].query(rims[0])[0], trees[0].query(rims[1])[0]


def rim(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face neighbor outside it (or outside the array)."""
    inner = np.pad(mask, 1)
    core = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            place = tuple(slice(start, start + n) if a == axis else slice(1, 1 + n) for a, n in enumerate(mask.shape))
            core &= inner[place]
    return mask & ~core


def label_boxes(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """The bounding box of every positive label."""
    from scipy.ndimage import find_objects

    values = np.unique(labels)
    values = values[values > 0]
    if not len(values):
        return {}
    if values.max() > 10_000:
        lookup = np.searchsorted(values, labels.clip(values[0])).clip(0, len(values) - 1)
        labels = np.where(values[lookup] == labels, lookup + 1, 0)
        return dict(zip(values.tolist(), find_objects(labels.astype(np.int32))))
    found = find_objects(labels.clip(0).astype(np.int32))
    return {int(v): found[int(v) - 1] for v in values}


def _row(pair, fixed, warped, before, boxes, spacing, context: Context) -> dict | None:
    if pair.fixed not in boxes[0]:
        return None
    box = _union([boxes[0][pair.fixed], boxes[1].get(pair.moving)], fixed.shape)
    a, b = fixed[box] == pair.fixed, warped[box] == pair.moving
    voxels = int(a.sum())
    row = {"label": pair.fixed, "moving_label": pair.moving, "voxels": voxels, "dice": dice(a, b)}
    early = _union([boxes[0][pair.fixed], boxes[2].get(pair.moving)], fixed.shape)
    row["dice_before"] = dice(fixed[early] == pair.fixed, before[early] == pair.moving)
    row["hd95_mm"] = row["msd_mm"] = None
    row["place_mm"] = context.position_mm(np.argwhere(a).mean(0) + [s.start for s in box])
    if b.any():
        one, two = surface_distances(a, b, spacing)
        row["hd95_mm"] = round(float(max(np.percentile(one, 95), np.percentile(two, 95))), 3)
        row["msd_mm"] = round(float((one.sum() + two.sum()) / (one.size + two.size)), 3)
    row["small"] = min(voxels, int(b.sum())) < SMALL_VOXELS
    row["verdict"] = graded(row["dice"], 0.5, 0.2)
    return row


def _findings(rows: list[dict], steered: bool) -> list[Finding]:
    counted = [r for r in rows if not r["small"]] or rows
    dice, before = (float(np.mean([r[k] for r in counted])) for k in ("dice", "dice_before"))
    worst = min(counted, key=lambda r: r["dice"])
    findings = [
        Finding(
            "dice_mean",
            "Overlap of labels (Dice), mean",
            round(dice, 4),
            "",
            "at least 0.55 and more than before",
            "bad" if dice < before - 0.02 else graded(dice, 0.55, 0.35),
            f"{_over(counted)}; before registration {before:.3f}. Worst: label {worst['label']} with {worst['dice']:.2f}. "
            + (STEERED if steered else "Thin structures such as cortical areas of two persons rarely exceed 0.7."),
            worst["place_mm"],
            {"before": before, "labels": rows},
        )
    ]
    distances = [r for r in counted if r["hd95_mm"] is not None]
    if distances:
        far = max(distances, key=lambda r: r["hd95_mm"])
        hd95, msd = (float(np.mean([r[k] for r in distances])) for k in ("hd95_mm", "msd_mm"))
        findings.append(
            Finding(
                "hd95_mean",
                "Distance of outlines (HD95), mean",
                round(hd95, 3),
                "mm",
                "at most 15 mm",
                graded(hd95, 15.0, 30.0),
                f"95 % of the outlines are closer than this; mean surface distance {msd:.2f} mm. Worst: label {far['label']} with "
                f"{far['hd95_mm']:.1f} mm.",
                far["place_mm"],
                {"mean_surface_distance_mm": msd},
            )
        )
    return findings


def _over(rows: list[dict]) -> str:
    return "One structure" if len(rows) == 1 else f"Mean over {len(rows)} structures"


def _warped_labels(context: Context) -> np.ndarray:
    from ..warp.image import warp_image

    return warp_image(context.moving_labels, context.transform, context.pair.fixed.geometry).numpy()


def _union(boxes, shape) -> tuple[slice, ...]:
    boxes = [box for box in boxes if box is not None]
    return tuple(
        slice(max(0, min(b[i].start for b in boxes) - 2), min(n, max(b[i].stop for b in boxes) + 2))
        for i, n in enumerate(shape)
    )


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks, 0 to 1 in steps of 0.0001; 0 when both are empty."""
    total = int(first.sum()) + int(second.sum())
    return round(2 * float((first & second).sum()) / total, 4) if total else 0.0
