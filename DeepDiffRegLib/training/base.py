"""What a loss, its input and a training task are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from ..networks.base import Prediction, Stored
from .mapping import Mapping, warped

Batch = dict[str, torch.Tensor]
"""Tensors whose first axis is the pair: ``moving``, ``fixed`` (B, 1, *shape) in [0, 1], optionally ``moving_labels``,
``fixed_labels`` (B, 1, *shape, integers) and the surfaces of ``field_losses.Surface``; ``row``: number within the step."""
Ask = Callable[..., Any]
"""The network in training: what it is called with, such as (moving, fixed), to what it says, in float32. Other names for calling
it would miss the precision and the devices that were asked for."""
ROLES = ("fixed", "moving")
IMAGES = {"scans": "", "natural": "_natural"}
"""Endings of a role: the scans that a network sees, or what a common scanner would show of a generated pair."""
EVERY_KIND = ("displacement", "velocity", "time_varying", "momentum", "affine")


class Task(Protocol):
    """What is trained. The loop owns the order, the optimizer and the files; a task says what a step sees and how it is judged."""

    network: Stored
    patch: tuple[int, ...] | None
    """Size (tensor order) of the boxes that batches are cut to; the loop restores it when a run is continued."""

    def batch(self, step: int) -> Batch:
        """All pairs of step ``step`` (0, 1, ...): a function of the step alone, on the CPU. The loop adds ``row`` and may
        hand them to ``loss`` in parts."""

    def loss(self, ask: Ask, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the pairs of the batch, to be differentiated, and its parts by name. batch: on the network's device."""

    def validate(self) -> dict[str, float]:
        """Numbers on scans that are not trained on; ``score`` (higher is better) chooses the best network and stops early."""

    def shrink(self, shape: tuple[int, ...]) -> bool:
        """Make batches of scans of ``shape`` smaller by a smaller ``patch``; False when that is not possible."""


class Deformed:
    """One batch, what the network says about it, and its images so deformed."""

    def __init__(self, batch: Batch, prediction: Prediction, mapping: Mapping):
        self.batch, self.prediction, self.mapping = batch, prediction, mapping
        self._images: dict[tuple[str, str], torch.Tensor] = {}

    def sent(self, name: str) -> torch.Tensor:
        """An image of the moving scan, by its name in the batch, on the fixed one; made when it is first asked for."""
        return self._made(name, "forward")

    def sent_back(self, name: str) -> torch.Tensor:
        """An image of the fixed scan on the moving one, through the inverse."""
        return self._made(name, "backward")

    def _made(self, name: str, way: str) -> torch.Tensor:
        if (name, way) not in self._images:
            self._images[name, way] = warped(self.batch[name], getattr(self.mapping, way))
        return self._images[name, way]


@dataclass(frozen=True)
class Told:
    """Features of one batch at one resolution, before any map is sought.

    features: fixed and moving, (B, C, *shape). batch: scans and labels on the same voxels. stride: voxels of the scans per voxel.
    draws: random numbers of every pair.
    """

    features: tuple[torch.Tensor, torch.Tensor]
    batch: Batch
    stride: int
    draws: tuple[np.random.Generator, ...]


class Loss(ABC):
    """One term of the energy: mean over the pairs of a batch, a scalar tensor that tracks gradients.

    kinds: the predictions it can judge. probabilistic: whether it needs a variance; local: local weights of the kernels. needs: keys
    of the batch. both_ways: whether it judges a batch whose second half is the first with exchanged roles. of_features: whether it
    judges features (``Told``) instead of maps (``Deformed``).
    """

    kinds: ClassVar[tuple[str, ...]] = EVERY_KIND
    probabilistic: ClassVar[bool] = False
    local: ClassVar[bool] = False
    both_ways: ClassVar[bool] = False
    of_features: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, case: Any) -> torch.Tensor: ...
