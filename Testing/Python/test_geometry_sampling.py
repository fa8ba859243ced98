"""Looking values up between voxels: fused kernels, torch and ITK agree; derivatives are exact."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.errors import ConfigError, ShapeError
from DeepDiffRegLib.geometry import sampling
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import (
    identity_index,
    index_matrix,
    pull_gradient,
    sample,
    sample_points,
    warp,
    warp_index,
    warped_gradient,
)

SHAPES = {2: (9, 11), 3: (7, 8, 9)}
MATRICES = {
    2: np.array([[0.9, 0.1, 0.3], [-0.2, 1.1, -0.4]]),
    3: np.array([[0.9, 0.1, 0.0, 0.3], [-0.1, 1.1, 0.2, -0.4], [0.05, -0.1, 0.8, 0.7]]),
}


def far_index(values: torch.Tensor, count: tuple[int, ...]) -> torch.Tensor:
    """Positions well inside, on the border rows and up to 2 voxels outside."""
    size = torch.tensor(values.shape[:1:-1], dtype=torch.float32).reshape(1, -1, *(1,) * len(count))
    return torch.rand(1, len(count), *count) * (size + 4) - 2.5


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_fused_sampling_equals_torch(padding):
    values = torch.randn(1, 3, *SHAPES[3])
    index = far_index(values, (6, 7, 8))
    slow = sample(values.double(), index.double(), padding=padding)
    torch.testing.assert_close(sample(values, index, padding=padding).double(), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_fused_warp_equals_torch(padding):
    values, u = torch.randn(1, 2, *SHAPES[3]), torch.randn(1, 3, 6, 7, 8) * 1.5
    slow = warp(values.double(), u.double(), MATRICES[3], padding)
    torch.testing.assert_close(warp(values, u, MATRICES[3], padding).double(), slow, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_positions_inside_and_outside_follow_itk(ndim, mode):
    """A lattice of quarter voxels that crosses every border, with none exactly on a border or half way."""
    values = torch.randn(1, 1, *SHAPES[ndim])
    lattice = Geometry((23,) * ndim, (0.61,) * ndim, (-2.03,) * ndim, np.eye(ndim).tolist())
    image = sitk.GetImageFromArray(values[0, 0].numpy())
    kind = sitk.sitkLinear if mode == "linear" else sitk.sitkNearestNeighbor
    reference = sitk.Resample(
        image, lattice.size, sitk.Transform(ndim, sitk.sitkIdentity), kind, lattice.origin_mm, lattice.spacing_mm
    )
    own = Geometry.identity(values.shape[:1:-1])
    index = warp_index(torch.zeros(1, ndim, *lattice.shape), index_matrix(lattice, own))
    np.testing.assert_allclose(sample(values, index, mode)[0, 0], sitk.GetArrayFromImage(reference), atol=1e-5)


def test_the_border_belongs_to_the_grid_on_the_low_side_only():
    values = torch.arange(1.0, 5.0).reshape(1, 1, 1, 4).expand(1, 1, 3, 4).contiguous()
    x = torch.tensor([-0.51, -0.5, 3.49, 3.5])
    index = torch.stack([x, torch.ones(4)]).reshape(1, 2, 1, 4)
    assert sample(values, index)[0, 0, 0].tolist() == [0, 1, 4, 0]
    assert sample(values, index, padding="border")[0, 0, 0].tolist() == [1, 1, 4, 4]


def test_nearest_rounds_half_up_and_keeps_integers():
    labels = torch.tensor([3, 7, 2**24 + 1], dtype=torch.int32).reshape(1, 1, 1, 3).expand(1, 1, 2, 3)
    index = torch.stack([torch.tensor([0.49, 0.5, 1.5, 2.4]), torch.zeros(4)]).reshape(1, 2, 1, 4)
    looked_up = sample(labels, index, "nearest")
    assert looked_up.dtype == torch.int32 and looked_up.ravel().tolist() == [3, 7, 2**24 + 1, 2**24 + 1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_linear_images_are_sampled_exactly(ndim):
    shape = SHAPES[ndim]
    slope = torch.arange(1.0, ndim + 1).reshape(1, -1, *(1,) * ndim)
    values = (identity_index(shape) * slope).sum(1, keepdim=True)
    index = 1 + torch.rand(1, ndim, *(5,) * ndim) * 4
    torch.testing.assert_close(sample(values, index), (index * slope).sum(1, keepdim=True), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_pull_gradient_is_the_derivative_of_warp(ndim):
    values = torch.randn(1, 2, *SHAPES[ndim])
    u = torch.randn(1, ndim, *SHAPES[ndim]) * 1.2
    residual = torch.randn(1, 2, *SHAPES[ndim])
    exact = u.double().requires_grad_()
    (sample(values.double(), warp_index(exact, MATRICES[ndim])) * residual.double()).sum().backward()
    found = pull_gradient(values, u, MATRICES[ndim], residual)
    torch.testing.assert_close(found.double(), exact.grad, atol=1e-4, rtol=0)


def test_pull_gradient_against_finite_differences():
    """Independent of autograd: one displacement entry at a time, in double precision."""
    values, u = torch.randn(1, 1, 5, 6, dtype=torch.float64), torch.rand(1, 2, 5, 6, dtype=torch.float64) * 0.8 + 0.1
    matrix, residual, h = np.eye(2, 3), torch.randn(1, 1, 5, 6, dtype=torch.float64), 1e-6
    found = pull_gradient(values, u, matrix, residual)
    for place in [(0, 0, 1, 2), (0, 1, 3, 4), (0, 0, 0, 0)]:
        up, down = u.clone(), u.clone()
        up[place] += h
        down[place] -= h
        slope = ((warp(values, up, matrix) - warp(values, down, matrix)) * residual).sum() / (2 * h)
        assert float(found[place]) == pytest.approx(float(slope), abs=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_warped_gradient_is_exact_on_linear_images(ndim):
    shape = SHAPES[ndim]
    slope = torch.tensor([0.5, -2.0, 3.0][:ndim]).reshape(1, -1, *(1,) * ndim)
    warped = (identity_index(shape) * slope).sum(1, keepdim=True)
    residual = torch.rand(1, 1, *shape)
    inner = (..., *(slice(1, -1),) * ndim)
    found = warped_gradient(warped, residual)
    torch.testing.assert_close(found[inner], (residual * slope)[inner], atol=1e-5, rtol=0)
    assert not found[:, 0, ..., 0].any() and not found[:, 0, ..., -1].any()


def test_fused_warped_gradient_equals_torch_with_channels():
    warped, residual = torch.randn(1, 4, *SHAPES[3]), torch.randn(1, 4, *SHAPES[3])
    slow = warped_gradient(warped.double(), residual.double())
    torch.testing.assert_close(warped_gradient(warped, residual).double(), slow, atol=1e-5, rtol=0)


def test_sample_points_agrees_with_itk(oblique_geometry, rng):
    g = oblique_geometry
    array = rng.normal(size=g.shape).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(g.spacing_mm)
    image.SetOrigin(g.origin_mm)
    image.SetDirection(g.rotation.ravel().tolist())
    points = g.to_world(rng.uniform(0, 1, (40, 3)) * (np.array(g.size) - 1))
    expected = [image.EvaluateAtPhysicalPoint(p.tolist(), sitk.sitkLinear) for p in points]
    values = torch.from_numpy(array)[None, None]
    np.testing.assert_allclose(sample_points(values, g, points)[:, 0], expected, atol=1e-5)


def test_sample_points_outside(oblique_geometry):
    g = oblique_geometry
    values = torch.full((1, 2, *g.shape), 3.0)
    points = g.to_world([[-0.5, 0, 0], [-0.6, 0, 0], [13.4, 11.4, 8.4], [13.6, 0, 0]])
    assert sample_points(values, g, points)[:, 1].tolist() == [3, 0, 3, 0]
    assert sample_points(values, g, points, "border")[:, 0].tolist() == [3, 3, 3, 3]


def test_sampling_is_differentiable_in_values_and_index():
    values = torch.randn(1, 1, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    index = (torch.rand(1, 3, 2, 2, 2, dtype=torch.float64) * 2 + 0.6).requires_grad_()
    assert torch.autograd.gradcheck(sample, (values, index))


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="padding"):
        sample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), padding="reflect")
    with pytest.raises(ShapeError, match="index"):
        sample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
