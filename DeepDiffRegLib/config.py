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

PRIORS = ("posterior", "none")
MOST_FRAMES = 101


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
class NetworkOptions:
    """How a network is asked, and what is made of the prediction of a probabilistic one.

    looks: how often it sees the pair, from the second time on through the map so far (None: as it was trained). prior: ``posterior`` holds a refinement with transform ``svf`` to the predicted velocity, the tighter the surer the network
    was; ``none`` only starts there. image_sigma: noise of the scans in [0, 1], which weighs them against that prior.
    precision: of the smoothness prior in the refinement (None: that of the training, 0: without). samples: velocities that are
    drawn for the maps of uncertainty (0: no maps).
    """

    prior: str = "posterior"
    image_sigma: float = 0.02
    precision: float | None = None
    samples: int = 20
    looks: int | None = None

    def __post_init__(self):
        if self.looks is not None and (
            not isinstance(self.looks, int) or isinstance(self.looks, bool) or self.looks < 1
        ):
            raise ConfigError(f"network.looks must be a whole number of at least 1, got {self.looks!r}")
        if self.prior not in PRIORS:
            raise ConfigError(f"network.prior: unknown value {self.prior!r}{nearest(str(self.prior), PRIORS)}")
        numbers = [self.image_sigma, 0.0 if self.precision is None else self.precision, self.samples]
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in numbers):
            raise ConfigError(f"network: image_sigma, precision and samples must be numbers, got {numbers}")
        if not 0 < self.image_sigma < float("inf"):
            raise ConfigError(f"network.image_sigma must be positive, got {self.image_sigma}")
        if not 0 <= numbers[1] < float("inf"):
            raise ConfigError(f"network.precision must not be negative, got {self.precision}")
        if self.samples not in (0, *range(2, 256)):
            raise ConfigError(f"network.samples must be 0 or 2 to 255, got {self.samples}")


@dataclass(frozen=True)
class Config:
    """The fully resolved configuration of one run: the four choices that compose, and where it runs.

    model: file with a network's weights, for methods that need one.
    further_similarities: compared beside ``similarity``, on the scans themselves also where that compares learned features; the
    weight of each is its force relative to the one of ``similarity``.
    half_precision: keep the features of similarities that compare descriptors (MIND) in 16 bits: less memory, some time.
    intermediate: write the maps phi_t at this many times from 0 to 1, both included, and every stored velocity (0: none).
    """

    name: str = "default"
    help: str = ""
    method: str = "iterative"
    model: str | None = None
    network: NetworkOptions = field(default_factory=NetworkOptions)
    preprocess: Preprocess = field(default_factory=Preprocess)
    start: Start = field(default_factory=Start)
    transform: Choice = field(default_factory=lambda: Choice("diffeomorphic"))
    similarity: Choice = field(default_factory=lambda: Choice("lncc", {"radius_voxels": 2}))
    further_similarities: tuple[Choice, ...] = ()
    regularization: tuple[Choice, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    max_memory_gb: float | None = None
    half_precision: bool = False
    intermediate: int = 0

    def __post_init__(self):
        if self.intermediate and not 2 <= self.intermediate <= MOST_FRAMES:
            raise ConfigError(
                f"intermediate: 0 or a number from 2 to {MOST_FRAMES} is needed, got {self.intermediate!r}"
            )
        if self.further_similarities and not self.similarity.weight:
            raise ConfigError(
                "further_similarities: their force is relative to that of similarity, whose weight is 0; leave them out: []"
            )
        if any(not choice.weight > 0 for choice in self.further_similarities):
            raise ConfigError(f"further_similarities: weights must be positive, got {self.further_similarities}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default spelled out."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        return build(cls, values, "config", _CONVERTERS)

    def replace(self, **changes) -> Config:
        return dataclasses.replace(self, **changes)

    def compared_by(self, similarity: str) -> Config:
        """With another similarity, its own defaults and none beside it; its own one stays, with all that goes with it."""
        if similarity == self.similarity.name:
            return self
        return self.replace(similarity=Choice(similarity), further_similarities=())

    def moved_by(self, transform: str) -> Config:
        """With another transform model and its own defaults; its own one stays, with all its options."""
        return self if transform == self.transform.name else self.replace(transform=Choice(transform))


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


def choices(values: list[str | dict[str, Any]]) -> tuple[Choice, ...]:
    """Several of them."""
    return tuple(choice(v) for v in values)


def build(cls, values: dict[str, Any], where: str, converters: dict[tuple[type, str], Any]):
    """A dataclass from JSON values with keys of its fields; an unknown key is a ``ConfigError`` suggesting the nearest.

    where: what the object is called in messages. converters: for (class, key), the dataclass that the value is built as, or the
    function that makes it; other lists become tuples.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, got {values!r}")
    known = [f.name for f in dataclasses.fields(cls)]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        convert = converters.get((cls, key))
        if dataclasses.is_dataclass(convert):
            value = build(convert, value, f"{where}.{key}", converters)
        elif convert is not None:
            value = convert(value)
        elif isinstance(value, list):
            value = tuple(value)
        arguments[key] = value
    return cls(**arguments)


_CONVERTERS = {
    (Config, "preprocess"): Preprocess,
    (Config, "network"): NetworkOptions,
    (Config, "start"): Start,
    (Config, "schedule"): Schedule,
    (Config, "prompts"): PromptOptions,
    (Start, "schedule"): Schedule,
    (Config, "transform"): choice,
    (Config, "similarity"): choice,
    (Start, "similarity"): choice,
    (Config, "further_similarities"): choices,
    (Config, "regularization"): choices,
}


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
