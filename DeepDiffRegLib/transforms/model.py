"""What every optimisable model offers the one solver: a displacement on the level's grid, moved by forces.

Energies speak to models only through *forces*: dE/du, a field (1, d, [Z,] Y, X) in voxels of the level's grid. How a force
moves the parameters is the model's matter; so any similarity, regularizer or prompt works with any model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from ..errors import ConfigError
from ..geometry.grid import Geometry
from .base import Transform

Face = tuple[int, int]
"""(component, side): component 0 is x; side 0 the low, -1 the high end of that axis."""


@dataclass(frozen=True)
class Push:
    """A force beside the scans': (1, d, *shape). name: of its group of terms. weight: of its step, where it has one of its own."""

    name: str
    force: torch.Tensor
    weight: float = 1.0


def summed(force: torch.Tensor, apart: Sequence[Push]) -> torch.Tensor:
    """All forces together, in place."""
    for push in apart:
        force.add_(push.force)
    return force


class Model(ABC):
    """Parameters on one level of the pyramid.

    derivative: ``pull`` models take dE/du at the current u (exact derivative of the interpolated scan); ``warped`` models
    take dE/dd at d = 0 of phi o (Id + d) (gradient of the warped scan). stores_displacement: whether u itself is the
    parameter, so that a landmark step may be composed onto it. descends_energy: whether it lowers one energy, so that every
    force, the landmarks' too, has to be the derivative of the reported loss. pinned: faces of the grid that must not move.
    stuck: no step lowers the loss any more. notes: what happened on the way that the result should say.
    """

    derivative: ClassVar[Literal["pull", "warped"]] = "pull"
    stores_displacement: ClassVar[bool] = False
    descends_energy: ClassVar[bool] = False
    geometry: Geometry
    pinned: tuple[Face, ...] = ()
    stuck: bool = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        """Go to a level: identity on the first call, today's map resampled on later ones; optimiser moments restart."""

    @abstractmethod
    def displacement(self) -> torch.Tensor:
        """Current u: (1, d, *shape) in voxels of the level's grid. Not to be written to."""

    def energy(self) -> dict[str, float]:
        """Weighted energies of the parameters themselves at ``displacement``; the model adds their derivative on its own."""
        return {}

    def judge(self, loss: float) -> bool:
        """Told the whole loss at ``displacement``, before ``step``: is this map kept?

        A model with a line search may answer False; it has then gone back to a nearer trial, to be looked at without a step.
        """
        return True

    @abstractmethod
    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        """Move the parameters downhill. All forces are dE/du in voxels and may be overwritten.

        force: of the scans and regularizers. apart: of the user's prompts and of further similarities, balanced against the
        scans' already. A model may normalize each by itself, so that one that is strong where it acts does not slow the others
        elsewhere; ``summed`` is for those that do not.
        """

    @abstractmethod
    def finish(self) -> Transform:
        """The map reached, in mm, independent of this object's further steps."""

    def smooth_force(self, force: torch.Tensor) -> torch.Tensor:
        """The force as the model would feel it; used to balance terms of different units."""
        return force

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        """Continue from a finished map; a model that cannot represent it raises ``ConfigError``."""
        raise ConfigError(
            f"{type(self).__name__} cannot continue from a {type(transform).__name__}; "
            "continue with transform 'diffeomorphic' or 'displacement', which take any start"
        )

    def set_stiffness(self, stiffness, world: np.ndarray | None = None) -> None:
        """Say which tissue is stiff (``data.pair.Stiffness``); only models with local weights can."""
        raise ConfigError(f"{type(self).__name__} moves all tissue alike: stiffness needs transform 'rdmm'")

    def set_displacement(self, displacement: torch.Tensor) -> None:
        """Replace u (voxels); only models with ``stores_displacement`` can."""
        raise ConfigError(f"{type(self).__name__} does not store a displacement per voxel")


