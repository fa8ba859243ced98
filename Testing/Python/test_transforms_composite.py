"""Composites: order, inverse with measured error, simplification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import ResidualMm, grid_points
from DeepDiffRegLib.transforms.composite import CompositeTransform, simplified
from DeepDiffRegLib.transforms.displacement import DisplacementTransform


@pytest.fixture
def field(oblique_geometry) -> DisplacementTransform:
    coarse = torch.randn(1, 3, 3, 3, 3)
    tensor = torch.nn.functional.interpolate(coarse, size=oblique_geometry.shape, mode="trilinear", align_corners=True)
    return DisplacementTransform(tensor, oblique_geometry)


@pytest.fixture
def affine() -> AffineTransform:
    return AffineTransform(np.array([[1.0, 0.1, 0.0], [-0.1, 0.9, 0.05], [0.0, 0.0, 1.1]]), [4.0, -3.0, 2.0])


def test_the_first_of_the_list_is_applied_first(field, affine, oblique_geometry):
    points = grid_points(oblique_geometry)
    both = CompositeTransform([field, affine])
    assert np.allclose(both.map_points(points), affine.map_points(field.map_points(points)))
    itk = both.to_itk()
    assert np.allclose([itk.TransformPoint(tuple(p)) for p in points[:40]], both.map_points(points[:40]), atol=1e-5)


def test_the_inverse_reverses_the_order_and_states_its_error(field, affine, oblique_geometry):
    both = CompositeTransform([field, affine])
    inverse = both.inverse()
    moved = both.map_points(grid_points(oblique_geometry))
    fixed = inverse.transform.map_points(moved)
    inside = oblique_geometry.contains(fixed)
    distances = np.linalg.norm(both.map_points(fixed[inside]) - moved[inside], axis=1)
    assert inside.mean() > 0.7
    assert np.isclose(distances.mean(), inverse.error.mean) and np.isclose(distances.max(), inverse.error.max)
    assert inverse.error.mean < 0.05


def test_matrices_alone_invert_exactly(affine):
    inverse = CompositeTransform([affine, affine]).inverse()
    assert inverse.error == ResidualMm(0.0, 0.0, 0.0)


def test_slab_by_slab_equals_at_once(field, affine, oblique_geometry, monkeypatch):
    both = CompositeTransform([field, affine])
    whole = both.follow(None, oblique_geometry)
    monkeypatch.setattr("DeepDiffRegLib.geometry.vector_fields.slabs.__defaults__", (300,))
    assert torch.allclose(both.displacement(oblique_geometry), whole, atol=1e-5)


def test_nested_composites_are_unrolled_and_matrices_merged(field, affine, rng):
    nested = CompositeTransform([affine, CompositeTransform([affine, field]), CompositeTransform([affine])])
    assert len(nested.transforms) == 4
    short = simplified(nested)
    assert [type(t) for t in short.transforms] == [AffineTransform, DisplacementTransform, AffineTransform]
    points = rng.normal(size=(20, 3)) * 20
    assert np.allclose(short.map_points(points), nested.map_points(points))
    assert simplified(CompositeTransform([affine, affine])).ndim == 3
    assert isinstance(simplified(CompositeTransform([field])), DisplacementTransform)


def test_mixed_dimensions_and_nothing_are_refused(affine):
    for transforms in ([], [affine, AffineTransform.identity(2)]):
        with pytest.raises(InputError, match="one dimension"):
            CompositeTransform(transforms)
