"""Warping images: identity, shifts, masks of one's own grid, memory in slabs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import slabs
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.warp.image import warp_image


@pytest.mark.parametrize("kind", ("intensity", "labels", "mask"))
def test_the_identity_on_the_same_grid_changes_nothing(oblique_geometry, kind, rng):
    image = Image.from_array(rng.integers(0, 5, oblique_geometry.shape), oblique_geometry, kind)
    out = warp_image(image, AffineTransform.identity(3), oblique_geometry)
    assert torch.allclose(out.tensor.float(), image.tensor.float(), atol=1e-4)
    assert (out.kind, out.tensor.dtype) == (kind, image.tensor.dtype)


def test_fixed_to_moving_pulls_values_back():
    """phi(x) = x + 2 mm along x: the output at x shows what the moving scan has 2 mm further."""
    grid = Geometry.identity((10, 6, 5), (2.0, 1.0, 1.0))
    ramp = np.broadcast_to(np.arange(10.0), grid.shape)
    out = warp_image(Image.from_array(ramp, grid), AffineTransform(np.eye(3), [2.0, 0, 0]), grid)
    assert np.allclose(out.numpy()[0, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0])


def test_a_linear_scan_stays_exact_on_a_grid_of_another_size_spacing_and_direction(oblique_geometry):
    moving = Geometry.identity((40, 40, 40), 1.5).cropped((-25, -10, -15), (50, 50, 50))
    slope = np.array([0.3, -0.2, 0.1])
    index = np.indices(moving.shape)[::-1].reshape(3, -1).T
    scan = Image.from_array((moving.to_world(index) @ slope + 50).reshape(moving.shape), moving)
    u = torch.nn.functional.interpolate(torch.randn(1, 3, 3, 3, 3), size=oblique_geometry.shape, mode="trilinear")
    transform = DisplacementTransform(u, oblique_geometry)
    out = warp_image(scan, transform, oblique_geometry)
    voxels = np.indices(oblique_geometry.shape)[::-1].reshape(3, -1).T
    expected = transform.map_points(oblique_geometry.to_world(voxels)) @ slope + 50
    assert np.allclose(out.numpy().ravel(), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ("intensity", "labels"))
def test_slabs_do_not_show(oblique_geometry, kind, rng, monkeypatch):
    image = Image.from_array(rng.integers(0, 9, oblique_geometry.shape), oblique_geometry, kind)
    transform = DisplacementTransform(torch.randn(1, 3, *oblique_geometry.shape), oblique_geometry)
    whole = warp_image(image, transform, oblique_geometry)
    monkeypatch.setattr(slabs, "__defaults__", (170,))
    assert torch.allclose(
        warp_image(image, transform, oblique_geometry).tensor.float(), whole.tensor.float(), atol=1e-4
    )


def test_every_channel_is_warped(oblique_geometry, rng):
    image = Image.from_array(rng.normal(size=(3, *oblique_geometry.shape)), oblique_geometry)
    transform = AffineTransform(np.eye(3), [0.4, 0.3, 0.2])
    out = warp_image(image, transform, oblique_geometry)
    for c in range(3):
        single = Image(image.tensor[:, c : c + 1], oblique_geometry)
        assert torch.equal(out.tensor[:, c : c + 1], warp_image(single, transform, oblique_geometry).tensor)


def test_mixed_dimensions_are_refused(oblique_geometry, oblique_geometry_2d):
    image = Image(torch.zeros(1, 1, *oblique_geometry.shape), oblique_geometry)
    with pytest.raises(InputError, match="2-D"):
        warp_image(image, AffineTransform.identity(3), oblique_geometry_2d)
