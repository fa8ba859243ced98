"""The synthetic shapes keep the rules of their recipe, and a seed draws the same population everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt as distance

from DeepDiffRegLib.data.shapes import FOREGROUND, REACH, Shape, ShapePair, make_population, make_shapes
from DeepDiffRegLib.errors import InputError

ROLES = ("fixed", "moving")


@pytest.fixture(scope="module")
def population() -> list[ShapePair]:
    return list(make_population(6))


def labels(shapes: ShapePair, role: str) -> np.ndarray:
    return getattr(shapes, f"{role}_labels").numpy()


def gap_mm(first: np.ndarray, second: np.ndarray) -> float:
    """Shortest distance from a pixel of one mask to the other mask, at 1 mm per pixel."""
    return float(distance(~second)[first].min())


def test_one_gray_per_object_in_both_images(population):
    for shapes in population:
        for label in shapes.objects:
            values = {
                float(v)
                for role in ROLES
                for v in np.unique(getattr(shapes.pair, role).numpy()[labels(shapes, role) == label])
            }
            assert len(values) == 1 and 0 <= values.pop() <= 1
        for role in ROLES:
            assert not getattr(shapes.pair, role).numpy()[labels(shapes, role) == 0].any()


def test_every_object_is_there_twice(population):
    for shapes in population:
        assert len(shapes.inner) == 2 and len(shapes.outer) == 6
        for role in ROLES:
            assert set(np.unique(labels(shapes, role))) == {0, *shapes.objects}
            assert labels(shapes, role).shape == (200, 200)


def test_inner_objects_keep_10_mm_to_the_border_of_the_foreground(population):
    for shapes in population:
        for role in ROLES:
            outside = shapes.region(role).numpy() == 0
            assert all(gap_mm(labels(shapes, role) == label, outside) > 10 for label in shapes.inner)


def test_outer_objects_keep_5_mm_to_the_foreground(population):
    for shapes in population:
        for role in ROLES:
            region = shapes.region(role).numpy() > 0
            assert all(gap_mm(labels(shapes, role) == label, region) > 5 for label in shapes.outer)


def test_objects_grown_by_5_mm_are_disjoint(population):
    for shapes in population:
        for role in ROLES:
            small = [labels(shapes, role) == label for label in (*shapes.inner, *shapes.outer)]
            for number, one in enumerate(small):
                grown = distance(~one) <= 5
                assert not any((grown & (distance(~other) <= 5)).any() for other in small[:number])


def test_all_lie_within_the_reach(population):
    axis = (np.arange(200) + 0.5) / 100 - 1
    beyond = np.maximum(*np.abs(np.meshgrid(axis, axis))) > REACH
    assert not any(labels(shapes, role)[beyond].any() for shapes in population for role in ROLES)


def test_counterparts_stay_near(population):
    """At most a tenth of the object's half size (0.2 of the half field at most for small objects) plus pixels."""
    for shapes in population:
        for label in (*shapes.inner, *shapes.outer):
            centers = [np.argwhere(labels(shapes, role) == label).mean(0) for role in ROLES]
            assert np.abs(centers[0] - centers[1]).max() < 0.1 * 20 + 20 / 3 + 1


def test_a_seed_and_a_number_draw_one_pair():
    again, same, other = make_shapes(7, 3, 100), make_shapes(7, 3, 100), make_shapes(7, 4, 100)
    assert np.array_equal(again.pair.fixed.numpy(), same.pair.fixed.numpy())
    assert np.array_equal(again.moving_labels.numpy(), same.moving_labels.numpy())
    assert not np.array_equal(again.pair.fixed.numpy(), other.pair.fixed.numpy())
    assert np.array_equal(list(make_population(4, 7, 100))[3].pair.moving.numpy(), again.pair.moving.numpy())


def test_any_size_shows_200_mm():
    shapes = make_shapes(1, 0, 80)
    assert np.allclose(shapes.pair.fixed.geometry.extent_mm, 200)
    assert np.allclose(shapes.pair.moving.geometry.spacing_mm, 2.5)


def test_region_holds_foreground_and_inner_objects():
    shapes = make_shapes(1, 0, 80)
    region = shapes.region("fixed")
    assert region.kind == "mask"
    inside = region.numpy() > 0
    assert set(np.unique(labels(shapes, "fixed")[inside])) == {FOREGROUND, *shapes.inner}


@pytest.mark.parametrize(
    ("kind", "share"),
    [("ellipse", np.pi / 4), ("rectangle", 1.0), ("triangle", 0.5)],
    ids=["ellipse", "box", "triangle"],
)
def test_a_shape_has_the_area_of_its_kind(kind, share):
    axis = (np.arange(400) + 0.5) / 200 - 1
    points = np.stack(np.meshgrid(axis, axis), -1)
    shape = Shape(kind, np.array([0.1, -0.05]), np.array([0.5, 0.3]), 33.0)
    assert shape.mask(points).mean() == pytest.approx(share * 0.5 * 0.3, rel=0.01)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="at least 32"):
        make_shapes(size=16)
    with pytest.raises(InputError, match="not be negative"):
        make_shapes(size=64, inner=-1)
    with pytest.raises(InputError, match="do not fit"):
        make_shapes(size=32, inner=30)
