"""Pyramid levels: same outer faces, sensible sizes, and values that survive the resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import level_geometry, resample, resample_displacement


def corners_mm(geometry: Geometry) -> np.ndarray:
    corners = np.array(list(np.ndindex(*(2,) * geometry.ndim)))
    return geometry.to_world(corners * np.array(geometry.size) - 0.5)


def ramp(geometry: Geometry) -> torch.Tensor:
    """A linear function of the world position: 2x - y (+ 3z) + 5."""
    points = geometry.to_world(np.stack(np.indices(geometry.shape)[::-1], -1))
    return torch.from_numpy((points @ np.array([2.0, -1.0, 3.0])[: geometry.ndim] + 5).astype(np.float32))[None, None]


@pytest.mark.parametrize("spacing_mm", [0.5, 1.0, 3.0, 50.0])
def test_levels_cover_the_same_box(oblique_geometry, oblique_geometry_2d, spacing_mm):
    for g in (oblique_geometry, oblique_geometry_2d):
        level = level_geometry(g, spacing_mm, minimum_size=4)
        np.testing.assert_allclose(corners_mm(level), corners_mm(g), atol=1e-9)
        assert level.direction == g.direction


def test_spacing_becomes_isotropic():
    g = Geometry.identity((160, 160, 40), (1.0, 1.0, 4.0))
    assert level_geometry(g, 4.0).spacing_mm == pytest.approx((4, 4, 4))
    assert level_geometry(g, 1.0).spacing_mm == pytest.approx((1, 1, 4))


def test_thick_slices_are_refined_only_so_far():
    g = Geometry.identity((64, 64, 20), (1.0, 1.0, 6.0))
    assert level_geometry(g, 1.0, refine=3.0).spacing_mm == pytest.approx((1, 1, 2))
    assert level_geometry(g, 4.0, refine=3.0).spacing_mm == pytest.approx((4, 4, 4))


def test_no_axis_gets_too_small():
    g = Geometry.identity((64, 64, 10))
    assert level_geometry(g, 8.0, minimum_size=16).size == (16, 16, 10)
    assert level_geometry(g, 8.0, minimum_size=4).size == (8, 8, 4)


@pytest.mark.parametrize("spacing_mm", [0.9, 1.6])
def test_a_linear_ramp_survives(oblique_geometry, oblique_geometry_2d, spacing_mm):
    """Blurring and interpolating keep a linear function of position; the border clamps, so look at the interior."""
    for g in (oblique_geometry, oblique_geometry_2d):
        large = g.resized(tuple(3 * n for n in g.size))
        level = level_geometry(large, spacing_mm, minimum_size=4)
        found, expected = resample(ramp(large), large, level), ramp(level)
        inner = (0, 0, *(slice(3, -3) if n > 8 else slice(2, -2) for n in level.shape))
        np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3)


def test_same_grid_is_returned_as_it_is(oblique_geometry):
    tensor = ramp(oblique_geometry)
    assert resample(tensor, oblique_geometry, oblique_geometry) is tensor
    field = torch.zeros(1, 3, *oblique_geometry.shape)
    assert resample_displacement(field, oblique_geometry, oblique_geometry) is field


def test_coarsening_averages_noise():
    """The anti-aliasing keeps the mean and takes most of the variance."""
    g = Geometry.identity((32, 32, 32))
    noise = torch.randn(1, 1, 32, 32, 32)
    coarse = resample(noise, g, level_geometry(g, 4.0, 4))
    assert float(coarse.mean()) == pytest.approx(float(noise.mean()), abs=0.02)
    assert float(coarse.std()) < 0.2


def affine_field(geometry: Geometry, matrix: np.ndarray, shift_mm: np.ndarray) -> torch.Tensor:
    """u(x) = matrix x + shift in mm LPS, expressed in voxels of the grid."""
    points = geometry.to_world(np.stack(np.indices(geometry.shape)[::-1], -1))
    voxels = (points @ matrix.T + shift_mm) @ geometry.world_to_index[:-1, :-1].T
    return torch.from_numpy(np.moveaxis(voxels, -1, 0).astype(np.float32))[None]


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_an_affine_displacement_is_resampled_exactly_in_mm(oblique_geometry, oblique_geometry_2d, factor, rng):
    for g in (oblique_geometry, oblique_geometry_2d):
        large = g.resized(tuple(2 * n for n in g.size))
        target = large.resized(tuple(round(n / factor) for n in large.size))
        matrix, shift = rng.normal(size=(g.ndim, g.ndim)) * 0.05, rng.normal(size=g.ndim)
        found = resample_displacement(affine_field(large, matrix, shift), large, target)
        inner = (0, slice(None), *(slice(1, -1),) * g.ndim)
        np.testing.assert_allclose(found[inner], affine_field(target, matrix, shift)[inner], atol=1e-4)


def test_displacement_on_a_box_inside_and_beyond(oblique_geometry):
    """Cropping takes the same vectors; growing continues the border's."""
    g = oblique_geometry
    field = torch.randn(1, 3, *g.shape)
    crop = g.cropped((2, 3, 1), (6, 5, 4))
    torch.testing.assert_close(resample_displacement(field, g, crop), field[:, :, 1:5, 3:8, 2:8], atol=1e-5, rtol=0)
    grown = resample_displacement(field, g, g.cropped((-2, 0, 0), (16, 12, 9)))
    torch.testing.assert_close(grown[..., 0], field[..., 0], atol=1e-5, rtol=0)
