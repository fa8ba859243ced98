"""The RDMM experiments on tiny cases: their criteria hold, figures are drawn, what they measure is what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.data.shapes import make_shapes
from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce import rdmm_energy, rdmm_optimised, rdmm_predefined
from DeepDiffRegLib.reproduce.base import each
from DeepDiffRegLib.reproduce.shape_population import dice, near_edges

SIZE = 64


def by_name(outcome) -> dict:
    return {criterion.name: criterion for criterion in outcome.criteria}


def test_energy_keeps_its_criteria_and_draws(tmp_path, capsys):
    assert main(["reproduce", "rdmm-energy", "-o", str(tmp_path / "out"), "--quick", "--json", "--quiet"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] and len(printed["criteria"]) == 2
    assert all((tmp_path / "out" / name).stat().st_size > 5000 for name in printed["figures"])


def test_drift_falls_with_the_time_step_to_the_fourth_order():
    """What is left with the whole source term is the integrator's error: smaller steps remove it."""
    worst = []
    for steps in (8, 16):
        flow = rdmm_energy.random_flow(np.random.default_rng(0), 32, steps, 1.0)
        assert flow.path.steps == steps
        worst.append(np.abs(rdmm_energy.drift(flow)).max())
    assert worst[0] / worst[1] > 10


def test_drift_without_the_source_term_is_no_matter_of_time_steps():
    worst = []
    for steps in (8, 16):
        flow = rdmm_energy.random_flow(np.random.default_rng(0), 32, steps, 0.0)
        worst.append(np.abs(rdmm_energy.drift(flow)).max())
    assert worst[0] > 1e-2 and worst[0] == pytest.approx(worst[1], rel=0.01)


def test_a_flow_that_runs_away_has_drifted_without_bound():
    flow = rdmm_energy.random_flow(np.random.default_rng(0), 32, 8, 1.0)
    flow.momentum.mul_(1e6)
    assert rdmm_energy.drift(flow)[-1] == np.inf and rdmm_energy._number(np.inf) == "diverged"


def test_constant_weights_need_no_source_term():
    flow = rdmm_energy.random_flow(np.random.default_rng(0), 32, 16, 0.0)
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).sqrt().reshape(1, 3, 1, 1)
    flow.pre_weights.copy_(shares.expand_as(flow.pre_weights))
    assert np.abs(rdmm_energy.drift(flow)).max() < 1e-5


def test_predefined_on_one_tiny_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(rdmm_predefined, "ITERATIONS", (20, 8))
    outcome = rdmm_predefined.RDMMPredefined().judge(1, SIZE, tmp_path, Progress())
    found = by_name(outcome)
    assert found["mean Dice of the region, RDMM"].value > 0.93
    assert found["mean Dice of low sigma at t = 1 with the region"].value > 0.9
    assert found["mean |u| outside the region, RDMM over LDDMM"].value < 0.9
    assert found["folded pixels in all pairs, RDMM, strict"].value == 0
    assert all(path.stat().st_size > 5000 for path in outcome.figures)


def test_optimised_on_one_tiny_pair(tmp_path):
    plan = rdmm_optimised.Plan(1, SIZE, (12, 8, 0), (0.0, 2.5))
    outcome = rdmm_optimised.RDMMOptimised().judge(plan, tmp_path, Progress())
    found = by_name(outcome)
    for method in rdmm_optimised.METHODS:
        assert found[f"mean Dice of objects, {method}"].value > 0.8
    assert found["largest difference of these"].value < 0.05
    assert found["lowest tenth of sigma: density at edges over mean density"].value > 1
    assert found["least rise of mean sigma with the next OMT weight"].value > 0
    assert all(path.stat().st_size > 5000 for path in outcome.figures)


def test_threshold_lies_between_soft_and_stiff():
    soft, stiff = (
        200 * np.sqrt(np.dot(s, np.square(rdmm_predefined.SIGMAS)))
        for s in (rdmm_predefined.SOFT, rdmm_predefined.STIFF)
    )
    assert soft < rdmm_predefined.threshold_mm() < stiff


def test_near_edges_is_a_band_along_every_border():
    labels = np.zeros((200, 200), np.int32)
    labels[50:150, 50:150] = 1
    near = near_edges(labels)
    assert near[50, 100] and near[49, 100] and near[53, 100] and not near[55, 100] and not near[44, 100]
    assert not near[100, 100] and not near[10, 10]


def test_dice_of_masks():
    a = np.zeros((4, 4), bool)
    a[:2] = True
    assert dice(a, a) == 1 and dice(a, ~a) == 0 and dice(~a & a, ~a & a) == 1


def test_near_edges_covers_shapes():
    shapes = make_shapes(1, 0, SIZE)
    near = near_edges(shapes.moving_labels.numpy())
    assert 0.05 < near.mean() < 0.6


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("workers", [0, 2])
def test_each_keeps_the_order(workers):
    assert each(square, 4, workers, "square", Progress(), (0.0, 1.0)) == [0, 1, 4, 9]


def raise_late(number: int) -> int:
    raise ValueError(f"case {number}")


@pytest.mark.parametrize("workers", [0, 2])
def test_each_passes_errors_on(workers):
    with pytest.raises(ValueError, match="case"):
        each(raise_late, 2, workers, "bad", Progress(), (0.0, 1.0))


def test_each_can_be_cancelled():
    class AfterTwo(Progress):
        def report(self, step):
            if step.fraction >= 0.5:
                self.cancel()

    with pytest.raises(Cancelled):
        each(square, 4, 0, "square", AfterTwo(), (0.0, 1.0))
