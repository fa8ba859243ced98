"""Gaussian smoothing equals SciPy's, on every axis by its own width, in place and through torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from DeepDiffRegLib.geometry.smoothing import TRUNCATE, gaussian, gaussian_taps

CASES = [((13, 11), (1.2, 0.0)), ((13, 11), (0.7, 2.0)), ((9, 12, 14), (1.7, 0.6, 1.0)), ((9, 12, 14), (0.0, 0.0, 1.3))]


def scipy_smooth(channel: np.ndarray, sigma_xyz) -> np.ndarray:
    sigmas = sigma_xyz[::-1]
    radius = [int(np.ceil(TRUNCATE * s)) for s in sigmas]
    return gaussian_filter(channel, sigmas, mode="nearest", radius=radius)


@pytest.mark.parametrize("shape, sigma", CASES)
def test_equals_scipy(shape, sigma):
    tensor = torch.randn(1, 2, *shape)
    smoothed = gaussian(tensor, sigma)
    for channel in range(2):
        expected = scipy_smooth(tensor[0, channel].double().numpy(), sigma)
        np.testing.assert_allclose(smoothed[0, channel], expected, atol=2e-6)


def test_fused_equals_torch_for_a_kernel_longer_than_the_grid():
    tensor = torch.randn(1, 3, 4, 5, 6)
    slow = gaussian(tensor.double(), 2.5)
    torch.testing.assert_close(gaussian(tensor, 2.5).double(), slow, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(8, 9), (6, 8, 9)])
def test_in_place_equals_out_of_place(shape):
    tensor = torch.randn(1, len(shape), *shape)
    expected = gaussian(tensor, 1.1)
    returned = gaussian(tensor, 1.1, out=tensor)
    assert returned is tensor
    torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("shape", [(8, 9), (6, 8, 9)])
def test_sigma_zero_changes_nothing_and_constants_stay(shape):
    tensor = torch.randn(1, 1, *shape)
    torch.testing.assert_close(gaussian(tensor, 0.0), tensor, rtol=0, atol=0)
    torch.testing.assert_close(gaussian(torch.full_like(tensor, 5.0), 1.5), torch.full_like(tensor, 5.0))


def test_gradients_pass_through():
    tensor = torch.randn(1, 1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: gaussian(t, (0.8, 1.0, 0.5)), (tensor,))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7])
def test_taps_are_a_normalized_gaussian(sigma):
    taps = gaussian_taps(sigma).astype(np.float64)
    middle = len(taps) // 2
    assert len(taps) == 2 * int(np.ceil(TRUNCATE * sigma)) + 1
    assert taps.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(taps, taps[::-1])
    assert taps[middle + 1] / taps[middle] == pytest.approx(np.exp(-0.5 / sigma**2), rel=1e-4)
    assert gaussian_taps(0.0).tolist() == [1]
