"""Experiments on learned features, on tiny plans: the people they are made of, and what they measure."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Schedule
from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce import dio_domain_shift, dio_switch, implicit_bias
from DeepDiffRegLib.reproduce.people import TEST, TRAIN, Pairs, People, Person, landmarks, overlap, scanned, square
from DeepDiffRegLib.transforms.affine import AffineTransform

FEW = Schedule((4, 2, 1), (15, 10, 6), tolerance=0.0)


def by_name(outcome) -> dict[str, float]:
    return {criterion.name: criterion.value for criterion in outcome.criteria}


class Known:
    """From the points of one person to those of another with the same organs: the true map."""

    def __init__(self, fixed: Person, moving: Person):
        self.fixed, self.moving = fixed, moving

    def map_points(self, points: np.ndarray) -> np.ndarray:
        return self.moving.bend.inverse(self.fixed.bend(points))


# people


def test_people_differ_and_are_drawn_again_alike():
    first, again, other, unseen = (Person.drawn(1, *key) for key in ((TRAIN, 0), (TRAIN, 0), (TRAIN, 1), (TEST, 0)))
    scans = [p.scan(square()).image.tensor for p in (first, again, other, unseen)]
    assert torch.equal(scans[0], scans[1])
    assert all(float((scans[0] - s).abs().mean()) > 0.01 for s in scans[2:])
    assert scans[0].amin() == 0 and scans[0].amax() == 1
    assert not torch.equal(scans[0], first.scan(square(), take=1).image.tensor), "noise of another scan"
    assert np.linalg.det(first.bend.jacobian(np.random.default_rng(0).uniform(-30, 30, (200, 2)))).min() > 0


def test_overlap_of_the_true_map_is_complete():
    fixed, moving = (Person.drawn(2, TEST, number) for number in (0, 1))
    moving = replace(moving, anatomy=fixed.anatomy)
    grid = square(1.0, 44.0)
    assert overlap(fixed, moving, Known(fixed, moving), grid) > 0.995
    assert overlap(fixed, moving, AffineTransform.identity(2), grid) < 0.8
    assert overlap(fixed, fixed, AffineTransform.identity(2), grid) == 1.0
    marks = landmarks(fixed, moving)
    assert len(marks) > 8
    reached = Known(fixed, moving).map_points(marks.fixed.positions_mm)
    assert np.abs(reached - marks.moving.positions_mm).max() < 1e-6


def test_landmarks_mark_the_organs():
    person = Person.drawn(3, TRAIN, 4)
    places = person.places_mm()
    labels = dict(zip(places, person.at(np.array(list(places.values())))[1]))
    assert (labels["liver center"], labels["spine center"], labels["aorta center"]) == (6, 13, 12)


def test_scans_show_the_same_on_any_grid():
    person = Person.drawn(4, TRAIN, 0)
    thick = person.scan(square((1.0, 4.0)))
    assert thick.image.geometry.size == (64, 16) and thick.image.geometry.extent_mm == pytest.approx([64.0, 64.0])
    fine = person.scan(square()).image.numpy().reshape(16, 4, 64).mean(1)
    assert np.corrcoef(fine.ravel(), thick.image.numpy().ravel())[0, 1] > 0.99
    index = np.array([[20, 7], [40, 9], [3, 1]])
    expected = person.at(thick.image.geometry.to_world(index))[1]
    assert np.array_equal(thick.labels.numpy()[index[:, 1], index[:, 0]], expected)


def test_batches_depend_on_the_step_alone():
    people = People(5, 7, square())
    draw, again = Pairs(people, 2), Pairs(people, 2)
    assert all(torch.equal(t, again(3)[name]) for name, t in draw(3).items())
    assert not torch.equal(draw(3)["fixed"], draw(4)["fixed"])
    assert draw(0)["moving_labels"].shape == (2, 1, 64, 64) and draw(0)["moving_labels"].dtype == torch.int32
    tested = [person.scan(square()).image.tensor for pair in people.tested(2) for person in pair]
    assert not any(torch.equal(s.image.tensor, t) for s in draw.scans for t in tested)


# implicit-bias


def test_one_channel_is_exact_and_many_are_not(tmp_path):
    cases = [implicit_bias.Case(channels) for channels in (implicit_bias.SCANS, 1, 2, 16)]
    plan = implicit_bias.Plan((*cases, implicit_bias.Case(16, 10)), 1, 4, (10, 8, 5), FEW)
    outcome = implicit_bias.ImplicitBias().judge(plan, tmp_path, Progress())
    assert outcome.passed
    rows = outcome.details["by_channels"]
    assert rows["scans"]["lowest_cosine"] == rows["1"]["lowest_cosine"] == 1.0
    assert rows["16, trained"]["mean_cosine"] != rows["16"]["mean_cosine"]
    assert 0.6 < rows["16"]["mean_cosine"] < rows["2"]["mean_cosine"] < 0.97
    assert {path.name for path in outcome.figures} == {"iterations.png", "maps.png"}
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


def test_every_iteration_is_looked_at():
    plan = implicit_bias.Plan((implicit_bias.Case(implicit_bias.SCANS),), pairs=2, schedule=FEW)
    found = implicit_bias.measure(0, plan)
    assert found.means.shape == (2, sum(FEW.iterations)) and found.cosines.shape == (64, 64)
    fixed, moving = People(0, plan.seed, square()).tested(1)[0]
    assert found.dice > overlap(fixed, moving, AffineTransform.identity(2), square())


# dio-switch


def test_what_is_left_through_a_known_map():
    person = Person.drawn(5, TEST, 0)
    image = person.scan(square()).image
    shifted = Geometry(image.geometry.size, image.geometry.spacing_mm, (-28.5, -31.5), image.geometry.direction)
    move = np.eye(3)
    move[0, 2] = 3.0
    pair = (image.tensor, image.geometry), (image.tensor, shifted)
    right = dio_switch.left_over(*pair, AffineTransform.from_homogeneous(move))
    assert right < 1e-10 < 0.01 < dio_switch.left_over(*pair, AffineTransform.identity(2))


def test_switching_and_prompting_after_a_short_training(tmp_path):
    plan = dio_switch.Plan(people=8, steps=40, iterations=(15, 10, 5), pairs=2, marks=2, schedule=FEW)
    outcome = dio_switch.DIOSwitch().judge(plan, tmp_path, Progress())
    found, rows = by_name(outcome), outcome.details["transforms"]
    assert found["folded pixels of all diffeomorphic maps, prompted ones too"] == 0 == rows["svf"]["folds"]
    assert found["largest error of a landmark that was given"] <= 1.0
    before, after = outcome.details["landmarks"]["given_mm"]
    assert after < 0.5 * before
    for name in ("displacement (SGD)", "diffeomorphic", "svf"):
        assert rows[name]["dice"] > rows["before"]["dice"] + 0.03
        assert rows[name]["feature_term"] < rows["affine"]["feature_term"] < rows["before"]["feature_term"]
    assert outcome.details["structure"]["dice"][1] > outcome.details["structure"]["dice"][0]
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


# dio-domain-shift


def test_shifts_are_what_they_are_called():
    shifts = dio_domain_shift.SHIFTS
    values = np.array([0.0, 0.1, 0.5, 0.9])
    assert np.all(np.diff(dio_domain_shift.inverted(values)[1:]) < 0) and dio_domain_shift.inverted(values)[0] == 0
    assert dio_domain_shift.gamma(0.5)(values) == pytest.approx(np.sqrt(values))
    for shift in shifts.values():
        assert all(grid.center_mm == pytest.approx([0.0, 0.0]) for grid in shift.grids)
        assert shift.judging.spacing_mm == (1.0, 1.0)
        assert shift.judging.extent_mm == pytest.approx(shift.grids[0].extent_mm, abs=1.0)
    fixed, moving = People(0, 1, square()).tested(1)[0]
    pair = scanned(fixed, moving, shifts["other voxels"].grids)
    assert pair.fixed.geometry.spacing_mm == (0.8, 1.6) and pair.moving.geometry.spacing_mm == (1.5, 1.0)


def test_losses_are_held_against_each_network():
    variants = (dio_domain_shift.BY_SCAN, dio_domain_shift.AS_IS, dio_domain_shift.DIO)
    names = ("before", "no network", *variants, *dio_domain_shift.DIRECT)
    rows = {
        "as trained": (0.5, 0.8, 0.9, 0.9, 0.9, 0.8, 0.8),
        "one": (0.5, 0.8, 0.5, 0.7, 0.88, 0.6, 0.7),
        "two": (0.5, 0.7, 0.5, 0.6, 0.84, 0.8, 0.7),
    }
    means = {shift: dict(zip(names, row)) for shift, row in rows.items()}
    first, second, *gains = dio_domain_shift.criteria(means)
    assert first.value == pytest.approx(0.04 - 0.5 * 0.1) and first.passed
    assert second.value == pytest.approx(0.04 - 0.5 * 0.1) and second.passed
    assert [c.value for c in gains] == pytest.approx([0.4, 0.3, 0.3])
    said = dio_domain_shift.details(dio_domain_shift.Plan(), means, [means])
    assert len(said["shifts_where_dio_loses_more_than_half"]) == 2, "under 'two', against both"
    means["one"][dio_domain_shift.DIO] = 0.7
    assert not any(c.passed for c in dio_domain_shift.criteria(means)[:2])


def test_every_method_is_judged_under_every_shift(tmp_path):
    shifts = ("as trained", "cropped", "thick, gamma 0.5")
    plan = dio_domain_shift.Plan(8, 80, 60, (15, 10, 5), 1, shifts, FEW)
    outcome = dio_domain_shift.DIODomainShift().judge(plan, tmp_path, Progress())
    dice = outcome.details["dice"]
    assert list(dice) == list(shifts) and all(len(row) == 7 for row in dice.values())
    assert dice["as trained"]["DIO"] > dice["as trained"]["before"] + 0.03
    lost = outcome.details["lost"]["VM-2"]
    assert lost["cropped"] == pytest.approx(dice["as trained"]["VM-2"] - dice["cropped"]["VM-2"], abs=2e-4)
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


@pytest.mark.parametrize(
    "experiment", [implicit_bias.ImplicitBias, dio_switch.DIOSwitch, dio_domain_shift.DIODomainShift]
)
def test_cancelling_ends_them(experiment, tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        experiment().run(tmp_path, True, progress)
    assert not list(tmp_path.iterdir())
