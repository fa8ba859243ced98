"""Training of feature networks on pairs whose true map is known: features of partners alike, those of other places not.

At points of the fixed scan the features are compared with those of the moving scan at the true partner and at displaced places;
the squared differences, which are what the solver descends, must single out the partner (cross-entropy over the places, as van den
Oord et al., 2018). Two kinds of other places: near ones, compared over a small window shifted as a whole, which is what a solver
with smooth maps can choose between; and the partners of all other points. A third part, for recipes that give it a weight, asks for a
force that leads home (``homing``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import ConfigError
from ..geometry.sampling import sample
from ..networks.base import FeatureNetwork
from .base import ROLES, Ask, Batch
from .homing import homing
from .streams import numbers
from .tasks import DrawnTask
from .teaching import Teacher, unlike

POINTS, ERRORS, JUDGED_ERRORS = 22, 23, 24
"""Streams of random numbers: which places are compared; by which errors maps miss, in training and in validation."""


@dataclass(frozen=True)
class Contrast:
    """points: per pair and scale. places: displaced ones per point. reach: their farthest, in voxels of the scale (at least one).

    window: neighbors of a point that are compared together. edges: share of the points beside borders of labels. near, far:
    weights of telling a partner from the places around it, and points from each other. size: weight of the mean squared feature,
    which keeps features from growing without end. homing: weight of forces that lead home. errors: maps that miss, per pair
    and scale, which those forces are to correct.
    """

    points: int = 512
    places: int = 24
    reach: float = 6.0
    window: int = 8
    edges: float = 0.7
    near: float = 1.0
    far: float = 0.3
    size: float = 0.001
    homing: float = 0.0
    errors: int = 2

    def __post_init__(self):
        for name, least in (("points", 2), ("places", 1), ("window", 1), ("errors", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"Contrast.{name} must be a whole number of at least {least}, got {value!r}")
        weights = (self.near, self.far, self.size, self.homing)
        if not (self.reach > 1 and 0 <= self.edges <= 1 and min(weights) >= 0):
            raise ConfigError(
                f"Contrast: reach must exceed 1, edges lie in [0, 1] and weights not be negative, got {self}"
            )
        if not max(self.near, self.far, self.homing) > 0:
            raise ConfigError("Contrast: one of near, far and homing must have a weight")


@dataclass(frozen=True)
class Places:
    """Where features are compared, in voxels of the scans. fixed: (N, W, d), each point and its neighbors. moving: (N, W, K + 1, d),
    the partner of each first and then its displaced places. All x, y[, z]."""

    fixed: torch.Tensor
    moving: torch.Tensor


class ContrastiveTask(DrawnTask):
    """Train ``network`` on batches with ``displacement`` and ``known`` (``synthetic.SyntheticPairs``); see the module.

    The other arguments: of ``DrawnTask``. Validation: ``matched`` over the batches that ``held_out`` gives (steps of its own).
    """

    def __init__(
        self,
        network: FeatureNetwork,
        draw: Callable[[int], Batch],
        contrast: Contrast | None = None,
        held_out: Callable[[int], Batch] | None = None,
        held_out_pairs: int = 8,
        seed: int = 0,
        teacher: Teacher | None = None,
    ):
        super().__init__(network, (), draw, self._judge, seed)
        self.contrast, self.teacher = contrast or Contrast(), teacher
        self._held_out, self._held_out_pairs = held_out, held_out_pairs

    def loss(self, ask: Ask, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum; parts by name (unweighted): those that have a weight, mean over the pairs and scales."""
        count = len(batch["fixed"])
        features = ask(torch.cat([batch[role] for role in ROLES]))
        found: list[dict[str, torch.Tensor]] = []
        for place, row in enumerate(batch["row"].tolist()):
            pair = {name: t[place : place + 1] for name, t in batch.items() if name != "row"}
            for number, (scale, stride) in enumerate(zip(features, self.network.strides)):
                both = tuple(scale[first : first + 1] for first in (place, count + place))
                found.append(self._parts(pair, both, stride, (step, row, number)))
        parts = {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}
        total = sum(getattr(self.contrast, name) * value for name, value in parts.items())
        parts.pop("size", None)
        if self.teacher is not None:
            parts["unlike"] = self._unlike(features, batch)
            total = total + self.teacher.options.weight * parts["unlike"]
        return total, parts

    def _unlike(self, features: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
        """Of all scans, mean over the scales."""
        return torch.stack([unlike(own, taught) for own, taught in zip(features, self.teacher.features(batch))]).mean()

    def _parts(
        self, pair: Batch, both: tuple[torch.Tensor, torch.Tensor], stride: int, counters: tuple[int, int, int]
    ) -> dict[str, torch.Tensor]:
        """Each part of one pair at one scale. both: features of the fixed and the moving scan."""
        options, offset, parts = self.contrast, self.network.offset_voxels(stride), {}
        if options.near or options.far:
            places = drawn_places(pair, options, stride, numbers(self.seed, POINTS, *counters))
            own, other = (looked_up(f, p, stride, offset) for f, p in zip(both, (places.fixed, places.moving)))
            parts["near"], parts["far"] = near(own, other), far(own, other)
        if options.homing:
            errors = (
                homing(pair, *both, stride, offset, self.seed, ERRORS, *counters, e) for e in range(options.errors)
            )
            parts["homing"] = 1 - sum(errors) / options.errors
        if options.size:
            parts["size"] = both[0].square().mean()
        return parts

    def shrink(self, shape: tuple[int, ...]) -> bool:
        """Generated pairs have the size that was asked for."""
        return False

    def _judge(self) -> dict[str, float]:
        """Mean over the held-out pairs of what each scale reaches, and ``score``, the mean of all."""
        if self._held_out is None:
            return {}
        self.network.eval()
        found = [self._reached(self._held_out(number), number) for number in range(self._held_out_pairs)]
        self.network.train()
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return {"score": float(np.mean(list(means.values()))), **means}

    def _reached(self, pair: Batch, number: int) -> dict[str, float]:
        """Of one pair: ``matched``, and what else has a weight, by scale."""
        device, options, reached = next(self.network.parameters()).device, self.contrast, {}
        with torch.no_grad():
            features = [[f.cpu() for f in self.network(pair[role].to(device))] for role in ROLES]
        for *both, stride in zip(*features, self.network.strides):
            scale = (*both, stride, self.network.offset_voxels(stride))
            reached[f"matched_{stride}"] = matched(pair, *scale, options, number)
            if options.homing:
                seed = (self.seed, JUDGED_ERRORS, number)
                led = [float(homing(pair, *scale, *seed, error)) for error in range(options.errors)]
                reached[f"homing_{stride}"] = float(np.mean(led))
        return reached


def near(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of finding the partner among displaced places, compared over the window. own: (N, W, C). other: (N, W, K + 1, C)."""
    distance = (own[:, :, None] - other).square().sum(-1).mean(1)
    return F.cross_entropy(-distance, torch.zeros(len(distance), dtype=torch.long, device=own.device))


def far(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of finding the partner of every point among the partners of all points; shapes as in ``near``."""
    between = (own[:, None, 0] - other[None, :, 0, 0]).square().sum(-1)
    return F.cross_entropy(-between, torch.arange(len(between), device=own.device))


def matched(
    batch: Batch, fixed: torch.Tensor, moving: torch.Tensor, stride: int, offset: float, contrast: Contrast, seed: int
) -> float:
    """Share of points whose partner differs less (squared, over the window) than every displaced place. One pair.

    fixed, moving: (1, C, *shape / stride), any images to compare. Chance: 1 / (places + 1).
    """
    places = drawn_places(batch, contrast, stride, numbers(seed, POINTS, stride))
    own = looked_up(fixed, places.fixed, stride, offset)
    other = looked_up(moving, places.moving, stride, offset)
    distance = (own[:, :, None] - other).square().sum(-1).mean(1)
    return float((distance[:, :1] < distance[:, 1:]).all(1).float().mean())


def drawn_places(batch: Batch, contrast: Contrast, stride: int, rng: np.random.Generator) -> Places:
    """Places of one pair (batch of one) for features of one stride."""
    known = batch["known"][0, 0]
    d, device = known.ndim, known.device
    index = _drawn_voxels(known, batch["fixed_labels"][0, 0], contrast, rng)
    points = torch.as_tensor(np.stack(np.unravel_index(index, known.shape), 1)[:, ::-1].copy(), device=device).float()
    around = np.concatenate((np.zeros((1, d)), rng.uniform(-1.5, 1.5, (contrast.window - 1, d)))) * stride
    fixed = points[:, None] + torch.as_tensor(around, dtype=torch.float32, device=device)
    partner = fixed + _at(batch["displacement"], fixed)
    moves = _moves(contrast, len(points), d, rng) * stride
    moves = torch.as_tensor(moves, dtype=torch.float32, device=device)
    return Places(fixed, partner[:, :, None] + moves[:, None])


def _drawn_voxels(
    known: torch.Tensor, labels: torch.Tensor, contrast: Contrast, rng: np.random.Generator
) -> np.ndarray:
    """Flat numbers of voxels with a known partner, mostly beside borders of labels."""
    edge = torch.zeros_like(known)
    for axis in range(labels.ndim):
        n = labels.shape[axis]
        differs = labels.narrow(axis, 1, n - 1) != labels.narrow(axis, 0, n - 1)
        edge.narrow(axis, 1, n - 1).logical_or_(differs)
        edge.narrow(axis, 0, n - 1).logical_or_(differs)
    every = np.flatnonzero(known.cpu().numpy())
    beside = np.flatnonzero((edge & known).cpu().numpy())
    if not len(every):
        every = np.arange(known.numel())
    count = round(contrast.edges * contrast.points) if len(beside) else 0
    chosen = [rng.choice(beside, count)] if count else []
    return np.concatenate([*chosen, rng.choice(every, contrast.points - count)])


def _moves(contrast: Contrast, count: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 1 + places, d) displacements of 1 to ``reach`` voxels of the scale, the near ones as frequent as the far; first 0."""
    directions = rng.normal(size=(count, contrast.places, d))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    lengths = np.exp(rng.uniform(0, np.log(contrast.reach), (count, contrast.places, 1)))
    return np.concatenate((np.zeros((count, 1, d)), directions * lengths), 1)


def _at(values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(1, C, *shape) at (..., d) voxel positions: (..., C); border values outside, differentiable in the values."""
    d = points.shape[-1]
    index = points.to(values.dtype).reshape(-1, d).T.reshape(1, d, -1, *(1,) * (d - 1))
    found = sample(values, index, padding="border")
    return found.reshape(values.shape[1], -1).T.reshape(*points.shape[:-1], -1)


def looked_up(features: torch.Tensor, points: torch.Tensor, stride: int, offset: float) -> torch.Tensor:
    """Features (1, C, *shape / stride) at (..., d) positions in voxels of the scan: (..., C)."""
    return _at(features, (points - offset) / stride)
