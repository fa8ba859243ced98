"""Label pairs: corresponding segments become soft channels that the solver matches beside the scans.

A channel is (1 - tanh(s / tau)) / 2 of the signed distance s to the structure: wide (tau of 2 voxels) on coarse levels,
where it draws structures together that do not overlap yet, and narrow on the finest, where it sharpens the boundary.
It falls to 0 outside, as does the sampling beyond the moving scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data.image import Image
from ..data.pair import LabelPair
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, warp
from ..similarity.mean_squares import MeanSquares
from .base import PROMPTS, ImageTerm
from .distance import signed_distance, soft_segment

COARSE_TAU_MM, FINE_TAU_MM = 4.0, 1.5
COARSE_TAU_VOXELS, FINE_TAU_VOXELS = 2.0, 1.25
REACH = 3.0
"""Distances are computed up to this many tau from a structure; (1 - tanh 3) / 2 is 0.002."""
MOST_CHANNELS = 8
"""Channels of one term, to bound memory: 8 bytes per channel and voxel of the level."""

Box = tuple[slice, ...]


def present_labels(labels: Image) -> np.ndarray:
    """Sorted values other than 0 that occur in a label map."""
    values = np.unique(labels.numpy())
    return values[values != 0]


def check(pairs: Sequence[LabelPair], fixed_labels: Image, moving_labels: Image) -> tuple[LabelPair, ...]:
    """The pairs to match: ``pairs``, or every label present in both maps when there are none.

    Raises ``InputError`` naming an absent label and the nearest ones that exist, a weight below 0, or maps without any
    common label.
    """
    present = {"fixed": present_labels(fixed_labels), "moving": present_labels(moving_labels)}
    if not pairs:
        common = np.intersect1d(present["fixed"], present["moving"])
        if not common.size:
            raise InputError(
                f"label maps have no label in common: fixed has {_listed(present['fixed'])}, moving has {_listed(present['moving'])}; say which correspond, as in 1:7"
            )
        return tuple(LabelPair(int(v), int(v)) for v in common)
    for pair in pairs:
        if not (np.isfinite(pair.weight) and pair.weight >= 0):
            raise InputError(f"label pair {pair.fixed}:{pair.moving}: the weight must be 0 or more, got {pair.weight}")
        for role in ("fixed", "moving"):
            value = getattr(pair, role)
            if value not in present[role]:
                raise InputError(
                    f"label pair {pair.fixed}:{pair.moving}: label {value} is absent from the {role} label map; it has {_listed(present[role], value)}"
                )
    return tuple(pairs)


def _listed(values: np.ndarray, near: int = 0, most: int = 10) -> str:
    """Up to ten labels, the nearest in value, in order."""
    if not values.size:
        return "no labels"
    chosen = np.sort(values[np.argsort(np.abs(values.astype(np.int64) - near), kind="stable")[:most]])
    rest = f" and {values.size - most} more" if values.size > most else ""
    return ", ".join(str(v) for v in chosen) + rest


@dataclass(frozen=True)
class LabelPrompt:
    """Segments that correspond, on label maps of any grid.

    pairs: empty means every label present in both maps. weight: force of the whole prompt relative to the scans'.
    band_mm: compare only this near to the fixed structures (for structures segmented in part); None: everywhere.
    """

    fixed_labels: Image
    moving_labels: Image
    pairs: tuple[LabelPair, ...] = ()
    weight: float = 1.0
    band_mm: float | None = None
    most_terms: int = 1

    def __post_init__(self):
        object.__setattr__(self, "pairs", check(self.pairs, self.fixed_labels, self.moving_labels))
        boxes = []
        for role in ("fixed", "moving"):
            boxes.append(label_boxes(getattr(self, f"{role}_labels"), [getattr(p, role) for p in self.pairs]))
        object.__setattr__(self, "_boxes", tuple(boxes))

    def terms(
        self, level_geometry: Geometry, moving_level_geometry: Geometry, coarse: bool, draw: int = 0
    ) -> list[ImageTerm]:
        """The image terms of one level, at most 8 channels each, compared by mean squares.

        coarse: wide transitions (``choose_tau_mm``) that reach structures apart from each other; else narrow ones. Structures far apart in both maps share a channel. When the channels
        exceed ``most_terms`` terms, ``draw`` 0, 1, 2, ... walks through all of them in turn.
        """
        geometries = (level_geometry, moving_level_geometry)
        tau_mm = choose_tau_mm(geometries, coarse)
        groups = self._channels(REACH * tau_mm)
        chunks = [groups[i : i + MOST_CHANNELS] for i in range(0, len(groups), MOST_CHANNELS)]
        count = min(max(self.most_terms, 1), len(chunks))
        return [self._term(chunks[(draw * count + k) % len(chunks)], geometries, tau_mm, k) for k in range(count)]

    def centroids_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, d) centers of mass of the paired structures, fixed and moving, LPS: a start for those that lie apart."""
        sides = []
        for role, boxes in zip(("fixed", "moving"), self._boxes):
            labels, centers = getattr(self, f"{role}_labels"), []
            for pair, box in zip(self.pairs, boxes):
                inside = np.argwhere(labels.numpy()[box] == getattr(pair, role))
                index = inside.mean(0) + [s.start for s in box]
                centers.append(labels.geometry.to_world(index[::-1]))
            sides.append(np.array(centers))
        return sides[0], sides[1]

    def _term(self, chunk: list[list[int]], geometries, tau_mm: float, number: int) -> ImageTerm:
        sides = []
        for role, geometry, boxes in zip(("fixed", "moving"), geometries, self._boxes):
            labels = getattr(self, f"{role}_labels")
            channels = torch.zeros((1, len(chunk), *geometry.shape))
            for channel, members in zip(channels[0], chunk):
                for i in members:
                    pair = self.pairs[i]
                    soft = _segment(labels, getattr(pair, role), boxes[i], tau_mm)
                    _paste(channel, *soft, geometry, float(np.sqrt(pair.weight)))
            sides.append(channels)
        return ImageTerm(
            name=f"labels {number + 1}" if number else "labels",
            fixed=sides[0],
            moving=sides[1],
            moving_geometry=geometries[1],
            similarity=MeanSquares(),
            weight=self.weight,
            fixed_weight=self._fixed_weight(chunk, geometries[0]),
            moving_weight=_covered(self.moving_labels.geometry, geometries[1]),
            group=PROMPTS,
        )

    def _fixed_weight(self, chunk: list[list[int]], geometry: Geometry) -> torch.Tensor | None:
        covered = _covered(self.fixed_labels.geometry, geometry)
        if self.band_mm is None:
            return covered
        near = torch.zeros((1, 1, *geometry.shape))
        for i in (i for members in chunk for i in members):
            distance, box_geometry = _distance(
                self.fixed_labels, self.pairs[i].fixed, self._boxes[0][i], self.band_mm + 2 * max(geometry.spacing_mm)
            )
            _paste(near[0, 0], (distance <= self.band_mm).astype(np.float32), box_geometry, geometry, 1.0)
        return near if covered is None else near * covered

    def _channels(self, gap_mm: float) -> list[list[int]]:
        """Greedy packing: a pair joins the first channel whose members are farther than ``gap_mm`` in both maps."""
        spacings = [np.array(image.geometry.spacing_mm[::-1]) for image in (self.fixed_labels, self.moving_labels)]
        groups: list[list[int]] = []
        for i in range(len(self.pairs)):
            for members in groups:
                if all(
                    _gap_mm(boxes[i], boxes[j], spacing) > gap_mm
                    for j in members
                    for boxes, spacing in zip(self._boxes, spacings)
                ):
                    members.append(i)
                    break
            else:
                groups.append([i])
        return groups


