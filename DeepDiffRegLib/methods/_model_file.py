"""The model file that a method was given: is it there, and is it of the kind that the method uses."""

from __future__ import annotations

from pathlib import Path

from ..config import Config
from ..errors import ConfigError, InputError
from ..networks.files import model_path
from ..networks.weights import ModelCard
from ..registry import Registry


def model_file(config: Config) -> Path:
    """The file of ``config.model``; ``ConfigError`` when there is none, ``InputError`` for a name that nobody knows."""
    if config.model is None:
        raise ConfigError(f"method {config.method!r} needs a model file: --model FILE.safetensors")
    return model_path(config.model)


def check_fit(card: ModelCard, config: Config, ndim: int, networks: Registry, otherwise: str) -> None:
    """Refuse a model whose network is not one of ``networks`` (otherwise: what to do with it) or of other dimensions."""
    if card.network not in networks:
        raise ConfigError(f"{config.model}: {card.network!r} {otherwise}")
    if (known := card.architecture.get("ndim", 3)) != ndim:
        raise InputError(f"{config.model}: this model is for {known}-D scans, but the scans are {ndim}-D")
