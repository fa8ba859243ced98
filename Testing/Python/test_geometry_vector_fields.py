"""Composition, inversion and Jacobians against analytic maps; the fused and the torch kernels agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ShapeError
from DeepDiffRegLib.geometry import vector_fields as fields
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import identity_index
from DeepDiffRegLib.transforms.integrate import scaling_squaring


def smooth(shape, size, points=5) -> torch.Tensor:
    coarse = torch.randn(1, len(shape), *(points,) * len(shape)) * size
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return torch.nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True)


def linear(shape, matrix, center=None) -> torch.Tensor:
    """Displacement (matrix - I)(x - center) in voxels, double precision."""
    x = identity_index(shape, dtype=torch.float64)
    center = (np.array(shape[::-1]) - 1) / 2 if center is None else center
    m = torch.as_tensor(np.asarray(matrix) - np.eye(len(shape)))
    return torch.einsum("ij,bj...->bi...", m, x - torch.as_tensor(center).reshape(1, -1, *(1,) * len(shape)))


@pytest.mark.parametrize("shape", ((7, 9, 11), (9, 12)))
def test_composition_of_translations_adds_them(shape):
    a, b = (torch.zeros(1, len(shape), *shape) for _ in range(2))
    a[:, 0], b[:, 0], b[:, 1] = 1.5, 0.25, -2.0
    both = fields.compose(a, b)
    assert torch.allclose(both[:, 0], torch.tensor(1.75)) and torch.allclose(both[:, 1], torch.tensor(-2.0))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_composition_of_linear_maps_multiplies_their_matrices(dtype):
    shape = (14, 15, 16)
    a = np.eye(3) + 0.1 * np.random.randn(3, 3)
    b = np.diag([0.8, 0.7, 0.75])
    both = fields.compose(linear(shape, a).to(dtype), linear(shape, b).to(dtype))
    assert torch.allclose(both, linear(shape, a @ b).to(dtype), atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_composition_reads_the_outer_field_at_the_inner_positions():
    outer = torch.zeros(1, 3, 4, 4, 6)
    outer[0, 1] = torch.arange(6.0)
    inner = torch.zeros(1, 3, 4, 4, 6)
    inner[:, 0] = 0.5
    assert torch.allclose(fields.compose(outer, inner)[0, 1, 0, 0], torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, 5.0]))


def test_fused_and_torch_composition_agree_and_out_is_used():
    outer, inner = smooth((9, 10, 11), 2.0), smooth((9, 10, 11), 3.0)
    out = torch.empty_like(inner)
    fused = fields.compose(outer, inner, out=out)
    assert fused is out
    assert torch.allclose(fused.double(), fields.compose(outer.double(), inner.double()), atol=1e-5)


def test_composition_passes_gradients():
    outer = smooth((5, 6, 7), 0.4).double().requires_grad_()
    inner = smooth((5, 6, 7), 0.4).double().requires_grad_()
    assert torch.autograd.gradcheck(fields.compose, (outer, inner), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_inverse_of_a_linear_map_is_the_inverse_matrix(dtype):
    shape = (16, 18, 20)
    matrix = np.array([[1.3, 0.1, 0.0], [-0.2, 1.2, 0.05], [0.1, 0.0, 1.4]])
    found = fields.invert(linear(shape, matrix).to(dtype), tolerance_voxels=1e-4)
    assert found.inside.all() and found.max < 1e-4
    assert torch.allclose(found.displacement, linear(shape, np.linalg.inv(matrix)).to(dtype), atol=5e-4)


def test_inverse_of_an_analytic_field_in_two_dimensions():
    """x -> x + a sin(2 pi y / n): its inverse subtracts the same, as y stays."""
    n = 40
    y = identity_index((n, n))[:, 1]
    u = torch.zeros(1, 2, n, n)
    u[:, 0] = 3 * torch.sin(2 * torch.pi * y / n)
    found = fields.invert(u)
    assert torch.allclose(found.displacement, -u, atol=1e-2)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_inverse_of_a_large_smooth_field_meets_the_tolerance(dtype):
    u = scaling_squaring(smooth((24, 26, 28), 3.0).to(dtype), 8)
    det = fields.jacobian_determinant(u, (1, 1, 1))
    assert 0 < det.min() < 0.3 and det.max() > 3
    found = fields.invert(u)
    residual = fields.compose(u, found.displacement).norm(dim=1, keepdim=True)
    assert float(residual.max()) < 0.01
    assert torch.allclose(residual, found.residual, atol=1e-4)
    assert 0 < found.mean <= found.p99 <= found.max < 0.01


def test_inverse_states_its_residual_in_the_unit_asked_for():
    u = smooth((12, 12, 12), 1.5)
    voxels, mm = fields.invert(u), fields.invert(u, unit=(2.0, 2.0, 2.0))
    assert torch.allclose(mm.residual, 2 * voxels.residual, atol=1e-6)


def test_inverse_of_a_folded_field_says_that_it_failed():
    u = torch.zeros(1, 3, 12, 12, 12)
    u[:, 0] = -3.0 * (identity_index((12, 12, 12))[:, 0] - 5.5) * (torch.arange(12.0) % 2)
    found = fields.invert(u)
    assert found.displacement.isfinite().all() and found.max > 0.1


@pytest.mark.parametrize("bad", (float("nan"), float("inf"), 1e30))
def test_a_diverged_field_is_survived_and_called_infinitely_wrong(bad):
    u = torch.full((1, 3, 8, 8, 8), bad)
    fields.compose(torch.zeros_like(u), u)
    assert fields.invert(u).max == np.inf


def test_voxels_without_a_partner_are_outside():
    u = torch.zeros(1, 3, 6, 6, 10)
    u[:, 0] = 3.0
    found = fields.invert(u)
    assert not found.inside[..., :3].any() and found.inside[..., 3:].all()
    assert torch.allclose(found.displacement[:, 0], torch.tensor(-3.0))


@pytest.mark.parametrize("shape", ((8, 9, 10), (9, 10)))
def test_determinant_of_a_linear_map_is_that_of_its_matrix(shape):
    d = len(shape)
    spacing = np.array([0.7, 1.3, 2.5][:d])
    matrix = np.eye(d) + 0.2 * np.random.randn(d, d)
    voxels = np.diag(1 / spacing) @ matrix @ np.diag(spacing)
    u = linear(shape, voxels) * torch.as_tensor(spacing).reshape(1, d, *(1,) * d)
    for dtype in (torch.float32, torch.float64):
        for function in (fields.jacobian_determinant, fields.strict_jacobian):
            got = function(u.to(dtype), tuple(spacing))
            assert got.shape == (1, 1, *shape)
            assert torch.allclose(got, torch.tensor(np.linalg.det(matrix), dtype=dtype), atol=1e-5)


def test_determinant_of_an_lps_field_needs_the_direction(oblique_geometry):
    grid = oblique_geometry
    own = smooth(grid.shape, 1.0)
    world = torch.einsum("ij,bj...->bi...", torch.as_tensor(grid.rotation, dtype=torch.float32), own)
    for function in (fields.jacobian_determinant, fields.strict_jacobian):
        assert torch.allclose(
            function(world, grid.spacing_mm, grid.rotation), function(own, grid.spacing_mm), atol=1e-5
        )


def test_fused_and_torch_determinants_agree_over_several_slabs(monkeypatch):
    monkeypatch.setattr(fields, "SLAB_VOXELS", 200)
    u = smooth((9, 10, 11), 2.0)
    for function in (fields.jacobian_determinant, fields.strict_jacobian):
        assert torch.allclose(function(u, (1, 2, 3)).double(), function(u.double(), (1, 2, 3)), atol=1e-5)


def test_determinant_of_an_analytic_map():
    """x -> x + a sin(k x): the determinant is 1 + a k cos(k x)."""
    n, h, a = 200, 0.05, 0.2
    k = 2 * np.pi / (n * h)
    u = torch.zeros(1, 3, 3, 3, n)
    x = torch.arange(n) * h
    u[0, 0] = a * torch.sin(k * x)
    got = fields.jacobian_determinant(u, (h, h, h))[0, 0, 1, 1, 1:-1]
    assert torch.allclose(got, (1 + a * k * torch.cos(k * x))[1:-1], atol=2e-4)


def test_strict_folds_find_what_central_differences_miss():
    """One voxel pushed past its neighbor: the central differences around it see no fold at that voxel."""
    u = torch.zeros(1, 3, 5, 5, 7)
    u[0, 0, 2, 2, 3] = 1.3
    central = fields.jacobian_determinant(u, (1, 1, 1))
    assert float(central[0, 0, 2, 2, 3]) > 0 and int((central <= 0).sum()) == 0
    assert fields.strict_folds(u, (1, 1, 1)) >= 2
    assert fields.strict_folds(u.double(), (1, 1, 1)) == fields.strict_folds(u, (1, 1, 1))
    assert fields.strict_folds(torch.zeros_like(u), (1, 1, 1)) == 0


def test_a_mirrored_grid_does_not_count_as_folded():
    u = torch.zeros(1, 3, 4, 4, 4)
    got = fields.jacobian_determinant(u, (1, 1, 1), np.diag([1.0, -1.0, 1.0]))
    assert torch.allclose(got, torch.ones(()))


@pytest.mark.parametrize("shape", ((5, 6, 7), (6, 7)))
def test_linear_field_is_matrix_times_index_plus_matrix_times_displacement(shape):
    d = len(shape)
    matrix, linear_part, u = np.random.randn(d, d + 1) * 300, np.random.randn(d, d), torch.randn(1, d, *shape)
    index = identity_index(shape, dtype=torch.float64)[0].reshape(d, -1).numpy()
    own = (matrix[:, :-1] @ index + matrix[:, -1:]).reshape(1, d, *shape)
    moved = (linear_part @ u[0].double().reshape(d, -1).numpy()).reshape(1, d, *shape)
    assert np.allclose(fields.linear_field(matrix, shape).numpy(), own, rtol=1e-6)
    assert np.allclose(fields.linear_field(matrix, shape, u, linear_part).numpy(), own + moved, rtol=1e-6, atol=1e-4)


def test_slabs_cover_the_grid_once(oblique_geometry):
    pieces = list(fields.slabs(oblique_geometry, voxels=400))
    assert len(pieces) > 2
    assert np.concatenate([np.arange(9)[rows] for rows, _ in pieces]).tolist() == list(range(9))
    for rows, slab in pieces:
        assert np.allclose(slab.to_world((0, 0, 0)), oblique_geometry.to_world((0, 0, rows.start)))
    assert isinstance(pieces[0][1], Geometry)


@pytest.mark.parametrize("shape", ((5, 6, 7), (6, 7)))
def test_landing_inside_follows_the_outer_faces(shape):
    v = 4 * torch.randn(1, len(shape), *shape)
    index = (identity_index(shape) + v)[0].reshape(len(shape), -1).T.double().numpy()
    expected = Geometry.identity(shape[::-1]).contains(index).reshape(shape)
    for dtype in (torch.float32, torch.float64):
        assert np.array_equal(fields.lands_inside(v.to(dtype))[0, 0].numpy(), expected)


def test_a_wrong_shape_is_named():
    with pytest.raises(ShapeError, match=r"compose.*'outer'"):
        fields.compose(torch.zeros(1, 3, 4, 4, 5), torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ShapeError, match="invert"):
        fields.invert(torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(ShapeError, match="at least 2 voxels"):
        fields.jacobian_determinant(torch.zeros(1, 3, 1, 4, 4), (1, 1, 1))
