"""How far around the found map the cost still points back to it: learned features beside the scans themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .base import Context

if TYPE_CHECKING:
    import torch

    from ..geometry.grid import Geometry
    from ..geometry.pyramid import Pyramid

POINTS = 3000
"""Places of the anatomy at which the scans are compared, evenly spread."""
STEPS = 20
"""Translations to each side."""
RANGE = 0.15
"""Of the anatomy's longest side: the farthest translation."""
SLACK = 0.02
"""Of its range, by which a cost may fall on the way out and still count as rising."""
MOST_VOXELS = 150_000
"""Features of more voxels are not asked for their directions: that takes double precision and time."""
AXES = {3: ("right - left", "front - back", "feet - head"), 2: ("x", "y")}


@dataclass(frozen=True)
class Profile:
    """The cost of one kind of image along translations of the moving one after the map.

    name: ``scans`` or the voxel size of the features. costs: (d, 2 n + 1) mean squared differences, from 0 to 1 per axis.
    reach_mm: way out on which the cost rises all the time, mean over axes and sides: from there translation alone finds back.
    """

    name: str
    costs: np.ndarray
    reach_mm: float


@dataclass(frozen=True)
class Landscape:
    """offsets_mm: (2 n + 1) translations along each of ``axes``. profiles: the scans first, then features, coarse to fine."""

    axes: tuple[str, ...]
    offsets_mm: np.ndarray
    profiles: tuple[Profile, ...]


def landscape(context: Context, fixed: Pyramid, moving: Pyramid) -> Landscape:
    """Compare at phi(x) + t for translations t along the world's axes. fixed, moving: as in ``feature_figures.feature_views``."""
    points = anatomy_points(context)
    reached = context.transform.map_points(points)
    d = points.shape[1]
    longest = RANGE * float(np.ptp(points, axis=0).max())
    offsets = np.linspace(-longest, longest, 2 * STEPS + 1)
    asked = reached + offsets[None, :, None, None] * np.eye(d)[:, None, None]
    pair = context.pair
    sides = [("scans", (pair.fixed.tensor, pair.fixed.geometry), (pair.moving.tensor, pair.moving.geometry), True)]
    for own, other in zip(fixed.images, moving.images):
        sides.append((f"features, {min(own[1].spacing_mm):.3g} mm", own, other, False))
    profiles = []
    for name, own, other, scaled in sides:
        costs = _costs(own, other, points, asked, scaled)
        costs -= costs.min(1, keepdims=True)
        costs /= np.maximum(costs.max(1, keepdims=True), 1e-12)
        profiles.append(Profile(name, costs, float(np.mean([rising(row, offsets) for row in costs]))))
    return Landscape(AXES[d], offsets, tuple(profiles))


def anatomy_points(context: Context, most: int = POINTS) -> np.ndarray:
    """(N, d) positions in mm, evenly spread over the fixed anatomy."""
    work = context.work
    where = np.argwhere(work.fixed_foreground)
    where = where if len(where) else np.argwhere(np.ones(work.fixed.shape, bool))
    return work.geometry.to_world(where[:: max(1, len(where) // most), ::-1].astype(float))


def rising(costs: np.ndarray, offsets_mm: np.ndarray) -> float:
    """Way from the middle on which (2 n + 1) costs in [0, 1] rise all the time, mean of both sides, mm."""
    middle = len(costs) // 2
    found = []
    for side in (costs[middle:], costs[middle::-1]):
        falls = np.flatnonzero(side < np.maximum.accumulate(side) - SLACK)
        # flat ground tells no way: the last place that lies higher than the one before
        end = (falls[0] if len(falls) else len(side)) - 1
        climbs = np.flatnonzero(np.diff(side[: end + 1]) > 0)
        found.append(abs(offsets_mm[middle + climbs[-1] + 1]) if len(climbs) else 0.0)
    return float(np.mean(found))


def directions(context: Context, fixed: Pyramid, moving: Pyramid) -> tuple[float | None, ...]:
    """Per resolution: mean |cos| of the angle between the force and the gradient of the moving features' mean, at the map.

    1 where, as with a single image, the fixed scan cannot turn the force (``methods.bias``). None for resolutions of more
    than ``MOST_VOXELS`` voxels.
    """
    from ..geometry.sampling import index_matrix, per_component
    from ..methods.bias import alignment, mean_alignment

    found = []
    for (own, geometry), (other, moving_geometry) in zip(fixed.images, moving.images):
        if max(geometry.voxels, moving_geometry.voxels) > MOST_VOXELS:
            found.append(None)
            continue
        way = context.transform.displacement(geometry).detach().cpu()
        along = way.new_tensor(geometry.rotation.T) @ way[0].flatten(1)
        u = along.reshape(way.shape) / per_component(geometry.spacing_mm, way)
        cosines = alignment(own.cpu().float(), other.cpu().float(), u, index_matrix(geometry, moving_geometry))
        mean = mean_alignment(cosines)
        found.append(mean if np.isfinite(mean) else None)
    return tuple(found)


def _costs(
    own: tuple[torch.Tensor, Geometry],
    other: tuple[torch.Tensor, Geometry],
    points: np.ndarray,
    asked: np.ndarray,
    scaled: bool,
) -> np.ndarray:
    """(d, 2 n + 1) means over points and channels. points: (N, d). asked: (d, 2 n + 1, N, d).

    scaled: mean and spread of both sides are brought to 0 and 1 first, so that scanners' units do not matter.
    """
    import torch

    from ..geometry.sampling import sample

    indices = []
    for (_, geometry), places in ((own, points), (other, asked)):
        index = np.ascontiguousarray(geometry.to_index(places.reshape(-1, geometry.ndim)).T, dtype=np.float32)
        indices.append(torch.from_numpy(index).reshape(1, geometry.ndim, *(1,) * (geometry.ndim - 1), -1))
    total, channels = np.zeros(asked.shape[:2]), own[0].shape[1]
    for channel in range(channels):  # one at a time: they may be stored in half precision
        ours, theirs = (
            sample(image[:, channel : channel + 1].detach().cpu().float(), index, padding="border").numpy().ravel()
            for (image, _), index in zip((own, other), indices)
        )
        theirs = theirs.reshape(asked.shape[:3])
        if scaled:
            found = theirs[0, theirs.shape[1] // 2]
            theirs = (theirs - found.mean()) / max(float(found.std()), 1e-12)
            ours = (ours - ours.mean()) / max(float(ours.std()), 1e-12)
        total += np.square(theirs - ours).mean(-1)
    return total / channels
