"""Configurations survive the trip through JSON, refuse what they do not know, and every preset is one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from DeepDiffRegLib.cli._config import add_config_options, read_config
from DeepDiffRegLib.cli.main import _Parser
from DeepDiffRegLib.config import Choice, Config, Schedule, choice, load_preset, preset_folder, preset_names
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.methods import METHODS
from DeepDiffRegLib.regularization import REGULARIZERS
from DeepDiffRegLib.similarity import SIMILARITIES
from DeepDiffRegLib.transforms import TRANSFORMS


def parse(*options):
    parser = _Parser()
    add_config_options(parser)
    return read_config(parser.parse_args(list(options)))


def test_round_trip_through_json():
    config = Config(
        transform=Choice("svf", {"steps": 7}),
        regularization=(Choice("diffusion", weight=0.5), Choice("folding")),
        schedule=Schedule((4, 2), (10, 5)),
        device="cpu",
        threads=2,
        max_memory_gb=1.5,
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_choice_spellings():
    assert choice("lncc") == Choice("lncc")
    assert choice({"name": "lncc", "radius_voxels": 3, "weight": 2}) == Choice("lncc", {"radius_voxels": 3}, 2.0)
    with pytest.raises(ConfigError, match="name"):
        choice({"radius_voxels": 3})


@pytest.mark.parametrize(
    ("values", "suggestion"),
    [
        ({"shedule": {}}, "schedule"),
        ({"schedule": {"factor": [1]}}, "factors"),
        ({"start": {"schedule": {"iteration": [1]}}}, "iterations"),
        ({"preprocess": {"margin": 2}}, "margin_mm"),
        ({"prompts": {"landmarks_weight": 2}}, "landmark_weight"),
    ],
)
def test_unknown_key_suggests_the_nearest(values, suggestion):
    with pytest.raises(ConfigError, match=f"did you mean '{suggestion}'"):
        Config.from_dict(values)


def test_schedule_lists_must_match():
    with pytest.raises(ConfigError, match="equally long"):
        Schedule((4, 2), (10,))


def test_the_expected_presets_exist():
    assert {"default", "fast"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_and_fits_on_a_screen(name):
    text = (preset_folder() / f"{name}.json").read_text(encoding="utf-8")
    config = load_preset(name)
    assert config.name == name
    assert config.help
    assert len(text.splitlines()) <= 40
    assert config.method in METHODS and config.transform.name in TRANSFORMS
    assert config.similarity.name in SIMILARITIES and config.start.similarity.name in SIMILARITIES
    assert all(term.name in REGULARIZERS for term in config.regularization)
    SIMILARITIES.build(config.similarity.name, **config.similarity.options)
    for term in config.regularization:
        REGULARIZERS.build(term.name, **term.options)


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        load_preset("defaut")


def test_options_override_the_preset():
    config = parse("--transform", "svf", "--similarity", "mi", "--seed", "3", "--device", "cpu", "--threads", "1")
    assert (config.transform, config.similarity) == (Choice("svf"), Choice("mi"))
    assert (config.seed, config.device, config.threads) == (3, "cpu", 1)


def test_naming_the_presets_own_choice_keeps_its_options():
    preset = load_preset("default")
    assert parse("--similarity", preset.similarity.name).similarity == preset.similarity


def test_what_is_compared_beside_a_similarity_goes_with_it():
    assert parse("--preset", "multimodal").further_similarities == (Choice("mi"),)
    assert parse("--preset", "multimodal", "--similarity", "mind") == load_preset("multimodal")
    other = parse("--preset", "multimodal", "--similarity", "lncc")
    assert (other.similarity, other.further_similarities) == (Choice("lncc"), ())
    with pytest.raises(ConfigError, match="leave them out"):
        parse("--preset", "multimodal", "--set", "similarity.weight=0")


def test_start_none_switches_off_the_start():
    start = parse("--start", "none").start
    assert (start.initial, start.transform) == ("identity", "none")
    assert parse("--start", "centers").start.initial == "centers"


def test_set_reaches_nested_keys():
    config = parse("--set", "schedule.iterations=[3,2,1]", "--set", "schedule.factors=[4,2,1]", "--set", "help=mine")
    assert config.schedule.iterations == (3, 2, 1) and config.help == "mine"


def test_preset_from_a_file(tmp_path):
    path = Path(tmp_path / "mine.json")
    path.write_text(json.dumps({"help": "my own", "similarity": "mse"}))
    config = parse("--preset", str(path))
    assert (config.name, config.similarity.name) == ("mine", "mse")
