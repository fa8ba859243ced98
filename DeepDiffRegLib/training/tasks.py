"""The task every experiment shares: pairs in, a weighted sum of losses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..config import Choice, choice
from ..errors import ConfigError, InputError
from ..networks import FEATURES, NETWORKS
from ..networks.base import Network, Prediction, Stored
from ..networks.posterior import Posterior
from . import LOSSES
from .base import Ask, Batch, Deformed, Loss, Told
from .kl import KL
from .mapping import Mapping, looked
from .streams import numbers, tensors

NOISE, PATCH = 1, 2
"""Which stream of random numbers: of the posterior, of the places of patches."""
WHEN = ("from_step", "until_step", "final_weight")
"""Keys of every loss that say when it counts."""
LEAST_PATCH = 2
"""Patches are no smaller than this many times what the network's sizes must be a multiple of."""


@dataclass(frozen=True)
class Term:
    """One loss and its weight in the sum.

    It counts from step ``from_step`` on until before ``until_step`` (None: to the end). final_weight: instead of ending there the
    weight reaches this value, by equal factors from step to step, and keeps it.
    """

    name: str
    loss: Loss
    weight: float = 1.0
    from_step: int = 0
    until_step: int | None = None
    final_weight: float | None = None

    def __post_init__(self):
        last = self.until_step
        whole = all(
            isinstance(v, int) and not isinstance(v, bool) for v in (self.from_step, 0 if last is None else last)
        )
        if not whole or self.from_step < 0 or (last is not None and last <= self.from_step):
            raise ConfigError(
                f"loss {self.name!r}: from_step and until_step must be whole numbers, the second one larger, got "
                f"{self.from_step!r} and {last!r}"
            )
        if self.final_weight is not None and (last is None or not min(self.weight, self.final_weight) > 0):
            raise ConfigError(f"loss {self.name!r}: final_weight needs until_step, and both weights must be positive")

    def at(self, step: int) -> float:
        """The weight of step 0, 1, ...; 0 where the loss does not count."""
        if step < self.from_step:
            return 0.0
        if self.until_step is None or step < self.until_step:
            if self.final_weight is None:
                return self.weight
            share = (step - self.from_step) / (self.until_step - self.from_step)
            return self.weight ** (1 - share) * self.final_weight**share
        return self.final_weight or 0.0


def make_terms(choices: Iterable[str | dict[str, Any] | Choice], network: Network) -> tuple[Term, ...]:
    """Losses by their registered names with options and weights, checked against what the network predicts."""
    terms = []
    for wanted in map(choice, choices):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in wanted.options.items()}
        when = {k: options.pop(k) for k in WHEN if k in options}
        loss = LOSSES.build(wanted.name, **options)
        if not _fits(loss, network):
            fitting = [name for table in (NETWORKS, FEATURES) for name in table if _fits(loss, table.load(name))]
            raise ConfigError(
                f"loss {wanted.name!r} does not fit this network ({network.kind}); it fits {', '.join(fitting)}"
            )
        terms.append(Term(wanted.name, loss, wanted.weight, **when))
    if not terms:
        raise ConfigError(f"training needs at least one loss; known: {', '.join(LOSSES)}")
    return tuple(terms)


def prior_of(terms: Iterable[Term], ndim: int) -> dict[str, float]:
    """What a model card says of the prior of a ``kl`` term; empty without one."""
    prior = {}
    for term in terms:
        if isinstance(term.loss, KL):
            smoothing = term.loss.smoothing_voxels(ndim)
            prior = {"precision": float(term.loss.precision), "smoothing_voxels": float(smoothing)}
    return prior


def predicts_variance(network: Network | type[Network]) -> bool:
    """Whether the network is probabilistic: the only such kind here is that of VoxelMorph-diff."""
    return network.kind == "velocity"


def _fits(loss: Loss, network: Network | type[Network]) -> bool:
    gives_features = bool(getattr(network, "strides", ()))
    if network.kind not in loss.kinds or (loss.of_features and not gives_features):
        return False
    return (not loss.probabilistic or predicts_variance(network)) and (not loss.local or network.local)


