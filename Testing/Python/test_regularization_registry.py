"""Regularization: every registered energy against finite differences, and each against values known beforehand."""

from __future__ import annotations

import math

import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, ShapeError
from DeepDiffRegLib.geometry.sampling import identity_index, sample
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.regularization import REGULARIZERS
from DeepDiffRegLib.regularization.bending import Bending
from DeepDiffRegLib.regularization.diffusion import Diffusion, _tensor_diffusion
from DeepDiffRegLib.regularization.folding import Folding
from DeepDiffRegLib.regularization.inverse_consistency import InverseConsistency, approximate_inverse

GRIDS = {"2d": ((9, 8), (1.5, 0.7)), "3d": ((6, 7, 8), (0.8, 1.3, 2.0))}
HELD_CONSTANT = "inverse-consistency"
"""Its gradient holds the inverse constant, so it is checked against that energy below."""


def rough_field(shape, amplitude=1.0, dtype=torch.float64):
    return amplitude * torch.randn(1, len(shape), *shape, dtype=dtype)


def smooth_field(shape, spacing_mm, amplitude_mm, phase=0.0):
    """Sines over half the field of view, 0 on the border: invertible for small amplitudes."""
    index = identity_index(shape, dtype=torch.float64)
    out = torch.ones_like(index)
    for axis, n in enumerate(reversed(shape)):
        out *= torch.sin(math.pi * index[:, axis : axis + 1] / (n - 1))
    for c in range(len(shape)):
        out[:, c] *= amplitude_mm * math.cos(phase + c)
    return out


def affine_field(shape, spacing_mm, matrix):
    h = torch.tensor(spacing_mm, dtype=torch.float64).reshape(1, -1, *(1,) * len(shape))
    x = identity_index(shape, dtype=torch.float64) * h
    return torch.einsum("ab,nb...->na...", torch.tensor(matrix, dtype=torch.float64), x) + 0.4


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", [n for n in REGULARIZERS if n != HELD_CONSTANT])
def test_gradient_is_that_of_the_value(name, grid):
    shape, spacing = GRIDS[grid]
    regularizer = REGULARIZERS.build(name)
    u = rough_field(shape)
    gradient = regularizer.value_and_gradient(u, spacing)[1]
    assert gradient.shape == u.shape and not gradient.requires_grad
    for _ in range(3):
        direction, step = torch.randn_like(u), 1e-6
        upper, lower = (regularizer.value_and_gradient(u + s * step * direction, spacing)[0] for s in (1, -1))
        assert (upper - lower) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_translations_are_free(name, grid):
    shape, spacing = GRIDS[grid]
    u = torch.full((1, len(shape), *shape), 0.25, dtype=torch.float64)
    value, gradient = REGULARIZERS.build(name).value_and_gradient(u, spacing)
    assert value == pytest.approx(0.0, abs=1e-20) and float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_single_precision_agrees_with_double(name, grid):
    shape, spacing = GRIDS[grid]
    u = rough_field(shape, 0.4)
    regularizer = REGULARIZERS.build(name)
    value, gradient = regularizer.value_and_gradient(u, spacing)
    value32, gradient32 = regularizer.value_and_gradient(u.float(), spacing)
    assert gradient32.dtype == torch.float32
    assert value32 == pytest.approx(value, rel=1e-4)
    assert float((gradient32 - gradient).abs().max()) < 1e-3 * float(gradient.abs().max())


