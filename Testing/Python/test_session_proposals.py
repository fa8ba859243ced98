"""The session proposes around its current map, keeps what it computed, and its map stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proposals_bed import bump, texture, wave

from DeepDiffRegLib.config import Config, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import Cancelled, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.methods._belief import Belief
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.problem import VIEWS
from DeepDiffRegLib.prompts.proposals import landmarks
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.warp.image import warp_image

QUICK = Config(
    start=Start(transform="affine", schedule=Schedule((8, 4, 2), (30, 20, 10))), schedule=Schedule((2, 1), (0, 0))
)


@pytest.fixture(scope="module")
def phantom():
    return make_pair(1, (40, 36, 32), deformation_mm=8.0)


@pytest.fixture(scope="module")
def session(phantom):
    """Aligned affinely, nothing deformed."""
    made = RegistrationSession(phantom.pair, QUICK)
    made.run()
    return made


def test_proposals_are_nearer_than_the_map(session, phantom):
    points = phantom.landmarks.fixed.positions_mm
    found = session.propose(points)
    before = np.linalg.norm(session.transform.map_points(points) - phantom.truth(points), axis=1)
    after = np.linalg.norm(np.array([p.moving_mm for p in found]) - phantom.truth(points), axis=1)
    assert np.median(after) < np.median(before)
    assert session.step == 0 and len(session.steps) == 1


def test_a_map_of_ones_own_can_be_searched_around(session, phantom):
    point = phantom.landmarks.fixed.positions_mm[:1]
    shift = AffineTransform.from_homogeneous(np.eye(4) + 500.0 * np.outer([1, 0, 0, 0], [0, 0, 0, 1]))
    far = CompositeTransform([session.transform, shift])
    assert session.propose(point, transform=far)[0].note == "the current map leads outside the moving scan"


def test_nothing_can_be_proposed_before_there_is_a_map(phantom):
    with pytest.raises(InputError, match="run"):
        RegistrationSession(phantom.pair, QUICK).propose([[0.0, 0, 0]])


def test_what_matching_looks_at_is_kept_until_masks_change(phantom):
    session = RegistrationSession(phantom.pair, QUICK)
    session.run()
    point = phantom.landmarks.fixed.positions_mm[:1]
    session.propose(point)
    kept = session.problem.cache[VIEWS]
    session.propose(point)
    assert session.problem.cache[VIEWS] is kept
    hidden = torch.zeros_like(phantom.pair.moving.tensor)
    hidden[..., :2] = 1
    session.update(Prompts(moving_mask=Image(hidden, phantom.pair.moving.geometry, "mask")))
    assert session.propose(point)[0].confidence == 0


def test_stopping_leaves_the_map(session, phantom):
    with pytest.raises(Cancelled, match="map stays"):
        session.propose(phantom.landmarks.fixed.positions_mm, stop=lambda: True)
    with pytest.raises(Cancelled):
        session.suggest(stop=lambda: True)
    assert session.step == 0


def test_suggestions_are_taken_and_not_repeated():
    """The current map is off in one place; the landmark that is suggested there corrects it."""
    grid = Geometry.identity((44, 44, 44), 2.0)
    moving, truth = Image(texture(grid, sigma_mm=4.0), grid), wave(grid, 4.0, 150.0)
    place = np.array([48.0, 40.0, 44.0])
    wrong = CompositeTransform([bump(grid, place, (7.0, 0.0, 0.0), 14.0), truth])
    session = RegistrationSession(Pair(warp_image(moving, truth, grid), moving), QUICK)
    session.resume(wrong)
    first = session.suggest(1)
    assert np.linalg.norm(np.array(first[0].fixed_mm) - place) < 10 and first[0].score > 0
    session.update(Prompts(landmarks=landmarks(first)))
    off = [
        np.linalg.norm(m.map_points(place[None]) - truth.map_points(place[None])) for m in (wrong, session.transform)
    ]
    assert off[1] < off[0] / 2
    assert all(np.linalg.norm(np.subtract(p.fixed_mm, first[0].fixed_mm)) > 5 for p in session.suggest(2))


def test_the_belief_says_where_it_is_unsure():
    """Root of the summed variances in mm, between the voxels of the prediction."""
    grid = Geometry.identity((8, 8, 8), (1.0, 2.0, 4.0))
    variance = torch.full((1, 3, 4, 4, 4), 0.25)
    variance[..., 2:] = 1.0
    made = Prediction((torch.zeros(1, 3, 4, 4, 4),), "velocity", 1.0, (2.0, 2.0, 2.0), variance.log())
    unit = np.linalg.norm(grid.spacing_mm)
    told = Belief(made, grid).spread_mm(np.array([[0.0, 0, 0], [6.0, 0, 0], [3.0, 4.0, 8.0]]))
    np.testing.assert_allclose(told[:2], [0.5 * unit, unit], rtol=1e-5)
    assert 0.5 * unit < told[2] < unit
