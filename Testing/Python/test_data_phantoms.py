"""Generated pairs: the stated map is the true one, exactly, and the anatomy cannot be mistaken for its mirror image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.io import read_image, read_landmarks
from DeepDiffRegLib.data.phantoms import make_other_organ, make_pair, write_pair
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.sampling import sample_points

SMALL = (40, 36, 32)


def grid_points(geometry) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.size], indexing="ij"), -1)
    return geometry.to_world(index.reshape(-1, geometry.ndim))


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def through(phantom, points) -> tuple[np.ndarray, np.ndarray]:
    fixed = phantom.pair.fixed
    pad = {"padding": "border"}
    at_fixed = sample_points(fixed.tensor, fixed.geometry, grid_points(fixed.geometry), **pad)
    return at_fixed, sample_points(phantom.pair.moving.tensor, phantom.pair.moving.geometry, points, **pad)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("anatomy", ["torso", "head"])
def test_truth_aligns_the_scans(ndim, anatomy):
    phantom = make_pair(3, (64, 60, 52), ndim=ndim, anatomy=anatomy)
    points = grid_points(phantom.pair.fixed.geometry)
    aligned = correlation(*through(phantom, phantom.truth(points)))
    before = correlation(*through(phantom, points))
    assert aligned > 0.97
    assert before < aligned - 0.03


def test_truth_aligns_the_labels():
    phantom = make_pair(1, (64, 56, 48))
    fixed, moving = phantom.fixed_labels, phantom.moving_labels
    index = moving.geometry.to_index(phantom.truth(grid_points(fixed.geometry)))
    index = np.round(index).astype(int)
    inside = ((index >= 0) & (index < moving.geometry.size)).all(1)
    x, y, z = index[inside].T
    carried = moving.numpy()[z, y, x]
    own = fixed.numpy().transpose(2, 1, 0).ravel()[inside]
    assert (carried == own).mean() > 0.97
    assert len(phantom.label_names) >= 6
    assert set(np.unique(own)) == {0, *phantom.label_names}


@pytest.mark.parametrize("ndim", [2, 3])
def test_landmarks_are_exact(ndim):
    phantom = make_pair(2, SMALL, ndim=ndim)
    marks = phantom.landmarks
    assert len(marks) >= 8 and len(set(marks.fixed.names)) == len(marks)
    np.testing.assert_allclose(phantom.truth(marks.fixed.positions_mm), marks.moving.positions_mm, atol=1e-9)
    assert marks.distances_mm.max() > 3


def test_jacobian_against_differences_and_no_folds(rng):
    truth = make_pair(0, (16, 16, 16), deformation_mm=12.0).truth
    points = rng.uniform(-60, 60, (50, 3))
    step = 1e-4
    numeric = np.stack([(truth(points + step * e) - truth(points - step * e)) / (2 * step) for e in np.eye(3)], -1)
    np.testing.assert_allclose(truth.jacobian(points), numeric, atol=1e-7)
    assert np.linalg.det(truth.jacobian(points)).min() > 0.1
    np.testing.assert_allclose(truth.inverse(truth(points)), points, atol=1e-9)


def test_requested_sizes_of_the_motion():
    phantom = make_pair(5, (16, 16, 16), deformation_mm=7.0, rotation_deg=20.0, translation_mm=0.0, scale=1.0)
    points = grid_points(phantom.pair.fixed.geometry)
    assert np.linalg.norm(phantom.truth.displacement(points), axis=1).max() == pytest.approx(7.0, rel=0.05)
    assert np.trace(phantom.truth.matrix) == pytest.approx(1 + 2 * np.cos(np.deg2rad(20.0)))
    still = make_pair(5, (16, 16, 16), deformation_mm=0, rotation_deg=0, translation_mm=0, scale=1.0)
    np.testing.assert_allclose(still.truth(points), points, atol=1e-12)
    with pytest.raises(InputError, match="would fold"):
        make_pair(5, (16, 16, 16), deformation_mm=90.0)


def test_grids_differ_and_are_oblique():
    pair = make_pair(0, SMALL).pair
    fixed, moving = pair.fixed.geometry, pair.moving.geometry
    assert fixed.size == SMALL and fixed.size != moving.size and fixed.spacing_mm != moving.spacing_mm
    assert len({round(v, 3) for v in fixed.spacing_mm}) == 3
    assert np.linalg.det(fixed.rotation) > 0 > np.linalg.det(moving.rotation)
    straight = make_pair(0, SMALL, oblique=False).pair
    np.testing.assert_allclose(straight.moving.geometry.rotation, np.eye(3), atol=1e-12)
    assert make_pair(0, (20, 20, 20), spacing_mm=(2, 3, 4)).pair.fixed.geometry.spacing_mm == pytest.approx((2, 3, 4))


def test_same_seed_same_scan_other_seed_other_scan():
    one, two, three = make_pair(7, SMALL), make_pair(7, SMALL), make_pair(8, SMALL)
    assert torch.equal(one.pair.fixed.tensor, two.pair.fixed.tensor)
    assert torch.equal(one.pair.moving.tensor, two.pair.moving.tensor)
    assert not torch.equal(one.pair.fixed.tensor, three.pair.fixed.tensor)
    np.testing.assert_array_equal(one.landmarks.moving.positions_mm, two.landmarks.moving.positions_mm)


def test_a_mirrored_scan_is_another_scan():
    still = make_pair(0, SMALL, deformation_mm=0, rotation_deg=0, translation_mm=0, scale=1.0, oblique=False)
    labels = still.fixed_labels.numpy()
    for axis in range(3):
        mirrored = np.flip(labels, axis)
        organs = [
            value
            for value, name in still.label_names.items()
            if name not in ("skin and fat", "muscle", "spine", "aorta")
        ]
        overlaps = [2 * ((labels == v) & (mirrored == v)).sum() / (2 * (labels == v).sum()) for v in organs]
        assert np.mean(overlaps) < 0.45


def test_inverted_contrast_and_other_organ():
    same, inverted = make_pair(4, SMALL), make_pair(4, SMALL, contrast="inverted")
    assert torch.equal(same.moving_labels.tensor, inverted.moving_labels.tensor)
    body = same.moving_labels.numpy() > 0
    assert correlation(same.pair.moving.numpy()[body], inverted.pair.moving.numpy()[body]) < -0.5
    head = make_other_organ(4, SMALL)
    assert head.geometry == same.pair.moving.geometry
    assert correlation(head.numpy()[body], same.pair.moving.numpy()[body]) < 0.5
    for wrong in ({"contrast": "x"}, {"anatomy": "x"}, {"ndim": 4}):
        with pytest.raises(InputError, match="must be one of"):
            make_pair(0, SMALL, **wrong)


@pytest.mark.parametrize("ndim", [2, 3])
def test_written_pair_reads_back(tmp_path, ndim):
    phantom = make_pair(0, SMALL, ndim=ndim)
    paths = write_pair(phantom, tmp_path / "out")
    moving = read_image(paths["moving"])
    assert moving.geometry.same_grid(phantom.pair.moving.geometry)
    assert torch.equal(moving.tensor, phantom.pair.moving.tensor)
    assert torch.equal(read_image(paths["fixed_labels"], "labels").tensor, phantom.fixed_labels.tensor)
    marks = read_landmarks(paths["fixed_landmarks"], paths["moving_landmarks"], ndim=ndim)
    np.testing.assert_allclose(marks.fixed.positions_mm, phantom.landmarks.fixed.positions_mm, atol=1e-12)