@pytest.mark.parametrize("name", REGULARIZERS)
def test_inputs_are_left_alone_and_views_accepted(name):
    field = rough_field((9, 8, 7), dtype=torch.float32)
    copy = field.clone()
    view = field.transpose(2, 4)
    regularizer = REGULARIZERS.build(name)
    value, gradient = regularizer.value_and_gradient(view, (1.0, 2.0, 3.0))
    other_value, other = regularizer.value_and_gradient(view.contiguous(), (1.0, 2.0, 3.0))
    assert torch.equal(field, copy)
    assert value == pytest.approx(other_value, rel=1e-5)
    assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_thin_grids_are_no_special_case(name):
    """Two voxels per axis, and one where the energy does not need more."""
    shapes = ((2, 2), (2, 3, 2)) if name == "folding" else ((1, 1), (1, 5), (2, 2), (1, 2, 3), (2, 1, 1))
    for shape in shapes:
        value, gradient = REGULARIZERS.build(name).value_and_gradient(rough_field(shape), (1.0,) * len(shape))
        single = REGULARIZERS.build(name).value_and_gradient(rough_field(shape).float(), (1.0,) * len(shape))
        assert value >= 0.0 and bool(gradient.isfinite().all()) and bool(single[1].isfinite().all())


@pytest.mark.parametrize("name", REGULARIZERS)
def test_fields_of_another_shape_are_refused(name):
    regularizer = REGULARIZERS.build(name)
    with pytest.raises(ShapeError, match="displacement_mm"):
        regularizer.value_and_gradient(torch.zeros(1, 2, 5, 5, 5), (1.0, 1.0, 1.0))
    with pytest.raises(ShapeError, match="spacing_mm"):
        regularizer.value_and_gradient(torch.zeros(1, 3, 5, 5, 5), (1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "options"),
    [("folding", {"margin": -0.1}), ("inverse-consistency", {"iterations": -1}), ("bending", {"margin": 1.0})],
)
def test_impossible_options_are_refused(name, options):
    with pytest.raises(ConfigError):
        REGULARIZERS.build(name, **options)


def test_diffusion_of_a_stretch():
    """u_x = 0.1 x: a slope of 0.1 at all but the last of 5 columns."""
    u = affine_field((4, 5), (2.0, 3.0), [[0.1, 0.0], [0.0, 0.0]])
    assert Diffusion().value_and_gradient(u, (2.0, 3.0))[0] == pytest.approx(0.01 * 4 / 5)


