"""Generated pairs of 2-D shapes with a label for every object: the synthetic population of the RDMM experiments.

A large foreground shape holds small inner objects and is surrounded by small outer ones. Source and target are drawn
apart, object by object, so that no smooth map between them is known; only the labels are. Every length of the recipe is
a share of the half field of view, so a smaller grid shows the same scene with larger pixels (Shen et al., NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..geometry.grid import Geometry
from .image import Image
from .pair import Pair

FIELD_OF_VIEW_MM = 200.0
"""The recipe is written for 200 x 200 pixels of 1 mm."""
REACH = 0.9
"""Objects stay within this share of the half field of view."""
INNER_MARGIN_MM, OUTER_MARGIN_MM, GAP_MARGIN_MM = 10.0, 5.0, 5.0
FOREGROUND_SCALE, OBJECT_SCALE = (0.8, 0.9), (0.15, 0.25)
FOREGROUND_KINDS = ("ellipse", "rectangle")
OBJECT_KINDS = ("ellipse", "rectangle", "triangle")
HALF_SIZES = {"ellipse": (0.6, 0.8), "triangle": (0.6, 0.8), "rectangle": (0.4, 0.8)}
LARGEST_TURN_DEG = 60.0
LARGEST_SHIFT = 0.1
GRAYS = 255
FOREGROUND = 1
_ATTEMPTS, _RESTARTS = 400, 40


@dataclass(frozen=True)
class Shape:
    """One object. kind: ``ellipse``, ``rectangle`` or ``triangle`` (isosceles, base down before it is turned).

    center, half: position and half sizes (x, y) in shares of the half field of view. turn_deg: rotation.
    """

    kind: str
    center: np.ndarray
    half: np.ndarray
    turn_deg: float

    def mask(self, points: np.ndarray) -> np.ndarray:
        """Which of the (..., 2) points (x, y in [-1, 1]) lie in the object."""
        angle = np.deg2rad(self.turn_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        own = (points - self.center) @ turn / self.half
        if self.kind == "ellipse":
            return np.square(own).sum(-1) <= 1
        inside = np.abs(own).max(-1) <= 1
        if self.kind == "triangle":
            inside &= 2 * np.abs(own[..., 0]) <= 1 - own[..., 1]
        return inside


@dataclass(frozen=True)
class ShapePair:
    """A generated pair: the target is the fixed image, the source the moving one; gray values in [0, 1], background 0.

    fixed_labels, moving_labels: 0 background, 1 foreground, then the inner objects, then the outer ones (``inner``, ``outer``).
    """

    pair: Pair
    fixed_labels: Image
    moving_labels: Image
    inner: tuple[int, ...]
    outer: tuple[int, ...]

    @property
    def objects(self) -> tuple[int, ...]:
        """Labels of every object, the foreground included."""
        return (FOREGROUND, *self.inner, *self.outer)

    def region(self, role: str) -> Image:
        """Mask of the foreground with its inner objects; role: ``fixed`` or ``moving``."""
        labels: Image = getattr(self, f"{role}_labels")
        inside = np.isin(labels.numpy(), (FOREGROUND, *self.inner))
        return Image.from_array(inside.astype(np.float32), labels.geometry, "mask")


def make_shapes(
    seed: int = 2018,
    number: int = 0,
    size: int = 200,
    *,
    inner: int = 2,
    outer: int = 6,
    scale: tuple[float, float] = OBJECT_SCALE,
    kinds: tuple[str, ...] | None = None,
) -> ShapePair:
    """Draw pair ``number`` of the population ``seed`` on ``size`` x ``size`` pixels (200 mm field of view).

    scale: smallest and largest of the inner and outer objects; small grids need larger ones. kinds: of all shapes, the foreground's
    too (None: those of the recipe).

    Kept from the recipe in source and target alike: an inner object grown by 10 mm lies in the foreground, an outer one
    grown by 5 mm does not touch it, objects grown by 5 mm are disjoint, all lie within 0.9 of the half field of view. Raises
    InputError when so many objects do not fit.
    """
    if size < 32:
        raise InputError(f"make_shapes(): 'size' must be at least 32 pixels, got {size}; small objects would vanish")
    if min(inner, outer) < 0:
        raise InputError(f"make_shapes(): 'inner' and 'outer' must not be negative, got {inner} and {outer}")
    for kind in kinds or ():
        if kind not in HALF_SIZES:
            raise InputError(f"make_shapes(): 'kinds' must be among {', '.join(HALF_SIZES)}, got {kind!r}")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"make_shapes(): 'scale' must rise within 0 to 1, got {scale}")
    rng = np.random.default_rng([seed, number])
    points = _points(size)
    for _ in range(_RESTARTS):
        drawn = _draw(rng, points, inner, outer, scale, kinds)
        if drawn is not None:
            return _paint(rng, drawn, size, inner)
    raise InputError(f"make_shapes(): {inner} inner and {outer} outer objects do not fit; ask for fewer")


def make_population(count: int, seed: int = 2018, size: int = 200, **options: int) -> Iterator[ShapePair]:
    """The first ``count`` pairs of a population, one at a time. options: as in ``make_shapes``."""
    return (make_shapes(seed, number, size, **options) for number in range(count))


def _points(size: int) -> np.ndarray:
    """(size, size, 2) x, y of the pixel centers, outer faces at -1 and 1."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return np.stack(np.meshgrid(axis, axis, indexing="xy"), -1)


