"""Cubic B-splines: partition of unity, linear precision, separable evaluation and its adjoint, inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import GeometryError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.bspline import BSplineTransform, control_grid, evaluate, evaluate_adjoint


@pytest.fixture(params=("oblique_geometry", "oblique_geometry_2d"))
def grid(request) -> Geometry:
    return request.getfixturevalue(request.param)


def test_the_control_grid_covers_every_voxel(grid):
    control = control_grid(grid, 4.0)
    assert max(control.spacing_mm) <= 4.0
    faces = control.to_index(grid.to_world(np.stack([np.full(grid.ndim, -0.5), np.array(grid.size) - 0.5])))
    assert np.allclose(faces[0], 1) and np.allclose(faces[1], np.array(control.size) - 2)


def test_equal_coefficients_give_a_constant(grid):
    control = control_grid(grid, 5.0)
    assert torch.allclose(evaluate(torch.ones(1, 2, *control.shape), control, grid), torch.ones(()))


def test_linear_coefficients_give_a_linear_field(grid):
    control = control_grid(grid, 5.0)
    coefficients = torch.as_tensor(grid_points(control).T.reshape(1, grid.ndim, *control.shape))
    expected = grid_points(grid).T.reshape(1, grid.ndim, *grid.shape)
    assert np.allclose(evaluate(coefficients, control, grid).numpy(), expected, atol=1e-9)


def test_separable_evaluation_equals_point_by_point(grid):
    control = control_grid(grid, 3.0)
    transform = BSplineTransform(torch.randn(1, grid.ndim, *control.shape), control)
    points = grid_points(grid)
    expected = (transform.map_points(points) - points).T.reshape(1, grid.ndim, *grid.shape)
    assert np.allclose(transform.displacement(grid).numpy(), expected, atol=1e-5)


def test_the_adjoint_is_the_transpose(grid):
    control = control_grid(grid, (4.0, 3.0, 6.0)[: grid.ndim])
    coefficients = torch.randn(1, grid.ndim, *control.shape, dtype=torch.float64)
    field = torch.randn(1, grid.ndim, *grid.shape, dtype=torch.float64)
    left = (evaluate(coefficients, control, grid) * field).sum()
    right = (coefficients * evaluate_adjoint(field, control, grid)).sum()
    assert torch.allclose(left, right, rtol=1e-12)


def test_the_adjoint_is_what_autograd_computes(grid):
    control = control_grid(grid, 6.0)
    coefficients = torch.randn(1, grid.ndim, *control.shape, requires_grad=True)
    field = torch.randn(1, grid.ndim, *grid.shape)
    evaluate(coefficients, control, grid).backward(field)
    assert torch.allclose(coefficients.grad, evaluate_adjoint(field, control, grid), atol=1e-5)


def test_a_cropped_or_coarser_grid_is_evaluated_too(grid):
    control = control_grid(grid, 5.0)
    coefficients = torch.randn(1, grid.ndim, *control.shape)
    whole = evaluate(coefficients, control, grid)
    start = (2, 3, 1)[: grid.ndim]
    part = evaluate(coefficients, control, grid.cropped(start, (5, 4, 3)[: grid.ndim]))
    window = tuple(slice(s, s + n) for s, n in zip(start[::-1], part.shape[:1:-1][::-1]))
    assert torch.allclose(part, whole[(slice(None), slice(None), *window)], atol=1e-6)


def test_outside_the_valid_region_nothing_moves(grid):
    control = control_grid(grid, 5.0)
    transform = BSplineTransform(torch.ones(1, grid.ndim, *control.shape), control)
    inside = control.to_world([np.full(grid.ndim, 1.01), np.array(control.size) - 2.01])
    outside = control.to_world([np.full(grid.ndim, 0.99), np.array(control.size) - 1.99])
    assert np.allclose(transform.map_points(inside), inside + 1)
    assert np.array_equal(transform.map_points(outside), outside)


def test_the_inverse_leads_back_within_its_stated_error(grid):
    control = control_grid(grid, 8.0)
    transform = BSplineTransform(0.8 * torch.randn(1, grid.ndim, *control.shape), control, grid)
    inverse = transform.inverse()
    points = transform.map_points(grid_points(grid))
    fixed = inverse.transform.map_points(points)
    inside = grid.contains(fixed)
    distances = np.linalg.norm(transform.map_points(fixed[inside]) - points[inside], axis=1)
    assert abs(distances.mean() - inverse.error.mean) < 1e-6
    assert inverse.error.mean < 0.1


def test_a_grid_turned_against_the_control_grid_goes_point_by_point(grid):
    control = control_grid(grid, 5.0)
    turned = Geometry(grid.size, grid.spacing_mm, grid.origin_mm, np.eye(grid.ndim).tolist())
    transform = BSplineTransform(torch.randn(1, grid.ndim, *control.shape), control)
    points = grid_points(turned)
    expected = (transform.map_points(points) - points).T.reshape(1, grid.ndim, *grid.shape)
    assert np.allclose(transform.displacement(turned).numpy(), expected, atol=1e-5)
    with pytest.raises(GeometryError, match="parallel"):
        evaluate(transform.coefficients, control, turned)


def test_too_few_control_points_are_refused():
    with pytest.raises(GeometryError, match="4 control points"):
        BSplineTransform(torch.zeros(1, 3, 3, 4, 4), Geometry.identity((4, 4, 3)))
