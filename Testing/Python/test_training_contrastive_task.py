"""Features from known partners: what is compared, that the loss falls, and that a recipe makes a model file in pieces as in one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.networks import network_class
from DeepDiffRegLib.networks.files import model_folder
from DeepDiffRegLib.networks.weights import ModelCard, load_model, save_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.training.contrastive_task import Contrast, ContrastiveTask, drawn_places, looked_up, matched
from DeepDiffRegLib.training.homing import homing
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.network_choice import NetworkChoice, make_network
from DeepDiffRegLib.training.options import FitOptions
from DeepDiffRegLib.training.recipe import (
    Recipe,
    is_recipe,
    make_task,
    read_recipe,
    train_recipe,
)
from DeepDiffRegLib.training.synthetic import Synthetic, SyntheticPairs

CONTRAST = Contrast(points=64, places=6, window=4, reach=4.0)
TINY = Recipe(
    NetworkChoice("unet-e", "light", {"ndim": 2}),
    Synthetic((32, 32)),
    contrast=CONTRAST,
    held_out=2,
    optimization=FitOptions(
        steps=6, learning_rate=3e-3, device="cpu", log_every=2, validate_every=3, checkpoint_every=2, tensorboard=False
    ),
)
RECIPES = sorted((model_folder() / "recipes").glob("*.json"))


def _moved(shift: tuple[float, ...], shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A pair of which everything is known: the moving scan is the fixed one, shifted by whole voxels."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand((1, 1, *(n + 16 for n in shape)), generator=generator)
    fixed = wide[(..., *(slice(8, 8 + n) for n in shape))]
    moving = wide[(..., *(slice(8 - int(s), 8 - int(s) + n) for n, s in zip(shape, shift[::-1])))]
    u = torch.tensor(shift).reshape(1, -1, *(1,) * len(shape)).expand(1, len(shape), *shape).contiguous()
    known = torch.zeros((1, 1, *shape), dtype=torch.bool)
    known[(..., *(slice(6, n - 6) for n in shape))] = True
    labels = (fixed > 0.5).int()
    return {"fixed": fixed, "moving": moving, "fixed_labels": labels, "displacement": u, "known": known}


@pytest.mark.parametrize("shift", [(2.0, -1.0), (1.0, 2.0, -3.0)])
def test_partners_lie_where_the_map_says(shift):
    shape = (24,) * len(shift)
    batch = _moved(shift, shape)
    places = drawn_places(batch, CONTRAST, 1, np.random.default_rng(0))
    assert places.fixed.shape == (64, 4, len(shift))
    assert places.moving.shape == (64, 4, 7, len(shift))
    assert torch.allclose(places.moving[:, :, 0] - places.fixed, torch.tensor(shift), atol=1e-4)
    moved = (places.moving[:, :, 1:] - places.moving[:, :, :1]).norm(dim=-1)
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-4)  # a window moves as a whole
    assert float(moved.min()) >= 1 - 1e-4
    assert float(moved.max()) <= 4 + 1e-4
    own = looked_up(batch["fixed"], places.fixed, 1, 0.0)
    other = looked_up(batch["moving"], places.moving, 1, 0.0)
    assert torch.allclose(own, other[:, :, 0], atol=1e-4)
    assert matched(batch, batch["fixed"], batch["moving"], 1, 0.0, CONTRAST, 0) == 1.0
    assert matched(batch, batch["fixed"], 1 - batch["moving"], 1, 0.0, CONTRAST, 0) < 0.3


def test_coarse_features_are_looked_up_at_their_own_places():
    """Averages of 2 x 2 pixels lie half a pixel further; a ramp keeps its values."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    coarse = torch.nn.functional.avg_pool2d(ramp, 2)
    points = torch.tensor([[5.0, 3.0], [7.25, 8.0]])
    assert torch.allclose(looked_up(coarse, points, 2, 0.5)[:, 0], points[:, 0])


@pytest.mark.parametrize("shape", [(24, 24), (16, 16, 16)])
def test_forces_of_equal_features_lead_home_and_those_of_exchanged_scans_lead_away(shape):
    """Smooth features of a pair whose map is the identity: the force is the error times a positive matrix at every place."""
    generator = torch.Generator().manual_seed(0)
    features = gaussian(torch.randn((1, 12, *shape), generator=generator), 1.5)
    batch = {
        "displacement": torch.zeros((1, len(shape), *shape)),
        "known": torch.ones((1, 1, *shape), dtype=torch.bool),
    }
    found = [float(homing(batch, features, features, 1, 0.0, 3, number)) for number in range(6)]
    assert min(found) > 0.3
    assert np.mean(found) > 0.6
    other = gaussian(torch.randn((1, 12, *shape), generator=generator), 1.5)
    strange = [float(homing(batch, other, features, 1, 0.0, 3, number)) for number in range(6)]
    assert abs(np.mean(strange)) < 0.3
    assert found == [float(homing(batch, features, features, 1, 0.0, 3, number)) for number in range(6)]
    assert float(homing(batch, 5 * features, 5 * features, 1, 0.0, 3, 0)) == pytest.approx(found[0], abs=1e-4)