Drawn = list[tuple[np.ndarray, np.ndarray]]
"""Source and target mask of each object, foreground first."""


def _draw(rng: np.random.Generator, points: np.ndarray, inner: int, outer: int, scale, kinds) -> Drawn | None:
    """All objects of a pair, or None when one found no place and the pair must be started afresh."""
    within = np.abs(points).max(-1) <= REACH
    foreground = _place(rng, points, kinds or FOREGROUND_KINDS, FOREGROUND_SCALE, [within, within])
    if foreground is None:
        return None
    inside = [_distance(mask) > INNER_MARGIN_MM for mask in foreground]
    outside = [within & (_distance(~mask) > OUTER_MARGIN_MM) for mask in foreground]
    drawn = [foreground]
    for number in range(inner + outer):
        allowed = inside if number < inner else outside
        found = _place(rng, points, kinds or OBJECT_KINDS, scale, allowed)
        if found is None:
            return None
        drawn.append(found)
        for side in (0, 1):
            # Both are grown by the margin, so what they keep free between them is twice as wide.
            free = _distance(~found[side]) > 2 * GAP_MARGIN_MM
            inside[side], outside[side] = inside[side] & free, outside[side] & free
    return drawn


def _place(rng, points: np.ndarray, kinds, scales, allowed) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks of a source object and its counterpart, each wholly in its ``allowed`` mask.

    The center is drawn among allowed pixels: an object holds its center, so this only leaves out what would be refused.
    """
    places = points[allowed[0]]
    if not len(places):
        return None
    pixel = 2 / len(points)
    for _ in range(_ATTEMPTS):
        center = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 2) * pixel
        source = _shape(rng, kinds, scales, center)
        shift = rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2) * source.half
        target = _shape(rng, kinds, scales, source.center + shift)
        masks = [_fitting(shape, points, space) for shape, space in zip((source, target), allowed)]
        if masks[0] is not None and masks[1] is not None:
            return masks[0], masks[1]
    return None


def _fitting(shape: Shape, points: np.ndarray, allowed: np.ndarray) -> np.ndarray | None:
    """The shape's mask when it lies in the picture and in ``allowed``, else None; only the box around it is looked at."""
    reach = float(np.hypot(*shape.half))
    size = len(points)
    low, high = ((shape.center + side * reach + 1) / 2 * size for side in (-1, 1))
    box = tuple(slice(max(int(a), 0), min(int(b) + 1, size)) for a, b in zip(low[::-1], high[::-1]))
    part = shape.mask(points[box])
    if not part.any() or (part & ~allowed[box]).any():
        return None
    mask = np.zeros((size, size), bool)
    mask[box] = part
    return mask


def _shape(rng: np.random.Generator, kinds, scales, center: np.ndarray) -> Shape:
    kind = str(rng.choice(kinds))
    half = rng.uniform(*HALF_SIZES[kind], 2) * rng.uniform(*scales)
    return Shape(kind, center, half, float(rng.uniform(-LARGEST_TURN_DEG, LARGEST_TURN_DEG)))


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance (mm) of every pixel of the mask to the nearest pixel outside it, 0 outside."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(mask, sampling=FIELD_OF_VIEW_MM / mask.shape[0])


def _paint(rng: np.random.Generator, drawn: Drawn, size: int, inner: int) -> ShapePair:
    geometry = Geometry.identity((size, size), FIELD_OF_VIEW_MM / size)
    grays = rng.integers(0, GRAYS, len(drawn)) / (GRAYS - 1)
    while not grays.any():  # all like the background: nothing would be seen
        grays = rng.integers(0, GRAYS, len(drawn)) / (GRAYS - 1)
    images, labels = [], []
    for side in (0, 1):
        values, names = np.zeros((size, size)), np.zeros((size, size), np.int32)
        for number, masks in enumerate(drawn):
            values[masks[side]], names[masks[side]] = grays[number], FOREGROUND + number
        images.append(Image.from_array(values, geometry))
        labels.append(Image.from_array(names, geometry, "labels"))
    source, target = images
    first = FOREGROUND + 1
    inner_labels, last = tuple(range(first, first + inner)), FOREGROUND + len(drawn)
    return ShapePair(Pair(target, source), labels[1], labels[0], inner_labels, tuple(range(first + inner, last)))
