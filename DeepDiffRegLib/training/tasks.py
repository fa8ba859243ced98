"""The task every experiment shares: pairs in, a weighted sum of losses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..config import Choice, choice
from ..errors import ConfigError, InputError
from ..networks import NETWORKS
from ..networks.base import Network, Prediction
from ..networks.posterior import Posterior
from . import LOSSES
from .base import Ask, Batch, Deformed, Loss
from .kl import KL
from .mapping import Mapping
from .streams import numbers, tensors

NOISE, PATCH = 1, 2
"""Which stream of random numbers: of the posterior, of the places of patches."""
LEAST_PATCH = 2
"""Patches are no smaller than this many times what the network's sizes must be a multiple of."""


@dataclass(frozen=True)
class Term:
    """One loss and its weight in the sum."""

    name: str
    loss: Loss
    weight: float = 1.0


def make_terms(choices: Iterable[str | dict[str, Any] | Choice], network: Network) -> tuple[Term, ...]:
    """Losses by their registered names with options and weights, checked against what the network predicts."""
    terms = []
    for wanted in map(choice, choices):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in wanted.options.items()}
        loss = LOSSES.build(wanted.name, **options)
        if network.kind not in loss.kinds or (loss.probabilistic and not predicts_variance(network)):
            fitting = [name for name in NETWORKS if _fits(loss, NETWORKS.load(name))]
            raise ConfigError(
                f"loss {wanted.name!r} does not fit this network ({network.kind}); it fits {', '.join(fitting)}"
            )
        terms.append(Term(wanted.name, loss, wanted.weight))
    if not terms:
        raise ConfigError(f"training needs at least one loss; known: {', '.join(LOSSES)}")
    return tuple(terms)


def predicts_variance(network: Network | type[Network]) -> bool:
    """Whether the network is probabilistic: the only such kind here is that of VoxelMorph-diff."""
    return network.kind == "velocity"


def _fits(loss: Loss, network: type[Network]) -> bool:
    return network.kind in loss.kinds and (not loss.probabilistic or predicts_variance(network))


class PairTask:
    """Train ``network`` on batches of pairs with the sum of ``terms`` (see ``base.Task``).

    draw: step to batch, a function of the step alone. validate: to numbers by name, ``score`` among them. With a ``kl`` term
    the velocity is drawn from its posterior (one draw per pair and step), else its mean is used. integrator, steps: of
    stationary velocities; steps None chooses. patch: train on boxes of this size (tensor order) instead of whole scans.
    """

    def __init__(
        self,
        network: Network,
        terms: Iterable[Term],
        draw: Callable[[int], Batch],
        validate: Callable[[], dict[str, float]] | None = None,
        seed: int = 0,
        integrator: str = "scaling_squaring",
        steps: int | None = None,
        patch: tuple[int, ...] | None = None,
    ):
        self.network, self.terms, self.seed = network, tuple(terms), seed
        self.integrator, self.steps, self.patch = integrator, steps, patch
        self._draw, self._validate = draw, validate
        self.prior = next((t.loss for t in self.terms if isinstance(t.loss, KL)), None)
        self._needed = {key: t.name for t in self.terms for key in ("moving", "fixed", *t.loss.needs)}

    def batch(self, step: int) -> Batch:
        """Of a step; ``InputError`` naming the loss whose tensors are missing."""
        batch = self._draw(step)
        for key, name in self._needed.items():
            if key not in batch:
                raise InputError(f"loss {name!r} needs {key!r}, but the training pairs have {', '.join(batch)}")
        return batch if self.patch is None else cut(batch, self.patch, self.seed, step)

    def loss(self, ask: Ask, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum and each term by its name (unweighted)."""
        prediction = ask(batch["moving"], batch["fixed"])
        velocity = None
        if self.prior is not None:
            velocity = self._drawn(prediction, batch["row"].tolist(), step)
        shape = tuple(batch["fixed"].shape[2:])
        case = Deformed(batch, prediction, Mapping(prediction, shape, velocity, self.integrator, self.steps))
        parts = {term.name: term.loss(case) for term in self.terms}
        return sum(term.weight * parts[term.name] for term in self.terms), parts

    def validate(self) -> dict[str, float]:
        return {} if self._validate is None else self._validate()

    def shrink(self, shape: tuple[int, ...]) -> bool:
        """Half the longest axis of the patches (of the scans of ``shape`` at first); False when that cannot be done."""
        least = LEAST_PATCH * self.network.multiple
        patch = list(self.patch or shape)
        axis = max(range(len(patch)), key=patch.__getitem__)
        if "surface" in self._needed.values() or patch[axis] // 2 < least:
            return False
        patch[axis] = -(-(patch[axis] // 2) // self.network.multiple) * self.network.multiple
        self.patch = tuple(patch)
        return True

    def _drawn(self, prediction: Prediction, rows: list[int], step: int) -> torch.Tensor:
        smoothing = self.prior.smoothing_voxels(prediction.field.ndim - 2)
        draws = []
        for place, row in enumerate(rows):
            own = (t[place : place + 1] for t in (prediction.field, prediction.log_variance))
            draws.append(Posterior(*own, smoothing).draw(tensors(self.seed, step, row, NOISE)))
        return torch.cat(draws)


def cut(batch: Batch, patch: tuple[int, ...], seed: int, step: int) -> Batch:
    """One box of ``patch`` voxels (tensor order), the same of every scan and label map of the batch, placed at random."""
    shape = tuple(batch["fixed"].shape[2:])
    places = numbers(seed, step, PATCH)
    box = [slice(None), slice(None)]
    for n, size in zip(shape, patch):
        start = int(places.integers(max(n - size, 0) + 1))
        box.append(slice(start, start + size))
    return {key: t[tuple(box)] if tuple(t.shape[2:]) == shape else t for key, t in batch.items()}
