"""Training on generated pairs alone, from a recipe to a model file: how the models that come with the library were made.

A recipe is a JSON file (``Resources/Models/recipes``) with the keys of ``Recipe``. Feature networks learn by ``contrastive_task``,
those that predict a map by the losses of the recipe.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config import Choice, build, choices
from ..errors import ConfigError, InputError
from ..networks import FEATURES, NETWORKS, network_class
from ..networks.base import Stored
from ..networks.weights import CanonicalGrid, ModelCard, load_model, save_model
from ..progress import Progress
from .checkpoint import has_checkpoint
from .contrastive_task import Contrast, ContrastiveTask
from .devices import first_process, make_fabric
from .loop import Fitted, fit
from .options import FitOptions
from .run import MODEL, Trained, check_folder
from .streams import torch_seed
from .synthetic import STREAM, Synthetic, SyntheticPairs
from .tasks import DrawnTask, PairTask, make_terms
from .validation import judged

HELD_OUT = STREAM + 1
KEY = "synthetic"
"""What tells a recipe from the configuration of a training on scans."""


@dataclass(frozen=True)
class NetworkChoice:
    """name: registered network. variant: its named architecture (None: the first). architecture: values that differ from it.

    start_from: a trained model of the same architecture whose weights to start from.
    """

    name: str
    variant: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None


@dataclass(frozen=True)
class Recipe:
    """synthetic: what is generated. pairs: per step. contrast: of feature networks. losses: of the others. held_out: generated
    pairs, never trained on, that ``validate_every`` looks at. canonical_mm: voxels of the card's grid for networks that predict a
    map. description, licence: for the card."""

    network: NetworkChoice
    synthetic: Synthetic = field(default_factory=Synthetic)
    pairs: int = 1
    contrast: Contrast = field(default_factory=Contrast)
    losses: tuple[Choice, ...] = ()
    held_out: int = 8
    canonical_mm: float = 2.0
    optimization: FitOptions = field(default_factory=FitOptions)
    description: str = "generated anatomies with random contrasts, no scan of anybody"
    licence: str = "Apache-2.0"

    def __post_init__(self):
        kind = network_class(self.network.name)
        ndim = architecture_of(self.network, kind).ndim
        if len(self.synthetic.shape) != ndim:
            raise ConfigError(f"recipe: the network is {ndim}-D, but synthetic.shape is {self.synthetic.shape}")
        for name in ("pairs", "held_out"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"recipe: {name} must be a whole number of at least 1, got {value!r}")
        if (self.network.name in NETWORKS) != bool(self.losses):
            raise ConfigError(
                "recipe: networks that predict a map need losses; feature networks learn by 'contrast' and have none"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default spelled out."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of ``to_dict``; an unknown or missing key is a ``ConfigError``."""
        return build(cls, values, "recipe", _CONVERTERS)


def _object_of(cls):
    def convert(value):
        return build(cls, value, cls.__name__, {})

    return convert


_CONVERTERS = {
    (Recipe, "network"): _object_of(NetworkChoice),
    (Recipe, "synthetic"): _object_of(Synthetic),
    (Recipe, "contrast"): _object_of(Contrast),
    (Recipe, "losses"): choices,
    (Recipe, "optimization"): _object_of(FitOptions),
}


def is_recipe(path: str | Path) -> bool:
    """Whether a JSON file trains on generated pairs; False for what cannot be read, which reading it will say."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and KEY in values


def read_recipe(path: str | Path) -> Recipe:
    """A recipe's JSON file; ``start_from`` is relative to its folder. ``InputError`` or ``ConfigError`` naming the file."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe.from_dict(values)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if recipe.network.start_from is None:
        return recipe
    start = str((path.parent / recipe.network.start_from).resolve())
    return dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, start_from=start))


def architecture_of(wanted: NetworkChoice, kind: type[Stored]):
    """The architecture that is meant; ``ConfigError`` for unknown names and values."""
    variant = kind.variant(wanted.variant)
    return type(variant).from_dict({**variant.to_dict(), **wanted.architecture})


