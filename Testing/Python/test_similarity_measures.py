"""Values known beforehand: mean squares, global correlation, Dice, mutual information, MIND."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from DeepDiffRegLib.similarity.dice import Dice
from DeepDiffRegLib.similarity.mean_squares import MeanSquares
from DeepDiffRegLib.similarity.mind import MIND, neighbor_pairs
from DeepDiffRegLib.similarity.mutual_information import MutualInformation
from DeepDiffRegLib.similarity.ncc import NCC


def test_mean_squares_averages_channels_and_weights():
    fixed = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    warped = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[3.0, 2.0], [0.0, 0.0]]]], dtype=torch.float64)
    weight = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]], dtype=torch.float64)
    value, gradient = MeanSquares().value_and_gradient(fixed, warped, weight)
    assert value == pytest.approx(((1 + 9) / 2 + 0.5 * 4 / 2) / 2)
    assert gradient[0, 1, 0, 0] == pytest.approx(2 * 3 / (2 * 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_correlation_equals_numpy(rng, weighted):
    fixed, warped = rng.random((2, 6, 7, 8))
    weight = rng.random((6, 7, 8)) if weighted else np.ones((6, 7, 8))
    covariance = np.cov(fixed.ravel(), warped.ravel(), aweights=weight.ravel())
    expected = 1 - covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    tensors = [torch.from_numpy(a)[None, None] for a in (fixed, warped, weight)]
    assert NCC().value(*tensors[:2], tensors[2] if weighted else None) == pytest.approx(expected, abs=1e-6)


def test_correlation_ignores_brightness_and_contrast_but_not_their_sign():
    fixed = torch.rand(1, 1, 8, 8, 8)
    assert NCC().value(fixed, 0.1 + 0.5 * fixed) == pytest.approx(0.0, abs=1e-5)
    assert NCC().value(fixed, 1.0 - fixed) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_dice_of_squares_that_half_overlap(order):
    fixed, warped = torch.zeros(1, 2, 10, 10), torch.zeros(1, 2, 10, 10)
    fixed[0, 0, 2:6, 2:6] = 1
    warped[0, 0, 2:6, 4:8] = 1
    warped[0, 1, 0, 0] = 1
    value, gradient = Dice(order=order).value_and_gradient(fixed, warped)
    assert value == pytest.approx(0.5, abs=1e-5)
    assert float(gradient[0, 1].abs().max()) == 0.0
    fixed[0, 1, 0, 0] = 1
    assert Dice(order=order).value(fixed, warped) == pytest.approx(0.25, abs=1e-5)
    assert Dice(order=order).value(warped, warped) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_dice_gradient_equals_autograd(order):
    fixed, warped, weight = torch.rand(3, 1, 1, 5, 6, dtype=torch.float64)
    leaf = warped.clone().requires_grad_()
    top = 2 * (weight * fixed * leaf).sum() + 1e-5
    bottom = (weight * fixed**order).sum() + (weight * leaf**order).sum() + 1e-5
    expected = torch.autograd.grad(1 - top / bottom, leaf)[0]
    assert torch.allclose(Dice(order=order).value_and_gradient(fixed, warped, weight)[1], expected, rtol=1e-12)


@pytest.mark.parametrize("fixed_order", [0, 3])
def test_information_is_what_it_says(fixed_order):
    """Independent images share none; two equal halves share log 2 (their cubic windows do not overlap)."""
    similarity = MutualInformation(fixed_order=fixed_order)
    left = (torch.arange(16) < 8).float().repeat(16, 1)[None, None]
    assert similarity.value(left, left) == pytest.approx(-math.log(2), abs=1e-5)
    assert similarity.value(left, 1 - left) == pytest.approx(-math.log(2), abs=1e-5)
    assert similarity.value(left, left.transpose(2, 3)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fixed_order", [0, 3])
def test_fused_information_equals_the_tensor_version(fixed_order, weighted):
    """Including intensities at and beyond the limits, which are clamped and feel no force."""
    fixed = torch.rand(1, 1, 9, 10, 11, dtype=torch.float64) * 1.2 - 0.1
    warped = (0.7 * fixed + 0.3 * torch.rand_like(fixed)) * 1.3 - 0.2
    weight = torch.rand_like(fixed) if weighted else None
    similarity = MutualInformation(bins=20, fixed_order=fixed_order)
    value, gradient = similarity.value_and_gradient(fixed, warped, weight)
    single = [None if t is None else t.float() for t in (fixed, warped, weight)]
    value32, gradient32 = similarity.value_and_gradient(*single)
    outside = (warped < 0) | (warped > 1)
    assert bool(outside.any()) and float(gradient[outside].abs().max()) == 0.0
    assert value32 == pytest.approx(value, rel=1e-5)
    assert torch.allclose(gradient32.double(), gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("fixed_order", [0, 3])
def test_information_gradient_of_the_second_channel_and_odd_limits(fixed_order):
    fixed, warped = 5 + 3 * torch.rand(2, 1, 2, 12, 12, dtype=torch.float64)
    similarity = MutualInformation(bins=12, fixed_order=fixed_order, limits=(4.0, 9.0))
    gradient = similarity.value_and_gradient(fixed, warped)[1]
    for place in ((0, 0, 3, 4), (0, 1, 7, 2)):
        step = torch.zeros_like(warped)
        step[place] = 1e-5
        slope = (similarity.value(fixed, warped + step) - similarity.value(fixed, warped - step)) / 2e-5
        assert slope == pytest.approx(float(gradient[place]), rel=1e-5, abs=1e-10)


def test_self_similarity_has_twelve_channels_in_3d_and_four_in_2d():
    assert len(neighbor_pairs(3)) == 12 and len(neighbor_pairs(2)) == 4
    assert MIND().features(torch.rand(1, 1, 7, 8, 9), (1.0, 1.0, 1.0)).shape == (1, 12, 7, 8, 9)
    assert MIND().features(torch.rand(1, 1, 8, 9), (1.0, 1.0)).shape == (1, 4, 8, 9)


def test_self_similarity_ignores_contrast_and_its_inversion():
    scan = torch.rand(1, 1, 10, 11, 12, dtype=torch.float64)
    features = MIND().features(scan, (1.0, 1.0, 1.0))
    inverted = MIND().features(0.9 - 0.4 * scan, (1.0, 1.0, 1.0))
    assert torch.allclose(features, inverted, atol=1e-9)
    assert float(features.max()) <= 1.0 and float(features.min()) >= 0.0
    assert torch.allclose(features.amax(1), torch.ones(1, 10, 11, 12, dtype=torch.float64))


def test_self_similarity_follows_its_definition_at_one_voxel():
    """Patch differences written out at a voxel away from the border, with a coarser z axis."""
    scan = torch.rand(1, 1, 9, 12, 12, dtype=torch.float64)
    features = MIND(radius_voxels=1, distance_voxels=2).features(scan, (1.0, 1.0, 2.0))
    steps, image = (1, 2, 2), scan[0, 0]
    distances = torch.zeros(12, 9, 12, 12, dtype=torch.float64)
    inner = (slice(2, 7), slice(3, 9), slice(3, 9))

    def patch(z, y, x, offset):
        z, y, x = (c + o * s for c, o, s in zip((z, y, x), offset, steps))
        return image[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]

    for channel, (p, q) in enumerate(neighbor_pairs(3)):
        for z in range(2, 7):
            for y in range(3, 9):
                for x in range(3, 9):
                    distances[channel, z, y, x] = (patch(z, y, x, p) - patch(z, y, x, q)).square().mean()
    excess = distances - distances.amin(0)
    expected = torch.exp(-excess / excess.mean(0).clamp(min=1e-12))
    assert torch.allclose(features[0][(slice(None), *inner)], expected[(slice(None), *inner)], atol=1e-9)
