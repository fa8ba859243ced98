"""Where layers are drawn: inside the fixed scan, its body, or a segment."""

from __future__ import annotations

import numpy as np

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Scan

from .convert import mask_scan_of, scan_of
from .spaces import lps

MOST_VOXELS_ALONG = 64
"""A body mask this coarse is enough to end lines at the skin."""


class Region:
    """A set of points of the fixed space: ``contains`` answers for many at once.

    region: None (the whole fixed scan), ``"body"``, or (segmentation or label map node, segment id).
    """

    def __init__(self, fixed, region=None):
        self.geometry = scan_of(fixed).geometry
        self.mask = None
        if region == "body":
            self.mask = body_mask(scan_of(fixed))
        elif region is not None:
            node, segment = _segment(region)
            self.mask = mask_scan_of(node, None if segment is None else [segment], self.geometry)

    def contains(self, points_ras: np.ndarray) -> np.ndarray:
        """(N,) bool for (N, 3) RAS points."""
        points = lps(points_ras)
        if self.mask is None:
            return self.geometry.contains(points)
        index = np.rint(self.mask.geometry.to_index(points)).astype(int)
        size = np.array(self.mask.geometry.size)
        inside = ((index >= 0) & (index < size)).all(-1)
        x, y, z = np.clip(index, 0, size - 1).T
        return inside & (self.mask.array[z, y, x] != 0)


def _segment(region) -> tuple:
    if isinstance(region, tuple) and len(region) == 2:
        return region
    raise InputError(f"region: expected None, 'body' or (node, segment id), got {region!r}")


def body_mask(scan: Scan) -> Scan:
    """Everything that air from outside cannot reach, on a coarse grid: lungs and bowel count as body.

    Air is what lies below Otsu's threshold of the scan.
    """
    steps = tuple(max(1, -(-n // MOST_VOXELS_ALONG)) for n in scan.geometry.shape)
    values = np.asarray(scan.array[:: steps[0], :: steps[1], :: steps[2]], dtype=np.float32)
    air = values <= otsu(values)
    outside = np.zeros(np.array(air.shape) + 2, bool)
    for axis in range(3):
        for side in (0, -1):
            outside[tuple(side if a == axis else slice(None) for a in range(3))] = True
    open_ = np.ones_like(outside)
    open_[1:-1, 1:-1, 1:-1] = air
    while True:
        grown = outside.copy()
        for axis in range(3):
            for step in (1, -1):
                grown |= np.roll(outside, step, axis)
        grown &= open_
        if np.array_equal(grown, outside):
            break
        outside = grown
    body = ~outside[1:-1, 1:-1, 1:-1]
    spacing = np.array(scan.geometry.spacing_mm) * steps[::-1]
    geometry = Geometry(body.shape[::-1], tuple(spacing), scan.geometry.origin_mm, scan.geometry.direction)
    return Scan(body.astype(np.uint8), geometry, "mask", scan.name)


def otsu(values: np.ndarray, bins: int = 128) -> float:
    """The threshold that parts a histogram into the two classes with the largest variance between them (Otsu 1979)."""
    low, high = np.percentile(values, (0.5, 99.5))
    if high <= low:
        return float(low)
    counts, edges = np.histogram(np.clip(values, low, high), bins)
    middle = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts)
    total, mass = weight[-1], np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * weight - mass * total) ** 2 / (weight * (total - weight))
    return float(edges[1:][np.nanargmax(between[:-1])])
