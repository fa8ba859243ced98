"""Training of a network that gives features: pairs in, losses of the maps that the solver finds on those features.

The loss is the mean over all resolutions, each judged with scans and labels of its own. Gradients reach the network through the
solver as a layer (``methods.implicit``; Jena et al., 2024). Losses that judge features themselves need no map: in steps where only
such count, none is sought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid, resample, resample_displacement
from ..geometry.sampling import index_matrix, sample, warp_index
from ..methods.features import feature_grids
from ..methods.implicit import Layer, Solved, solve
from ..networks.base import FeatureNetwork, Prediction
from .base import ROLES, Ask, Batch, Deformed, Told
from .mapping import Mapping
from .streams import numbers
from .tasks import DrawnTask, Term, both_ways

COIN, TOLD = 9, 10
"""Streams of random numbers: which of the two scans a step learns from; where losses look at features."""
SCALABLE = {role + what for role in ROLES for what in ("", "_labels", "_natural")}
"""What of a batch can be brought to the voxels of every resolution."""


@dataclass(frozen=True)
class Curriculum:
    """joins: the step at which each finer scale joins the coarsest (all from the start when empty). gradual: iterations that a scale
    may do more with each step since it joined (None: all of the layer's at once). one_sided: each step learns from the features of
    one scan, drawn by a fair coin, which halves the memory. clamp: largest gradient on the finest displacement, as the share of its
    entries that are smaller (None: any).
    """

    joins: tuple[int, ...] = ()
    gradual: float | None = None
    one_sided: bool = True
    clamp: float | None = 0.98

    def __post_init__(self):
        joins = tuple(self.joins)
        object.__setattr__(self, "joins", joins)
        whole = all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in joins)
        if not whole or list(joins) != sorted(joins):
            raise ConfigError(f"joins must be steps that do not decrease, got {joins}")
        if self.gradual is not None and not self.gradual > 0:
            raise ConfigError(f"gradual must be positive iterations per step, got {self.gradual}")
        if self.clamp is not None and not 0 < self.clamp <= 1:
            raise ConfigError(f"clamp must be a share between 0 and 1, got {self.clamp}")


class FeatureTask(DrawnTask):
    """Train ``network`` through ``layer`` with the sum of ``terms`` (see ``DrawnTask``); every pair is solved by itself.

    joins, one_sided, gradual, clamp: see ``Curriculum``. spacing_mm: of the scans, x, y[, z] (1 when absent).
    """

    def __init__(
        self,
        network: FeatureNetwork,
        terms: Iterable[Term],
        draw: Callable[[int], Batch],
        layer: Layer | None = None,
        validate: Callable[[], dict[str, float]] | None = None,
        seed: int = 0,
        joins: tuple[int, ...] = (),
        one_sided: bool = True,
        gradual: float | None = None,
        clamp: float | None = 0.98,
        spacing_mm: tuple[float, ...] | None = None,
        patch: tuple[int, ...] | None = None,
    ):
        super().__init__(network, terms, draw, validate, seed, patch)
        self.layer, self.curriculum = layer or Layer(), Curriculum(joins, gradual, one_sided, clamp)
        check_features(network, self.terms, self.layer, self.curriculum)
        self.spacing_mm = tuple(spacing_mm or (1.0,) * network.architecture.ndim)

    def loss(self, ask: Ask, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the scales that take part in ``step`` of the weighted sum, and of each term by its name."""
        rows = batch["row"].tolist()
        batch = {name: tensor for name, tensor in batch.items() if name != "row"}
        if any(term.loss.both_ways for term in self.active(step)):
            batch, rows = both_ways(batch), rows * 2
        layer, judged = self.layer_of(step), []
        features = self._asked(ask, batch, layer, self.learns(step))
        of_features = {term.loss.of_features for term in self.active(step)}
        if True in of_features:
            both = zip(features["fixed"], features["moving"])
            judged += [self._told(batch, pair, stride, step, rows) for pair, stride in zip(both, self.network.strides)]
        if False in of_features:
            found = zip(*self._solved(features, batch, layer))
            judged += [self._judged(batch, scale, stride, step) for scale, stride in zip(found, self.network.strides)]
        parts: dict[str, torch.Tensor] = {}
        count = len(layer.iterations)
        for _, own in judged:
            for name, value in own.items():
                parts[name] = parts.get(name, 0.0) + value / count
        return sum(total for total, _ in judged) / count, parts

    def layer_of(self, step: int) -> Layer:
        """The layer with the scales and iterations of a step."""
        since = [step - first for first in (0, *self._joins()) if step >= first]
        iterations, gradual = self.layer.iterations[: len(since)], self.curriculum.gradual
        if gradual is not None:
            iterations = tuple(min(n, 1 + int(gradual * s)) for n, s in zip(iterations, since))
        return replace(self.layer, iterations=iterations)

    def learns(self, step: int) -> tuple[str, ...]:
        """The scans whose features a step learns from."""
        return (ROLES[int(numbers(self.seed, step, COIN).integers(2))],) if self.curriculum.one_sided else ROLES

    def found(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """The map of one pair (1, 1, *shape), as a user would have it found: u (1, d, *shape) in voxels, on all scales."""
        with torch.no_grad():
            pair = {"moving": moving, "fixed": fixed}
            (scales,) = self._solved(self._asked(self.network, pair, self.layer, ()), pair, self.layer)
        return resample_displacement(scales[-1].displacement, scales[-1].geometry, self._grid(fixed))

    def _joins(self) -> tuple[int, ...]:
        return self.curriculum.joins or (0,) * (len(self.network.strides) - 1)

    def _asked(
        self, ask: Ask, batch: Batch, layer: Layer, learns: tuple[str, ...]
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """Features of both scans, coarse to fine, as far as the layer goes. learns: the scans whose features track gradients."""
        features = {}
        for role in ROLES:
            with torch.set_grad_enabled(role in learns):
                features[role] = ask(batch[role], self._finest(layer))
        return features

    def _finest(self, layer: Layer) -> int:
        return self.network.strides[len(layer.iterations) - 1]

    def _solved(
        self, features: dict[str, tuple[torch.Tensor, ...]], batch: Batch, layer: Layer
    ) -> list[tuple[Solved, ...]]:
        """The maps of every pair, coarse to fine."""
        grids = {role: feature_grids(self._grid(batch[role]), self.network, self._finest(layer)) for role in ROLES}

        def pyramid(role: str, row: int) -> Pyramid:
            return Pyramid(tuple((image[row : row + 1], grid) for image, grid in zip(features[role], grids[role])))

        return [solve(pyramid("fixed", row), pyramid("moving", row), layer) for row in range(len(batch["fixed"]))]

    def _grid(self, scans: torch.Tensor) -> Geometry:
        return Geometry.identity(tuple(scans.shape[:1:-1]), self.spacing_mm)

    def _judged(
        self, batch: Batch, scale: tuple[Solved, ...], stride: int, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses of one scale's maps of all pairs."""
        u, share = torch.cat([solved.displacement for solved in scale]), self.curriculum.clamp
        if stride == self.network.strides[-1] and share is not None and u.requires_grad:
            u.register_hook(lambda gradient: clamped(gradient, share))
        prediction = Prediction((u,), "displacement", 1.0, (1.0,) * (u.ndim - 2))
        here = AtStride(batch, lambda tensor: self._scaled(tensor, stride))
        return self.summed(Deformed(here, prediction, Mapping(prediction, tuple(u.shape[2:]))), step)

    def _told(
        self, batch: Batch, features: tuple[torch.Tensor, torch.Tensor], stride: int, step: int, rows: list[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses of one scale's features of all pairs."""
        here = AtStride(batch, lambda tensor: self._scaled(tensor, stride))
        draws = tuple(numbers(self.seed, step, TOLD, row, stride) for row in rows)
        return self.summed(Told(features, here, stride, draws), step, of_features=True)

    def _scaled(self, tensor: torch.Tensor, stride: int) -> torch.Tensor:
        """Scans or label maps (B, 1, *shape) at the voxels of the features of this stride."""
        source = self._grid(tensor)
        target = feature_grids(source, self.network, stride)[-1]
        bring = resample if tensor.is_floating_point() else nearest
        return torch.cat([bring(one, source, target) for one in tensor.split(1)])


class AtStride(dict):
    """A batch at the voxels of features, each tensor brought there when a loss first asks for it."""

    def __init__(self, batch: Batch, bring: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self._batch, self._bring = batch, bring

    def __missing__(self, name: str) -> torch.Tensor:
        self[name] = self._bring(self._batch[name])
        return self[name]


def nearest(labels: torch.Tensor, source: Geometry, target: Geometry) -> torch.Tensor:
    """Label maps (1, 1, *source.shape) at the voxels of ``target``."""
    if source.same_grid(target):
        return labels
    index = warp_index(torch.zeros((1, target.ndim, *target.shape), device=labels.device), index_matrix(target, source))
    return sample(labels, index, mode="nearest", padding="border")


def clamped(gradient: torch.Tensor, share: float) -> torch.Tensor:
    """Each pair's gradient with entries no larger than ``share`` of its entries that are not zero.

    Few voxels steer a map where structures are small; the others must not count, or nothing would be left.
    """
    limits = []
    for own in gradient.flatten(1).abs():
        own = own[own > 0]
        limits.append(own.kthvalue(max(1, int(np.ceil(share * len(own))))).values if len(own) else own.new_zeros(()))
    limit = torch.stack(limits).reshape(-1, *(1,) * (gradient.ndim - 1))
    return gradient.clamp(-limit, limit)


def check_features(network: FeatureNetwork, terms: Iterable[Term], layer: Layer, curriculum: Curriculum) -> None:
    """``ConfigError`` for losses that features cannot be trained with, and where the numbers of scales differ."""
    for term in terms:
        if not set(term.loss.needs) <= SCALABLE:
            raise ConfigError(
                f"loss {term.name!r} is for networks that predict a map; features are trained with 'dice' on labels"
            )
        if getattr(term.loss, "symmetric", False):
            raise ConfigError(
                f"loss {term.name!r}: 'symmetric' needs an inverse, which maps found on features do not have"
            )
    scales, joins = len(network.strides), curriculum.joins
    if len(layer.iterations) != scales or (joins and len(joins) != scales - 1):
        raise ConfigError(
            f"features of {scales} resolutions need {scales} numbers of iterations (layer.iterations) and, if any, {scales - 1} "
            f"steps at which finer ones join (curriculum.joins), got {layer.iterations} and {joins}"
        )