class DrawnTask:
    """What tasks on batches of pairs share (see ``base.Task``); ``loss`` is theirs.

    draw: step to batch, a function of the step alone. validate: to numbers by name, ``score`` among them. patch: train on boxes of
    this size (tensor order) instead of whole scans.
    """

    def __init__(
        self,
        network: Stored,
        terms: Iterable[Term],
        draw: Callable[[int], Batch],
        validate: Callable[[], dict[str, float]] | None = None,
        seed: int = 0,
        patch: tuple[int, ...] | None = None,
    ):
        self.network, self.terms, self.seed, self.patch = network, tuple(terms), seed, patch
        self._draw, self._validate = draw, validate
        self._needed = {key: t.name for t in self.terms for key in ("moving", "fixed", *t.loss.needs)}

    def batch(self, step: int) -> Batch:
        """Of a step; ``InputError`` naming the loss whose tensors are missing."""
        batch = self._draw(step)
        for key, name in self._needed.items():
            if key not in batch:
                raise InputError(f"loss {name!r} needs {key!r}, but the training pairs have {', '.join(batch)}")
        return batch if self.patch is None else cut(batch, self.patch, self.seed, step)

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

    def active(self, step: int) -> tuple[Term, ...]:
        """The terms that count in this step. ``ConfigError`` when none does."""
        active = tuple(term for term in self.terms if term.at(step))
        if not active:
            raise ConfigError(f"training: no loss counts in step {step}; look at their from_step and until_step")
        return active

    def summed(
        self, case: Deformed | Told, step: int, of_features: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum of the terms that judge maps, or features, and each by its name (unweighted)."""
        active = [term for term in self.active(step) if term.loss.of_features == of_features]
        parts = {term.name: term.loss(case) for term in active}
        return sum(term.at(step) * parts[term.name] for term in active), parts


class PairTask(DrawnTask):
    """Train a network that predicts the map of a pair with the sum of ``terms``.

    With a ``kl`` term the velocity is drawn from its posterior (one draw per pair and step), else its mean is used. integrator,
    steps: of stationary velocities; steps None chooses. spacing_mm: of the scans (x, y[, z]; None: 1), for kernels of a momentum.
    looks: how often the network sees a pair (``looked``), from step ``looks_from`` on; before that once. The others: of ``DrawnTask``.
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
        spacing_mm: tuple[float, ...] | None = None,
        looks: int = 1,
        looks_from: int = 0,
    ):
        super().__init__(network, terms, draw, validate, seed, patch)
        self.looks, self.looks_from = looks, looks_from
        self._options = {"integrator": integrator, "steps": steps, "spacing_mm": spacing_mm}
        self.prior = next((t.loss for t in self.terms if isinstance(t.loss, KL)), None)

    def loss(self, ask: Ask, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum and each term by its name (unweighted)."""
        if any(term.loss.both_ways for term in self.active(step)):
            batch = both_ways(batch)
        moving, fixed = batch["moving"], batch["fixed"]
        if self.prior is not None:
            prediction = ask(moving, fixed)
            velocity = self._drawn(prediction, batch["row"].tolist(), step)
            mapping = Mapping(prediction, tuple(fixed.shape[2:]), velocity, **self._options)
        else:
            mapping = looked(ask, moving, fixed, self.looks if step >= self.looks_from else 1, **self._options)
        return self.summed(Deformed(batch, mapping.prediction, mapping), step)

    def shrink(self, shape: tuple[int, ...]) -> bool:
        """As every task, but not where the whole scan decides what is predicted."""
        return self.network.local_reach and super().shrink(shape)

    def _drawn(self, prediction: Prediction, rows: list[int], step: int) -> torch.Tensor:
        smoothing = self.prior.smoothing_voxels(prediction.field.ndim - 2)
        draws = []
        for place, row in enumerate(rows):
            own = (t[place : place + 1] for t in (prediction.field, prediction.log_variance))
            draws.append(Posterior(*own, smoothing).draw(tensors(self.seed, step, row, NOISE)))
        return torch.cat(draws)


def both_ways(batch: Batch) -> Batch:
    """The pairs, then the same pairs with fixed and moving exchanged."""
    other = {"fixed": "moving", "moving": "fixed"}
    found = {}
    for name, tensor in batch.items():
        role, *rest = name.split("_", 1)
        found[name] = torch.cat((tensor, batch["_".join((other.get(role, role), *rest))]))
    return found


def cut(batch: Batch, patch: tuple[int, ...], seed: int, step: int) -> Batch:
    """One box of ``patch`` voxels (tensor order), the same of every scan and label map of the batch, placed at random."""
    shape = tuple(batch["fixed"].shape[2:])
    places = numbers(seed, step, PATCH)
    box = [slice(None), slice(None)]
    for n, size in zip(shape, patch):
        start = int(places.integers(max(n - size, 0) + 1))
        box.append(slice(start, start + size))
    return {key: t[tuple(box)] if tuple(t.shape[2:]) == shape else t for key, t in batch.items()}
