"""A trained feature network teaches another: what it is asked, when the two do not fit, and that the pupil learns."""

import json
from dataclasses import replace

import pytest
import torch
from test_training_contrastive_task import TINY

from DeepDiffRegLib.config import Choice
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.networks.weights import ModelCard, save_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.network_choice import NetworkChoice, make_network
from DeepDiffRegLib.training.recipe import Recipe, make_task, read_recipe
from DeepDiffRegLib.training.synthetic import SyntheticPairs
from DeepDiffRegLib.training.teaching import Teacher, Teaching, unlike

PUPIL = NetworkChoice("unet", "light", {"ndim": 2})


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A model of small features of a light UNet-E, as trained."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(path, make_network(TINY.network, 3), ModelCard("unet-e", {}, "none", "random weights"))
    return path


@pytest.mark.parametrize("images, seen", [("natural", "_natural"), ("scans", "")])
def test_a_teacher_is_shown_the_images_it_was_asked_about(taught, images, seen):
    network = make_network(TINY.network, 3)
    teacher = Teacher(Teaching(str(taught), images), network)
    batch = SyntheticPairs(TINY.synthetic, 1)(0)
    with torch.no_grad():
        expected = network(torch.cat((batch[f"fixed{seen}"], batch[f"moving{seen}"])))
    found = teacher.features(batch)
    assert [f.shape[0] for f in found] == [2, 2, 2]
    for own, other in zip(found, expected):
        assert torch.allclose(own, other, atol=1e-5)
        assert float(unlike(own, other)) == pytest.approx(0, abs=1e-6)
        mean = own.mean((0, 2, 3), keepdim=True).expand_as(own)
        assert float(unlike(mean, own)) == pytest.approx(1, rel=1e-4)  # who only knows the mean knows nothing


def test_a_pupil_becomes_like_its_teacher(taught):
    contrast = replace(TINY.contrast, near=0.01, far=0.0)
    options = replace(TINY.optimization, steps=60, validate_every=60)
    recipe = replace(
        TINY, network=PUPIL, contrast=contrast, teaching=Teaching(str(taught), "scans"), optimization=options
    )
    task = make_task(recipe, make_network(PUPIL, 0))
    fitted = fit(task, options, Progress())
    losses = [entry["unlike"] for entry in fitted.history if "unlike" in entry]
    assert losses[-1] < min(0.5 * losses[0], 0.9)  # 1: who only knows the mean


@pytest.mark.parametrize("changed", [{"channels": 16}, {"heads": 2, "scales": 2}])
def test_a_teacher_of_other_features_is_refused(taught, changed):
    pupil = make_network(replace(PUPIL, architecture={"ndim": 2, **changed}), 0)
    with pytest.raises(ConfigError, match=r"teaching\.model: .* is a unet-e whose features differ"):
        Teacher(Teaching(str(taught)), pupil)


def test_unknown_images_and_weights_without_effect_are_refused():
    with pytest.raises(ConfigError, match=r"teaching\.images: unknown value 'nature'"):
        Teaching("model", "nature")
    with pytest.raises(ConfigError, match=r"teaching\.weight must be positive"):
        Teaching("model", weight=0.0)
    maps = NetworkChoice("voxelmorph-diff", None, {"ndim": 2})
    with pytest.raises(ConfigError, match="no 'teaching'"):
        replace(TINY, network=maps, losses=(Choice("kl"),), teaching=Teaching("features-unet-e"))


def test_a_recipe_names_its_teacher_by_a_file_beside_it_or_as_a_model_of_the_library(taught):
    path = taught.parent / "recipe.json"
    values = replace(TINY, teaching=Teaching(taught.name)).to_dict()
    path.write_text(json.dumps(values))
    recipe = read_recipe(path)
    assert recipe.teaching.model == str(taught)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    path.write_text(json.dumps({**values, "teaching": {"model": "stage-1/model.safetensors"}}))
    assert read_recipe(path).teaching.model == str(
        taught.parent / "stage-1" / "model.safetensors"
    )  # not there: loading says so
    path.write_text(json.dumps({**values, "teaching": {"model": "features-unet-e"}}))
    shipped = read_recipe(path).teaching
    assert shipped.model == "features-unet-e"
    assert Teacher(shipped, make_network(NetworkChoice("unet", "paper"), 0)).network.architecture.ndim == 3
    assert Recipe.from_dict(TINY.to_dict()).teaching is None
