"""Learned features, compared by the one solver: any transform model, regularization, prompts and masks, nothing retrained.

The network sees each scan alone and once; its features stay with the scans, so that an update or another transform model begins
with the solver at once. The network was trained through that solver (``implicit``). Jena et al., 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..config import Config, Schedule
from ..data.image import Image
from ..data.pair import Prompts
from ..errors import ConfigError
from ..geometry.pyramid import FINE_ENOUGH, Pyramid
from ..networks import FEATURES
from ..networks.weights import Model, load_model
from ..problem import Problem, has_half
from ..progress import Progress, Step
from ..prompts.masks import MaskPrompt
from ..result import Status
from ..similarity import SIMILARITIES
from ..similarity.base import Similarity
from ._model_file import check_fit, model_file
from .features import network_grid, scan_features
from .iterative import Iterative, Solution

STAGE = "features"
SHARE = 0.2
"""Of the stage's progress, when the features have to be computed."""
KEPT = "features"
Both = tuple[Pyramid, Pyramid]
"""Features of the fixed and of the moving scan, equally many resolutions."""


@dataclass(frozen=True)
class Kept:
    """Features that serve again: of which model (name, hash of its weights, half precision), masks and finest stride."""

    model: tuple[str, str, bool]
    masks: MaskPrompt
    finest: int
    both: Both

    def serves(self, name: str, half: bool, masks: MaskPrompt) -> bool:
        """Whether these are the features of that model inside these masks."""
        return (self.model[0], self.model[2]) == (name, half) and alike(self.masks, masks)


def features_at_hand(problem: Problem, config: Config) -> Both | None:
    """What a run of ``config`` compared, None where it was no run on features or they are those of another model or mask."""
    kept = problem.cache.get(KEPT)
    if config.method != "dio" or kept is None or not kept.serves(config.model, _half(config), problem.masks):
        return None
    return kept.both


class DIO(Iterative):
    """Features of ``config.model`` in the place of intensities; otherwise ``Iterative``."""

    def check(self, config: Config, ndim: int) -> None:
        """Refuse a missing, damaged or unfit model before any work, and a similarity with descriptors of its own."""
        self._model = load_model(model_file(config))
        check_fit(self._model.card, config, ndim, FEATURES, "predicts a map, no features; choose method 'feedforward'")
        if SIMILARITIES.load(config.similarity.name).features is not Similarity.features:
            raise ConfigError(
                f"similarity {config.similarity.name!r} computes descriptors of its own; method 'dio' compares learned ones: "
                "choose 'mse'"
            )

    def solve(
        self,
        problem: Problem,
        config: Config,
        start: Solution,
        prompts: Prompts,
        progress: Progress,
        schedule: Schedule | None = None,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> Solution:
        """Compute the features where they are not at hand yet, then descend from ``start`` on them."""
        if progress.cancelled():
            return replace(start, status=Status.CANCELLED, message="cancelled before the features were computed")
        finest = finest_stride(problem, schedule or config.schedule, self._model)
        if self._kept(problem, config, finest) is None:
            progress.report(Step(STAGE, fraction=span[0]))
            self._keep(problem, config, finest)
            span = (span[0] + SHARE * (span[1] - span[0]), span[1])
            progress.report(Step(STAGE, fraction=span[0]))
        problem = replace(problem, features=self._kept(problem, config, finest))
        return super().solve(problem, config, start, prompts, progress, schedule, span)

    def features(self, problem: Problem, config: Config) -> Both:
        """The features that runs of ``config`` compare, computed where they are not at hand."""
        finest = finest_stride(problem, config.schedule, self._model)
        if self._kept(problem, config, finest) is None:
            self._keep(problem, config, finest)
        return self._kept(problem, config, finest)

    def _keep(self, problem: Problem, config: Config, finest: int) -> None:
        half, pair, masks = _half(config), problem.pair, problem.masks
        problem.cache.pop(KEPT, None)  # before the new ones need its room
        model = replace(self._model, network=self._model.network.to(problem.device))
        shown = ((pair.fixed, masks.fixed_weight), (pair.moving, masks.moving_weight))
        both = tuple(
            scan_features(image, model, problem.device, finest, half, weight(image.geometry)) for image, weight in shown
        )
        problem.cache[KEPT] = Kept((config.model, model.card.sha256, half), masks, finest, both)

    def _kept(self, problem: Problem, config: Config, finest: int) -> Both | None:
        kept = problem.cache.get(KEPT)
        current = kept is not None and kept.serves(config.model, _half(config), problem.masks)
        return kept.both if current and kept.model[1] == self._model.card.sha256 and kept.finest <= finest else None


def alike(masks: MaskPrompt, others: MaskPrompt) -> bool:
    """Whether both leave out the same voxels; masks are often sent anew with every update."""
    return (masks.exclude_fixed, masks.exclude_moving) == (others.exclude_fixed, others.exclude_moving) and all(
        _same(a, b) for a, b in ((masks.fixed, others.fixed), (masks.moving, others.moving))
    )


def _same(a: Image | None, b: Image | None) -> bool:
    if a is None or b is None or a is b:
        return a is b
    return a.geometry == b.geometry and a.kind == b.kind and torch.equal(a.tensor, b.tensor)


def _half(config: Config) -> bool:
    return config.half_precision and has_half(config.similarity, learned=True)


def finest_stride(problem: Problem, schedule: Schedule, model: Model) -> int:
    """The stride of the finest features that a schedule looks at."""
    grid = network_grid(problem.pair.fixed.geometry, model.card.canonical)
    factors = [f for f, n in zip(schedule.factors, schedule.iterations) if n > 0]
    target = FINE_ENOUGH * min(factors, default=1.0) * problem.working_spacing_mm
    strides = model.network.strides
    return next((s for s in strides if s * min(grid.spacing_mm) <= target), strides[-1])
