"""Grids: indices to millimetres and back, as ITK does it; derived grids keep the outer faces."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from DeepDiffRegLib.errors import GeometryError
from DeepDiffRegLib.geometry.grid import Geometry


def corners_mm(geometry: Geometry) -> np.ndarray:
    """World positions of the outer corners of the voxels."""
    corners = np.array(list(np.ndindex(*(2,) * geometry.ndim)))
    return geometry.to_world(corners * np.array(geometry.size) - 0.5)


def test_index_to_world_is_itks(oblique_geometry, rng):
    g = oblique_geometry
    image = sitk.Image(list(g.size), sitk.sitkUInt8)
    image.SetSpacing(g.spacing_mm)
    image.SetOrigin(g.origin_mm)
    image.SetDirection(g.rotation.ravel().tolist())
    assert Geometry.from_sitk(image).same_grid(g, 1e-9)
    for index in rng.uniform(-2, 12, (10, 3)):
        expected = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
        np.testing.assert_allclose(g.to_world(index), expected, atol=1e-9)
        np.testing.assert_allclose(g.to_index(expected), index, atol=1e-9)


def test_shape_voxels_center_and_extent(oblique_geometry, oblique_geometry_2d):
    for g in (oblique_geometry, oblique_geometry_2d):
        assert g.shape == g.size[::-1] and g.voxels == np.prod(g.size)
        np.testing.assert_allclose(g.center_mm, corners_mm(g).mean(0), atol=1e-9)
        np.testing.assert_allclose(g.extent_mm, np.array(g.size) * g.spacing_mm)
        edge = g.to_world(np.eye(g.ndim)[0]) - g.to_world(np.zeros(g.ndim))
        np.testing.assert_allclose(np.linalg.norm(edge), g.spacing_mm[0])


@pytest.mark.parametrize("size", [(7, 12, 18), (28, 6, 5)])
def test_resized_keeps_the_outer_faces(oblique_geometry, size):
    np.testing.assert_allclose(corners_mm(oblique_geometry.resized(size)), corners_mm(oblique_geometry), atol=1e-9)


def test_coarsened_rounds_and_keeps_faces(oblique_geometry_2d):
    coarse = oblique_geometry_2d.coarsened((2, 4), minimum=4)
    assert coarse.size == (9, 4)
    np.testing.assert_allclose(corners_mm(coarse), corners_mm(oblique_geometry_2d), atol=1e-9)
    assert oblique_geometry_2d.coarsened(0.5).size == oblique_geometry_2d.size


def test_cropped_moves_the_first_voxel_also_outwards(oblique_geometry):
    g = oblique_geometry
    inner, outer = g.cropped((2, 1, 3), (5, 6, 4)), g.cropped((-2, -1, -3), (20, 16, 15))
    np.testing.assert_allclose(inner.to_world((1, 1, 1)), g.to_world((3, 2, 4)))
    np.testing.assert_allclose(outer.to_world((2, 1, 3)), g.to_world((0, 0, 0)))


def test_contains_ends_at_the_outer_faces(oblique_geometry):
    g = oblique_geometry
    assert g.contains(g.to_world([[-0.49, 0, 0], [13.49, 11.49, 8.49]])).all()
    assert not g.contains(g.to_world([[-0.51, 0, 0], [0, 11.51, 0], [0, 0, 8.51]])).any()


def test_overlap_fraction():
    g = Geometry.identity((16, 16, 16), 2.0)
    half = g.cropped((8, 0, 0), (16, 16, 16))
    away = g.cropped((40, 0, 0), (16, 16, 16))
    assert g.overlap_fraction(g) == 1
    assert g.overlap_fraction(half) == pytest.approx(0.5)
    assert g.overlap_fraction(away) == 0


def test_same_grid_sees_origin_spacing_direction_and_size(oblique_geometry):
    g = oblique_geometry
    turned = Geometry(g.size, g.spacing_mm, g.origin_mm, np.eye(3).tolist())
    flipped = Geometry(g.size, g.spacing_mm, g.origin_mm, (g.rotation @ np.diag([1, 1, -1])).tolist())
    others = [g.cropped((1, 0, 0), g.size), g.resized((14, 12, 8)), turned, flipped]
    assert g.same_grid(g) and not any(g.same_grid(other) for other in others)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1, 0, 1)},
        {"spacing_mm": (1, -1, 1)},
        {"spacing_mm": (1, np.nan, 1)},
        {"size": (4, 0, 4)},
        {"origin_mm": (0, 0)},
        {"origin_mm": (0, np.inf, 0)},
        {"direction": ((1, 0.2, 0), (0, 1, 0), (0, 0, 1))},
        {"direction": ((1, 0), (0, 1))},
    ],
)
def test_impossible_grids_are_refused(change):
    values = {"size": (4, 4, 4), "spacing_mm": (1, 1, 1), "origin_mm": (0, 0, 0), "direction": np.eye(3).tolist()}
    with pytest.raises(GeometryError):
        Geometry(**{**values, **change})