class Adam:
    """Moments of one parameter tensor (Kingma & Ba, 2015) with an epsilon relative to the largest magnitude.

    A relative epsilon keeps parameters without evidence (flat tissue, air) from being driven by noise at full speed.
    """

    def __init__(self, like: torch.Tensor, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 0.05):
        self.betas, self.epsilon, self.steps = betas, epsilon, 0
        self.m, self.s = torch.zeros_like(like), torch.zeros_like(like)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Bias-corrected step direction, each entry at most about 1 in magnitude."""
        b1, b2 = self.betas
        self.steps += 1
        self.m.mul_(b1).add_(gradient, alpha=1 - b1)
        self.s.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        root = (self.s / (1 - b2**self.steps)).sqrt_()
        return self.m / (1 - b1**self.steps) / root.add_(self.epsilon * root.max() + 1e-30)


class Plain:
    """Steps along the gradient times ``gain``, in the place of ``Adam``."""

    def __init__(self, gain: float):
        self.gain, self.steps = gain, 0

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient times the gain."""
        self.steps += 1
        return gradient * self.gain


class FieldAdam:
    """Adam for vector fields: one second moment per voxel (of the vector's length), so directions are kept.

    Fused on the CPU in 3-D. Needs 4 (d + 1) bytes per voxel.
    """

    def __init__(self, like: torch.Tensor, betas: tuple[float, float], epsilon: float):
        self.betas, self.epsilon, self.steps = betas, epsilon, 0
        self.m, self.s = torch.zeros_like(like), torch.zeros_like(like[:, :1])
        self.fused = like.ndim == 5 and like.device.type == "cpu" and like.dtype == torch.float32

    def direction(self, gradient: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Direction (written over ``gradient``) and the length of its longest vector."""
        b1, b2 = self.betas
        self.steps += 1
        scale_m, scale_s = 1 / (1 - b1**self.steps), 1 / (1 - b2**self.steps)
        if self.fused:
            return self._fused(gradient, scale_m, scale_s)
        self.m.mul_(b1).add_(gradient, alpha=1 - b1)
        self.s.mul_(b2).add_(gradient.square().sum(1, keepdim=True), alpha=1 - b2)
        root = (self.s * scale_s).sqrt_()
        torch.div(self.m * scale_m, root + (self.epsilon * root.max() + 1e-30), out=gradient)
        return gradient, float(gradient.square().sum(1).max().sqrt())

    def scale(self) -> torch.Tensor:
        """(1, 1, *shape): what the last ``direction`` divided the mean gradient by."""
        root = (self.s / (1 - self.betas[1] ** self.steps)).sqrt_()
        return root.add_(self.epsilon * root.max() + 1e-30)

    def _fused(self, gradient: torch.Tensor, scale_m: float, scale_s: float) -> tuple[torch.Tensor, float]:
        from ._fused_steps import direction, update_moments

        f = np.float32
        g, m, s = gradient[0].numpy(), self.m[0].numpy(), self.s[0, 0].numpy()
        largest = update_moments(g, m, s, f(self.betas[0]), f(self.betas[1]))
        floor = self.epsilon * float(np.sqrt(scale_s * largest)) + 1e-30
        squared = direction(m, s, f(scale_m), f(scale_s), f(floor), g)
        return gradient, float(np.sqrt(squared))


class FieldDescent:
    """Plain gradient descent for vector fields, in the place of ``FieldAdam``: the gradient of the sum over voxels / epsilon.

    A mean over voxels would make steps depend on the size of the grid. Directions are proportional to the gradient, so that what
    is reached is the minimum itself, which the derivative through a solver assumes.
    """

    def __init__(self, like: torch.Tensor, betas: tuple[float, float] = (0.0, 0.0), epsilon: float = 1.0):
        self.gain = like[0, 0].numel() / epsilon
        self._scale = like.new_full((1, 1, *(1,) * (like.ndim - 2)), 1.0 / self.gain)

    def direction(self, gradient: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Direction (written over ``gradient``) and the length of its longest vector."""
        gradient.mul_(self.gain)
        return gradient, float(gradient.square().sum(1).max().sqrt())

    def scale(self) -> torch.Tensor:
        """(1, 1, 1, ...): what ``direction`` divides the mean gradient by."""
        return self._scale.clone()


OPTIMIZERS = {"adam": FieldAdam, "sgd": FieldDescent}


def pin_faces(field: torch.Tensor, faces: tuple[Face, ...]) -> None:
    """Set the listed border layers of (1, d, *shape) to zero, in place."""
    for component, side in faces:
        field.select(field.ndim - 1 - component, side).zero_()
