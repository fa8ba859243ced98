"""Matrix transforms: exact inverse, composition, displacement far from the origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import ResidualMm, grid_points


@pytest.fixture
def affine(rng) -> AffineTransform:
    return AffineTransform(np.eye(3) + 0.1 * rng.normal(size=(3, 3)), rng.normal(size=3) * 20)


def test_the_inverse_is_exact(affine, rng):
    points = rng.normal(size=(50, 3)) * 100
    inverse = affine.inverse()
    assert inverse.error == ResidualMm(0.0, 0.0, 0.0)
    assert np.allclose(inverse.transform.map_points(affine.map_points(points)), points, atol=1e-10)


def test_after_applies_the_argument_first(affine, rng):
    other = AffineTransform(np.diag([2.0, 1.0, 0.5]), [1.0, 2.0, 3.0])
    points = rng.normal(size=(5, 3))
    assert np.allclose(affine.after(other).map_points(points), affine.map_points(other.map_points(points)))


def test_displacement_keeps_its_digits_far_from_the_origin(affine):
    grid = Geometry((8, 7, 6), (0.5, 0.5, 2.0), (-2000.0, 1500.0, 900.0), np.eye(3).tolist())
    points = grid_points(grid)
    expected = (affine.map_points(points) - points).T.reshape(1, 3, *grid.shape)
    assert np.abs(affine.displacement(grid).numpy() - expected).max() < 1e-4


def test_follow_adds_the_turned_displacement(affine, oblique_geometry):
    u = torch.randn(1, 3, *oblique_geometry.shape)
    points = grid_points(oblique_geometry)
    expected = affine.map_points(points + u[0].reshape(3, -1).T.numpy()) - points
    got = affine.follow(u, oblique_geometry)[0].reshape(3, -1).T.numpy()
    assert np.abs(got - expected).max() < 1e-4


def test_a_singular_matrix_has_no_inverse():
    with pytest.raises(InputError, match="singular"):
        AffineTransform(np.diag([1.0, 1.0, 0.0]), np.zeros(3)).inverse()


@pytest.mark.parametrize("matrix, translation", ((np.eye(2), np.zeros(3)), (np.eye(4), np.zeros(4))))
def test_wrong_sizes_are_refused(matrix, translation):
    with pytest.raises(InputError, match="AffineTransform"):
        AffineTransform(matrix, translation)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        AffineTransform(np.eye(3), [0.0, np.nan, 0.0])
