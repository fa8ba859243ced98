"""Learned features, compared by the one solver: any transform model, regularization, prompts and masks, nothing retrained.

The network sees each scan alone and once; its features stay with the scans, so that an update or another transform model begins
with the solver at once. The network was trained through that solver (``implicit``). Jena et al., 2024.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import Config, Schedule
from ..data.pair import Prompts
from ..errors import ConfigError
from ..geometry.pyramid import FINE_ENOUGH, Pyramid
from ..networks import FEATURES
from ..networks.weights import Model, load_model
from ..problem import Problem, has_half
from ..progress import Progress, Step
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

    def _keep(self, problem: Problem, config: Config, finest: int) -> None:
        half = config.half_precision and has_half(config.similarity, learned=True)
        network = self._model.network.to(problem.device)
        model = replace(self._model, network=network)
        images = (problem.pair.fixed, problem.pair.moving)
        both = tuple(scan_features(image, model, problem.device, finest, half) for image in images)
        problem.cache[KEPT] = (self._identity(config), finest, both)

    def _kept(self, problem: Problem, config: Config, finest: int) -> tuple[Pyramid, Pyramid] | None:
        identity, known, both = problem.cache.get(KEPT, ("", finest, None))
        return both if identity == self._identity(config) and known <= finest else None

    def _identity(self, config: Config) -> str:
        half = config.half_precision and has_half(config.similarity, learned=True)
        return f"{self._model.card.sha256} {half}"


def finest_stride(problem: Problem, schedule: Schedule, model: Model) -> int:
    """The stride of the finest features that a schedule looks at."""
    grid = network_grid(problem.pair.fixed.geometry, model.card.canonical)
    factors = [f for f, n in zip(schedule.factors, schedule.iterations) if n > 0]
    target = FINE_ENOUGH * min(factors, default=1.0) * problem.working_spacing_mm
    strides = model.network.strides
    return next((s for s in strides if s * min(grid.spacing_mm) <= target), strides[-1])
