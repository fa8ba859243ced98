"""The C-shape experiment: what it measures on maps that are known, and one tiny training as a whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.c_shapes import CShapeRanges, make_c_shapes
from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.geometry.sampling import identity_index
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.networks.voxelmorph import VoxelMorphDiff
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce.c_shape import (
    CShape,
    Flow,
    Measured,
    Plan,
    SmoothVelocity,
    at_rest,
    criteria,
    folds,
    measure,
)
from DeepDiffRegLib.reproduce.disk_to_c import Population, as_batch, dice

SIZE = 48
LIGHT = CShapeRanges(disk=(0.28, 0.33), opening_deg=(35.0, 35.0), turn_deg=(0.0, 0.0))


def radial(log_scale: float, size: int = SIZE) -> Prediction:
    """v(x) = log_scale (x - middle) at every second pixel and a bit: exp(v) scales by exp(log_scale)."""
    n = size // 2
    spacing = (size - 1) / (n - 1)
    x = identity_index((n, n)) * spacing
    velocity = log_scale * (x - (size - 1) / 2) / 2
    return Prediction((velocity,), "velocity", 2.0, (spacing, spacing))


class Known(torch.nn.Module):
    """Says the same of every pair."""

    def __init__(self, prediction: Prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, moving, fixed):
        return self.prediction


@pytest.mark.parametrize("fineness", [1, 3])
def test_a_flow_is_the_exponential_in_pixels(fineness):
    """A scaling by 0.8 about the middle, at half and at full time."""
    flow = Flow(radial(math.log(0.8)), (SIZE, SIZE), fineness)
    x = identity_index((SIZE, SIZE))
    for time in (0.5, 1.0):
        fine = flow.at(time)
        assert fine.shape[2:] == ((SIZE - 1) * fineness + 1,) * 2
        expected = (0.8**time - 1) * (x - (SIZE - 1) / 2)
        assert torch.allclose(flow.in_pixels(fine), expected, atol=0.02)
    assert flow.misses(flow.at(-1.0), flow.at(1.0)).max() < 0.05


def test_a_known_map_is_measured_as_what_it_is():
    """The map that scales a disk onto another: full overlap both ways, nothing folded, its own inverse."""
    ranges = CShapeRanges(disk=(0.3, 0.3))
    shapes = make_c_shapes(np.random.default_rng(0), 1, SIZE, ranges)
    smaller = make_c_shapes(np.random.default_rng(0), 1, SIZE, CShapeRanges(disk=(0.3 / 1.1, 0.3 / 1.1)))
    # the fixed shape is the smaller disk, so that a point of it is sent 1.1 times as far from the middle
    pair = replace(shapes, cs=smaller.disks, c_labels=smaller.disk_labels)
    scaling = radial(math.log(1.1))
    found = measure(Known(replace(scaling, fields=(scaling.field * at_rest((SIZE // 2, SIZE // 2)),))), pair, 2)
    assert found.dice > 0.97 and found.dice_back > 0.97
    assert found.folds == found.fine_folds == found.strict_folds == found.coarse_folds == 0
    assert found.inverse_max < 0.05 < found.coarse_inverse_max and found.inverse_mean < 0.005
    still = measure(Known(radial(0.0)), pair, 2)
    assert still.dice == pytest.approx(2 / (1.1**2 + 1), abs=0.02)
    assert still.inverse_max == still.coarse_inverse_max == 0


def test_folds_are_counted():
    u = torch.zeros(1, 2, 32, 32)
    u[0, 0, 10, 16:] = -3.0
    assert folds(u) > 0


def test_velocities_are_smooth_and_rest_at_the_border():
    """Same weights, without and with it: what is left of white noise, and nothing at the border."""
    torch.manual_seed(0)
    network = SmoothVelocity(SmoothVelocity.variant("light", ndim=2)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.flow.weight)
    moving, fixed = torch.rand(2, 1, 1, 64, 64)
    velocity = network(moving, fixed).field
    rim = torch.ones(velocity.shape[2:], dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert velocity[..., rim].abs().max() == 0 and velocity.abs().max() > 0
    raw = VoxelMorphDiff.predict(network, torch.cat((moving, fixed), 1))[0][0]
    steps = [v.diff(dim=-1)[..., 8:-8, 8:-8].square().mean() for v in (raw, velocity)]
    assert steps[1] < 0.1 * steps[0]
    factor = at_rest((33, 17))
    assert factor.shape == (1, 1, 33, 17) and factor[0, 0, 4:-4, 2:-2].min() == 1
    assert factor[0, 0, 2, 8] == pytest.approx(0.5)


def test_criteria_are_the_published_ones():
    good = Measured(0.96, 0.97, 0, 0, 9, 0.02, 0.3, 0, 0.2, 3.0)
    assert all(c.passed for c in criteria([good, good]))
    worse = [Measured(0.9, 0.9, 1, 1, 9, 0.2, 0.6, 1, 0.2, 3.0)] * 2
    assert not any(c.passed for c in criteria(worse))


def test_no_held_out_pair_is_trained_on():
    population = Population(32, 2, LIGHT, 5)
    draw = population.draw()
    assert torch.equal(draw(3)["fixed"], draw(3)["fixed"]) and not torch.equal(draw(3)["fixed"], draw(4)["fixed"])
    held_out = as_batch(population.held_out(2))
    assert not any(torch.equal(draw(step)["moving"], held_out["moving"]) for step in range(5))


def test_a_short_training_learns_to_draw_cs(tmp_path):
    plan = Plan(size=32, steps=120, batch=4, pairs=4, learning_rate=3e-3, fineness=3, ranges=LIGHT, seed=1)
    shapes = Population(plan.size, plan.batch, plan.ranges, plan.seed).held_out(plan.pairs).each()
    before = np.mean([dice(s.disks, s.c_labels) for s in shapes])
    outcome = CShape().judge(plan, tmp_path, Progress())
    found = {c.name: c.value for c in outcome.criteria}
    assert found["mean Dice of warped disks and Cs"] > before + 0.15
    assert found["folds of all maps and inverses"] == 0
    assert found["the same on the fine grid of integration"] == 0
    assert found["map o inverse: mean distance from Id"] < 0.1
    assert {path.name for path in outcome.figures} == {"morph.png", "pairs.png"}
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


def test_cancelling_ends_it(tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        CShape().judge(Plan(size=32, steps=3, pairs=1), tmp_path, progress)
    assert not list(tmp_path.iterdir())
