"""How well features tell structures apart, judged before any map is sought."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import ConfigError
from .base import Loss, Told

BACKGROUND_SHARE = 0.05
"""Of the voxels looked at: those without a label."""
CELLS = 3
"""What lies near is looked up in cells, so many on each side."""
ENLARGE = {2: F.max_pool2d, 3: F.max_pool3d}


class StructuresLoss(Loss):
    """Mean cross-entropy of naming voxels by features: exp(-|f(x) - p_k|^2) for label k, over the labels near x.

    p_k is the mean feature of label k in the *other* scan of the pair (prototypes: Snell et al., NeurIPS 2017), so that what is
    learned is what a solver compares, the squared difference between the two scans. Labels count equally, however large; no label is
    one of its own. Scans must be aligned as far as ``reach``: at most so many voxels of the scan along an axis does the partner of a
    voxel lie away, and only labels within are told from each other. points: voxels drawn per pair, scan and resolution.
    """

    needs = ("moving_labels", "fixed_labels")
    kinds = ("displacement",)
    of_features = True

    def __init__(self, points: int = 4096, reach: float = 12.0):
        if isinstance(points, bool) or not isinstance(points, int) or points < 1:
            raise ConfigError(f"loss 'structures': points must be a whole number of at least 1, got {points!r}")
        if not reach > 0:
            raise ConfigError(f"loss 'structures': reach must be positive voxels, got {reach!r}")
        self.points, self.reach = points, float(reach)

    def __call__(self, case: Told) -> torch.Tensor:
        losses = []
        for row, draw in enumerate(case.draws):
            labels = [case.batch[f"{role}_labels"][row, 0].long() for role in ("fixed", "moving")]
            known, numbered = torch.unique(torch.stack([t.flatten() for t in labels]), return_inverse=True)
            sides = [
                Side.of(features[row], place.reshape(own.shape), known, self.reach / case.stride)
                for features, place, own in zip(case.features, numbered, labels)
            ]
            losses += [named(*pair, draw, self.points) for pair in (sides, sides[::-1])]
        return torch.stack(losses).mean()


@dataclass(frozen=True, eq=False)
class Side:
    """One scan of one pair. features: (N, C). labels: (N,), numbers of K. prototypes: (K, C). near: (K, cells), what lies near a
    cell. cells: of every voxel, (N,). background: whether label number 0 is no label."""

    features: torch.Tensor
    labels: torch.Tensor
    prototypes: torch.Tensor
    near: torch.Tensor
    cells: torch.Tensor
    background: bool

    @classmethod
    def of(cls, features: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, reach: float) -> Side:
        """features: (C, *shape). labels: (*shape), numbers in ``known``. reach: in voxels."""
        flat, count = features.flatten(1).T, len(known)
        sizes = torch.bincount(labels.flatten(), minlength=count).to(flat.dtype)
        sums = flat.new_zeros(count, flat.shape[1]).index_add(0, labels.flatten(), flat)
        near, cells = neighborhoods(labels, count, reach)
        return cls(flat, labels.flatten(), sums / sizes.clamp(min=1)[:, None], near, cells, bool(known[0] == 0))

    def drawn(self, draw: np.random.Generator, points: int) -> torch.Tensor:
        """(points,) voxels: a label first, all alike, then one of its voxels."""
        labels = self.labels.cpu().numpy()
        order = np.argsort(labels, kind="stable")
        present, first, count = np.unique(labels[order], return_index=True, return_counts=True)
        share = np.ones(len(present))
        if self.background and present[0] == 0 and len(present) > 1:
            share[0] = BACKGROUND_SHARE / (1 - BACKGROUND_SHARE) * (len(present) - 1)
        chosen = draw.choice(len(present), points, p=share / share.sum())
        places = order[first[chosen] + (draw.random(points) * count[chosen]).astype(np.int64)]
        return torch.from_numpy(places).to(self.labels.device)


def neighborhoods(labels: torch.Tensor, count: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, cells) whether a label lies within ``reach`` voxels of a cell along every axis, and the cell of every voxel (N,)."""
    size = max(1, round(reach / CELLS))
    shape = [-(-n // size) for n in labels.shape]
    axes = [torch.arange(n, device=labels.device) // size for n in labels.shape]
    cells = torch.zeros((), dtype=torch.long, device=labels.device)
    for axis, n in zip(axes, shape):
        cells = cells[..., None] * n + axis
    cells = cells.flatten()
    there = torch.zeros(count, int(np.prod(shape)), device=labels.device)
    there[labels.flatten(), cells] = 1.0
    near = there.reshape(1, count, *shape)
    for axis in range(labels.ndim):  # one axis after the other: the same box for a fraction of the comparisons
        kernel, padding = [1] * labels.ndim, [0] * labels.ndim
        kernel[axis], padding[axis] = 2 * CELLS + 1, CELLS
        near = ENLARGE[labels.ndim](near, kernel, 1, padding)
    return near.reshape(count, -1) > 0, cells


def named(one: Side, other: Side, draw: np.random.Generator, points: int) -> torch.Tensor:
    """Cross-entropy of naming drawn voxels of ``one`` by the prototypes of ``other``; voxels without partner nearby do not count."""
    places = one.drawn(draw, points)
    truth, near = one.labels[places], other.near[:, one.cells[places]].T
    known = near.gather(1, truth[:, None])[:, 0]
    if not known.any():
        return one.features.sum() * 0.0
    places, truth, near = places[known], truth[known], near[known]
    distance = squared_distances(one.features[places], other.prototypes)
    return F.cross_entropy((-distance).masked_fill(~near, -torch.inf), truth)


def squared_distances(features: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """(N, K) of (N, C) and (K, C)."""
    sizes = features.square().sum(1, keepdim=True) + prototypes.square().sum(1)
    return (sizes - 2 * features @ prototypes.T).clamp(min=0)
