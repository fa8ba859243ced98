"""The configuration of a training as a JSON file: network, data, augmentation, losses, optimization. Unknown keys are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config import Choice, build, choice, choices
from ..errors import ConfigError, InputError
from ..methods.implicit import Layer
from ..networks import FEATURES
from ..networks.weights import CanonicalGrid, Intensities
from ..registry import nearest
from .feature_task import Curriculum
from .network_choice import NetworkChoice
from .options import FitOptions

Made = TypeVar("Made")
MODES = ("all", "atlas", "pairs")
ALIGNMENTS = ("none", "rigid", "affine")


@dataclass(frozen=True)
class Data:
    """scans: a folder of scans, or a CSV with the columns image, [labels], [surface], [split], [pair].

    mode ``all``: any scan on any other; ``atlas``: every scan on ``atlas`` (with ``atlas_labels``, ``atlas_surface``); ``pairs``:
    the two scans of the same value in the column pair, the first one fixed. both_directions: every second step repeats the
    pairs of the one before with exchanged roles. labels: which ones (empty: all). grid: what all scans are brought to (None:
    the grid of the atlas or of the first scan). intensities: percentiles at 0 and ``top``. align: every scan to the atlas or
    the first scan, once. validation: number of scans held out when no column split says which. validation_pairs: at most.
    batch: pairs per step. patch: size x, y[, z] of boxes to train on. surface_points: per scan and step. description: of the
    scans, for the model card.
    """

    scans: str = ""
    mode: str = "all"
    atlas: str | None = None
    atlas_labels: str | None = None
    atlas_surface: str | None = None
    labels: tuple[int, ...] = ()
    grid: CanonicalGrid | None = None
    intensities: Intensities = field(default_factory=Intensities)
    align: str = "none"
    validation: int = 0
    validation_pairs: int = 20
    both_directions: bool = False
    batch: int = 1
    patch: tuple[int, ...] | None = None
    surface_points: int = 5000
    description: str = ""

    def __post_init__(self):
        for name, known in (("mode", MODES), ("align", ALIGNMENTS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"data.{name}: unknown value {getattr(self, name)!r}{nearest(str(getattr(self, name)), known)}"
                )
        if not isinstance(self.scans, str) or not self.scans:
            raise ConfigError("data.scans is missing: a folder of scans or a CSV file with the column image")
        for name, least in (("validation", 0), ("validation_pairs", 1), ("batch", 1), ("surface_points", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"data.{name} must be a whole number of at least {least}, got {value!r}")
        if (self.mode == "atlas") != (self.atlas is not None):
            raise ConfigError("data.atlas and data.mode 'atlas' belong together: give both or neither")
        if self.atlas is None and (self.atlas_labels or self.atlas_surface):
            raise ConfigError("data.atlas_labels and data.atlas_surface need data.atlas")
        if not all(isinstance(v, int) and v > 0 for v in self.labels):
            raise ConfigError(f"data.labels must be positive whole numbers, got {self.labels}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training pairs, none by default. flip: axes (x, y, z) along which a pair is mirrored half of the times.

    rotation_deg, scale, shift_voxels: largest change of either scan, each drawn for itself (scale 0.1: 0.9 to 1.1). gamma: largest
    exponent of intensities is exp(gamma), the smallest exp(-gamma).
    """

    flip: tuple[str, ...] = ()
    rotation_deg: float = 0.0
    scale: float = 0.0
    shift_voxels: float = 0.0
    gamma: float = 0.0

    def __post_init__(self):
        if not set(self.flip) <= set("xyz"):
            raise ConfigError(f"augmentation.flip must name axes among x, y, z, got {self.flip!r}")
        for name in ("rotation_deg", "scale", "shift_voxels", "gamma"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"augmentation.{name} must be a number of at least 0, got {value!r}")
        if self.scale >= 1:
            raise ConfigError(f"augmentation.scale must be below 1, got {self.scale}")

    @property
    def moves(self) -> bool:
        """Whether scans are turned, scaled or shifted."""
        return max(self.rotation_deg, self.scale, self.shift_voxels) > 0


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a training needs; with the same seed and threads it gives the same network.

    layer, curriculum: of networks that give features, which are trained through the solver (None: the defaults); of no others.
    licence: of the weights, for the model card.
    """

    data: Data
    network: NetworkChoice = field(default_factory=NetworkChoice)
    layer: Layer | None = None
    curriculum: Curriculum | None = None
    losses: tuple[Choice, ...] = (Choice("lncc"), Choice("diffusion"))
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimization: FitOptions = field(default_factory=FitOptions)
    licence: str = "not stated"

    def __post_init__(self):
        for name, kind in (("layer", Layer), ("curriculum", Curriculum)):
            if self.network.name in FEATURES:
                object.__setattr__(self, name, getattr(self, name) or kind())
            elif getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}: belongs to networks that give features ({', '.join(FEATURES)}); {self.network.name!r} predicts a map"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default spelled out."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """The inverse of ``to_dict``; unknown keys and values are a ``ConfigError``."""
        if isinstance(values, dict) and "data" not in values:
            raise ConfigError("training config: 'data' is missing, an object with at least 'scans'")
        return build(cls, values, "training config", _CONVERTERS)


def _object_of(cls, name: str = ""):
    """None, or the object of ``cls`` that JSON values describe. name: of its key, for messages."""

    def convert(value):
        return None if value is None else build(cls, value, name or cls.__name__, _CONVERTERS)

    return convert


_CONVERTERS = {
    (TrainingConfig, "data"): Data,
    (TrainingConfig, "network"): NetworkChoice,
    (TrainingConfig, "layer"): _object_of(Layer, "layer"),
    (TrainingConfig, "curriculum"): _object_of(Curriculum, "curriculum"),
    (Layer, "transform"): choice,
    (Layer, "regularization"): choices,
    (TrainingConfig, "losses"): choices,
    (TrainingConfig, "augmentation"): Augmentation,
    (TrainingConfig, "optimization"): FitOptions,
    (Data, "grid"): _object_of(CanonicalGrid),
    (Data, "intensities"): Intensities,
}


def read_config(path: str | Path) -> TrainingConfig:
    """A training's JSON file; paths in it are relative to its folder. ``InputError`` in one line that names the file."""
    path = Path(path)
    config = read_json(path, TrainingConfig.from_dict)
    found = {}
    for name in ("scans", "atlas", "atlas_labels", "atlas_surface"):
        value = getattr(config.data, name)
        if value is not None:
            found[name] = str((path.parent / value).resolve())
    data = dataclasses.replace(config.data, **found)
    return dataclasses.replace(config, data=data, network=config.network.beside(path.parent))


def read_json(path: Path, from_dict: Callable[[Any], Made]) -> Made:
    """What ``from_dict`` makes of a JSON file. ``InputError`` or ``ConfigError`` in one line that names the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    try:
        return from_dict(values)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
