"""Training through the flow: several looks, both directions, losses that come and go, and a run that goes on where it stopped."""

from __future__ import annotations

import pytest
import torch
from training_bed import disks, options

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.vector_fields import compose
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.affine_net import joined
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.training.base import Deformed
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.mapping import Mapping, looked, warped
from DeepDiffRegLib.training.shooting_losses import IdentityLoss, InverseLoss
from DeepDiffRegLib.training.tasks import PairTask, Term, both_ways, make_terms
from DeepDiffRegLib.training.validation import judged

TINY = {
    "first": 4,
    "encoder": (4, 6, 6),
    "decoder": (6,),
    "last": 4,
    "stiffness": (4, 4, 4),
    "sigmas": (0.1, 0.2),
    "weights": (0.4, 0.6),
}
TINY_AFFINE = {"siamese": 4, "features": (6, 6, 6, 6, 6, 6, 4), "hidden": 8}
LOSSES = {
    "lddmm-net": ["lncc", "kinetic"],
    "vsvf-net": [{"name": "ncc", "until_step": 20}, {"name": "lncc", "from_step": 20}, "kinetic"],
    "rdmm-net": [
        "lncc",
        "kinetic",
        {"name": "omt", "weight": 0.1},
        {"name": "weight-range", "until_step": 4, "final_weight": 0.1},
    ],
    "affine-net": ["ncc", {"name": "identity", "weight": 0.1, "until_step": 10, "final_weight": 1e-3}],
}


def task_of(name: str, losses=(), count: int = 4, validate: bool = False, **how) -> PairTask:
    kind = NETWORKS.load(name)
    torch.manual_seed(0)
    network = kind(kind.variant("light", ndim=2, **(TINY_AFFINE if name == "affine-net" else TINY)))
    held_out = [disks(step, seed=1, count=1) for step in range(3)]
    judge = (lambda: judged(network, held_out, (1.0, 1.0), looks=how.get("looks", 1))) if validate else None
    terms = make_terms([*LOSSES[name], *losses], network)
    return PairTask(network, terms, lambda step: disks(step, count=count), judge, **how)


@pytest.mark.parametrize("name", ["lddmm-net", "affine-net"])
def test_training_aligns_a_pair(name):
    batch = disks(3, count=2)
    task = task_of(name)
    task._draw = lambda step: batch
    fitted = fit(task, options(steps=40, validate_every=0, learning_rate=5e-3, log_every=5))
    losses = [entry["loss"] for entry in fitted.history]
    pairs = [{key: tensor[row : row + 1] for key, tensor in batch.items()} for row in range(2)]
    found = judged(fitted.network, pairs, (1.0, 1.0))
    assert losses[-1] < 0.8 * losses[0] and found["dice"] > found["dice_before"] + 0.1


def test_a_second_look_is_composed_after_the_first():
    network = task_of("lddmm-net").network
    with torch.no_grad():
        network.momentum.merges[-1][-1].weight.normal_(0.0, 0.3)
        moving, fixed = (disks(0)[role] for role in ("moving", "fixed"))
        first = Mapping(network(moving, fixed), (32, 32)).forward
        second = Mapping(network(warped(moving, first), fixed), (32, 32)).forward
        both = looked(network, moving, fixed, 2)
        assert torch.allclose(both.forward, compose(first, second), atol=1e-6)
        assert float(first.abs().max()) > 0.1 and len(both.looks) == 2


def test_matrices_of_several_looks_are_multiplied():
    network = task_of("affine-net").network
    with torch.no_grad():
        network.matrix.weight.normal_(0.0, 0.1)
        moving, fixed = (disks(0)[role] for role in ("moving", "fixed"))
        first = network(moving, fixed).field
        second = network(warped(moving, looked(network, moving, fixed).forward), fixed).field
        assert torch.allclose(looked(network, moving, fixed, 2).matrix, joined(first, second), atol=1e-6)


