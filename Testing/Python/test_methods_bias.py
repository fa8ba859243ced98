"""The angle between the solver's force and the gradient of the mean of the moving channels: what is known of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.methods.bias import alignment, mean_alignment


def case(ndim: int, channels: int, smooth: float = 0.0):
    """Random features on grids of different sizes, a random map and matrix."""
    own, other = ((17, 15), (16, 18)) if ndim == 2 else ((9, 8, 10), (8, 10, 9))
    fixed, moving = torch.rand(1, channels, *own), torch.rand(1, channels, *other)
    matrix = np.eye(ndim, ndim + 1) + np.random.default_rng(0).normal(0, 0.05, (ndim, ndim + 1))
    return gaussian(fixed, smooth), gaussian(moving, smooth), torch.rand(1, ndim, *own) * 2 - 1, matrix


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_channel_leaves_one_line(ndim):
    """Exactly, whatever the fixed image is; also for many channels that are one image times numbers."""
    fixed, moving, u, matrix = case(ndim, 1)
    cosines = alignment(fixed, moving, u, matrix)
    known = cosines[~cosines.isnan()]
    assert cosines.shape == (1, 1, *fixed.shape[2:]) and len(known) > 0.5 * cosines.numel()
    assert float((1 - known).abs().max()) < 1e-12
    weights = torch.tensor([1.0, 2.0, -0.5]).reshape(1, 3, *(1,) * ndim)
    copies = alignment(torch.rand(1, 3, *fixed.shape[2:]), moving * weights, u, matrix)
    assert float((1 - copies[~copies.isnan()]).abs().max()) < 1e-6


def test_two_channels_as_written_out():
    """M = (x, y): the force lies along the residuals (r_x, r_y), the gradient of the mean along (1, 1)."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    moving = torch.stack((x, y))[None]
    angle = torch.rand(1, 1, 12, 12) * 2 * math.pi
    fixed = moving - torch.cat((angle.cos(), angle.sin()), 1)
    cosines = alignment(fixed, moving, torch.zeros(1, 2, 12, 12), np.eye(2, 3))
    expected = (angle.cos() + angle.sin()).abs() / math.sqrt(2)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(cosines[inner], expected[inner].double(), atol=1e-6)


@pytest.mark.parametrize(("ndim", "unrelated"), [(2, 2 / math.pi), (3, 0.5)])
def test_many_channels_approach_directions_that_know_nothing_of_each_other(ndim, unrelated):
    means = [mean_alignment(alignment(*case(ndim, channels))) for channels in (1, 2, 64)]
    assert means[0] == pytest.approx(1.0) and means[0] > means[1] > means[2]
    assert means[2] == pytest.approx(unrelated, abs=0.1)


def test_scale_does_not_matter_and_flat_features_have_no_direction():
    fixed, moving, u, matrix = case(2, 3)
    first, second = alignment(fixed, moving, u, matrix), alignment(7 * fixed, 7 * moving, u, matrix)
    assert torch.allclose(first, second, atol=1e-5, equal_nan=True)
    assert alignment(fixed, torch.ones_like(moving), u, matrix).isnan().all()
    assert math.isnan(mean_alignment(torch.full((1, 1, 2, 2), math.nan)))