def test_fused_diffusion_equals_the_tensor_version():
    u = rough_field((7, 6, 9))
    expected = torch.empty_like(u)
    value = _tensor_diffusion(u, [1.0 / (h * h * 7 * 6 * 9) for h in (0.5, 1.0, 4.0)], expected)
    found, gradient = Diffusion().value_and_gradient(u.float(), (0.5, 1.0, 4.0))
    assert found == pytest.approx(value, rel=1e-5)
    assert float((gradient - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("grid", GRIDS)
def test_bending_is_free_for_affine_maps(grid):
    shape, spacing = GRIDS[grid]
    d = len(shape)
    u = affine_field(shape, spacing, [[0.3 - 0.1 * (a + 2 * b) for b in range(d)] for a in range(d)])
    value, gradient = Bending().value_and_gradient(u, spacing)
    assert value < 1e-25 and float(gradient.abs().max()) < 1e-12


def test_bending_of_a_parabola_and_of_a_twist():
    """u_x = x^2 has d_xx = 2 at the 5 inner of 7 columns; u_x = x y has d_xy = 1 in 6 of 7 by 4 of 5 cells, twice."""
    index = identity_index((5, 7), dtype=torch.float64)
    x, y = 1.5 * index[:, 0], 0.5 * index[:, 1]
    nothing = torch.zeros_like(x)
    assert Bending().value_and_gradient(torch.stack([x**2, nothing], 1), (1.5, 0.5))[0] == pytest.approx(4 * 5 / 7)
    twist = Bending().value_and_gradient(torch.stack([x * y, nothing], 1), (1.5, 0.5))[0]
    assert twist == pytest.approx(2 * (6 / 7) * (4 / 5))


@pytest.mark.parametrize("grid", GRIDS)
def test_folding_measures_the_determinant(grid):
    shape, spacing = GRIDS[grid]
    u = rough_field(shape)
    lack = (0.1 - jacobian_determinant(u, spacing)).clamp(min=0)
    assert Folding(margin=0.1).value_and_gradient(u, spacing)[0] == pytest.approx(float(lack.square().mean()))
    assert Folding().value_and_gradient(smooth_field(shape, spacing, 0.2), spacing)[0] == 0.0


def test_folding_of_a_mirror_image():
    """phi = -x has det J = -1 everywhere: (margin + 1)^2."""
    u = affine_field((5, 6, 7), (1.0, 2.0, 3.0), [[-2.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert Folding(margin=0.2).value_and_gradient(u, (1.0, 2.0, 3.0))[0] == pytest.approx(1.44)


def test_folding_in_chunks_is_the_same(monkeypatch):
    u = rough_field((11, 6, 5))
    value, gradient = Folding().value_and_gradient(u, (1.0, 1.0, 2.0))
    monkeypatch.setattr("DeepDiffRegLib.regularization.folding.CHUNK", 60)
    in_chunks, chunk_gradient = Folding().value_and_gradient(u, (1.0, 1.0, 2.0))
    assert in_chunks == pytest.approx(value) and torch.allclose(chunk_gradient, gradient, atol=1e-14)


def test_descending_the_folding_penalty_removes_the_folds():
    u = rough_field((8, 8, 8), 0.6)
    before = int((jacobian_determinant(u, (1.0,) * 3) <= 0).sum())
    for _ in range(200):
        u = u - 20.0 * Folding(margin=0.2).value_and_gradient(u, (1.0,) * 3)[1]
    assert before > 50 and int((jacobian_determinant(u, (1.0,) * 3) <= 0).sum()) == 0


def consistency(u, w, spacing):
    """mean |u + w o (Id + u)|^2 with the library's sampler: differentiable by autograd in u and w."""
    h = torch.tensor(spacing, dtype=u.dtype).reshape(1, -1, *(1,) * len(spacing))
    index = identity_index(tuple(u.shape[2:]), dtype=u.dtype) + u / h
    return (u + sample(w, index, padding="border")).square().sum(1).mean()


@pytest.mark.parametrize("grid", GRIDS)
def test_inverse_consistency_holds_the_inverse_constant(grid):
    shape, spacing = GRIDS[grid]
    u = rough_field(shape, 0.9)
    w = approximate_inverse(u, spacing, 5)
    leaf = u.clone().requires_grad_()
    expected = consistency(leaf, w, spacing)
    expected_gradient = torch.autograd.grad(expected, leaf)[0]
    for value, gradient in (
        InverseConsistency(5).value_and_gradient(u, spacing),
        InverseConsistency().against(u, w, spacing),
    ):
        assert value == pytest.approx(float(expected.detach()))
        assert torch.allclose(gradient, expected_gradient, atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS)
def test_inverse_consistency_of_two_fields(grid, monkeypatch):
    """Gradients of both, also of the field that is looked up; in several chunks."""
    shape, spacing = GRIDS[grid]
    monkeypatch.setattr("DeepDiffRegLib.regularization.inverse_consistency.CHUNK", 50)
    leaves = [rough_field(shape, 0.9).requires_grad_() for _ in range(2)]
    expected = (consistency(*leaves, spacing) + consistency(*reversed(leaves), spacing)) / 2
    expected_gradients = torch.autograd.grad(expected, leaves)
    value, *gradients = InverseConsistency().value_and_gradients(*leaves, spacing)
    assert value == pytest.approx(float(expected.detach()))
    for found, wanted in zip(gradients, expected_gradients):
        assert not found.requires_grad and torch.allclose(found, wanted, atol=1e-10)


def test_inverse_consistency_is_small_for_gentle_maps_and_large_for_folds():
    shape, spacing = (12, 13, 14), (1.0, 1.5, 2.0)
    gentle = smooth_field(shape, spacing, 0.6)
    folded = smooth_field(shape, spacing, 12.0)
    energy = InverseConsistency(10).value_and_gradient
    assert energy(gentle, spacing)[0] < 1e-4
    assert energy(folded, spacing)[0] > 1.0
