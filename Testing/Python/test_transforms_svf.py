"""Stationary velocities: inverse by exp(-v), times in between, world units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.integrate import INTEGRATORS
from DeepDiffRegLib.transforms.svf import SVFTransform


@pytest.fixture
def svf(oblique_geometry) -> SVFTransform:
    coarse = torch.randn(1, 3, 4, 4, 4) * 2
    velocity = torch.nn.functional.interpolate(
        coarse, size=oblique_geometry.shape, mode="trilinear", align_corners=True
    )
    return SVFTransform(velocity, oblique_geometry)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_constant_velocity_in_the_world_translates(integrator, oblique_geometry):
    velocity = torch.zeros(1, 3, *oblique_geometry.shape)
    velocity[0, :] = torch.tensor([2.0, -1.0, 0.5]).reshape(3, 1, 1, 1)
    transform = SVFTransform(velocity, oblique_geometry, integrator)
    center = oblique_geometry.center_mm[None]
    assert np.allclose(transform.map_points(center), center + np.array([2.0, -1.0, 0.5]), atol=1e-4)


def test_integrators_agree(svf, oblique_geometry):
    reference = SVFTransform(svf.velocity, oblique_geometry, "rk4", 40).displacement(oblique_geometry)
    for name in ("scaling_squaring", "quadrature"):
        other = SVFTransform(svf.velocity, oblique_geometry, name).displacement(oblique_geometry)
        assert float((other - reference).norm(dim=1).mean()) < 0.05


def test_the_inverse_goes_back_and_its_error_is_measured(svf, oblique_geometry):
    inverse = svf.inverse()
    points = grid_points(oblique_geometry)
    fixed = inverse.transform.map_points(points)
    inside = oblique_geometry.contains(fixed)
    distances = np.linalg.norm(svf.map_points(fixed[inside]) - points[inside], axis=1)
    assert abs(distances.mean() - inverse.error.mean) < 1e-3
    assert abs(distances.max() - inverse.error.max) < 1e-2
    assert inverse.error.mean < 0.2
    assert torch.equal(inverse.transform.velocity, -svf.velocity)


def test_times_add_up(svf, oblique_geometry):
    half = svf.at(0.5)
    twice = half.map_points(half.map_points(oblique_geometry.center_mm[None]))
    assert np.allclose(twice, svf.map_points(oblique_geometry.center_mm[None]), atol=0.05)
    assert float(svf.at(0.0).tensor.abs().max()) == 0


def test_a_large_smooth_velocity_does_not_fold():
    grid = Geometry.identity((32, 32, 32))
    velocity = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, 4) * 6, size=grid.shape, mode="trilinear")
    transform = SVFTransform(velocity, grid)
    assert float(jacobian_determinant(velocity, grid.spacing_mm).min()) < 0
    assert float(jacobian_determinant(transform.displacement(grid), grid.spacing_mm).min()) > 0


def test_an_unknown_integrator_is_refused(oblique_geometry):
    with pytest.raises(ConfigError, match="integrator"):
        SVFTransform(torch.zeros(1, 3, *oblique_geometry.shape), oblique_geometry, "euler-maruyama")
