"""Convolutions agree with sums written out in NumPy, windows with attention over all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from DeepDiffRegLib.networks.blocks import Conv, UpConv, padded_to_multiple
from DeepDiffRegLib.networks.swin import Attention, merged_windows, relative_positions, window_mask, windows


def convolve(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's rule: ceil(n / stride) outputs, missing values shared out with the larger part behind."""
    axes = range(x.ndim - 1)
    size = [-(-n // stride) for n in x.shape[1:]]
    missing = [max((m - 1) * stride + 3 - n, 0) for m, n in zip(size, x.shape[1:])]
    x = np.pad(x, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    out = np.zeros((weight.shape[0], *size))
    for place in itertools.product(*(range(m) for m in size)):
        window = x[(slice(None), *(slice(stride * place[a], stride * place[a] + 3) for a in axes))]
        out[(slice(None), *place)] = (weight * window).sum(axis=tuple(range(1, weight.ndim)))
    return out


@pytest.mark.parametrize("size", [(6, 8), (7, 6), (5, 9), (4, 5, 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_that_of_tensorflow(size, stride, rng):
    conv = Conv(len(size), 2, 3, stride, slope=None)
    x = rng.normal(size=(2, *size))
    with torch.no_grad():
        ours = conv(torch.from_numpy(x[None]).float())[0].numpy()
    assert np.allclose(ours, convolve(x, conv.weight.detach().numpy(), stride), atol=1e-4)


def test_symmetric_padding_differs_on_even_axes_only():
    one, other = Conv(2, 1, 1, 2, None, "tensorflow"), Conv(2, 1, 1, 2, None, "symmetric")
    other.load_state_dict(one.state_dict())
    even, odd = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 7, 7)
    assert not torch.allclose(one(even), other(even), atol=1e-3)
    assert torch.allclose(one(odd), other(odd))


@pytest.mark.parametrize("ndim", [2, 3])
def test_folded_enlargement_equals_enlarging_first(ndim):
    up = UpConv(ndim, 3, 2, 4, slope=None)
    torch.nn.init.normal_(up.bias)
    x, skip = torch.randn(1, 3, *(4, 5, 3)[:ndim]), torch.randn(1, 2, *(8, 10, 6)[:ndim])
    enlarged = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    plain = (torch.nn.functional.conv2d, torch.nn.functional.conv3d)[ndim - 2]
    expected = plain(torch.cat((enlarged, skip), 1), up.weight, up.bias, padding=1)
    assert torch.allclose(up(x, skip), expected, atol=1e-5)


def test_padding_to_a_multiple_keeps_the_beginning():
    x = torch.rand(1, 2, 5, 8)
    padded = padded_to_multiple(x, 4)
    assert padded.shape == (1, 2, 8, 8) and torch.equal(padded[:, :, :5], x) and not padded[:, :, 5:].any()
    assert padded_to_multiple(padded, 4) is padded


@pytest.mark.parametrize(("shape", "window"), [((4, 6), (2, 3)), ((4, 6, 2), (2, 3, 1))])
def test_windows_are_cut_and_put_back(shape, window):
    x = torch.arange(2 * np.prod(shape), dtype=torch.float32).reshape(2, *shape, 1)
    cut = windows(x, window)
    assert torch.equal(cut[0, :, 0].reshape(window), x[(0, *(slice(0, w) for w in window), 0)])
    assert torch.equal(merged_windows(cut, window, shape), x)


def test_positions_are_relative():
    """Two pairs of places share a row exactly when they are apart by the same vector, also in a cut window."""
    full, window = (3, 4), (2, 4)
    rows = relative_positions(window, full)
    places = np.array(list(np.ndindex(window)))
    apart = places[:, None] - places[None]
    expected = (apart[..., 0] + 2) * 7 + apart[..., 1] + 3
    assert np.array_equal(rows.numpy(), expected) and expected.max() < 5 * 7


def test_attention_is_softmax_over_the_window():
    attention = Attention(4, 2, (2, 3))
    tokens = torch.randn(5, 6, 4)
    q, k, v = attention.qkv(tokens).reshape(5, 6, 3, 2, 2).permute(2, 0, 3, 1, 4)
    bias = attention.bias[relative_positions((2, 3), (2, 3))].permute(2, 0, 1)
    shares = (q @ k.transpose(-1, -2) / 2**0.5 + bias).softmax(-1)
    expected = attention.project((shares @ v).transpose(1, 2).reshape(5, 6, 4))
    assert torch.allclose(attention(tokens, (2, 3), None), expected, atol=1e-5)


def test_shifted_windows_do_not_join_opposite_ends():
    mask = window_mask((4, 4), (2, 2), (1, 1))
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()  # the first window holds neighbors alone
    last = mask[-1]  # four corners of the image: nobody sees anybody else
    assert torch.equal(last == 0, torch.eye(4, dtype=torch.bool))
    assert window_mask((4, 4), (2, 2), (0, 0)) is None


def test_padding_is_not_attended_to():
    mask = window_mask((3, 4), (2, 2), (0, 0))
    below = mask[2]  # rows 2 and 3, of which 3 is padding
    assert torch.equal(below == 0, torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool())
