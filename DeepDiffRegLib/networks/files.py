"""Where model files lie and what they are for, told from their names and cards; no weights are read and torch is not loaded.

A model is ``NAME.safetensors`` with its card ``NAME.json`` beside it (``weights``). Some come with the library; they are
called by their bare name.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..config import Choice, Config
from ..errors import InputError
from . import FEATURES, NETWORKS

SUFFIX = ".safetensors"
METHOD_OF = (("dio", FEATURES), ("feedforward", NETWORKS))
"""The method that uses the networks of each table."""


def model_folder() -> Path:
    """Where the library's own models lie: inside an installed package, or in ``Resources/Models`` of a checkout."""
    here = Path(__file__).resolve().parent.parent
    installed = here / "models"
    return installed if installed.is_dir() else here.parent / "Resources" / "Models"


def model_names() -> list[str]:
    """Names of the models that come with the library."""
    return sorted(path.stem for path in model_folder().glob(f"*{SUFFIX}"))


def model_path(model: str | Path) -> Path:
    """The file that ``model`` means: a path, or the bare name of one of ``model_names``.

    A name without folders and without a file of that name is looked up among the library's own. Raises ``InputError`` when it
    is not there either; whether the file of any other path exists is not looked at.
    """
    path, name = Path(model), str(model)
    if len(path.parts) != 1 or name != path.name or path.is_file():
        return path
    own = name.removesuffix(SUFFIX)
    if own in model_names():
        return model_folder() / f"{own}{SUFFIX}"
    known = ", ".join(model_names()) or "none"
    raise InputError(f"{name}: no such model file, and none of the models that come with the library ({known})")


def network_of(model: str | Path) -> str:
    """Name of the network in a model's card; empty where there is no readable card (loading the model says why)."""
    try:
        card = json.loads(model_path(model).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # InputError is a ValueError
        return ""
    network = card.get("network") if isinstance(card, dict) else None
    return network if isinstance(network, str) else ""


def method_of(model: str | Path) -> str:
    """The method that a model is for: ``dio`` for feature networks, else ``feedforward``."""
    network = network_of(model)
    return next((method for method, table in METHOD_OF if network in table), "feedforward")


def with_model(config: Config, model: str, method: str = "") -> Config:
    """``config`` with this model and its method, or with the method that is given.

    Where that makes it a run on learned features, they are compared by mean squares, as the networks are trained.
    """
    method = method or method_of(model)
    becomes = method == "dio" and config.method != "dio"
    return config.replace(model=model, method=method, similarity=Choice("mse") if becomes else config.similarity)


def model_rows() -> list[dict[str, str]]:
    """Name, help and reference of the library's own models, for tables: what the card says of network and data."""
    rows = []
    for name in model_names():
        card = json.loads((model_folder() / f"{name}.json").read_text(encoding="utf-8"))
        rows.append(
            {"name": name, "help": f"{card['network']}, for method {method_of(name)}: {card['data']}", "reference": ""}
        )
    return rows