def choose_tau_mm(geometries: Sequence[Geometry], coarse: bool) -> float:
    """Width of the soft boundary: 2 voxels of the level and at least 4 mm (coarse), or 1.25 voxels and at least 1.5 mm."""
    voxel = max(float(np.prod(g.spacing_mm)) ** (1 / g.ndim) for g in geometries)
    return max(COARSE_TAU_MM, COARSE_TAU_VOXELS * voxel) if coarse else max(FINE_TAU_MM, FINE_TAU_VOXELS * voxel)


def label_boxes(labels: Image, values: Sequence[int]) -> list[Box]:
    """Bounding box of each (present) label as slices in tensor order."""
    from scipy.ndimage import find_objects

    array = labels.numpy()
    if min(values) > 0 and max(values) < 100_000:
        found = find_objects(array, max_label=max(values))
        return [found[v - 1] for v in values]
    return [find_objects((array == v).view(np.int8))[0] for v in values]


def _gap_mm(a: Box, b: Box, spacing: np.ndarray) -> float:
    """Largest separation of two boxes along a grid axis, negative when they overlap on all."""
    gaps = [max(p.start - q.stop, q.start - p.stop) for p, q in zip(a, b)]
    return float((np.array(gaps) * spacing).max())


def _distance(labels: Image, value: int, box: Box, reach_mm: float) -> tuple[np.ndarray, Geometry]:
    """Signed distance to one label on its box grown by ``reach_mm`` (inside the map), and that box's grid."""
    spacing = labels.geometry.spacing_mm
    grow = [int(np.ceil(reach_mm / h)) + 1 for h in reversed(spacing)]
    grown = tuple(slice(max(b.start - g, 0), min(b.stop + g, n)) for b, g, n in zip(box, grow, labels.geometry.shape))
    geometry = labels.geometry.cropped([s.start for s in grown[::-1]], [s.stop - s.start for s in grown[::-1]])
    return signed_distance(labels.numpy()[grown] == value, spacing), geometry


def _segment(labels: Image, value: int, box: Box, tau_mm: float) -> tuple[np.ndarray, Geometry]:
    distance, geometry = _distance(labels, value, box, REACH * tau_mm)
    return soft_segment(distance, tau_mm), geometry


def _paste(channel: torch.Tensor, soft: np.ndarray, source: Geometry, target: Geometry, factor: float) -> None:
    """channel = max(channel, factor * soft) on the part of ``target`` that ``source`` covers; channel: (*target.shape)."""
    corners = np.array(list(np.ndindex(*(2,) * source.ndim))) * np.array(source.size) - 0.5
    index = target.to_index(source.to_world(corners))
    first = np.clip(np.floor(index.min(0)), 0, np.array(target.size)).astype(int)
    last = np.clip(np.ceil(index.max(0)) + 1, 0, np.array(target.size)).astype(int)
    if (last <= first).any():
        return
    box = target.cropped(first, last - first)
    values = torch.from_numpy(np.ascontiguousarray(soft))[None, None]
    there = warp(values, torch.zeros((1, box.ndim, *box.shape)), index_matrix(box, source))
    view = channel[tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1]))]
    torch.maximum(view, factor * there[0, 0], out=view)


def _covered(labels: Geometry, level: Geometry) -> torch.Tensor | None:
    """1 where the label map knows something, 0 beyond its grid; None when it covers the whole level."""
    corners = np.array(list(np.ndindex(*(2,) * level.ndim))) * (np.array(level.size) - 1)
    if labels.contains(level.to_world(corners)).all():
        return None
    inside = torch.ones((1, 1, *labels.shape))
    return warp(inside, torch.zeros((1, level.ndim, *level.shape)), index_matrix(level, labels))
