"""Every finished transform maps points and warps images as SimpleITK does with the exported transform (1e-4 mm)."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.bspline import BSplineTransform, control_grid
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.transforms.svf import SVFTransform
from DeepDiffRegLib.warp.image import warp_image

KINDS = ("affine", "displacement", "svf", "bspline", "composite")


def turned(ndim: int, degrees: float) -> np.ndarray:
    """A rotation about every axis pair with the second axis flipped."""
    matrix, angle = np.eye(ndim), np.deg2rad(degrees)
    for i in range(ndim - 1):
        turn = np.eye(ndim)
        turn[i, i], turn[i + 1, i + 1] = np.cos(angle), np.cos(angle)
        turn[i, i + 1], turn[i + 1, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix @ np.diag([1.0, -1.0, 1.0][:ndim])


def fixed_grid(ndim: int) -> Geometry:
    return Geometry((17, 13, 9)[:ndim], (1.1, 0.8, 2.3)[:ndim], (-31.0, 12.5, 7.0)[:ndim], turned(ndim, 20).tolist())


def moving_grid(ndim: int) -> Geometry:
    start = fixed_grid(ndim).to_world(np.full(ndim, -2.0))
    return Geometry((15, 16, 12)[:ndim], (1.3, 1.2, 1.7)[:ndim], tuple(start), turned(ndim, 31).tolist())


def smooth(geometry: Geometry, size_mm: float) -> torch.Tensor:
    """A random field that varies slowly."""
    coarse = torch.randn(1, geometry.ndim, *(4,) * geometry.ndim) * size_mm
    mode = "trilinear" if geometry.ndim == 3 else "bilinear"
    return torch.nn.functional.interpolate(coarse, size=geometry.shape, mode=mode, align_corners=True)


def make(kind: str, ndim: int):
    grid = fixed_grid(ndim)
    if kind == "affine":
        matrix = np.eye(ndim) + 0.08 * np.random.randn(ndim, ndim)
        center = grid.center_mm
        return AffineTransform(matrix, center - matrix @ center + [1.5, -0.7, 2.0][:ndim])
    if kind == "displacement":
        return DisplacementTransform(smooth(grid, 1.5), grid)
    if kind == "svf":
        return SVFTransform(smooth(grid, 1.0), grid)
    if kind == "bspline":
        control = control_grid(grid, 5.0)
        return BSplineTransform(1.5 * torch.randn(1, ndim, *control.shape), control, grid)
    return CompositeTransform([make("displacement", ndim), make("bspline", ndim), make("affine", ndim)])


def itk_image(image: Image) -> sitk.Image:
    out = sitk.GetImageFromArray(image.numpy())
    out.SetSpacing(image.geometry.spacing_mm)
    out.SetOrigin(image.geometry.origin_mm)
    out.SetDirection(image.geometry.rotation.ravel().tolist())
    return out


def resampled(image: Image, transform, reference: Geometry) -> np.ndarray:
    interpolator = sitk.sitkNearestNeighbor if image.kind == "labels" else sitk.sitkLinear
    out = sitk.Resample(
        itk_image(image),
        reference.size,
        transform.to_itk(),
        interpolator,
        reference.origin_mm,
        reference.spacing_mm,
        reference.rotation.ravel().tolist(),
        0.0,
    )
    return sitk.GetArrayFromImage(out)


def near_a_face(transform, reference: Geometry, moving: Geometry) -> np.ndarray:
    """Voxels within 1e-3 of where a sample enters or leaves a grid: rounding alone decides there."""
    points = grid_points(reference)
    close = np.zeros(len(points), bool)
    parts = transform.transforms if isinstance(transform, CompositeTransform) else (transform,)
    for part in (*parts, None):
        grid = moving if part is None else getattr(part, "geometry", None) or getattr(part, "control_grid", None)
        if grid is not None:
            index, size = grid.to_index(points), np.array(grid.size)
            faces = (1, size - 2) if isinstance(part, BSplineTransform) else (-0.5, size - 0.5)
            close |= np.min([np.abs(index - face).min(1) for face in faces], axis=0) < 1e-3
        points = points if part is None else part.map_points(points)
    return close.reshape(reference.shape)


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_points_map_equally_inside_and_outside_the_grids(kind, ndim, rng):
    transform = make(kind, ndim)
    index = rng.uniform(-3, np.array(fixed_grid(ndim).size) + 2, (300, ndim))
    points = fixed_grid(ndim).to_world(index)
    itk = transform.to_itk()
    expected = np.array([itk.TransformPoint(tuple(p)) for p in points])
    assert np.abs(transform.map_points(points) - expected).max() < 1e-4


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_displacement_on_any_grid_is_the_difference_of_mapped_points(kind, ndim):
    transform = make(kind, ndim)
    for grid in (fixed_grid(ndim), moving_grid(ndim)):
        points = grid_points(grid)
        expected = (transform.map_points(points) - points).T.reshape(ndim, *grid.shape)
        difference = np.abs(transform.displacement(grid)[0].numpy() - expected).max(0)
        assert difference[~near_a_face(transform, grid, grid)].max() < 1e-4


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_warped_scan_equals_itk_resampling(kind, ndim, rng):
    transform = make(kind, ndim)
    moving = Image.from_array(rng.uniform(1, 2, moving_grid(ndim).shape), moving_grid(ndim))
    for reference in (fixed_grid(ndim), moving_grid(ndim)):
        ours, theirs = warp_image(moving, transform, reference).numpy(), resampled(moving, transform, reference)
        clear = ~near_a_face(transform, reference, moving.geometry)
        assert (theirs > 0).mean() > 0.2
        assert np.abs(ours - theirs)[clear].max() < 1e-4


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_warped_labels_equal_itk_resampling(kind, ndim, rng):
    transform = make(kind, ndim)
    labels = Image.from_array(rng.integers(0, 9, moving_grid(ndim).shape), moving_grid(ndim), "labels")
    ours = warp_image(labels, transform, fixed_grid(ndim))
    theirs = resampled(labels, transform, fixed_grid(ndim))
    assert ours.tensor.dtype == torch.int32 and ours.kind == "labels"
    assert (ours.numpy() != theirs).mean() < 2e-3
