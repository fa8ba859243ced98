"""Intensities to [0, 1]; the box that is solved on and the faces that must stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Preprocess
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.preprocess.intensity import normalized
from DeepDiffRegLib.preprocess.region import cut_faces, foreground_box_mm, solving_region

GRID = Geometry((40, 36, 32), (1.5, 1.0, 2.0), (10.0, -20.0, 5.0), np.eye(3).tolist())


def block(low, high) -> torch.Tensor:
    """1 in voxels low..high-1 (x, y, z) of GRID, 0 elsewhere."""
    scan = torch.zeros(1, 1, *GRID.shape)
    scan[0, 0][tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))] = 1
    return scan


def test_percentiles_become_zero_and_one(rng):
    array = rng.normal(100, 30, (20, 22, 24)).astype(np.float32)
    image = Image.from_array(array, Geometry.identity((24, 22, 20)))
    low, high = np.percentile(array, (2, 98))
    found = normalized(image, Preprocess(clip_percentiles=(2, 98)))
    np.testing.assert_allclose(found[0, 0], np.clip((array - low) / (high - low), 0, 1), atol=1e-5)
    np.testing.assert_array_equal(image.numpy(), array)


def test_window_in_hounsfield_units():
    array = np.array([[-1000, -400, 0], [200, 400, 3000]], dtype=np.float32)
    image = Image.from_array(array, Geometry.identity((3, 2)))
    found = normalized(image, Preprocess(window=(-400, 400)))
    np.testing.assert_allclose(found[0, 0], [[0, 0, 0.5], [0.75, 1, 1]], atol=1e-6)
    with pytest.raises(InputError, match="increasing"):
        normalized(image, Preprocess(window=(400, -400)))


def test_a_scan_that_is_nearly_all_air_still_has_a_range():
    """Both percentiles are 0 then; the extremes take over."""
    array = np.zeros((30, 30), dtype=np.float32)
    array[10, 10:12] = 7
    found = normalized(Image.from_array(array, Geometry.identity((30, 30))), Preprocess(clip_percentiles=(2, 98)))
    assert float(found.max()) == 1 and float(found.sum()) == 2


def test_normalization_ignores_scale_and_offset(rng):
    array = rng.gamma(2.0, 1.0, (24, 24)).astype(np.float32)
    grid = Geometry.identity((24, 24))
    one, two = (normalized(Image.from_array(a, grid), Preprocess()) for a in (array, 37 * array - 500))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_the_box_contains_the_anatomy_and_little_else():
    low, high = np.array([8, 10, 6]), np.array([30, 28, 25])
    corners = foreground_box_mm(block(low, high), GRID)
    first, last = GRID.to_index(corners).min(0), GRID.to_index(corners).max(0)
    spacing = np.array(GRID.spacing_mm)
    assert (first <= low - 0.4).all() and (last >= high - 1 + 0.4).all()
    assert ((low - 0.5 - first) * spacing <= 8.1).all() and ((last - high + 0.5) * spacing <= 8.1).all()


def test_an_empty_scan_gives_the_whole_grid():
    corners = GRID.to_index(foreground_box_mm(torch.zeros(1, 1, *GRID.shape), GRID))
    np.testing.assert_allclose(corners.min(0), -0.5, atol=1e-9)
    np.testing.assert_allclose(corners.max(0), np.array(GRID.size) - 0.5, atol=1e-9)


def test_cut_faces_are_those_that_anatomy_touches():
    assert cut_faces(block((8, 10, 6), (30, 28, 25))) == ()
    assert cut_faces(block((0, 10, 6), (30, 28, 25))) == ((0, 0),)
    assert cut_faces(block((8, 10, 6), (30, 36, 25))) == ((1, -1),)
    assert cut_faces(block((8, 10, 0), (30, 28, 32))) == ((2, 0), (2, -1))


def test_a_speck_at_a_face_is_no_anatomy():
    scan = block((8, 10, 6), (30, 28, 25))
    scan[0, 0, 0, 5, 5] = 1
    assert cut_faces(scan) == ()


def test_region_is_the_points_plus_the_margin():
    scan = block((14, 12, 10), (24, 22, 20))
    region = solving_region(scan, GRID, GRID.to_world([[14, 12, 10], [23, 21, 19]]), margin_mm=5.9)
    assert region.start == (10, 6, 7) and region.size == (18, 22, 16)
    np.testing.assert_allclose(region.geometry.origin_mm, GRID.to_world(region.start))
    assert len(region.pinned) == 6


def test_only_faces_that_cut_anatomy_are_free():
    """Anatomy runs through the high z face: that face may move, when the box reaches it."""
    scan = block((14, 12, 10), (24, 22, 32))
    reaching = solving_region(scan, GRID, GRID.to_world([[14, 12, 10], [23, 21, 31]]), margin_mm=6.0)
    assert (2, -1) not in reaching.pinned and len(reaching.pinned) == 5
    short = solving_region(scan, GRID, GRID.to_world([[14, 12, 10], [23, 21, 19]]), margin_mm=6.0)
    assert len(short.pinned) == 6


def test_points_outside_leave_the_whole_grid():
    region = solving_region(block((14, 12, 10), (24, 22, 20)), GRID, GRID.to_world([[500, 0, 0], [510, 5, 5]]), 4.0)
    assert region.start == (0, 0, 0) and region.size == GRID.size