def test_exact_inverses_are_consistent():
    """A shift and its opposite, a matrix and its inverse; a shift both ways moves by twice its length."""
    shift = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1).expand(1, 2, 20, 24).clone()

    def loss(fields: torch.Tensor, kind: str) -> float:
        prediction = Prediction((fields,), kind, 1.0, (1.0, 1.0))
        return float(InverseLoss()(Deformed({}, prediction, Mapping(prediction, (20, 24)))))

    assert loss(torch.cat((shift, -shift)), "displacement") == 0
    assert loss(torch.cat((shift, shift)), "displacement") == pytest.approx(4 * 5 / 24**2, rel=1e-5)
    matrix = torch.tensor([[[1.1, 0.2, 3.0], [-0.1, 0.9, -2.0]]]).double()
    turn = torch.linalg.inv(matrix[:, :, :-1])
    back = torch.cat((turn, -turn @ matrix[:, :, -1:]), 2)
    assert loss(torch.cat((matrix, back)), "affine") < 1e-25 < 1e-3 < loss(torch.cat((matrix, matrix)), "affine")
    still = Prediction((torch.eye(2, 3)[None],), "affine", 1.0, (1.0, 1.0))
    assert float(IdentityLoss()(Deformed({}, still, Mapping(still, (20, 24))))) == 0


def test_both_ways_exchanges_the_roles():
    batch = {**disks(0, count=2), "row": torch.arange(2)}
    twice = both_ways(batch)
    assert len(twice["fixed"]) == 4 and torch.equal(twice["moving"][2:], batch["fixed"])
    assert torch.equal(twice["fixed_labels"][2:], batch["moving_labels"]) and torch.equal(
        twice["row"][2:], batch["row"]
    )


def test_losses_come_and_go():
    term = Term("x", InverseLoss(), 10.0, 4, 8, 0.1)
    assert [term.at(step) for step in (3, 4, 8, 100)] == pytest.approx([0.0, 10.0, 0.1, 0.1])
    assert term.at(6) == pytest.approx(1.0)
    ends = Term("x", InverseLoss(), 2.0, 1, 3)
    assert [ends.at(step) for step in range(4)] == [0.0, 2.0, 2.0, 0.0]
    seen = []

    class Noted(PairTask):
        def loss(self, ask, batch, step):
            total, parts = super().loss(ask, batch, step)
            seen.append((step, sorted(parts)))
            return total, parts

    kind = NETWORKS.load("lddmm-net")
    network = kind(kind.variant("light", ndim=2, **TINY))
    wanted = [
        {"name": "ncc", "until_step": 2},
        {"name": "mk-lncc", "from_step": 2},
        {"name": "inverse", "from_step": 3},
    ]
    fit(
        Noted(network, make_terms(wanted, network), lambda step: disks(step, count=1)),
        options(steps=4, validate_every=0),
    )
    assert seen == [(0, ["ncc"]), (1, ["ncc"]), (2, ["mk-lncc"]), (3, ["inverse", "mk-lncc"])]
    silent = PairTask(
        network, make_terms([{"name": "ncc", "from_step": 2}], network), lambda step: disks(step, count=1)
    )
    with pytest.raises(ConfigError, match="no loss counts in step 0"):
        fit(silent, options(steps=4, validate_every=0))


@pytest.mark.parametrize("name", ["rdmm-net", "affine-net"])
def test_a_stopped_training_goes_on_exactly(tmp_path, name):
    """Stopped before the second look and the other direction come in."""
    how = {"losses": [{"name": "inverse", "weight": 10.0, "from_step": 4}], "looks": 2, "looks_from": 5, "count": 2}
    whole = fit(task_of(name, **how), options(steps=7, validate_every=0)).network.state_dict()
    fit(task_of(name, **how), options(steps=3, validate_every=0), folder=tmp_path)
    rest = fit(
        task_of(name, **how), options(steps=7, validate_every=0), folder=tmp_path, resume=True
    ).network.state_dict()
    assert all(torch.equal(tensor, rest[key]) for key, tensor in whole.items())


def test_a_network_of_whole_scans_is_not_cut():
    task = task_of("lddmm-net")
    assert not task.shrink((64, 64)) and task.patch is None
