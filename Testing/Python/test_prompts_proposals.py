"""Proposed landmarks: a known map is found again, blank places are admitted, suggestions name what was misplaced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import rotation
from proposals_bed import bump, texture, views_of, wave

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import Pyramid
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.prompts.proposals import SIDES, TOLERANCE_MM, Proposal, back, landmarks, propose
from DeepDiffRegLib.prompts.suggestions import CONFIRMED, neighborhood_mm, residuals, suggest
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.warp.image import warp_image

IDENTITY = AffineTransform.identity(3)


def inside(geometry: Geometry, count: int = 8, margin: float = 0.3, seed: int = 1) -> np.ndarray:
    """Random points away from the border, mm."""
    share = np.random.default_rng(seed).uniform(margin, 1 - margin, (count, geometry.ndim))
    return geometry.to_world(share * (np.array(geometry.size) - 1))


@pytest.fixture(scope="module")
def scene():
    """Fixed and moving scan on one isotropic grid, with the map between them."""
    grid = Geometry.identity((40, 40, 40), 1.5)
    moving, truth = Image(texture(grid), grid), wave(grid)
    return warp_image(moving, truth, grid), moving, truth


@pytest.fixture(scope="module")
def views(scene):
    return views_of(*scene[:2], 1.5)


def errors(found: tuple[Proposal, ...], truth: np.ndarray, side: str) -> np.ndarray:
    other = SIDES[1 - SIDES.index(side)]
    return np.linalg.norm(np.array([getattr(p, f"{other}_mm") for p in found]) - truth, axis=1)


@pytest.mark.parametrize("side", SIDES)
def test_a_known_map_is_found_below_a_voxel(scene, views, side):
    fixed, _, truth = scene
    points = inside(fixed.geometry)
    there = truth.map_points(points)
    clicked, wanted = (points, there) if side == "fixed" else (there, points)
    found = propose(views, IDENTITY, clicked, side)
    assert np.median(np.linalg.norm(points - there, axis=1)) > 1.5
    assert np.median(errors(found, wanted, side)) < 1.0
    assert np.median([p.confidence for p in found]) > 0.3
    np.testing.assert_array_equal([getattr(p, f"{side}_mm") for p in found], clicked)


def test_both_sides_agree(scene, views):
    points = inside(scene[0].geometry, 4)
    there = propose(views, IDENTITY, points)
    again = propose(views, IDENTITY, np.array([p.moving_mm for p in there]), "moving")
    assert np.linalg.norm(np.array([p.fixed_mm for p in again]) - points, axis=1).max() < 0.75


def test_turned_anisotropic_grids_and_an_affine_map_change_nothing(scene):
    """The fixed scan lies turned and with thick slices elsewhere in the world; the map is the turn alone."""
    _, moving, truth = scene
    turn = rotation((20, -15, 30))
    middle = moving.geometry.center_mm
    size, spacing = (44, 44, 26), np.array([1.3, 1.4, 2.4])
    origin = middle - turn @ (spacing * (np.array(size) - 1) / 2)
    fixed_grid = Geometry(size, tuple(spacing), tuple(origin), turn.tolist())
    fixed = warp_image(moving, truth, fixed_grid)
    points = inside(moving.geometry, 6, 0.38)
    found = propose(views_of(fixed, moving, 1.3), IDENTITY, points)
    assert np.median(errors(found, truth.map_points(points), "fixed")) < 1.3


def test_an_inverted_contrast_is_matched_too(scene):
    fixed, moving, truth = scene
    inverted = replace(moving, tensor=1 - moving.tensor**2)
    points = inside(fixed.geometry, 6)
    found = propose(views_of(fixed, inverted, 1.5), IDENTITY, points)
    assert np.median(errors(found, truth.map_points(points), "fixed")) < 1.0


def test_learned_features_are_compared_where_there_are_some(scene):
    """Features that show the truth while the scans are of another person."""
    fixed, moving, truth = scene
    stranger = Image(texture(moving.geometry, seed=9), moving.geometry)
    learned = tuple(Pyramid(((torch.cat([s.tensor, 3 * s.tensor**2], 1).half(), s.geometry),)) for s in (fixed, moving))
    points = inside(fixed.geometry, 6)
    found = propose(views_of(fixed, stranger, 1.5, learned=learned), IDENTITY, points)
    assert np.median(errors(found, truth.map_points(points), "fixed")) < 1.5


def test_plane_images():
    grid = Geometry.identity((64, 64), 1.0)
    moving = Image(texture(grid, sigma_mm=2.0), grid)
    truth = wave(grid, 2.0, 40.0)
    found = propose(
        views_of(warp_image(moving, truth, grid), moving, 1.0), AffineTransform.identity(2), points := inside(grid, 6)
    )
    assert np.median(errors(found, truth.map_points(points), "fixed")) < 0.5


def test_a_blank_place_is_refused_and_a_featureless_one_is_doubted():
    """Half of the scans is empty, and in the rest lies one straight edge: along it nothing can be told (aperture problem)."""
    grid = Geometry.identity((40, 40, 40), 1.5)
    values = np.zeros(grid.shape, np.float32)
    values[:, :, 24:] = 1.0
    scan = Image(gaussian(torch.from_numpy(values)[None, None], 1.0), grid)
    blank, edge = propose(views_of(scan, scan, 1.5), IDENTITY, [[12.0, 30.0, 30.0], [35.5, 30.0, 30.0]])
    assert blank.confidence == 0 and blank.error_mm is None and "uniform" in blank.note
    assert blank.moving_mm == blank.fixed_mm
    assert edge.confidence < 0.3 and edge.error_mm > 2 and edge.note


def test_unrelated_scans_are_doubted(scene):
    fixed, moving, _ = scene
    stranger = Image(texture(moving.geometry, seed=5), moving.geometry)
    found = propose(views_of(fixed, stranger, 1.5), IDENTITY, inside(fixed.geometry))
    related = propose(views_of(fixed, moving, 1.5), IDENTITY, inside(fixed.geometry))
    assert np.mean([p.confidence for p in found]) < 0.5 * np.mean([p.confidence for p in related])


def test_points_that_cannot_be_answered(views):
    beyond = AffineTransform.from_homogeneous(np.eye(4) + 100.0 * np.outer([1, 0, 0, 0], [0, 0, 0, 1]))
    (outside,) = propose(views, IDENTITY, [[-20.0, 0, 0]])
    (lost,) = propose(views, beyond, [[30.0, 30, 30]])
    (back_there,) = propose(views, IDENTITY, [[-20.0, 0, 0]], "moving")
    assert outside.note == "outside the fixed scan" and back_there.note == "outside the moving scan"
    assert lost.note == "the current map leads outside the moving scan"
    assert outside.confidence == lost.confidence == back_there.confidence == 0


def test_damaged_descriptors_are_refused(scene):
    fixed, moving, _ = scene
    broken = moving.tensor.repeat(1, 2, 1, 1, 1)
    broken[:, :, 15:25] = float("nan")
    learned = tuple(Pyramid(((values, fixed.geometry),)) for values in (fixed.tensor.repeat(1, 2, 1, 1, 1), broken))
    (found,) = propose(views_of(fixed, moving, 1.5, learned=learned), IDENTITY, [[30.0, 30, 30]])
    assert found.confidence == 0 and "too little" in found.note


@pytest.mark.parametrize(
    ("points", "side", "radius", "word"),
    [
        ([[0.0, 0, 0]], "left", None, "side"),
        ([[0.0, 0]], "fixed", None, "3 coordinates"),
        ([], "fixed", None, "coordinates"),
        ([[0.0, np.nan, 0]], "fixed", None, "finite"),
        ([["a", "b", "c"]], "fixed", None, "numbers"),
        ([[0.0, 0, 0]], "fixed", 0.0, "radius_mm"),
        ([[0.0, 0, 0]], "fixed", 1e6, "radius_mm"),
    ],
)
def test_bad_questions_are_refused_in_one_line(views, points, side, radius, word):
    with pytest.raises(InputError, match=word) as told:
        propose(views, IDENTITY, points, side, radius)
    assert "\n" not in str(told.value)


def test_masks_hide_what_is_not_to_be_compared(scene):
    fixed, moving, _ = scene
    weight = torch.ones_like(moving.tensor)
    weight[..., 10:30, 10:30, 10:30] = 0
    seen = (None, (weight, moving.geometry))
    (found,) = propose(views_of(fixed, moving, 1.5, seen=seen), IDENTITY, [[30.0, 30, 30]], radius_mm=3.0)
    assert found.confidence == 0 and "too little" in found.note


def test_the_search_can_be_stopped(views):
    class Stop(Exception):
        pass

    asked = []

    def between():
        asked.append(1)
        if len(asked) == 2:
            raise Stop

    with pytest.raises(Stop):
        propose(views, IDENTITY, inside(views.grids[0], 3), between=between)


def test_one_point_is_sent_back_through_a_map(scene):
    truth = scene[2]
    point = np.array([31.0, 25.0, 28.0])
    np.testing.assert_allclose(back(truth, truth.map_points(point[None])[0]), point, atol=0.02)


@pytest.fixture(scope="module")
def larger():
    """A pair with room for a neighborhood to be misplaced, and the map between its scans."""
    grid = Geometry.identity((48, 48, 48), 2.0)
    moving, truth = Image(texture(grid, sigma_mm=4.0), grid), wave(grid, 4.0, 150.0)
    fixed = warp_image(moving, truth, grid)
    return views_of(fixed, moving, 2.0), truth, grid


def test_suggestions_find_a_planted_misplacement(larger):
    """The map is right but for one place, where it is off by 7 mm."""
    views, truth, grid = larger
    place = np.array([56.0, 40.0, 46.0])
    wrong = CompositeTransform([bump(grid, place, (7.0, 0.0, 0.0), 14.0), truth])
    found = suggest(views, wrong, 2)
    assert found and np.linalg.norm(np.array(found[0].fixed_mm) - place) < 10.0
    assert errors(found[:1], truth.map_points(np.array([found[0].fixed_mm])), "fixed")[0] < 2.0
    assert found[0].score > 0.3 and found[0].confidence >= CONFIRMED
    away = suggest(views, wrong, 1, existing_mm=np.array([found[0].fixed_mm]))
    assert all(np.linalg.norm(np.subtract(p.fixed_mm, found[0].fixed_mm)) > 9 for p in away)
    assert all(p.confidence < CONFIRMED or p.shift_mm < 3 for p in suggest(views, truth, 2))


def test_suggestions_follow_the_methods_own_uncertainty(larger):
    """Two equal misplacements; the method says which of them it is unsure of."""
    views, truth, grid = larger
    bumps = [bump(grid, place, (0.0, 6.0, 0.0), 12.0) for place in ((28.0, 48.0, 48.0), (68.0, 48.0, 48.0))]
    wrong = CompositeTransform([*bumps, truth])

    def unsure_right(points):
        return np.where(points[:, 0] > 48, 2.0, 0.5)

    sides = [
        suggest(views, wrong, 1, uncertainty=u)[0].fixed_mm[0] for u in (unsure_right, lambda p: 2.5 - unsure_right(p))
    ]
    assert sides[0] > 48 > sides[1]


def test_residuals_lie_on_the_anatomy(scene):
    fixed, moving, truth = scene
    half = torch.zeros_like(fixed.tensor)
    half[..., 20:] = 1
    found = residuals(views_of(replace(fixed, tensor=fixed.tensor * half), moving, 1.5), truth, 12.0)
    assert len(found.places_mm) > 10 and found.places_mm[:, 0].min() > 25
    assert (found.trust >= 0).all() and (found.trust <= 1).all()
    assert neighborhood_mm(found.places_mm) <= 15


@pytest.mark.parametrize("count", [0, 21, 2.5, True])
def test_a_senseless_number_of_suggestions_is_refused(views, count):
    with pytest.raises(InputError, match="count"):
        suggest(views, IDENTITY, count)


def test_proposals_become_landmarks(views):
    found = propose(views, IDENTITY, inside(views.grids[0], 2))
    pairs = landmarks(found)
    np.testing.assert_array_equal(pairs.moving.positions_mm, [p.moving_mm for p in found])
    assert (pairs.sd_mm >= 1).all() and found[0].tolerance_mm >= TOLERANCE_MM
    assert set(found[0].values) >= {"fixed_mm", "moving_mm", "confidence", "error_mm", "shift_mm", "note", "score"}
