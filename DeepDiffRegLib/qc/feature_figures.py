"""What a network saw in two scans: its feature images in color, through the map, and where they still differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..geometry.sampling import index_matrix
from ..methods.bias import alignment, mean_alignment
from ..transforms.displacement import to_voxels
from ._planes import Plane, center_of, standard_planes
from .base import Context
from .figures import Picture, _field_at, _picture, png, ramp

if TYPE_CHECKING:
    import torch

    from ..geometry.grid import Geometry
    from ..geometry.pyramid import Pyramid

SAMPLED = 100_000
"""Voxels of each scan that the principal directions are taken from, evenly spread."""
SHARES = (1.0, 99.0)
"""Percentiles that become the ends of a color."""
SHOWN_CHANNELS = 8
"""Channels that are shown one by one."""
VIEW, SMALL = 200, 110
"""Pixels along the longest side of the largest view: of all channels, of one."""


@dataclass(frozen=True)
class Coloring:
    """From channels to red, green and blue: (values - mean) @ axes, then ``low`` to 0 and ``high`` to 1. axes: (C, 3)."""

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(C, ...) features to (..., 3) colors in [0, 1]."""
        flat = (np.moveaxis(values, 0, -1) - self.mean) @ self.axes
        return np.clip((flat - self.low) / np.maximum(self.high - self.low, 1e-12), 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class FeatureViews:
    """One resolution. spacing_mm: of the fixed features. fixed, moved, residual: one ``Picture`` per view.

    channels: the first view of the first channels side by side, the fixed ones above the moving ones at phi(x), as one picture.
    """

    spacing_mm: tuple[float, ...]
    fixed: tuple[Picture, ...]
    moved: tuple[Picture, ...]
    residual: tuple[Picture, ...]
    channels: Picture


@dataclass(frozen=True)
class AlignmentViews:
    """One resolution. spacing_mm: of the fixed features. cosine: mean |cos| (``methods.bias.alignment``). views: each voxel's, 0 to 1."""

    spacing_mm: tuple[float, ...]
    cosine: float
    views: tuple[Picture, ...]


def principal_coloring(images: Sequence[torch.Tensor]) -> Coloring:
    """The three directions in which (1, C, *shape) features vary most, common to all images so that colors compare.

    Fewer than three channels leave colors without a channel at 0. Signs are those that make each axis' largest entry positive.
    """
    rows = np.concatenate([_spread(image) for image in images])
    mean = rows.mean(0)
    _, strength, directions = np.linalg.svd((rows - mean).T @ (rows - mean))
    axes = np.where(strength[:3, None] > 0, directions[:3], 0.0).T
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    axes = np.pad(axes, ((0, 0), (0, 3 - axes.shape[1])))
    low, high = np.percentile((rows - mean) @ axes, SHARES, axis=0)
    return Coloring(mean, axes, low, high)


def channel_coloring(images: Sequence[torch.Tensor], channel: int) -> Coloring:
    """One channel in gray, on one scale for all images. Raises ``InputError`` for a channel that they do not have."""
    rows = np.concatenate([_spread(image) for image in images])
    if not 0 <= channel < rows.shape[1]:
        raise InputError(f"feature pictures: channel must lie between 0 and {rows.shape[1] - 1}, got {channel}")
    axes = np.zeros((rows.shape[1], 3))
    axes[channel] = 1.0
    low, high = np.percentile(rows[:, channel], SHARES)
    return Coloring(np.zeros(rows.shape[1]), axes, np.full(3, low), np.full(3, high))


def feature_views(
    context: Context, fixed: Pyramid, moving: Pyramid, channel: int | None = None
) -> tuple[FeatureViews, ...]:
    """For each resolution, coarse to fine: the fixed features, the moving ones at phi(x), and the length of their difference.

    fixed, moving: as many images, channels alike (``methods.features``). channel: one of them in gray instead of principal colors.
    """
    work = context.work
    center = center_of(context.pair.fixed, work.fixed_foreground, work.geometry)
    planes, small = standard_planes(work.geometry, center, VIEW), standard_planes(work.geometry, center, SMALL)[0]
    reached, first = [_reached(context, p) for p in planes], _reached(context, small)
    views = []
    for (own, geometry), (other, moving_geometry) in zip(fixed.images, moving.images):
        pair = (own, other)
        coloring = principal_coloring(pair) if channel is None else channel_coloring(pair, channel)
        ours = [_seen(p, own, geometry, p.points_mm) for p in planes]
        theirs = [_seen(p, other, moving_geometry, at) for p, at in zip(planes, reached)]
        lengths = [np.linalg.norm(b - a, axis=0) for a, b in zip(ours, theirs)]
        longest = max(float(np.percentile(np.concatenate([v.ravel() for v in lengths]), SHARES[1])), 1e-12)
        views.append(
            FeatureViews(
                geometry.spacing_mm,
                tuple(_picture(p, coloring(v)) for p, v in zip(planes, ours)),
                tuple(_picture(p, coloring(v)) for p, v in zip(planes, theirs)),
                tuple(_picture(p, ramp(v / longest)) for p, v in zip(planes, lengths)),
                _tiles(pair, _seen(small, own, geometry, small.points_mm), _seen(small, other, moving_geometry, first)),
            )
        )
    return tuple(views)


def alignment_views(context: Context, fixed: Pyramid, moving: Pyramid) -> tuple[AlignmentViews, ...]:
    """For each resolution, coarse to fine: how far the moving features alone decide which way the map found would be pushed on.

    fixed, moving: as in ``feature_views``. 1 for one channel; features that leave the fixed scan a say lie below it.
    """
    work = context.work
    center = center_of(context.pair.fixed, work.fixed_foreground, work.geometry)
    planes = standard_planes(work.geometry, center, VIEW)
    found = []
    for (own, geometry), (other, moving_geometry) in zip(fixed.images, moving.images):
        u = to_voxels(context.transform.displacement(geometry), geometry)
        cosines = alignment(own, other, u, index_matrix(geometry, moving_geometry))
        shown = cosines.nan_to_num(0.0).float()
        views = [_picture(p, ramp(_seen(p, shown, geometry, p.points_mm)[0])) for p in planes]
        found.append(AlignmentViews(geometry.spacing_mm, mean_alignment(cosines), tuple(views)))
    return tuple(found)


def _reached(context: Context, plane: Plane) -> np.ndarray:
    """phi of the view's pixels: (H, W, d) mm."""
    points = plane.points_mm
    return points + np.moveaxis(_field_at(context, points), 0, -1)


def _seen(plane: Plane, image: torch.Tensor, geometry: Geometry, points_mm: np.ndarray) -> np.ndarray:
    """(C, H, W) features at (H, W, d) positions; only the box around these is read, which may be stored in half precision."""
    index = geometry.to_index(points_mm).reshape(-1, geometry.ndim)
    last = np.array(geometry.size) - 1
    low = np.clip(np.floor(index.min(0)), 0, last).astype(int)
    high = np.clip(np.ceil(index.max(0)), 0, last).astype(int)
    box = image[(..., *(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1])))]
    return plane.look_up_at(box, geometry.cropped(low, high - low + 1), points_mm, "border").reshape(-1, *plane.shape)


def _tiles(pair: Sequence[torch.Tensor], ours: np.ndarray, theirs: np.ndarray) -> Picture:
    """One channel beside the other, each on a gray scale of its own; (C, H, W) of both sides, one above the other."""
    columns = []
    for channel in range(min(SHOWN_CHANNELS, len(ours))):
        coloring = channel_coloring(pair, channel)
        columns.append(np.concatenate([coloring(side)[..., 0] for side in (ours, theirs)]))
    pixels = np.concatenate(columns, 1)
    return Picture("channels", ("", "", "", ""), png(pixels), pixels.shape[::-1])


def _spread(image: torch.Tensor) -> np.ndarray:
    """(N, C) float64 features of evenly spread voxels."""
    flat = image.detach()[0].flatten(1)
    step = max(1, flat.shape[1] // SAMPLED)
    return flat[:, ::step].T.cpu().double().numpy()
