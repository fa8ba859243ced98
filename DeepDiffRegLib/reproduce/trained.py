"""Networks that experiments train: a recipe and a source of batches in, the trained network out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import Cancelled
from ..methods.implicit import Layer
from ..networks import FEATURES, NETWORKS
from ..networks.base import FeatureNetwork, Network, Stored
from ..progress import Progress, Step
from ..registry import Registry
from ..result import Status
from ..training.base import Batch, Task
from ..training.feature_task import FeatureTask
from ..training.loop import fit
from ..training.options import FitOptions
from ..training.tasks import PairTask, make_terms

Draw = Callable[[int], Batch]


@dataclass(frozen=True)
class Recipe:
    """A 2-D network and how it is trained. network: a registered name, or a class. losses: as in ``make_terms``.

    variant, architecture: as in ``Network.variant``. looks, looks_from: as in ``PairTask``.
    """

    network: str | type[Network]
    losses: tuple[str | dict[str, Any], ...]
    steps: int
    variant: str = "light"
    architecture: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    decay: str = "polynomial"
    looks: int = 1
    looks_from: int = 0


@dataclass(frozen=True)
class FeatureRecipe(Recipe):
    """A 2-D network of the table ``FEATURES``, trained through the solver. layer: of the training. joins: as in ``FeatureTask``."""

    layer: Layer = field(default_factory=Layer)
    joins: tuple[int, ...] = ()


class Part(Progress):
    """The share ``span`` of another progress: what it is told goes on there, and a cancel there stops it."""

    def __init__(self, whole: Progress, span: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        self._whole, self._span = whole, span

    def report(self, step: Step) -> None:
        first, last = self._span
        fraction = first + (last - first) * step.fraction
        self._whole.report(replace(step, fraction=fraction, seconds_left=self._whole.seconds_left(fraction)))

    def cancelled(self) -> bool:
        return self._whole.cancelled()


def trained(
    recipe: Recipe, draw: Draw, seed: int, progress: Progress | None = None, begin: Network | None = None
) -> Network:
    """The network of a recipe, trained from weights of ``seed`` on the CPU; in evaluation mode.

    draw: step to batch (``training.base.Batch``). Two recipes with one seed see the same batches and, where their networks are
    the same, start from the same weights. begin: a network that has some of the weights, to start there. Raises ``Cancelled`` when
    ``progress`` asks for it.
    """
    network = untrained(NETWORKS, recipe, seed)
    if begin is not None:
        network.load_state_dict(network.state_dict() | begin.state_dict())
    looks = {"looks": recipe.looks, "looks_from": recipe.looks_from}
    return _fitted(
        PairTask(network, make_terms(recipe.losses, network), draw, seed=seed, **looks), recipe, seed, progress
    )


def trained_features(recipe: FeatureRecipe, draw: Draw, seed: int, progress: Progress | None = None) -> FeatureNetwork:
    """The same for a network that gives features; ``Cancelled`` when ``progress`` asks for it."""
    network = untrained(FEATURES, recipe, seed)
    terms = make_terms(recipe.losses, network)
    return _fitted(
        FeatureTask(network, terms, draw, recipe.layer, seed=seed, joins=recipe.joins), recipe, seed, progress
    )


def untrained(table: Registry, recipe: Recipe, seed: int) -> Stored:
    """The network of a recipe with random weights."""
    torch.manual_seed(seed)
    kind = table.load(recipe.network) if isinstance(recipe.network, str) else recipe.network
    return kind(kind.variant(recipe.variant, **{"ndim": 2, **recipe.architecture}))


def _fitted(task: Task, recipe: Recipe, seed: int, progress: Progress | None) -> Stored:
    options = FitOptions(
        steps=recipe.steps, learning_rate=recipe.learning_rate, decay=recipe.decay, device="cpu", seed=seed
    )
    fitted = fit(task, options, progress)
    if fitted.status is Status.CANCELLED:
        raise Cancelled("cancelled; nothing was written")
    return fitted.network