def make_network(recipe: Recipe) -> Stored:
    """With random weights from the seed, or those of ``start_from``."""
    kind = network_class(recipe.network.name)
    torch.manual_seed(torch_seed(recipe.optimization.seed))
    network = kind(architecture_of(recipe.network, kind))
    if recipe.network.start_from is not None:
        model = load_model(recipe.network.start_from)
        if type(model.network) is not kind or model.network.architecture != network.architecture:
            raise ConfigError(f"recipe: {recipe.network.start_from} is a {model.card.network} of another architecture")
        network.load_state_dict(model.network.state_dict())
    return network


def make_task(recipe: Recipe, network: Stored) -> DrawnTask:
    """What is trained: pairs by step, and held-out pairs of a stream of their own."""
    seed = recipe.optimization.seed
    draw = SyntheticPairs(recipe.synthetic, seed, recipe.pairs)
    held_out = SyntheticPairs(recipe.synthetic, seed, stream=HELD_OUT)
    if recipe.network.name in FEATURES:
        return ContrastiveTask(network, draw, recipe.contrast, held_out, recipe.held_out, seed)
    spacing = (recipe.canonical_mm,) * network.architecture.ndim

    def validate() -> dict[str, float]:
        return judged(network, (held_out(number) for number in range(recipe.held_out)), spacing)

    return PairTask(network, make_terms(recipe.losses, network), draw, validate, seed)


def train_recipe(recipe: Recipe, outdir: str | Path, progress: Progress | None = None, resume: bool = False) -> Trained:
    """Train and write ``model.safetensors`` with its card into ``outdir``, which also receives checkpoints and the history.

    resume: continue what was stopped there, with the same recipe: on the CPU with as many threads bit for bit.
    """
    progress, outdir = progress or Progress(), Path(outdir)
    make_fabric(recipe.optimization)
    network = make_network(recipe)
    task = make_task(recipe, network)
    check_folder(recipe, outdir, resume)
    fitted = fit(task, recipe.optimization, progress, outdir, resume and has_checkpoint(outdir))
    if progress.cancelled():
        return Trained(fitted, None, None)
    card = recipe_card(recipe, fitted)
    if first_process():
        card = save_model(outdir / MODEL, fitted.network, card)
    return Trained(fitted, outdir / MODEL, card)


def recipe_card(recipe: Recipe, fitted: Fitted) -> ModelCard:
    """What the model is, what it saw and how well it does on generated pairs that it did not see."""
    ndim, canonical, prior = len(recipe.synthetic.shape), None, {}
    if recipe.network.name in NETWORKS:
        direction = tuple(tuple(float(i == j) for j in range(ndim)) for i in range(ndim))
        canonical = CanonicalGrid(recipe.synthetic.shape[::-1], (recipe.canonical_mm,) * ndim, direction)
        for term in make_terms(recipe.losses, fitted.network):
            if term.name == "kl":
                smoothing = term.loss.smoothing_voxels(ndim)
                prior = {"precision": float(term.loss.precision), "smoothing_voxels": float(smoothing)}
    synthetic, options = recipe.synthetic, recipe.optimization
    anatomies = ", ".join(f"{name} {share:g}" for name, share in synthetic.kinds)
    low, high = synthetic.voxel_mm
    notes = [
        f"{fitted.step} steps of {recipe.pairs} pairs of {'x'.join(map(str, synthetic.shape))} voxels of {low:g} to {high:g} mm",
        f"anatomies {anatomies}",
        f"Adam {options.learning_rate:g}, decay {options.decay}",
        *fitted.notes,
    ]
    return ModelCard(
        recipe.network.name,
        {},
        recipe.licence,
        recipe.description,
        canonical,
        metrics={**fitted.metrics, "steps": float(fitted.step), "training_seconds": fitted.seconds},
        seed=options.seed,
        prior=prior,
        notes="; ".join(notes),
    )
