"""Squares that do not touch, on a tiny plan: what is drawn and measured is true, and intensities leave them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import Pyramid
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce import dio_squares as experiment
from DeepDiffRegLib.reproduce._squares_landscape import cost, downhill, of_features, of_intensities
from DeepDiffRegLib.reproduce.dio_squares import DIOSquares, Plan, Squares


def corners(batch) -> np.ndarray:
    """(pairs, 2, 2) first voxels of moving and fixed squares."""
    sides = (batch["moving"], batch["fixed"])
    return np.array([[np.argwhere(picture[0].numpy() > 0.5).min(0) for picture in pair] for pair in zip(*sides)])


def test_half_of_the_squares_overlap_and_half_lie_apart():
    squares = Squares(48, 8, 0)
    batch = squares(0, 200)
    farthest = np.abs(np.diff(corners(batch), axis=1)).max((1, 2))
    apart = farthest >= 8 + experiment.GAP
    assert 70 < apart.sum() < 130 and farthest[~apart].max() <= 4
    assert float(batch["moving"].sum()) == float(batch["fixed"].sum()) == 200 * 64
    assert torch.equal(squares(0, 3)["moving"], squares(0, 3)["moving"])
    for kind in (False, True):
        found = np.abs(np.diff(corners(squares.held_out(kind, 3)), axis=1)).max()
        assert (found >= 10) == kind


def test_cost_of_a_translation_is_least_at_the_partner():
    pair = Squares(32, 6, 1).held_out(True, 0)
    moving, fixed = corners(pair)[0]
    x, y = (moving - fixed)[::-1]
    assert cost(pair["fixed"], pair["moving"], (float(x), float(y))) == 0
    apart = [cost(pair["fixed"], pair["moving"], (float(dx), 0.0)) for dx in (-1, 0, 1)]
    assert apart == pytest.approx([2 * 36 / 32**2] * 3), "nothing changes where they do not touch"


def test_the_landscape_is_judged_where_squares_of_pairs_lie():
    """Ideal features, blurred squares, lead to the partner from everywhere; pictures of squares do from nowhere."""
    pair = Squares(32, 6, 1).held_out(True, 0)
    grid = Geometry.identity((32, 32))
    ideal = tuple(Pyramid(((gaussian(pair[role], 8.0), grid),)) for role in ("fixed", "moving"))
    still, funnel = of_intensities(pair, 6), of_features(pair, 6, ideal, 0)
    moving, fixed = corners(pair)[0]
    assert tuple(funnel.true) == tuple((moving - fixed)[::-1])
    assert still.flat == 0 and still.leading < 0.5 and funnel.leading == 1
    assert (funnel.usual <= funnel.apart).all() and 0 < funnel.usual.sum() < funnel.apart.sum()
    y, x = np.argwhere(funnel.usual).T
    brought = moving[::-1] - np.stack([funnel.offsets[x], funnel.offsets[y]], -1)
    assert brought.min() >= 8 - 2 and brought.max() <= 24 - 6 + 2


def test_going_downhill_ends_in_the_nearest_valley():
    y, x = np.indices((20, 30))
    values = np.minimum(np.hypot(x - 5, y - 10), np.hypot(x - 24, y - 10) + 0.5)
    led = downhill(values, np.array([5, 10]))
    assert led[:, :13].all() and not led[:, 17:].any()
    flat = downhill(np.where(np.hypot(x - 5, y - 10) < 3, values, 9.0), np.array([5, 10]))
    assert flat[10, 7] and not flat[10, 12:].any()


def test_intensities_bring_home_what_overlaps_and_leave_what_lies_apart():
    """At the size of the quick plan, with the solver of the experiment; the other way round would be no comparison."""
    plan, squares = experiment.QUICK, Squares(48, 8, 5)
    for apart in (False, True):
        for number in range(6):
            pair = squares.held_out(apart, number)
            grid = Geometry.identity((48, 48))
            images = tuple(Pyramid(((pair[role], grid),) * 3) for role in ("fixed", "moving"))
            found = experiment.registered(pair, images, plan).dice
            assert found == 0 if apart else found > 0.7


def test_a_whole_tiny_run_is_measured(tmp_path):
    """The features have had a few steps only; what they reach in the end is for the experiment itself."""
    plan = Plan(size=32, edge=6, steps=8, batch=4, pairs=4, levels=(8, 8, 16, 16), iterations=(8, 5, 4))
    outcome = DIOSquares().judge(plan, tmp_path, Progress())
    values = {criterion.name: criterion.value for criterion in outcome.criteria}
    assert values["features: mean Dice of overlapping squares"] > 0.4
    assert values["intensities: mean Dice of overlapping squares"] > 0.8
    assert values["intensities: change of the cost among translations without overlap"] == 0
    assert all(path.is_file() for path in outcome.figures) and len(outcome.figures) == 2


def test_it_is_cancelled_while_training(tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        DIOSquares().judge(Plan(size=32, edge=6, steps=3, levels=(8, 8, 16, 16)), tmp_path, progress)
