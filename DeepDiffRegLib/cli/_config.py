"""From command-line arguments to the configuration of a run."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ..config import Config, Start, load_preset, preset_names
from ..errors import ConfigError, InputError
from ..methods import METHODS
from ..networks.files import model_names, with_model
from ..registry import nearest
from ..similarity import SIMILARITIES
from ..transforms import TRANSFORMS

INITIALS = ("auto", "identity", "centers", "moments")
START_TRANSFORMS = ("none", "rigid", "similarity", "affine")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Preset, the four choices that compose, and where to run."""
    what = parser.add_argument_group("how to register")
    what.add_argument(
        "--preset", default="default", metavar="P", help=f"{', '.join(preset_names()) or 'a preset'}, or a .json file"
    )
    what.add_argument("--method", metavar="M", help=f"who solves it: {', '.join(METHODS)}")
    what.add_argument(
        "--model",
        metavar="FILE",
        help=f"network (.safetensors, its card beside it, or one of {', '.join(model_names()) or 'none yet'}) that predicts a start "
        "or gives features; its card decides between the methods feedforward and dio",
    )
    what.add_argument("--transform", metavar="T", help=f"transform model: {', '.join(TRANSFORMS)}")
    what.add_argument("--similarity", metavar="S", help=f"how scans are compared: {', '.join(SIMILARITIES)}")
    what.add_argument(
        "--start",
        metavar="I",
        help=f"first guess: {', '.join(INITIALS)}; none also switches off the affine stage (default: the preset's)",
    )
    what.add_argument("--start-transform", metavar="T", help=f"stage before deforming: {', '.join(START_TRANSFORMS)}")
    what.add_argument(
        "--initial", metavar="TRANSFORM", help="start from this fixed_to_moving transform (.h5, .tfm, .nii.gz)"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, as schedule.iterations=[100,50,5]",
    )
    where = parser.add_argument_group("where to run")
    where.add_argument("--device", default=None, metavar="D", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    where.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    where.add_argument("--seed", type=int, metavar="N", help="random seed (default: 0)")
    where.add_argument("--max-memory", type=float, metavar="GB", help="stay below this much memory")


def read_config(arguments: argparse.Namespace) -> Config:
    """The preset with every option of the command line applied; unknown names and keys are refused."""
    config = _preset(arguments.preset)
    values = config.to_dict()
    for assignment in arguments.set:
        _assign(values, assignment)
    config = Config.from_dict(values)
    if arguments.model:
        config = with_model(config, arguments.model, arguments.method)
    changes: dict[str, Any] = {"start": _start(config.start, arguments)}
    if arguments.method:
        changes["method"] = METHODS[arguments.method].name
    if arguments.similarity:
        config = config.compared_by(SIMILARITIES[arguments.similarity].name)
    if arguments.transform:
        config = config.moved_by(TRANSFORMS[arguments.transform].name)
    options = {
        "device": arguments.device, "threads": arguments.threads, "seed": arguments.seed, "max_memory_gb": arguments.max_memory,
        "intermediate": getattr(arguments, "intermediate", None),
    }  # fmt: skip
    changes.update({name: value for name, value in options.items() if value is not None})
    config = config.replace(**changes)
    _check(config)
    return config


def _preset(name: str) -> Config:
    path = Path(name)
    if path.suffix != ".json":
        return load_preset(name)
    if not path.is_file():
        raise InputError(f"--preset: {path}: no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"--preset: {path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"--preset: {path} must hold one JSON object")
    return Config.from_dict({"name": path.stem, **values})


def _start(start: Start, arguments: argparse.Namespace) -> Start:
    initial, transform = arguments.start or start.initial, arguments.start_transform or start.transform
    if arguments.start == "none":
        initial, transform = "identity", arguments.start_transform or "none"
    _one_of("--start", initial, (*INITIALS, "none"))
    _one_of("--start-transform", transform, START_TRANSFORMS)
    return dataclasses.replace(start, initial=initial, transform=transform)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{option}: unknown value {value!r}{nearest(value, known)}")


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Write ``a.b=VALUE`` into nested ``values``; VALUE is JSON, or text when it is not."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set: expected KEY=VALUE such as seed=1, got {assignment!r}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *folders, last = key.split(".")
    for folder in folders:
        if not isinstance(values.get(folder), dict):
            raise ConfigError(f"--set: unknown key {key!r}{nearest(folder, values)}")
        values = values[folder]
    values[last] = value


def _check(config: Config) -> None:
    for registry, name in ((METHODS, config.method), (TRANSFORMS, config.transform.name)):
        registry[name]
    for choice in (config.similarity, config.start.similarity, *config.further_similarities):
        SIMILARITIES[choice.name]
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {config.threads}")
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"--seed must lie between 0 and {2**32 - 1}, got {config.seed}")
    if config.max_memory_gb is not None and not config.max_memory_gb > 0:
        raise ConfigError(f"--max-memory must be positive, got {config.max_memory_gb} GB")
