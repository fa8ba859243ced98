"""Disks and Cs: every drawn pair obeys the ranges, whatever the size, and depends on the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.c_shapes import CShapeRanges, make_c_shapes
from DeepDiffRegLib.errors import InputError

SIZE = 96


def drawn(seed: int = 0, count: int = 40, size: int = SIZE, ranges: CShapeRanges | None = None):
    return make_c_shapes(np.random.default_rng(seed), count, size, ranges)


def radii(size: int) -> np.ndarray:
    y, x = np.indices((size, size)) - (size - 1) / 2
    return np.hypot(x, y)


def test_radii_and_opening_lie_in_their_ranges():
    ranges, shapes, r = CShapeRanges(), drawn(), radii(SIZE)
    for disk, c in zip(shapes.disk_labels[:, 0].numpy() > 0, shapes.c_labels[:, 0].numpy() > 0):
        assert np.array_equal(disk, r <= r[disk].max()), "a disk is full"
        found = {"disk": r[disk].max(), "outer": r[c].max(), "inner": r[c].min()}
        for name, value in found.items():
            low, high = (SIZE * share for share in getattr(ranges, name))
            assert low - 1 <= value <= high + 1, name
        ring = (r >= found["inner"]) & (r <= found["outer"])
        half = 180 * (1 - c.sum() / ring.sum())
        assert ranges.opening_deg[0] - 2 <= half <= ranges.opening_deg[1] + 2


def test_the_opening_points_where_it_should():
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    for turn, towards in ((0.0, (1, 0)), (90.0, (0, 1)), (-180.0, (-1, 0)), (-90.0, (0, -1))):
        shapes = drawn(ranges=CShapeRanges(turn_deg=(turn, turn)), count=3)
        for c in shapes.c_labels[:, 0].numpy() > 0:
            center = np.array([x[c].mean(), y[c].mean()])
            assert np.allclose(center / np.linalg.norm(center), np.negative(towards), atol=0.05)


def test_pictures_are_the_softened_masks():
    shapes = drawn()
    for picture, labels in ((shapes.disks, shapes.disk_labels), (shapes.cs, shapes.c_labels)):
        assert picture.shape == labels.shape == (40, 1, SIZE, SIZE)
        assert picture.dtype == torch.float32 and labels.dtype == torch.int32
        assert picture.min() >= 0 and picture.max() <= 1 + 1e-6
        assert torch.allclose(picture.sum((1, 2, 3)), labels.sum((1, 2, 3)).float(), rtol=1e-4)
        assert ((picture > 0.5) != (labels > 0)).float().mean() < 2e-3


def test_the_generator_decides():
    one, same, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one.cs, same.cs) and not torch.equal(one.cs, other.cs)
    parts = one.each()
    assert len(parts) == len(one) == 40 and torch.equal(parts[7].disks, one.disks[7:8])


def test_another_size_shows_the_same_scene():
    small, large = drawn(3, size=48), drawn(3, size=192)
    coarse = torch.nn.functional.avg_pool2d(large.c_labels.float(), 4) > 0.5
    assert (coarse != (small.c_labels > 0)).float().mean() < 0.01


def test_a_tiny_picture_is_refused():
    with pytest.raises(InputError, match="at least 16 pixels, got 8"):
        drawn(size=8)
