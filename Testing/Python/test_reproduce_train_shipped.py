"""The experiment behind the shipped features: what it compares, and one tiny training as a whole."""

from dataclasses import replace

import pytest
import torch

from DeepDiffRegLib.config import Schedule
from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.networks.base import FeatureNetwork
from DeepDiffRegLib.networks.weights import load_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce.train_shipped import (
    DESCRIPTORS,
    INTENSITIES,
    LEARNED,
    QUICK,
    SIMILARITIES,
    Plan,
    found_partners,
    judge_recipe,
    overlap,
    shipped_plan,
)
from DeepDiffRegLib.training.network_choice import NetworkChoice
from DeepDiffRegLib.training.synthetic import Synthetic, SyntheticPairs

TINY = Plan(
    replace(
        QUICK.recipe,
        network=NetworkChoice("unet-e", "light", {"ndim": 2}),
        synthetic=Synthetic((40, 40)),
        contrast=replace(QUICK.recipe.contrast, points=96),
        optimization=replace(QUICK.recipe.optimization, steps=3),
    ),
    pairs=2,
    schedule=Schedule((2, 1), (4, 2), minimum_size=8),
)


class Scan(FeatureNetwork):
    """The scan as its own features."""

    centered, multiple, strides = True, 1, (1,)

    def __init__(self):
        super().__init__()
        self.architecture = QUICK.recipe  # never asked

    def forward(self, scan, finest=1):
        return (scan,)

    def features(self, scan, finest):
        return (scan,)


def test_the_true_map_brings_structures_together():
    """But for the border voxels of small ones; standing still does not."""
    source = SyntheticPairs(Synthetic((64, 64), kinds=(("cells", 1.0),)), seed=4)
    for number in range(3):
        batch = source(number)
        still = overlap(batch, torch.zeros_like(batch["displacement"]))
        assert overlap(batch, batch["displacement"]) > max(0.9, still)


def test_features_that_are_the_scans_find_what_intensities_find():
    source = SyntheticPairs(Synthetic((48, 48)), seed=4)
    shares = found_partners(Scan(), [source(number) for number in range(2)], TINY.recipe.contrast)
    assert shares[LEARNED] == shares[INTENSITIES]
    assert all(0 <= share <= 1 for share in shares.values())


def test_a_tiny_training_is_judged_as_a_whole(tmp_path):
    outcome = judge_recipe(TINY, tmp_path, Progress())
    assert len(outcome.criteria) == 2
    assert outcome.figures[0].is_file()
    model = load_model(tmp_path / "features-unet-e.safetensors")
    assert model.card.licence == "Apache-2.0"
    assert set(outcome.details["dice"]) == {"before", LEARNED, *SIMILARITIES}
    assert set(outcome.details["partners_found"]) == {LEARNED, INTENSITIES, DESCRIPTORS}
    assert outcome.details["steps"] == 3
    assert all(0 <= value <= 1 for value in outcome.details["dice"].values())


def test_cancel_ends_it_at_once(tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        judge_recipe(TINY, tmp_path, progress)


def test_the_full_plan_is_the_shipped_recipe():
    plan = shipped_plan()
    assert plan.recipe.network.name == "unet-e"
    assert len(plan.recipe.synthetic.shape) == 3
    assert plan.recipe.licence == "Apache-2.0"
    assert plan.recipe.network.start_from is None