def test_where_no_partner_is_known_no_force_is_asked_for():
    features = torch.rand((1, 4, 16, 16), requires_grad=True)
    batch = {"displacement": torch.zeros((1, 2, 16, 16)), "known": torch.zeros((1, 1, 16, 16), dtype=torch.bool)}
    found = homing(batch, features, features, 1, 0.0, 3, 0)
    found.backward()
    assert float(found.detach()) == 0.0
    assert bool((features.grad == 0).all())


def test_homing_is_part_of_the_loss_and_of_the_score_where_it_has_a_weight():
    task = make_task(replace(TINY, contrast=replace(CONTRAST, homing=2.0, near=0.5, errors=1)), _network())
    batch = {**task.batch(0), "row": torch.zeros(1, dtype=torch.long)}
    with torch.no_grad():
        total, parts = task.loss(task.network, batch, 0)
    least = 0.5 * parts["near"] + 0.3 * parts["far"] + 2 * parts["homing"]
    assert 0 < float(total - least) < 0.1  # the size of the features
    assert 0 < float(parts["homing"]) < 2
    found = task.validate()
    assert {"homing_4", "homing_2", "homing_1"} < set(found)
    assert all(-1 <= found[f"homing_{stride}"] <= 1 for stride in (4, 2, 1))


def _network():
    return make_network(TINY.network, TINY.optimization.seed)


def test_points_prefer_borders_of_labels():
    batch = SyntheticPairs(Synthetic((48, 48), kinds=(("cells", 1.0),)), seed=1)(0)

    def share(edges: float) -> float:
        contrast = replace(CONTRAST, points=400, edges=edges)
        fixed = drawn_places(batch, contrast, 1, np.random.default_rng(0)).fixed[:, 0].long()
        labels = batch["fixed_labels"][0, 0].float()[None, None]
        near = torch.nn.functional.max_pool2d(labels, 3, 1, 1) != -torch.nn.functional.max_pool2d(-labels, 3, 1, 1)
        return float(near[0, 0, fixed[:, 1], fixed[:, 0]].float().mean())

    assert share(1.0) == 1.0
    assert share(0.0) < 0.8


def test_a_short_training_finds_more_partners_than_it_did():
    recipe = replace(
        TINY, held_out=5, optimization=FitOptions(steps=25, learning_rate=3e-3, device="cpu", tensorboard=False)
    )
    network = make_network(recipe.network, recipe.optimization.seed)
    task = make_task(recipe, network)
    before = task.validate()
    assert set(before) == {"score", "matched_4", "matched_2", "matched_1"}
    assert 0 <= before["score"] <= 1
    fit(task, recipe.optimization)
    assert task.validate()["score"] > before["score"] + 0.05


