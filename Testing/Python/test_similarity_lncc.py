"""LNCC and mk-LNCC against their definition, window by window."""

from __future__ import annotations

import itertools

import pytest
import torch

from DeepDiffRegLib.similarity.lncc import LNCC, box_sum, lncc_sums, tensor_sums
from DeepDiffRegLib.similarity.mk_lncc import MultiKernelLNCC, default_windows, dilated_lncc


def by_definition(fixed, warped, weight, radius, epsilon, dilation=1):
    """1 - weighted mean of LNCC with explicit windows, centered moments and no shared sums; one channel."""
    shape = fixed.shape[2:]
    j, i = fixed[0, 0], warped[0, 0]
    w = torch.ones_like(j) if weight is None else weight[0, 0]
    total, mass = 0.0, 0.0
    reach = radius * dilation
    for center in itertools.product(*(range(n) for n in shape)):
        window = []
        for c, n in zip(center, shape):
            places = range(c - reach, c + reach + 1, dilation)
            window.append([p for p in places if 0 <= p < n])
        grid = torch.meshgrid(*(torch.tensor(p) for p in window), indexing="ij")
        wp, ip, jp = w[grid], i[grid], j[grid]
        if wp.sum() < 0.1 * wp.numel() - 1e-9 or w[center] == 0:
            continue
        mi, mj = (wp * ip).sum() / wp.sum(), (wp * jp).sum() / wp.sum()
        a = (wp * (ip - mi) * (jp - mj)).sum() / wp.sum()
        b = (wp * (ip - mi) ** 2).sum() / wp.sum() + epsilon
        c = (wp * (jp - mj) ** 2).sum() / wp.sum() + epsilon
        total = total + w[center] * a**2 / (b * c)
        mass = mass + w[center]
    return 1 - total / mass


def images(shape, dtype=torch.float64):
    fixed = torch.rand(1, 1, *shape, dtype=dtype)
    return fixed, 0.5 * fixed + 0.5 * torch.rand(1, 1, *shape, dtype=dtype)


def sparse_weight(shape, dtype=torch.float64):
    """Fractional weights, most of them 0, so that some windows hold less than a tenth."""
    return torch.rand(1, 1, *shape, dtype=dtype) * (torch.rand(1, 1, *shape) > 0.85)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "radius", "dilation"), [((6, 7, 5), 1, 1), ((6, 5, 7), 2, 2), ((11, 12), 5, 1)])
def test_value_and_gradient_follow_the_definition(shape, radius, dilation, weighted):
    fixed, warped = images(shape)
    weight = sparse_weight(shape) if weighted else None
    leaf = warped.clone().requires_grad_()
    expected = by_definition(fixed, leaf, weight, radius, 1e-3, dilation)
    expected_gradient = torch.autograd.grad(expected, leaf)[0]
    value, gradient = dilated_lncc(fixed, warped, weight, radius, 1e-3, dilation)
    assert value == pytest.approx(float(expected.detach()), abs=1e-12)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(13, 9, 17), (4, 3, 21), (40, 5, 6), (2, 2, 2)])
def test_fused_kernel_equals_the_tensor_version(shape, radius):
    fixed, warped = images(shape)
    for weight in (None, sparse_weight(shape), (torch.rand(1, 1, *shape) > 0.3).double()):
        expected = tensor_sums(fixed, warped, weight, radius, 1e-5)
        single = None if weight is None else weight.float()
        found = lncc_sums(fixed.float(), warped.float(), single, radius, 1e-5)
        assert found[0] == pytest.approx(expected[0], rel=2e-5, abs=1e-5)
        assert found[1] == pytest.approx(expected[1], rel=1e-6)
        scale = max(float(expected[2].abs().max()), 1e-6)
        assert float((found[2].double() - expected[2]).abs().max()) < 1e-4 * scale


def test_slabs_meet_without_a_seam():
    """More planes than one slab holds: the same gradient as in one piece, at every plane."""
    fixed, warped = images((210, 6, 7))
    expected = tensor_sums(fixed, warped, None, 2, 1e-5)
    found = lncc_sums(fixed.float(), warped.float(), None, 2, 1e-5)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert float((found[2].double() - expected[2]).abs().max()) < 1e-5 * float(expected[2].abs().max())


