"""What every registered similarity promises, whatever its formula."""

from __future__ import annotations

import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, ShapeError
from DeepDiffRegLib.similarity import SIMILARITIES

SHAPES = {"2d": (15, 12), "3d": (9, 8, 11)}
CHANNELS = {"mind": 3, "dice": 3}


def pair(name, shape, dtype=torch.float64):
    """Two images in (0, 1) that resemble each other, with as many channels as the similarity compares."""
    channels = CHANNELS.get(name, 2)
    fixed = 0.1 + 0.8 * torch.rand(1, channels, *shape, dtype=torch.float64)
    warped = 0.6 * fixed + 0.35 * torch.rand(1, channels, *shape, dtype=torch.float64)
    return fixed.to(dtype), warped.to(dtype)


def mask(shape, dtype=torch.float64):
    """Fractional weights, a third of them 0."""
    weight = torch.rand(1, 1, *shape, dtype=torch.float64)
    return (weight * (weight > 0.33)).to(dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_gradient_is_that_of_the_value(name, dimension, weighted):
    shape = SHAPES[dimension]
    similarity = SIMILARITIES.build(name)
    fixed, warped = pair(name, shape)
    weight = mask(shape) if weighted else None
    gradient = similarity.value_and_gradient(fixed, warped, weight)[1]
    assert gradient.shape == warped.shape and not gradient.requires_grad
    for _ in range(3):
        direction = torch.randn_like(warped)
        step = 1e-5
        upper, lower = (similarity.value(fixed, warped + s * step * direction, weight) for s in (1, -1))
        assert (upper - lower) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_voxels_of_weight_zero_have_no_influence(name, dimension, dtype):
    shape = SHAPES[dimension]
    similarity = SIMILARITIES.build(name)
    fixed, warped = pair(name, shape, dtype)
    weight = mask(shape, dtype)
    value, gradient = similarity.value_and_gradient(fixed, warped, weight)
    outside = (weight == 0).expand_as(fixed)
    changed = [torch.where(outside, torch.full_like(t, v), t) for t, v in ((fixed, 40.0), (warped, -70.0))]
    other_value, other_gradient = similarity.value_and_gradient(*changed, weight)
    assert bool((gradient[outside] == 0).all()) and bool((other_gradient[outside] == 0).all())
    assert other_value == pytest.approx(value, rel=1e-6)
    assert torch.allclose(other_gradient, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_single_precision_agrees_with_double(name, dimension, weighted):
    shape = SHAPES[dimension]
    similarity = SIMILARITIES.build(name)
    fixed, warped = pair(name, shape)
    weight = mask(shape) if weighted else None
    value, gradient = similarity.value_and_gradient(fixed, warped, weight)
    single = [None if t is None else t.float() for t in (fixed, warped, weight)]
    value32, gradient32 = similarity.value_and_gradient(*single)
    assert gradient32.dtype == torch.float32
    assert value32 == pytest.approx(value, rel=2e-5, abs=1e-6)
    assert torch.allclose(gradient32.double(), gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_equal_images_are_the_most_alike(name, dimension, dtype):
    shape = SHAPES[dimension]
    similarity = SIMILARITIES.build(name)
    fixed = (torch.rand(1, 2, *shape) > 0.5).to(dtype)
    others = [torch.roll(fixed, 3, -1), torch.rand_like(fixed), torch.zeros_like(fixed)]
    best = similarity.value(fixed, fixed)
    assert all(similarity.value(fixed, other) > best + 1e-3 for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", SHAPES)
@pytest.mark.parametrize("name", SIMILARITIES)
def test_flat_images_and_empty_masks_stay_finite(name, dimension, dtype):
    shape = SHAPES[dimension]
    similarity = SIMILARITIES.build(name)
    textured = torch.rand(1, 1, *shape, dtype=dtype)
    nothing = torch.zeros(1, 1, *shape, dtype=dtype)
    for fixed in (nothing, nothing + 0.7, textured):
        for warped in (nothing, nothing + 1.0, textured):
            for weight in (None, nothing, nothing + 1e-3):
                value, gradient = similarity.value_and_gradient(fixed, warped, weight)
                assert value == value and bool(gradient.isfinite().all())
                if weight is nothing:
                    assert float(gradient.abs().max()) == 0.0
    features = similarity.features(nothing, (1.0,) * len(shape))
    assert bool(features.isfinite().all())


@pytest.mark.parametrize("name", SIMILARITIES)
def test_inputs_are_left_alone(name):
    fixed, warped = pair(name, SHAPES["3d"], torch.float32)
    weight = mask(SHAPES["3d"], torch.float32)
    copies = [t.clone() for t in (fixed, warped, weight)]
    SIMILARITIES.build(name).value_and_gradient(fixed, warped, weight)
    assert all(torch.equal(a, b) for a, b in zip(copies, (fixed, warped, weight)))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_views_give_the_same_as_their_copies(name):
    fixed, warped = pair(name, (8, 9, 20), torch.float32)
    similarity = SIMILARITIES.build(name)
    views = [t[..., 1::2].transpose(2, 3) for t in (fixed, warped)]
    value, gradient = similarity.value_and_gradient(*views)
    other_value, other_gradient = similarity.value_and_gradient(*(v.contiguous() for v in views))
    assert value == pytest.approx(other_value, rel=1e-5)
    assert torch.allclose(gradient, other_gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_shapes_that_do_not_match_are_refused(name):
    fixed, warped = pair(name, SHAPES["3d"])
    similarity = SIMILARITIES.build(name)
    with pytest.raises(ShapeError, match="warped"):
        similarity.value_and_gradient(fixed, warped[..., 1:])
    with pytest.raises(ShapeError, match="weight"):
        similarity.value_and_gradient(fixed, warped, torch.ones(1, 2, *SHAPES["3d"]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lncc", {"radius_voxels": 0}),
        ("lncc", {"radius_voxels": 1.5}),
        ("lncc", {"epsilon": 0.0}),
        ("ncc", {"epsilon": -1.0}),
        ("mk-lncc", {"windows": (3,)}),
        ("mk-lncc", {"windows": (3, 5), "weights": (1.0,)}),
        ("mk-lncc", {"dilation": 0}),
        ("mi", {"bins": 4}),
        ("mi", {"fixed_order": 1}),
        ("mi", {"limits": (1.0, 1.0)}),
        ("mind", {"radius_voxels": 0}),
        ("dice", {"order": 3}),
        ("mse", {"radius_voxels": 2}),
    ],
)
def test_impossible_options_are_refused(name, options):
    with pytest.raises(ConfigError):
        SIMILARITIES.build(name, **options)


@pytest.mark.parametrize("name", [name for name in SIMILARITIES if SIMILARITIES.load(name).separable])
def test_separable_losses_are_the_mean_of_their_channels(name):
    similarity = SIMILARITIES.build(name)
    fixed, warped = torch.rand(2, 1, 5, 6, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, gradient = similarity.value_and_gradient(fixed, warped)
    alone = [similarity.value_and_gradient(fixed[:, c : c + 1], warped[:, c : c + 1]) for c in range(5)]
    assert value == pytest.approx(sum(v for v, _ in alone) / 5, rel=1e-12)
    torch.testing.assert_close(gradient, torch.cat([g for _, g in alone], 1) / 5, rtol=1e-12, atol=0)
