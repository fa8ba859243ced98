"""Every choice of a registration, as small frozen values; presets are JSON files that name them.

An unknown key is an error that suggests the nearest known one. ``Config.to_dict`` is stored with every result, and
``Config.from_dict`` of it repeats the run.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .registry import nearest


@dataclass(frozen=True)
class Choice:
    """A registered name with its options, written in JSON as ``"lncc"`` or ``{"name": "lncc", "radius_voxels": 2}``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Preprocess:
    """clip_percentiles: intensities outside are clipped, then mapped to [0, 1]; window: fixed limits instead (CT, in HU).

    crop: solve on the box around the anatomy plus ``margin_mm`` (both scans' air is left out); the result covers all.
    """

    clip_percentiles: tuple[float, float] = (0.1, 99.9)
    window: tuple[float, float] | None = None
    crop: bool = True
    margin_mm: float = 16.0


@dataclass(frozen=True)
class Schedule:
    """factors: down-sampling per level, coarse to fine (1 is full resolution); iterations: most steps on each.

    minimum_size: voxels per axis that no level goes below. tolerance: a level ends when the loss falls by less than this
    share per iteration.
    """

    factors: tuple[float, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (100, 80, 30)
    minimum_size: int = 16
    tolerance: float = 1e-5

    def __post_init__(self):
        if len(self.factors) != len(self.iterations) or not self.factors:
            raise ConfigError(
                f"Schedule: factors and iterations must be equally long, got {self.factors} and {self.iterations}"
            )


@dataclass(frozen=True)
class Start:
    """Where the deformable stage starts. transform: ``none``, ``rigid``, ``similarity`` or ``affine``.

    initial: ``auto`` (best of centres and moments), ``identity``, ``centers`` or ``moments``.
    """

    initial: str = "auto"
    transform: str = "affine"
    similarity: Choice = field(default_factory=lambda: Choice("lncc", {"radius_voxels": 2}))
    schedule: Schedule = field(default_factory=lambda: Schedule((8, 4, 2), (100, 50, 20)))


@dataclass(frozen=True)
class PromptOptions:
    """How strongly and how far prompts act, and how long an interactive update may take.

    landmark_sigma_mm: reach of a landmark (None: ``landmark_hold_mm`` once it is met, wider on the way there).
    *_weight: force relative to the scans'. update_*: levels of an update with near landmarks; far_*: of one with label pairs
    or landmarks farther than ``far_mm`` from where they belong. Both continue from the current map.
    """

    landmark_sigma_mm: float | None = None
    landmark_hold_mm: float = 3.0
    landmark_weight: float = 1.0
    label_weight: float = 3.0
    far_mm: float = 10.0
    update_factors: tuple[float, ...] = (2, 1)
    update_iterations: tuple[int, ...] = (20, 5)
    far_factors: tuple[float, ...] = (4, 2, 1)
    far_iterations: tuple[int, ...] = (60, 80, 20)

    def schedule(self, whole: Schedule, far: bool) -> Schedule:
        """Levels of an update: never finer than the run's own finest level."""
        factors = self.far_factors if far else self.update_factors
        iterations = self.far_iterations if far else self.update_iterations
        factors = tuple(max(f, min(whole.factors)) for f in factors)
        return dataclasses.replace(whole, factors=factors, iterations=iterations, tolerance=0.0)


@dataclass(frozen=True)
class Config:
    """The fully resolved configuration of one run: the four choices that compose, and where it runs.

    model: file with a network's weights, for methods that need one.
    half_precision: keep the features of similarities that compare descriptors (MIND) in 16 bits: less memory, some time.
    """

    name: str = "default"
    help: str = ""
    method: str = "iterative"
    model: str | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    start: Start = field(default_factory=Start)
    transform: Choice = field(default_factory=lambda: Choice("diffeomorphic"))
    similarity: Choice = field(default_factory=lambda: Choice("lncc", {"radius_voxels": 2}))
    regularization: tuple[Choice, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    max_memory_gb: float | None = None
    half_precision: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default spelled out."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        return _build(cls, values, "config")

    def replace(self, **changes) -> Config:
        return dataclasses.replace(self, **changes)


_NESTED = {
    (Config, "preprocess"): Preprocess,
    (Config, "start"): Start,
    (Config, "schedule"): Schedule,
    (Config, "prompts"): PromptOptions,
    (Start, "schedule"): Schedule,
}
_CHOICES = {(Config, "transform"), (Config, "similarity"), (Start, "similarity")}


def choice(value: str | dict[str, Any] | Choice) -> Choice:
    """``"lncc"`` or ``{"name": ..., "weight": ..., <options>}`` to a ``Choice``."""
    if isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return Choice(value)
    if not isinstance(value, dict) or "name" not in value:
        raise ConfigError(f"a choice must be a name or an object with a 'name', got {value!r}")
    rest = {k: v for k, v in value.items() if k not in ("name", "weight", "options")}
    return Choice(value["name"], {**value.get("options", {}), **rest}, float(value.get("weight", 1.0)))


def _build(cls, values: dict[str, Any], where: str):
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, got {values!r}")
    known = [f.name for f in dataclasses.fields(cls)]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        if (cls, key) in _NESTED:
            value = _build(_NESTED[cls, key], value, f"{where}.{key}")
        elif (cls, key) in _CHOICES:
            value = choice(value)
        elif (cls, key) == (Config, "regularization"):
            value = tuple(choice(v) for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        arguments[key] = value
    return cls(**arguments)


def preset_folder() -> Path:
    """Where the presets lie: inside an installed package, or in ``Resources/Presets`` of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "presets"
    return installed if installed.is_dir() else here.parent / "Resources" / "Presets"


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_folder().glob("*.json"))


def load_preset(name: str) -> Config:
    """Read ``Resources/Presets/<name>.json``; an unknown name suggests the nearest."""
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    path = preset_folder() / f"{name}.json"
    return Config.from_dict({"name": name, **json.loads(path.read_text(encoding="utf-8"))})