def test_bright_offset_costs_no_precision():
    """Ten times the intensity range added to both images changes neither correlation nor its float32 gradient."""
    fixed, warped = images((12, 12, 12), torch.float32)
    value, gradient = LNCC().value_and_gradient(fixed, warped)
    shifted_value, shifted = LNCC().value_and_gradient(fixed + 10.0, warped + 10.0)
    assert shifted_value == pytest.approx(value, abs=1e-4)
    assert float((shifted - gradient).abs().max()) < 1e-3 * float(gradient.abs().max())


def test_linear_change_of_intensity_is_a_perfect_match():
    fixed = torch.rand(1, 1, 9, 10, 11)
    assert LNCC(epsilon=1e-12).value(fixed, 0.2 + 0.6 * fixed) == pytest.approx(0.0, abs=1e-5)
    assert LNCC(epsilon=1e-12).value(fixed, 0.8 - 0.6 * fixed) == pytest.approx(0.0, abs=1e-5)


def test_borders_are_unbiased():
    """Truncated windows divide by the voxels they hold: an inverted ramp is a perfect match right into the corners."""
    axis = torch.linspace(0, 1, 12, dtype=torch.float64)
    ramp = (axis[:, None, None] + axis[None, :, None] + axis[None, None, :])[None, None] / 3
    value, mass, _ = tensor_sums(ramp, 1 - ramp, None, 2, 1e-9)
    assert mass == 12**3 and value / mass == pytest.approx(1.0, abs=1e-6)
    assert LNCC(2, 1e-9).value(ramp.float(), 1 - ramp.float()) == pytest.approx(0.0, abs=1e-4)


def test_noise_on_a_flat_background_hardly_counts():
    """Uncorrelated noise of 0.001: similarity below 0.01, force far below that of tissue contrast, or of no epsilon."""
    shape = (1, 1, 20, 20, 20)
    quiet = [0.3 + 1e-3 * torch.randn(shape) for _ in range(2)]
    tissue = [0.3 + 0.1 * torch.randn(shape) for _ in range(2)]
    value, force = LNCC().value_and_gradient(*quiet)
    assert 1 - value < 0.01
    assert float(force.norm()) < float(LNCC(epsilon=1e-12).value_and_gradient(*quiet)[1].norm()) / 50
    weaker = 100.0 * float(LNCC().value_and_gradient(*tissue)[1].norm())
    assert float(force.norm()) < weaker
    assert LNCC().value(*tissue) == pytest.approx(LNCC(epsilon=1e-12).value(*tissue), abs=1e-3)


@pytest.mark.parametrize("radius", [1, 4, 5, 9])
def test_box_sum_truncates_at_the_border(radius):
    ones = torch.ones(1, 1, 7, 13, dtype=torch.float64)
    expected = [[1, 1], [1, 1]]
    for axis, n in enumerate((7, 13)):
        expected[axis] = torch.tensor([min(k + radius, n - 1) - max(k - radius, 0) + 1 for k in range(n)])
    assert torch.equal(box_sum(ones, radius)[0, 0], (expected[0][:, None] * expected[1][None]).double())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (160, ((10, 20, 40), (0.1, 0.3, 0.6), 2)),
        (128, ((8, 16, 32), (0.1, 0.3, 0.6), 2)),
        (64, ((16, 32), (0.3, 0.7), 2)),
        (20, ((10,), (1.0,), 1)),
    ],
)
def test_multi_kernel_windows_follow_the_image_size(size, expected):
    assert default_windows((size, size + 30, 400)) == expected


def test_multi_kernel_is_the_weighted_sum_of_its_windows():
    fixed, warped = images((16, 13, 15), torch.float32)
    weight = sparse_weight((16, 13, 15), torch.float32)
    many = MultiKernelLNCC(windows=(3, 7), weights=(0.25, 0.5), dilation=1)
    value, gradient = many.value_and_gradient(fixed, warped, weight)
    parts = [LNCC(radius).value_and_gradient(fixed, warped, weight) for radius in (1, 3)]
    assert value == pytest.approx(0.25 * parts[0][0] + 0.5 * parts[1][0], rel=1e-6)
    assert torch.allclose(gradient, 0.25 * parts[0][1] + 0.5 * parts[1][1], atol=1e-8)


def test_dilation_two_in_single_precision_equals_double():
    fixed, warped = images((17, 14, 15))
    value, gradient = dilated_lncc(fixed, warped, None, 2, 1e-5, 2)
    value32, gradient32 = dilated_lncc(fixed.float(), warped.float(), None, 2, 1e-5, 2)
    assert value32 == pytest.approx(value, rel=1e-5)
    assert float((gradient32 - gradient).abs().max()) < 1e-4 * float(gradient.abs().max())
