"""Smoothers: the symbol they promise, self-adjoint, nothing wraps around, pinned faces stay; and the cubic refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, ShapeError
from DeepDiffRegLib.transforms.kernels import (
    MultiGaussian,
    Smoother,
    SmootherBank,
    Sobolev,
    along_axes,
    axis_modes,
    interpolation_matrix,
)

GRIDS = {2: ((30, 26), (1.5, 1.0)), 3: ((16, 18, 20), (1.2, 1.0, 2.0))}
"""Shape in tensor order, spacing x, y[, z] in mm."""
DOUBLE = {"dtype": torch.float64}


def free(ndim: int):
    return ((False, False),) * ndim


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_point_becomes_the_analytic_gaussian(ndim):
    """In the middle of the grid, where neither border matters: voxel volume times the normal density."""
    shape, spacing = ((41, 45), (1.5, 1.0)) if ndim == 2 else ((33, 37, 41), (1.2, 1.0, 1.5))
    sigmas, weights = (2.0, 3.5), (0.3, 0.7)
    smooth = Smoother(MultiGaussian(sigmas, weights).symbol, shape, spacing, **DOUBLE)
    point = torch.zeros(shape, dtype=torch.float64)
    center = tuple(n // 2 for n in shape)
    point[center] = 1.0
    offsets = [(torch.arange(n, dtype=torch.float64) - c) * h for n, c, h in zip(shape, center, spacing[::-1])]
    squared = sum(o.square().reshape(-1, *(1,) * (ndim - 1 - a)) for a, o in enumerate(offsets))
    density = sum(
        w * torch.exp(-squared / (2 * s**2)) / (2 * np.pi * s**2) ** (ndim / 2) for w, s in zip(weights, sigmas)
    )
    expected = density * np.prod(spacing)
    torch.testing.assert_close(smooth(point), expected, atol=2e-3 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("kernel", [MultiGaussian((3.0, 6.0), (0.4, 0.6)), Sobolev(9.0, 1.0, 2.0)])
def test_every_mode_is_multiplied_by_the_exact_symbol(kernel):
    shape, spacing = GRIDS[3]
    smooth = Smoother(kernel.symbol, shape, spacing, **DOUBLE)
    bases = [axis_modes(n, h) for n, h in zip(shape[::-1], spacing)]
    for orders in ((0, 0, 0), (1, 0, 2), (3, 2, 1)):
        x, y, z = (basis[0][k] for basis, k in zip(bases, orders))
        mode = z[:, None, None] * y[:, None] * x
        squared = sum(basis[1][k] ** 2 for basis, k in zip(bases, orders))
        torch.testing.assert_close(smooth(mode), mode * kernel.symbol(squared), rtol=0, atol=1e-14)


def test_the_operator_and_its_smoother_undo_each_other():
    shape, spacing = GRIDS[2]
    kernel = Sobolev(4.0, 1.0, 1.0)
    once = Smoother(kernel.operator, shape, spacing, tolerance=0.0, **DOUBLE)
    smooth = Smoother(kernel.symbol, shape, spacing, tolerance=0.0, **DOUBLE)
    field = torch.randn(shape, **DOUBLE)
    torch.testing.assert_close(smooth(once(once(field))), field, rtol=1e-9, atol=1e-9)


def test_the_operator_is_minus_alpha_laplacian_plus_gamma():
    """On a smooth function with flat ends, beta = 1: against its analytic second derivative."""
    n, h = 64, 0.5
    once = Smoother(Sobolev(2.5, 0.7, 1.0).operator, (n, n), (h, h), tolerance=0.0, **DOUBLE)
    x = (torch.arange(n, dtype=torch.float64) + 0.5) * h
    k = 3 * np.pi / (n * h)
    wave = torch.cos(k * x).expand(n, n)
    torch.testing.assert_close(once(wave), (2.5 * k**2 + 0.7) * wave, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_self_adjoint(ndim, pinned, dtype, tolerance):
    shape, spacing = GRIDS[ndim]
    walls = ((True, False), (True, True), (False, True))[:ndim] if pinned else free(ndim)
    smooth = Smoother(MultiGaussian((2.0, 5.0), (0.5, 0.5)).symbol, shape, spacing, walls, dtype=dtype)
    a, b = (torch.randn(ndim, *shape, dtype=dtype) for _ in range(2))
    left, right = (float((p * q).sum(dtype=torch.float64)) for p, q in ((smooth(a), b), (a, smooth(b))))
    scale = float(a.norm() * smooth(b).norm())
    assert abs(left - right) < tolerance * scale


def test_constants_keep_their_value_and_integrals_are_kept():
    shape, spacing = GRIDS[3]
    smooth = Smoother(MultiGaussian((2.0, 40.0), (0.5, 0.5)).symbol, shape, spacing, **DOUBLE)
    torch.testing.assert_close(smooth(torch.full(shape, 3.0, **DOUBLE)), torch.full(shape, 3.0, **DOUBLE))
    field = torch.rand(shape, **DOUBLE)
    assert float(smooth(field).sum()) == pytest.approx(float(field.sum()), rel=1e-12)


def test_nothing_wraps_around():
    """A point at one border is not felt at the other."""
    smooth = Smoother(MultiGaussian((2.0,), (1.0,)).symbol, (40, 40), (1.0, 1.0), **DOUBLE)
    point = torch.zeros(40, 40, **DOUBLE)
    point[20, 0] = 1.0
    spread = smooth(point)
    assert float(spread[20, 0]) > 0.1 * (1 / (2 * np.pi * 4))
    assert float(spread[:, 25:].abs().max()) < 1e-11


def test_pinned_components_vanish_at_their_face_only():
    shape, spacing = GRIDS[3]
    walls = ((True, False), (False, False), (False, True))
    smooth = Smoother(MultiGaussian((4.0,), (1.0,)).symbol, shape, spacing, walls, **DOUBLE)
    v = smooth(torch.rand(3, *shape, **DOUBLE) + 0.5)
    assert float(v[0, :, :, 0].abs().max()) < 1e-14 and float(v[2, -1].abs().max()) < 1e-14
    assert float(v[0, :, :, -1].abs().min()) > 0.1 and float(v[1, :, :, 0].abs().min()) > 0.1


def test_dropped_modes_do_not_show_in_single_precision():
    shape, spacing = GRIDS[3]
    symbol = MultiGaussian((3.0, 8.0), (0.2, 0.8)).symbol
    field = torch.randn(2, *shape)
    every = Smoother(symbol, shape, spacing, tolerance=0.0)(field)
    torch.testing.assert_close(Smoother(symbol, shape, spacing)(field), every, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [(24, 20), (34, 32, 34)])
def test_a_bank_is_its_gaussians_one_by_one(shape):
    """Small grids go through all kernels at once, large ones one after the other."""
    d = len(shape)
    walls, spacing = ((True, False),) * d, (1.0,) * d
    bank = SmootherBank((2.0, 5.0, 9.0), shape, spacing, walls, "cpu", torch.float64)
    fields = torch.randn(3, d, *shape, dtype=torch.float64)
    single = [
        Smoother(MultiGaussian((s,), (1.0,)).symbol, shape, spacing, walls, **DOUBLE)(f)
        for s, f in zip((2.0, 5.0, 9.0), fields)
    ]
    torch.testing.assert_close(bank(fields), torch.stack(single), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("ends", [(False, False), (True, False), (False, True), (True, True)])
def test_axis_modes_are_orthonormal(n, ends):
    modes, _ = axis_modes(n, 1.3, *ends)
    assert modes.shape[0] == n - sum(ends)
    torch.testing.assert_close(modes @ modes.T, torch.eye(modes.shape[0], dtype=torch.float64), rtol=0, atol=1e-13)


def test_refinement_is_exact_for_squares_inside_and_keeps_constants():
    """Cubic convolution reproduces quadratics away from the ends; the identity when nothing changes."""
    matrix = interpolation_matrix(16, 32, cubic=True)
    torch.testing.assert_close(matrix.sum(1), torch.ones(32, dtype=torch.float64))
    x, fine = torch.arange(16, dtype=torch.float64), (torch.arange(32, dtype=torch.float64) + 0.5) / 2 - 0.5
    torch.testing.assert_close((matrix @ x.square())[4:-4], fine.square()[4:-4])
    torch.testing.assert_close(interpolation_matrix(9, 9), torch.eye(9, dtype=torch.float64))


def test_linear_refinement_stays_between_its_samples():
    matrix = interpolation_matrix(10, 25)
    assert float(matrix.min()) >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(25, dtype=torch.float64))
    x = torch.arange(10, dtype=torch.float64)
    torch.testing.assert_close(matrix @ x, ((torch.arange(25, dtype=torch.float64) + 0.5) * 0.4 - 0.5).clamp(0, 9))


def test_matrices_along_axes():
    field = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    a, b, c = (torch.randn(3, n, dtype=torch.float64) for n in (4, 5, 6))
    expected = torch.einsum("zi,yj,xk,cijk->czyx", a, b, c, field)
    for from_last in (True, False):
        torch.testing.assert_close(along_axes(field, [a, b, c], from_last), expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiGaussian((1.0, 2.0), (1.0,)), "one weight per sigma"),
        (lambda: MultiGaussian((1.0, -2.0), (0.5, 0.5)), "positive"),
        (lambda: MultiGaussian((1.0, 2.0), (0.5, 0.6)), "sum to 1"),
        (lambda: MultiGaussian((1.0, 2.0), (-0.5, 1.5)), "sum to 1"),
        (lambda: Sobolev(0.0), "positive"),
    ],
)
def test_impossible_kernels(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_wrong_shape():
    with pytest.raises(ShapeError, match="must end with"):
        Smoother(MultiGaussian((1.0,), (1.0,)).symbol, (8, 9), (1.0, 1.0))(torch.zeros(2, 9, 8))
