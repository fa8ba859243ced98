"""Covariance and uncertainty: what is measured on posteriors that are known, and one tiny training as a whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.c_shapes import CShapeRanges, make_c_shapes
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.networks.posterior import degree, dirichlet_energy
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce.covariance_uncertainty import (
    HIGH,
    LOW,
    RIM,
    CovarianceUncertainty,
    Measured,
    Plan,
    Trained,
    criteria,
    flat,
    flat_ratio,
    measure,
)

SIZE, N = 48, 24
PLAN = Plan(size=SIZE, pairs=1, sampled=1, samples=30)


class Known(torch.nn.Module):
    """Mean 0 and the prior's own variance, whatever it sees: what a network says that learnt nothing from the scans."""

    def __init__(self, precision: float, smoothing_voxels: float):
        super().__init__()
        bound = dirichlet_energy(smoothing_voxels, 2) if smoothing_voxels else degree((N, N))
        variance = 1 / (precision * bound) * torch.ones(1, 2, N, N)
        spacing = (SIZE - 1) / (N - 1)
        self.prediction = Prediction((torch.zeros(1, 2, N, N),), "velocity", 2.0, (spacing, spacing), variance.log())

    def forward(self, moving, fixed):
        return self.prediction


def known(covariance: str, precision: float) -> Trained:
    one = Trained(covariance, precision, None)
    return Trained(covariance, precision, Known(precision, one.smoothing_voxels))


def pair():
    return make_c_shapes(np.random.default_rng(0), 1, SIZE, CShapeRanges(outer=(0.29, 0.29)))


def test_the_prior_itself_passes():
    """With the prior's variance everywhere all of the published behavior follows; Dice is equal, nothing folds on average."""
    kinds = [(c, p) for c in ("diagonal", "smoothed") for p in (LOW, HIGH)]
    found = {kind: measure(known(*kind), [pair()], PLAN) for kind in kinds}
    for one in found.values():
        assert one.flat == pytest.approx(1.0, abs=1e-4) and one.folds_percent == 0
    high = found["diagonal", HIGH]
    # 0.11 half-resolution voxels: so little that displacement and velocity are alike; both components, in pixels
    expected = math.sqrt(2) * 2 * math.sqrt(1 / (HIGH * 4))
    assert high.sd_pixels == pytest.approx(expected, rel=0.1)
    smooth, rough = found["smoothed", LOW].roughness, found["diagonal", LOW].roughness
    assert smooth < 0.6 * rough
    assert {c.name: c.passed for c in criteria(found)}["precision 20: difference of Dice"]


def test_criteria_of_good_and_bad_numbers():
    good = {
        ("diagonal", LOW): Measured(0.95, 0.1, 5.0, 0.4, 1.3, 0.95),
        ("diagonal", HIGH): Measured(0.95, 0.0, 0.0, 0.4, 0.3, 0.95),
        ("smoothed", LOW): Measured(0.95, 0.1, 4.0, 0.15, 2.0, 1.05),
        ("smoothed", HIGH): Measured(0.94, 0.0, 0.0, 0.01, 1.8, 1.0),
    }
    assert all(c.passed for c in criteria(good))
    bad = {
        ("diagonal", LOW): Measured(0.95, 0.1, 4.0, 0.1, 1.0, 0.5),
        ("diagonal", HIGH): Measured(0.95, 0.1, 0.0, 0.1, 1.0, 0.95),
        ("smoothed", LOW): Measured(0.95, 0.1, 5.0, 0.1, 1.0, 1.05),
        ("smoothed", HIGH): Measured(0.9, 0.0, 0.0, 0.1, 2.0, 1.0),
    }
    assert not any(c.passed for c in criteria(bad))


def test_flat_places_are_far_from_every_edge_that_passes():
    """A disk that is moved by 10 pixels to the left: its edge, every place it was at, and 4 pixels around are not flat."""
    spacing = (SIZE - 1) / (N - 1)
    velocity = torch.zeros(1, 2, N, N)
    velocity[:, 0] = 5.0
    y, x = np.mgrid[:SIZE, :SIZE]
    disk = torch.tensor((np.hypot(x - 28, y - 24) <= 8).astype(np.float32))[None, None]
    where = flat(Prediction((velocity,), "velocity", 2.0, (spacing, spacing)), disk)[0, 0].numpy()
    still = flat(Prediction((0 * velocity,), "velocity", 2.0, (spacing, spacing)), disk)[0, 0].numpy()
    assert still[24, 28] and still[24, 14] and not still[24, 34] and not still[24, 20] and still[2, 2]
    assert not where[24, 14] and where[24, 42] and where[2, 2], "the left edge went by there"
    assert where.sum() < still.sum()


def test_the_ratio_is_taken_at_flat_places_only():
    one, shapes = known("diagonal", LOW), pair()
    prediction = one.predicted(shapes)
    everywhere = flat(prediction, shapes.disks)
    prediction.log_variance[:, :, N // 2, N // 2] = 5.0
    ratio = flat_ratio(one, prediction, shapes)
    inner = everywhere[..., 2 * RIM : -2 * RIM, 2 * RIM : -2 * RIM]
    assert len(ratio) == pytest.approx(float(inner.float().sum()) / 4, rel=0.15) and len(ratio) > 10
    prediction.log_variance.fill_(-20.0)
    assert np.all(flat_ratio(one, prediction, shapes) < 1e-3)


def test_a_short_training_is_judged_and_drawn(tmp_path):
    ranges = CShapeRanges((0.28, 0.33), (0.29, 0.29), opening_deg=(35.0, 35.0), turn_deg=(0.0, 0.0))
    plan = Plan(48, 40, 4, 3, 1, 6, 3e-3, ranges)
    outcome = CovarianceUncertainty().judge(plan, tmp_path, Progress())
    found = {c.name: c.value for c in outcome.criteria}
    rows = {(r["covariance"], r["precision"]): r for r in outcome.details["networks"]}
    assert len(rows) == 4 and all(row["folds_percent"] == 0 for row in rows.values())
    assert found["precision 1: roughness of samples, smoothed over diagonal"] < 0.6
    assert rows["diagonal", LOW]["flat"] > 0.014, "from 0.013 at the start towards 1"
    assert {path.name for path in outcome.figures} == {"samples.png", "spread.png"}
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)
