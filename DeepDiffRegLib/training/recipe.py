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

from ..config import Choice, build, choices
from ..errors import ConfigError
from ..networks import FEATURES, NETWORKS
from ..networks.base import Stored
from ..networks.weights import CanonicalGrid, ModelCard, save_model
from ..progress import Progress
from .checkpoint import has_checkpoint
from .config import read_json
from .contrastive_task import Contrast, ContrastiveTask
from .devices import first_process, make_fabric
from .loop import Fitted, fit
from .network_choice import NetworkChoice, make_network
from .options import FitOptions
from .run import MODEL, Trained, check_folder
from .synthetic import STREAM, Synthetic, SyntheticPairs
from .tasks import DrawnTask, PairTask, make_terms, prior_of
from .teaching import Teacher, Teaching
from .validation import judged

HELD_OUT = STREAM + 1
KEY = "synthetic"
"""What tells a recipe from the configuration of a training on scans."""


@dataclass(frozen=True)
class Recipe:
    """synthetic: what is generated. pairs: per step. contrast, teaching: of feature networks. losses: of the others. held_out: generated
    pairs, never trained on, that ``validate_every`` looks at. canonical_mm: voxels of the card's grid for networks that predict a
    map. description, licence: for the card."""

    network: NetworkChoice
    synthetic: Synthetic = field(default_factory=Synthetic)
    pairs: int = 1
    contrast: Contrast = field(default_factory=Contrast)
    teaching: Teaching | None = None
    losses: tuple[Choice, ...] = ()
    held_out: int = 8
    canonical_mm: float = 2.0
    optimization: FitOptions = field(default_factory=FitOptions)
    description: str = "generated anatomies with random contrasts, no scan of anybody"
    licence: str = "Apache-2.0"

    def __post_init__(self):
        ndim = self.network.full_architecture.ndim
        if len(self.synthetic.shape) != ndim:
            raise ConfigError(f"recipe: the network is {ndim}-D, but synthetic.shape is {self.synthetic.shape}")
        for name in ("pairs", "held_out"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"recipe: {name} must be a whole number of at least 1, got {value!r}")
        if self.network.name in NETWORKS and self.teaching is not None:
            raise ConfigError("recipe: networks that predict a map have no 'teaching'; they learn by their losses")
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


def _teaching(values: dict[str, Any] | None) -> Teaching | None:
    return None if values is None else build(Teaching, values, "recipe.teaching", {})


_CONVERTERS = {
    (Recipe, "network"): NetworkChoice,
    (Recipe, "synthetic"): Synthetic,
    (Recipe, "contrast"): Contrast,
    (Recipe, "teaching"): _teaching,
    (Recipe, "losses"): choices,
    (Recipe, "optimization"): FitOptions,
}


def is_recipe(path: str | Path) -> bool:
    """Whether a JSON file trains on generated pairs; False for what cannot be read, which reading it will say."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and KEY in values


def read_recipe(path: str | Path) -> Recipe:
    """A recipe's JSON file; its models are relative to its folder. ``InputError`` or ``ConfigError`` naming the file."""
    path = Path(path)
    recipe = read_json(path, Recipe.from_dict)
    teaching = recipe.teaching and recipe.teaching.beside(path.parent)
    return dataclasses.replace(recipe, network=recipe.network.beside(path.parent), teaching=teaching)


def make_task(recipe: Recipe, network: Stored) -> DrawnTask:
    """What is trained: pairs by step, and held-out pairs of a stream of their own."""
    seed = recipe.optimization.seed
    draw = SyntheticPairs(recipe.synthetic, seed, recipe.pairs)
    held_out = SyntheticPairs(recipe.synthetic, seed, stream=HELD_OUT)
    if recipe.network.name in FEATURES:
        teacher = recipe.teaching and Teacher(recipe.teaching, network)
        return ContrastiveTask(network, draw, recipe.contrast, held_out, recipe.held_out, seed, teacher)
    chosen, spacing = recipe.network, (recipe.canonical_mm,) * network.architecture.ndim
    ways = (chosen.integrator, chosen.integration_steps)

    def validate() -> dict[str, float]:
        pairs = (held_out(number) for number in range(recipe.held_out))
        return judged(network, pairs, spacing, *ways, chosen.looks)

    terms = make_terms(recipe.losses, network)
    return PairTask(network, terms, draw, validate, seed, *ways, None, spacing, chosen.looks, chosen.looks_from)


def train_recipe(recipe: Recipe, outdir: str | Path, progress: Progress | None = None, resume: bool = False) -> Trained:
    """Train and write ``model.safetensors`` with its card into ``outdir``, which also receives checkpoints and the history.

    resume: continue what was stopped there, with the same recipe: on the CPU with as many threads bit for bit.
    """
    progress, outdir = progress or Progress(), Path(outdir)
    make_fabric(recipe.optimization)
    network = make_network(recipe.network, recipe.optimization.seed)
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
        prior = prior_of(make_terms(recipe.losses, fitted.network), ndim)
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
        looks=recipe.network.looks,
    )
