"""What the experiments on disks and Cs share: batches to train on, held-out pairs, the recipe of their networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.c_shapes import CShapeRanges, CShapes, make_c_shapes
from ..training.base import Batch
from ..training.streams import numbers
from .trained import Draw, Recipe

TRAINING, HELD_OUT = 0, 1
"""Streams of random numbers: no held-out pair is drawn from that of the training."""
IMAGE_SIGMA = 0.06
SCALING = "paper"
"""Loss as published (eq. 6), not as in the authors' code, whose smoothness weighs half as much against the images in 2-D."""


ALL = CShapeRanges()


@dataclass(frozen=True)
class Population:
    """Pairs of ``size`` x ``size`` pixels in batches of ``batch``; the disk is the moving picture, the C the fixed one."""

    size: int
    batch: int = 8
    ranges: CShapeRanges = ALL
    seed: int = 2018

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size)

    def draw(self) -> Draw:
        """Batches to train on: step to batch."""
        return lambda step: as_batch(
            make_c_shapes(numbers(self.seed, TRAINING, step), self.batch, self.size, self.ranges)
        )

    def held_out(self, count: int) -> CShapes:
        """Pairs that no training sees."""
        return make_c_shapes(numbers(self.seed, HELD_OUT), count, self.size, self.ranges)


def as_batch(shapes: CShapes) -> Batch:
    """What the trainer takes."""
    return {"moving": shapes.disks, "fixed": shapes.cs}


def recipe(steps: int, precision: float, covariance: str = "diagonal", learning_rate: float = 1e-3) -> Recipe:
    """VoxelMorph-diff (light) with squared differences; learning rate falling to 0."""
    losses = (
        {"name": "mse", "image_sigma": IMAGE_SIGMA, "scaling": SCALING},
        {"name": "kl", "precision": precision, "mode": SCALING, "covariance": covariance},
    )
    return Recipe("voxelmorph-diff", losses, steps, learning_rate=learning_rate)


def dice(picture: torch.Tensor, labels: torch.Tensor) -> float:
    """Overlap of what is above one half with a drawn mask."""
    found, there = picture > 0.5, labels > 0
    return 2 * int((found & there).sum()) / max(int(found.sum()) + int(there.sum()), 1)
