"""Networks that predict a momentum, on generated shapes: what they are shown, and what is measured on held-out pairs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ..data.shapes import FIELD_OF_VIEW_MM, ShapePair
from ..geometry.sampling import identity_index, sample
from ..geometry.vector_fields import strict_folds
from ..networks.base import Network
from ..preprocess.intensity import normalized
from ..training.base import Batch
from ..training.mapping import Mapping, looked, warped
from ..training.streams import numbers
from ..training.validation import overlap
from ..transforms.kernels import effective_sigma
from .shape_population import AS_DRAWN, density_at_edges, near_edges

LOOKS = 2
TIMES = 5
"""A network takes milliseconds: it is asked so often, and the median counts."""


def scans(shapes: ShapePair) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target as a registration sees them, (1, 1, size, size) each, gray values from 0 to 1.

    What a network of rectifiers says grows with its input: shown a dim picture as it is, it would move less.
    """
    return normalized(shapes.pair.moving, AS_DRAWN), normalized(shapes.pair.fixed, AS_DRAWN)


class Pairs:
    """Batches of generated pairs, turned and mirrored, a function of the step alone."""

    def __init__(self, shapes: list[ShapePair], batch: int, seed: int):
        self.pairs, self.batch, self.seed = [scans(one) for one in shapes], batch, seed

    def __call__(self, step: int) -> Batch:
        rows = []
        for row in range(self.batch):
            rng = numbers(self.seed, step, row)
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            pair = pair[:: 1 if rng.random() < 0.5 else -1]
            turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
            pair = [torch.rot90(scan, turns, (2, 3)) for scan in pair]
            rows.append([scan.flip(-1) if mirrored else scan for scan in pair])
        moving, fixed = (torch.cat(column) for column in zip(*rows))
        return {"moving": moving, "fixed": fixed}


@dataclass(frozen=True)
class Measured:
    """Means over pairs. dice, before: of all objects. folds: pixels with a fold in any corner. seconds: of the processor, median.

    Of RDMM, at t = 0: near_edges as ``density_at_edges`` says, mean of sigma(x), and its mean near edges over that elsewhere.
    """

    dice: float
    before: float
    folds: float
    seconds: float
    near_edges: float = 0.0
    sigma_mm: float = 0.0
    sigma_at_edges: float = 0.0

    @classmethod
    def of(cls, rows: list[tuple]) -> Measured:
        """From a row (the seven numbers) per pair."""
        columns = [np.array(column) for column in zip(*rows)]
        return cls(*(float(np.median(c) if number == 3 else c.mean()) for number, c in enumerate(columns)))

    def plain(self) -> dict[str, float]:
        """For ``result.json``."""
        return {name: float(f"{value:.4g}") for name, value in vars(self).items()}


@dataclass(frozen=True)
class View:
    """One held-out pair. u: (2, size, size) pixels. sigma_mm: of RDMM, at t = 0."""

    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    u: np.ndarray
    sigma_mm: np.ndarray | None = None


def mapping_of(network: Network, shapes: ShapePair) -> Mapping:
    """What the network finds, from gray values alone."""
    with torch.no_grad():
        found = looked(network, *scans(shapes), LOOKS)
        found.forward  # noqa: B018 - integrated here
    return found


def measured(network: Network, shapes: list[ShapePair]) -> Measured:
    """A network on held-out pairs."""
    mapping_of(network, shapes[0])
    rows = []
    for one in shapes:
        taken = []
        for _ in range(TIMES):
            started = time.process_time()
            found = mapping_of(network, one)
            taken.append(time.process_time() - started)
        seconds = float(np.median(taken))
        fixed, moving = one.fixed_labels.tensor, one.moving_labels.tensor
        after = sample(moving.float(), identity_index(tuple(fixed.shape[2:])) + found.forward, mode="nearest")
        folds = strict_folds(found.forward, (1.0, 1.0))
        sigma = sigma_mm(found)
        rows.append((overlap(after, fixed), overlap(moving, fixed), folds, seconds, *softness(sigma, one)))
    return Measured.of(rows)


def softness(sigma_mm: np.ndarray | None, shapes: ShapePair) -> tuple[float, float, float]:
    """``near_edges``, ``sigma_mm`` and ``sigma_at_edges`` of one pair; 0 without local weights."""
    if sigma_mm is None:
        return 0.0, 0.0, 0.0
    labels = shapes.moving_labels.numpy()
    near = near_edges(labels)
    at_edges = float(sigma_mm[near].mean() / sigma_mm[~near].mean())
    return density_at_edges(sigma_mm, labels), float(sigma_mm.mean()), at_edges


def sigma_mm(found: Mapping) -> np.ndarray | None:
    """sigma(x) at t = 0 on the source's grid, of the first look; None without local weights."""
    first = found.looks[-1]
    if first.prediction.pre_weights is None:
        return None
    with torch.no_grad():
        sigmas = [s * FIELD_OF_VIEW_MM for s in first.prediction.kernels.sigmas]
        sigma = effective_sigma(first.shot.weights, sigmas)
        index = (identity_index(first.shape) - first.prediction.offset_voxels) / first.prediction.spacing_voxels[0]
        return sample(sigma, index, padding="border")[0, 0].numpy()


def view(network: Network, shapes: ShapePair) -> View:
    """What figures show of a pair."""
    found = mapping_of(network, shapes)
    moving, fixed = scans(shapes)
    images = (t[0, 0].numpy() for t in (fixed, moving, warped(moving, found.forward)))
    return View(*images, found.forward[0].numpy(), sigma_mm(found))
