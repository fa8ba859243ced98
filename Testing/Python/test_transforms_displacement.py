"""Displacements on a grid: inverse with stated error, units, outside rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ShapeError
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.displacement import DisplacementTransform, to_voxels, to_world


def smooth(geometry, size_mm) -> torch.Tensor:
    mode = "trilinear" if geometry.ndim == 3 else "bilinear"
    coarse = torch.randn(1, geometry.ndim, *(3,) * geometry.ndim) * size_mm
    return torch.nn.functional.interpolate(coarse, size=geometry.shape, mode=mode, align_corners=True)


def test_units_turn_with_the_grid(oblique_geometry):
    grid = oblique_geometry
    u = torch.zeros(1, 3, *grid.shape)
    u[0, 2] = 1.0
    world = to_world(u, grid)
    assert np.allclose(world[0, :, 0, 0, 0], grid.rotation[:, 2] * 2.5, atol=1e-6)
    assert torch.allclose(to_voxels(world, grid), u, atol=1e-6)
    assert torch.allclose(to_world(u.double(), grid), world.double(), atol=1e-6)


@pytest.mark.parametrize("name", ("oblique_geometry", "oblique_geometry_2d"))
def test_the_inverse_leads_back_within_its_stated_error(name, request):
    grid = request.getfixturevalue(name)
    transform = DisplacementTransform(smooth(grid, 1.0), grid)
    inverse = transform.inverse()
    points = grid_points(grid)
    fixed = inverse.transform.map_points(points)
    inside = grid.contains(fixed)
    distances = np.linalg.norm(transform.map_points(fixed[inside]) - points[inside], axis=1)
    assert inside.mean() > 0.7
    assert distances.max() < inverse.error.max + 1e-4 < 0.02
    assert abs(distances.mean() - inverse.error.mean) < 1e-4


def test_far_outside_nothing_moves(oblique_geometry):
    transform = DisplacementTransform(torch.ones(1, 3, *oblique_geometry.shape), oblique_geometry)
    far = oblique_geometry.to_world([[-0.6, 3, 3], [13.6, 3, 3], [3, 40, 3]])
    near = oblique_geometry.to_world([[-0.4, 3, 3], [13.4, 3, 3]])
    assert np.array_equal(transform.map_points(far), far)
    assert np.allclose(transform.map_points(near), near + 1)


def test_on_its_own_grid_the_stored_tensor_comes_back(oblique_geometry):
    transform = DisplacementTransform(smooth(oblique_geometry, 1.0), oblique_geometry)
    assert transform.displacement(oblique_geometry).data_ptr() == transform.tensor.data_ptr()


def test_a_tensor_of_another_shape_is_refused(oblique_geometry):
    with pytest.raises(ShapeError, match="DisplacementTransform"):
        DisplacementTransform(torch.zeros(1, 3, 4, 4, 4), oblique_geometry)
