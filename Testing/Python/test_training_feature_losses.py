"""Losses that judge features themselves: what they compute, that they teach, and that no map is sought for them."""

from __future__ import annotations

import feature_bed as bed
import numpy as np
import pytest
import torch
from test_training_features import loss_of

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.training import feature_task
from DeepDiffRegLib.training.base import Told
from DeepDiffRegLib.training.feature_losses import BACKGROUND_SHARE, CELLS, Side, StructuresLoss, named, neighborhoods
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.tasks import make_terms

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = {2: (11, 14), 3: (9, 8, 10)}


def told(ndim: int, seed: int = 0, dtype=torch.float64) -> Told:
    """Two pairs of random features and labels 0, 3, 7, 8; the last one in the fixed scans only."""
    rng = np.random.default_rng(seed)
    features = tuple(torch.tensor(rng.normal(size=(2, 3, *SHAPE[ndim])), dtype=dtype) for _ in range(2))
    labels = [rng.choice(names, (2, 1, *SHAPE[ndim])).astype(np.int32) for names in ([0, 3, 7, 8], [0, 3, 7])]
    batch = {f"{role}_labels": torch.from_numpy(values) for role, values in zip(("fixed", "moving"), labels)}
    return Told(features, batch, 1, tuple(np.random.default_rng(row) for row in range(2)))


def sides(case: Told, row: int, reach: float) -> list[Side]:
    labels = [case.batch[f"{role}_labels"][row, 0].long() for role in ("fixed", "moving")]
    known, numbered = torch.unique(torch.stack(labels), return_inverse=True)
    return [Side.of(f[row], own, known, reach) for f, own in zip(case.features, numbered)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_near_labels_are_those_within_reach(ndim):
    """Against a search of every voxel of a box, for cells of one and of several voxels."""
    labels = torch.from_numpy(np.random.default_rng(1).choice(40, SHAPE[ndim]))
    for reach, size in ((2.0, 1), (6.0, 2)):
        near, cells = neighborhoods(labels, 40, reach)
        index = np.stack(np.indices(SHAPE[ndim]), -1).reshape(-1, ndim)
        for place in range(0, len(index), 7):
            box = np.abs(index // size - index[place] // size).max(1) <= CELLS
            expected = np.unique(labels.numpy().reshape(-1)[box])
            assert np.array_equal(np.flatnonzero(near[:, cells[place]].numpy()), expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_value_is_the_cross_entropy_of_naming_by_the_other_scan(ndim):
    """One voxel after the other, from the definition; a label that the other scan lacks has no partner and does not count."""
    case, points = told(ndim), 60
    one, other = sides(case, 0, 50.0)
    means = {k: other.features[other.labels == k].mean(0) for k in other.labels.unique().tolist()}
    total = []
    for place in one.drawn(np.random.default_rng(5), points).tolist():
        label = int(one.labels[place])
        if label in means:
            scores = {k: -float((one.features[place] - mean).square().sum()) for k, mean in means.items()}
            total.append(np.log(sum(np.exp(v) for v in scores.values())) - scores[label])
    assert 3 not in means and len(total) < points  # number 3 is label 8
    assert float(named(one, other, np.random.default_rng(5), points)) == pytest.approx(np.mean(total), rel=1e-9)


def test_derivative_reaches_both_scans():
    case = told(2)
    for features in case.features:
        features.requires_grad_()

    def value() -> torch.Tensor:
        draws = tuple(np.random.default_rng(row) for row in range(2))
        return StructuresLoss(points=40, reach=3.0)(Told(case.features, case.batch, 1, draws))

    exact = torch.autograd.grad(value(), case.features)
    along = [torch.randn(f.shape, generator=torch.Generator().manual_seed(2), dtype=f.dtype) for f in case.features]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for f, a in zip(case.features, along):
                f.add_(a, alpha=sign * 1e-6)
            values.append(float(value()))
            for f, a in zip(case.features, along):
                f.sub_(a, alpha=sign * 1e-6)
    for side in exact:
        assert float(side.abs().max()) > 0
    expected = (values[0] - values[1]) / 2e-6
    assert float(sum((e * a).sum() for e, a in zip(exact, along))) == pytest.approx(expected, rel=1e-6)


def test_labels_count_alike_however_large():
    labels = torch.zeros(4000, dtype=torch.long)
    labels[:20], labels[20:1000] = 1, 2
    one = Side.of(torch.zeros(1, 4000, 1), labels.reshape(4000, 1), torch.tensor([0, 4, 9]), 3.0)
    counts = np.bincount(one.labels[one.drawn(np.random.default_rng(0), 20000)].numpy()) / 20000
    shares = np.array([BACKGROUND_SHARE, (1 - BACKGROUND_SHARE) / 2, (1 - BACKGROUND_SHARE) / 2])
    assert np.abs(counts - shares).max() < 0.02


def test_features_learn_to_tell_structures_apart_without_a_map(monkeypatch):
    """From chance among two to nearly sure, and the solver is not asked where no loss judges maps."""
    losses = [{"name": "structures", "points": 200}]
    task = bed.task_of(losses=losses, one_sided=False)
    monkeypatch.setattr(feature_task, "solve", lambda *_: pytest.fail("no map is needed"))
    before = float(loss_of(task).detach())
    task._validate = dict
    fit(task, bed.bed.options(steps=60, validate_every=0, learning_rate=1e-2), None)
    assert before > 0.4 and float(loss_of(task, 70).detach()) < 0.25


def test_structures_first_and_maps_later():
    """Terms join by their steps; then both kinds are summed."""
    losses = [{"name": "structures", "points": 50, "weight": 0.5}, {"name": "dice", "from_step": 3}]
    task = bed.task_of(losses=losses)
    found = {}
    for step in (0, 3):
        total, parts = task.loss(task.network, task.batch(step) | {"row": torch.arange(2)}, step)
        found[step] = set(parts)
        expected = 0.5 * parts["structures"] + parts.get("dice", 0.0)
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert found == {0: {"structures"}, 3: {"structures", "dice"}}


def test_unfit_choices_are_refused():
    direct = NETWORKS.load("voxelmorph2")
    with pytest.raises(ConfigError, match=r"loss 'structures' does not fit this network .*it fits unet"):
        make_terms(["structures"], direct(direct.variant("light", ndim=2)))
    for whole in ("surface", "known-map"):  # what they compare cannot be brought to other resolutions
        with pytest.raises(ConfigError, match=f"loss '{whole}' is for networks that predict a map"):
            bed.task_of(losses=[whole])
    with pytest.raises(ConfigError, match="points must be a whole number"):
        StructuresLoss(points=0)
    with pytest.raises(ConfigError, match="reach must be positive"):
        StructuresLoss(reach=0.0)
