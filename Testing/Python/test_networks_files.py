"""Models by name, the method that a card asks for, and nothing heavy loaded to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, Schedule, Start, load_preset
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.methods._model_file import model_file
from DeepDiffRegLib.networks import FEATURES, NETWORKS, files
from DeepDiffRegLib.networks.files import method_of, model_names, model_path, network_of, with_model
from DeepDiffRegLib.networks.weights import ModelCard, read_card, save_model
from DeepDiffRegLib.session import RegistrationSession


def made(folder: Path, name: str, network: str = "unet-e", data: str = "generated anatomy") -> Path:
    """A model with random weights."""
    torch.manual_seed(0)
    kind = (FEATURES if network in FEATURES else NETWORKS).load(network)
    path = folder / f"{name}.safetensors"
    save_model(path, kind(kind.variant("light")), ModelCard(network, {}, "none", data))
    return path


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the library's own models, with one of each kind."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(files, "model_folder", lambda: folder)
    made(folder, "tiny-features")
    made(folder, "tiny-map", "voxelmorph1")
    return folder


def test_a_bare_name_is_one_of_the_librarys_own_unless_such_a_file_exists(own, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert model_names() == ["tiny-features", "tiny-map"]
    assert model_path("tiny-features") == own / "tiny-features.safetensors" == model_path("tiny-features.safetensors")
    elsewhere = str(Path("folder") / "tiny-features")
    assert model_path(elsewhere) == Path(elsewhere)
    near = made(work, "tiny-features")
    assert model_path("tiny-features.safetensors").resolve() == near
    with pytest.raises(InputError, match=r"none of the models that come with the library \(tiny-features, tiny-map\)"):
        model_path("tiny-featurs")
    with pytest.raises(ConfigError, match="needs a model"):
        model_file(Config(method="dio"))
    assert model_file(Config(method="dio", model="tiny-map")) == own / "tiny-map.safetensors"


def test_the_card_decides_the_method(own, tmp_path):
    assert (network_of("tiny-features"), method_of("tiny-features")) == ("unet-e", "dio")
    assert (network_of("tiny-map"), method_of("tiny-map")) == ("voxelmorph1", "feedforward")
    damaged = tmp_path / "m.json"
    for text in ("{", "[]", '{"network": 3}'):
        damaged.write_text(text)
        assert network_of(damaged.with_suffix(".safetensors")) == ""
    assert network_of("unknown") == "" and method_of("unknown") == "feedforward"
    plain = load_preset("default")
    assert plain.similarity.name == "lncc"
    learned = with_model(plain, "tiny-features")
    assert (learned.method, learned.similarity) == ("dio", Choice("mse"))
    assert with_model(learned.replace(similarity=Choice("ncc")), "tiny-features").similarity == Choice("ncc")
    predicted = with_model(plain, "tiny-map")
    assert (predicted.method, predicted.similarity) == ("feedforward", plain.similarity)
    assert with_model(plain, "tiny-features", "feedforward").method == "feedforward"


def test_a_registration_by_name_says_which_file_it_was(own):
    """As the preset for learned features has it: start, diffeomorphic, compared by mean squares."""
    config = Config(
        method="dio", model="tiny-features", similarity=Choice("mse"), start=Start("centers", "none"),
        schedule=Schedule((4,), (3,)), device="cpu",
    )  # fmt: skip
    session = RegistrationSession(make_pair(0, (24, 24, 24)).pair, config)
    session.run()
    told = session.result().provenance["model"]
    assert told == {"file": "tiny-features.safetensors", "sha256": read_card(own / "tiny-features.safetensors").sha256}


def test_the_command_line_lists_and_refuses_by_name(own, tmp_path, capsys):
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [row["name"] for row in rows] == ["tiny-features", "tiny-map"]
    assert "unet-e" in rows[0]["help"] and "dio" in rows[0]["help"] and "generated anatomy" in rows[0]["help"]
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"] == ["tiny-features", "tiny-map"] and told["model_folder"] == str(own)


def test_the_librarys_own_models_are_whole():
    """What lies in the folder can be loaded, and its card says that the data were generated."""
    for name in model_names():
        card = read_card(model_path(name))
        assert card.data and card.licence and "generated" in card.data.lower()


def test_names_are_told_without_torch():
    code = (
        "import sys; from DeepDiffRegLib.networks import files; files.model_names(); assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-300:]
