"""Networks that experiments train: a recipe and a source of batches in, the trained network out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import Cancelled
from ..networks import NETWORKS
from ..networks.base import Network
from ..progress import Progress, Step
from ..result import Status
from ..training.base import Batch
from ..training.loop import fit
from ..training.options import FitOptions
from ..training.tasks import PairTask, make_terms

Draw = Callable[[int], Batch]


@dataclass(frozen=True)
class Recipe:
    """A 2-D network and how it is trained. losses: as in ``make_terms``. variant, architecture: as in ``Network.variant``."""

    network: str
    losses: tuple[str | dict[str, Any], ...]
    steps: int
    variant: str = "light"
    architecture: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    decay: str = "polynomial"


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


def trained(recipe: Recipe, draw: Draw, seed: int, progress: Progress | None = None) -> Network:
    """The network of a recipe, trained from weights of ``seed`` on the CPU; in evaluation mode.

    draw: step to batch (``training.base.Batch``). Two recipes with one seed see the same batches and, where their networks are
    the same, start from the same weights. Raises ``Cancelled`` when ``progress`` asks for it.
    """
    torch.manual_seed(seed)
    kind = NETWORKS.load(recipe.network)
    network = kind(kind.variant(recipe.variant, **{"ndim": 2, **recipe.architecture}))
    task = PairTask(network, make_terms(recipe.losses, network), draw, seed=seed)
    options = FitOptions(
        steps=recipe.steps, learning_rate=recipe.learning_rate, decay=recipe.decay, device="cpu", seed=seed
    )
    fitted = fit(task, options, progress)
    if fitted.status is Status.CANCELLED:
        raise Cancelled("cancelled; nothing was written")
    return fitted.network