def test_the_loss_has_the_gradient_of_its_value():
    """Along a random direction of the weights, in double precision."""
    recipe = replace(TINY, contrast=replace(CONTRAST, homing=1.0))
    network = make_network(recipe.network, recipe.optimization.seed).double()
    task = make_task(recipe, network)
    batch = {name: t.double() if t.dtype == torch.float32 else t for name, t in task.batch(0).items()}
    for role in ("moving", "fixed"):  # equal values side by side have no derivative under maximum pooling
        batch[role] = batch[role] + 0.01 * torch.rand(batch[role].shape, dtype=torch.double)
    batch["row"] = torch.zeros(1, dtype=torch.long)
    parameters = list(network.parameters())
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.double) for p in parameters]

    def value(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(d, alpha=step)
        return task.loss(network, batch, 0)[0]

    h = 1e-7
    found = torch.autograd.grad(value(0.0), parameters)
    with torch.no_grad():
        numeric = (value(h) - value(-2 * h)) / (2 * h)
    slope = sum((g * d).sum() for g, d in zip(found, directions))
    assert float(slope) == pytest.approx(float(numeric), rel=1e-3)


class _StopAfter(Progress):
    """Asks to stop once a step was reported."""

    def __init__(self, step: int):
        super().__init__()
        self._last, self._seen = step, 0

    def report(self, step) -> None:
        self._seen = step.iteration

    def cancelled(self) -> bool:
        return self._seen >= self._last


def test_training_in_pieces_gives_the_same_model_as_in_one(tmp_path):
    torch.set_num_threads(1)
    whole = train_recipe(TINY, tmp_path / "whole")
    first = train_recipe(TINY, tmp_path / "pieces", _StopAfter(3))
    assert first.model is None
    assert max(file.stat().st_size for file in (tmp_path / "pieces").rglob("*.safetensors")) < 16e6
    second = train_recipe(TINY, tmp_path / "pieces", resume=True)
    assert whole.model.read_bytes() == second.model.read_bytes()
    assert whole.card.metrics["steps"] in (3, 6)  # the better of the two that were validated
    assert "no scan of anybody" in whole.card.data
    assert whole.card.licence == "Apache-2.0"
    assert whole.card.canonical is None
    with pytest.raises(ConfigError, match="voxel_mm"):
        train_recipe(
            replace(TINY, synthetic=Synthetic((32, 32), voxel_mm=(1.0, 2.0))), tmp_path / "pieces", resume=True
        )


def test_a_recipe_trains_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(TINY.to_dict()), encoding="utf-8")
    assert is_recipe(path)
    assert read_recipe(path) == TINY
    out = tmp_path / "out"
    assert main(["train", str(path), "-o", str(out), "--quiet", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 6
    model = load_model(out / "model.safetensors")
    assert model.card.network == "unet-e"
    assert model.network.architecture.ndim == 2


def test_a_network_that_predicts_maps_learns_from_labels(tmp_path):
    recipe = Recipe(
        NetworkChoice("voxelmorph-diff", "light", {"ndim": 2}),
        Synthetic((32, 32)),
        losses=("known-map", "dice", "diffusion"),
        held_out=1,
        optimization=FitOptions(steps=2, device="cpu", validate_every=2, tensorboard=False),
    )
    recipe = Recipe.from_dict(recipe.to_dict())
    trained = train_recipe(recipe, tmp_path / "out")
    assert trained.card.canonical.spacing_mm == (2.0, 2.0)
    assert trained.card.metrics["score"] == pytest.approx(trained.fitted.metrics["score"])


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"network": {"name": "unet-f"}}, "unet"),
        ({"network": {"name": "unet-e"}, "synthetic": {"shape": [32, 32]}}, "3-D"),
        ({"network": {"name": "unet-e"}, "losses": ["dice"]}, "losses"),
        ({"network": {"name": "voxelmorph-diff"}}, "losses"),
        ({"network": {"name": "unet-e"}, "contrast": {"point": 3}}, "points"),
        ({"network": {"name": "unet-e"}, "contrast": {"points": 1}}, "points"),
        ({"network": {"name": "unet-e"}, "pairs": 0}, "pairs"),
        ({}, "network"),
    ],
)
def test_wrong_recipes_are_refused_by_name(tmp_path, wrong, named):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"synthetic": {}, **wrong}), encoding="utf-8")
    with pytest.raises(ConfigError, match=named) as error:
        read_recipe(path)
    assert "recipe.json" in str(error.value)


def test_missing_recipes_and_other_configurations_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.json")
    assert not is_recipe(tmp_path / "none.json")
    other = tmp_path / "scans.json"
    other.write_text(json.dumps({"data": {"scans": "x"}}), encoding="utf-8")
    assert not is_recipe(other)
    other.write_text("{", encoding="utf-8")
    assert not is_recipe(other)
    with pytest.raises(InputError, match="not valid JSON"):
        read_recipe(other)


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_shipped_recipes_are_complete_and_small(path):
    recipe = read_recipe(path)
    kind = network_class(recipe.network.name)
    network = kind(recipe.network.full_architecture)
    assert 4 * network.count_parameters() < 10e6  # bytes of the weights; a checkpoint holds three such sets
    assert recipe.licence == "Apache-2.0"
    model = model_folder() / f"{path.stem}.safetensors"
    if model.is_file():
        shipped = load_model(model)
        assert shipped.card.network == recipe.network.name
        assert shipped.network.architecture == network.architecture
        assert shipped.card.seed is not None
        assert shipped.card.licence == "Apache-2.0"
        assert model.stat().st_size < 10e6


def test_pairs_are_never_cut_smaller():
    assert not ContrastiveTask(make_network(TINY.network, TINY.optimization.seed), lambda step: {}).shrink((32, 32))


@pytest.mark.parametrize("weights", [{"near": 0.0, "far": 0.0}, {"points": 1}, {"near": -1.0}])
def test_wrong_contrasts_are_refused(weights):
    with pytest.raises(ConfigError, match="Contrast"):
        replace(CONTRAST, **weights)


def test_weights_start_a_network_that_keeps_statistics_but_none_of_other_sizes(tmp_path):
    path = tmp_path / "model.safetensors"
    given = make_network(TINY.network, 1)
    save_model(path, given, ModelCard("unet-e", {}, "none", "random weights"))
    kept = {"ndim": 2, "statistics": "training"}
    network = make_network(replace(TINY.network, architecture=kept, start_from=str(path)), 2)
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.state_dict().items())
    assert all(float(value) == 0 for name, value in own.items() if name.endswith("seen"))
    with pytest.raises(ConfigError, match="another architecture"):
        make_network(replace(TINY.network, architecture={"ndim": 2, "channels": 4}, start_from=str(path)), 2)
