"""Trained networks as files: ``NAME.safetensors`` with the weights and ``NAME.json``, the model card, beside it.

A card says what the model is, what it was trained on and what it expects, and holds the hash of its weights. Loading never
runs code from a file: anything but safetensors is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data.atomic import write_aside
from ..errors import ConfigError, InputError
from ..registry import nearest
from . import network_class
from .base import Stored

SUFFIX = ".safetensors"
KERAS = (".h5", ".hdf5", ".keras")
MAGIC = {b"PK\x03\x04": "a zip archive as torch.save writes it", b"\x80": "a Python pickle", b"\x89HDF": "an HDF5 file"}


@dataclass(frozen=True)
class CanonicalGrid:
    """The grid a model was trained on. size, spacing_mm: x, y[, z]. direction: rows; columns are its axes in LPS.

    anatomy_center: voxel (x, y[, z]) on which the middle of the box around the anatomy lies; empty: the grid's middle.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]
    anatomy_center: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("size", "spacing_mm", "anatomy_center"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "direction", tuple(tuple(row) for row in self.direction))
        d = len(self.size)
        lengths = {len(self.spacing_mm), len(self.direction), *map(len, self.direction), len(self.anatomy_center) or d}
        numbers = (*self.size, *self.spacing_mm, *self.anatomy_center, *(v for row in self.direction for v in row))
        if d not in (2, 3) or lengths != {d} or not all(type(v) in (int, float) for v in numbers):
            raise ConfigError(f"canonical grid: size, spacing_mm and direction must all be 2-D or 3-D, got {self}")


@dataclass(frozen=True)
class Intensities:
    """What the model's scans were brought to, on its grid: the percentiles at 0 and ``top``, clamped to [0, 1]."""

    clip_percentiles: tuple[float, float] = (0.1, 99.9)
    top: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "clip_percentiles", tuple(self.clip_percentiles))
        low, high = self.clip_percentiles
        if not (0 <= low < high <= 100 and self.top > 0):
            raise ConfigError(f"intensities: percentiles must increase within 0 to 100 and top be positive, got {self}")


@dataclass(frozen=True)
class ModelCard:
    """network, architecture: what to build. canonical: grid of its input (None: any grid will do). data, licence, notes: text.

    metrics: numbers of its validation. seed: of its training. prior: ``precision`` and ``smoothing_voxels`` of a probabilistic
    network (see ``posterior``). looks: how often it was trained to look at a pair. sha256: of the file with the weights.
    """

    network: str
    architecture: dict[str, Any]
    licence: str
    data: str
    canonical: CanonicalGrid | None = None
    preprocessing: Intensities = field(default_factory=Intensities)
    metrics: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    prior: dict[str, float] = field(default_factory=dict)
    notes: str = ""
    sha256: str = ""
    library_version: str = __version__
    looks: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelCard:
        """The inverse of ``to_dict``; an unknown or missing key is a ``ConfigError``."""
        nested = {"canonical": CanonicalGrid, "preprocessing": Intensities}
        made = {k: _build(nested[k], v, k) if k in nested and v is not None else v for k, v in _object(values).items()}
        return _build(cls, made, "model card")


@dataclass(frozen=True)
class Model:
    """A network with its weights, ready to predict, and what is known about it."""

    network: Stored
    card: ModelCard


def card_path(path: str | Path) -> Path:
    """Where the card of a weights file lies."""
    return Path(path).with_suffix(".json")


def save_model(path: str | Path, network: Stored, card: ModelCard) -> ModelCard:
    """Write weights and card (its architecture, hash and version are filled in); returns the card as written.

    Both are written aside and renamed. Raises ``InputError`` when the folder cannot be written.
    """
    from safetensors.torch import save

    path = _checked_name(path)
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    content = save(tensors)
    card = dataclasses.replace(
        card,
        architecture=network.architecture.to_dict(),
        sha256=hashlib.sha256(content).hexdigest(),
        library_version=__version__,
    )
    text = json.dumps(card.to_dict(), indent=2) + "\n"
    with write_aside(path) as aside:
        aside.write_bytes(content)
        card_path(aside).write_text(text, encoding="utf-8")
    return card


def read_card(path: str | Path) -> ModelCard:
    """The card of a weights file, checked against it: the file exists, is no pickle, and its hash is the card's."""
    return _read(path)[0]


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Weights and card of ``NAME.safetensors``; the network is in evaluation mode, without gradients.

    Raises ``InputError`` in one line for a missing, foreign, truncated or changed file and for weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    card, content = _read(path)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy it again") from error
    try:
        kind = network_class(card.network)
        architecture = type(kind.variant()).from_dict(card.architecture)
        with torch.device("meta"):
            network = kind(architecture)
    except ConfigError as error:
        raise InputError(f"{card_path(path)}: {error}") from error
    _check_tensors(path, network, tensors)
    network.load_state_dict(tensors, assign=True)
    return Model(network.requires_grad_(False).eval().to(device), card)


def _read(path: str | Path) -> tuple[ModelCard, bytes]:
    path = _checked_name(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    content = path.read_bytes()
    for magic, what in MAGIC.items():
        # a safetensors file starts with the length of its header, which may begin like a pickle, and then the header's brace
        if content.startswith(magic) and content[8:9] != b"{":
            raise InputError(f"{path}: is {what}, not a safetensors file; refused, because such files can run code")
    beside = card_path(path)
    if not beside.is_file():
        raise InputError(f"{path}: its model card {beside.name} is missing; keep both files together")
    try:
        card = ModelCard.from_dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # ConfigError is a ValueError
        raise InputError(f"{beside}: not a usable model card: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise InputError(
            f"{path}: its SHA-256 {found[:12]}... is not the card's {card.sha256[:12]}...; the file is damaged, was changed or "
            "belongs to another card"
        )
    return card, content


def _checked_name(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() in KERAS:
        raise InputError(f"{path}: Keras weights have to be imported first: deepdiffreg import-weights {path.name}")
    if path.suffix != SUFFIX:
        raise InputError(
            f"{path}: models are {SUFFIX} files; others, such as pickled .pt or .pkl, are refused because they can run code"
        )
    return path


def _check_tensors(path: str | Path, network: Stored, tensors: dict[str, torch.Tensor]) -> None:
    expected = {name: t.shape for name, t in network.state_dict().items()}
    for name in expected.keys() ^ tensors.keys():
        problem = "lacks" if name in expected else "has the unknown"
        raise InputError(f"{path}: {problem} weights {name!r}; they do not belong to the card's architecture")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name] or tensor.dtype != torch.float32:
            raise InputError(
                f"{path}: weights {name!r} must be float32 of shape {tuple(expected[name])}, got {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: weights {name!r} hold NaN or Inf")


def _object(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"expected one JSON object, got {type(values).__name__}")
    return values


def _build(cls, values: Any, where: str):
    """A dataclass from a dict with exactly its keys; those with a default may be missing."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in _object(values):
        if name not in fields:
            raise ConfigError(f"{where}: unknown key {name!r}{nearest(name, fields)}")
    optional = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, f in fields.items() if n not in values and (f.default, f.default_factory) == optional]
    if missing:
        raise ConfigError(f"{where}: {missing[0]!r} is missing")
    return cls(**values)
