"""Label prompts: right distances, physical resampling, forces without overlap, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import LabelPair
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import pull_gradient, warp
from DeepDiffRegLib.prompts.distance import distance_to, signed_distance, soft_segment
from DeepDiffRegLib.prompts.labels import LabelPrompt, check, choose_tau_mm, present_labels
from DeepDiffRegLib.similarity.dice import Dice


def ball_map(geometry: Geometry, balls: dict[int, tuple[np.ndarray, float]]) -> Image:
    """Label map of balls {label: (center mm, radius mm)}."""
    index = np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1)
    world = geometry.to_world(index)
    array = np.zeros(geometry.shape, dtype=np.int32)
    for label, (center, radius) in balls.items():
        array[np.linalg.norm(world - center, axis=-1) <= radius] = label
    return Image.from_array(array, geometry, "labels")


def identity_matrix(d: int) -> np.ndarray:
    return np.hstack((np.eye(d), np.zeros((d, 1))))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((14, 20, 17), (1.5, 0.7, 2.0)), ((30, 22), (0.5, 2.0)), ((1, 9, 8), (1, 1, 1))]
)
def test_distances_agree_with_scipy(shape, spacing, rng):
    inside = rng.random(shape) < 0.05
    inside.flat[3] = True
    expected = distance_transform_edt(~inside, sampling=spacing[::-1])
    np.testing.assert_allclose(distance_to(inside, spacing), expected, atol=1e-5)
    assert np.isinf(distance_to(np.zeros(shape, dtype=bool), spacing)).all()


def test_signed_distance_to_a_ball():
    geometry = Geometry.identity((40, 40, 40), 0.5)
    center = geometry.center_mm
    image = ball_map(geometry, {1: (center, 6.0)})
    world = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1))
    expected = np.linalg.norm(world - center, axis=-1) - 6.0
    got = signed_distance(image.numpy() == 1, geometry.spacing_mm)
    assert np.abs(got - expected).max() < 0.5
    assert np.abs((got - expected).mean()) < 0.1
    assert np.isneginf(signed_distance(np.ones((3, 3), dtype=bool), (1, 1))).all()


def test_soft_segment_values():
    np.testing.assert_allclose(soft_segment(np.float32([-np.inf, 0, 2, np.inf]), 2.0), [1, 0.5, 0.1192, 0], atol=1e-4)


def test_channels_lie_at_their_physical_positions(oblique_geometry):
    """The map on a fine axis-aligned grid, the level oblique and coarse: the channel follows the analytic distance."""
    center = oblique_geometry.center_mm
    fine = Geometry((70, 70, 70), (0.6, 0.6, 0.6), tuple(center - 20.7), np.eye(3).tolist())
    labels = ball_map(fine, {3: (center, 6.0)})
    prompt = LabelPrompt(labels, labels, (LabelPair(3, 3),))
    (term,) = prompt.terms(oblique_geometry, oblique_geometry, coarse=True)
    assert term.fixed.shape == (1, 1, *oblique_geometry.shape)
    assert torch.equal(term.fixed, term.moving)
    tau = choose_tau_mm([oblique_geometry], coarse=True)
    world = oblique_geometry.to_world(np.moveaxis(np.indices(oblique_geometry.shape)[::-1], 0, -1))
    expected = soft_segment((np.linalg.norm(world - center, axis=-1) - 6.0).astype(np.float32), tau)
    known = fine.contains(world)
    np.testing.assert_allclose(term.fixed[0, 0].numpy()[known], expected[known], atol=0.03)


@pytest.mark.parametrize("d", [2, 3])
def test_distant_structures_attract_where_dice_has_no_force(d):
    geometry = Geometry.identity((64, 40, 32)[:d])
    left, right = np.array([20.0, 20, 16])[:d], np.array([34.0, 20, 16])[:d]
    prompt = LabelPrompt(ball_map(geometry, {1: (left, 5.0)}), ball_map(geometry, {1: (right, 5.0)}))
    (term,) = prompt.terms(geometry, geometry, coarse=True)
    u = torch.zeros((1, d, *geometry.shape))
    warped = warp(term.moving, u, identity_matrix(d))
    _, residual = term.similarity.value_and_gradient(term.fixed, warped, None)
    force = -pull_gradient(term.moving, u, identity_matrix(d), residual)
    at = tuple(int(v) for v in left[::-1])
    assert force[(0, 0, *at)] > 0
    assert abs(force[(0, 1, *at)]) < 0.1 * force[(0, 0, *at)]
    hard = [(image.tensor == 1).float() for image in (prompt.fixed_labels, prompt.moving_labels)]
    _, gradient = Dice().value_and_gradient(hard[0], hard[1], None)
    flat = pull_gradient(hard[1], u, identity_matrix(d), gradient)
    assert flat[(0, 0, *at)] == 0


@pytest.mark.parametrize("shift", [14.0, 4.0])
def test_descending_the_terms_brings_dice_up(shift):
    """Coarse, then fine, by plain descent on a translation: the structures end on each other."""
    geometry = Geometry.identity((64, 40, 32))
    a, b = np.array([20.0, 20, 16]), np.array([20.0 + shift, 22, 15])
    prompt = LabelPrompt(ball_map(geometry, {1: (a, 5.0)}), ball_map(geometry, {1: (b, 5.0)}))
    at = np.zeros(3)
    for coarse in (True, False):
        (term,) = prompt.terms(geometry, geometry, coarse=coarse)
        for k in range(80):
            u = torch.tensor(at, dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand(1, 3, *geometry.shape).contiguous()
            warped = warp(term.moving, u, identity_matrix(3))
            _, residual = term.similarity.value_and_gradient(term.fixed, warped, None)
            gradient = pull_gradient(term.moving, u, identity_matrix(3), residual).sum((0, 2, 3, 4)).double().numpy()
            at -= (0.5 if coarse else 0.2) * gradient / max(np.linalg.norm(gradient), 1e-12) * 0.97**k
    np.testing.assert_allclose(at, b - a, atol=0.3)


def test_moving_and_fixed_labels_may_differ_and_have_own_grids():
    fixed_geometry = Geometry.identity((40, 40, 30))
    moving_geometry = Geometry((30, 26, 22), (1.5, 1.5, 1.5), (-5.0, 1.0, 0.0), np.eye(3).tolist())
    center = np.array([18.0, 20, 14])
    fixed, moving = ball_map(fixed_geometry, {2: (center, 6.0)}), ball_map(moving_geometry, {7: (center, 6.0)})
    (term,) = LabelPrompt(fixed, moving, (LabelPair(2, 7, 4.0),)).terms(fixed_geometry, moving_geometry, coarse=False)
    assert term.moving.shape == (1, 1, *moving_geometry.shape)
    assert term.moving_geometry == moving_geometry
    for found in LabelPrompt(fixed, moving, (LabelPair(2, 7),)).centroids_mm():
        np.testing.assert_allclose(found, [center], atol=0.3)
    assert 1.9 < float(term.fixed.max()) <= 2.0
    assert term.fixed_weight is None
    assert term.moving_weight is None


def test_map_smaller_than_the_level_is_unknown_outside():
    level = Geometry.identity((40, 40, 30))
    small = level.cropped((8, 8, 8), (20, 20, 14))
    labels = ball_map(small, {1: (np.array([18.0, 18, 15]), 5.0)})
    (term,) = LabelPrompt(labels, labels).terms(level, level, coarse=False)
    assert term.fixed_weight[0, 0, 15, 18, 18] == 1
    assert term.fixed_weight[0, 0, 2, 2, 2] == 0
    assert torch.equal(term.fixed_weight, term.moving_weight)


def test_band_restricts_the_term():
    geometry = Geometry.identity((40, 40, 30))
    labels = ball_map(geometry, {1: (np.array([18.0, 18, 15]), 5.0)})
    (term,) = LabelPrompt(labels, labels, band_mm=4.0).terms(geometry, geometry, coarse=False)
    row = term.fixed_weight[0, 0, 15, 18]
    assert row[18] == 1
    assert row[18 + 8] == 1
    assert row[18 + 11] == 0


def test_many_labels_are_bounded_and_all_are_visited():
    geometry = Geometry.identity((48, 48, 48))
    centers = [np.array([x, y, z], dtype=float) for x in (8, 24, 40) for y in (8, 24, 40) for z in (8, 24, 40)]
    labels = ball_map(geometry, {i + 1: (c, 5.0) for i, c in enumerate(centers)})
    prompt = LabelPrompt(labels, labels)
    assert len(prompt.pairs) == 27
    seen = torch.zeros(geometry.shape)
    for draw in range(4):
        terms = prompt.terms(geometry, geometry, coarse=True, draw=draw)
        assert len(terms) == 1
        assert terms[0].fixed.shape[1] <= 8
        seen = torch.maximum(seen, terms[0].fixed[0].amax(0))
    assert all(seen[tuple(int(v) for v in c[::-1])] > 0.5 for c in centers)
    fine = prompt.terms(geometry, geometry, coarse=False)
    assert fine[0].fixed.shape[1] < 27


def test_structures_that_share_a_channel_are_far_apart():
    geometry = Geometry.identity((90, 24, 24))
    labels = ball_map(geometry, {1: (np.array([10.0, 12, 12]), 4.0), 2: (np.array([78.0, 12, 12]), 4.0)})
    near = ball_map(geometry, {1: (np.array([10.0, 12, 12]), 4.0), 2: (np.array([22.0, 12, 12]), 4.0)})
    assert LabelPrompt(labels, labels).terms(geometry, geometry, True)[0].fixed.shape[1] == 1
    assert LabelPrompt(labels, near).terms(geometry, geometry, True)[0].fixed.shape[1] == 2


def test_absent_labels_are_named_with_what_there_is():
    geometry = Geometry.identity((30, 20))
    fixed = ball_map(geometry, {4: (np.array([8.0, 10]), 4.0), 9: (np.array([22.0, 10]), 4.0)})
    moving = ball_map(geometry, {4: (np.array([8.0, 10]), 4.0), 5: (np.array([22.0, 10]), 4.0)})
    np.testing.assert_array_equal(present_labels(fixed), [4, 9])
    assert check((), fixed, moving) == (LabelPair(4, 4),)
    with pytest.raises(InputError, match=r"label pair 9:9: label 9 is absent from the moving label map; it has 4, 5"):
        check((LabelPair(9, 9),), fixed, moving)
    with pytest.raises(InputError, match="no label in common"):
        check((), fixed, ball_map(geometry, {1: (np.array([8.0, 10]), 4.0)}))
    with pytest.raises(InputError, match="weight"):
        check((LabelPair(4, 4, -1.0),), fixed, moving)
    negative = Image.from_array(-fixed.numpy(), geometry, "labels")
    (term,) = LabelPrompt(negative, moving, (LabelPair(-9, 5),)).terms(geometry, geometry, False)
    assert float(term.fixed[0, 0, 10, 22]) > 0.9
