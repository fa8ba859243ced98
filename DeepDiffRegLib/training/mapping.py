"""From a network's prediction to displacements of the grid of its input, everything differentiable and for whole batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from ..errors import InputError
from ..geometry.sampling import identity_index, per_component, pull_gradient, sample, warp
from ..geometry.vector_fields import compose
from ..methods.shot import Shot
from ..networks.affine_net import displaced, joined
from ..networks.base import Prediction
from ..transforms.integrate import INTEGRATORS, integrate, time_varying


class Mapping:
    """The map x -> x + u(x) that a prediction stands for, and its inverse; u: (B, d, *shape) in voxels of the input.

    velocity: used instead of a ``velocity`` prediction's mean (one draw of its posterior), same shape and units. integrator,
    steps: of stationary velocities (``transforms.integrate``), steps None chooses; of a momentum the time steps alone.
    spacing_mm: of the input (x, y[, z]), for kernels of a momentum. after: the mapping of an earlier look at the same pair, through
    which the moving scan was shown: the whole map is first this one, then that one.
    """

    def __init__(
        self,
        prediction: Prediction,
        shape: tuple[int, ...],
        velocity: torch.Tensor | None = None,
        integrator: str = "scaling_squaring",
        steps: int | None = None,
        spacing_mm: tuple[float, ...] | None = None,
        after: Mapping | None = None,
    ):
        INTEGRATORS[integrator]
        self.prediction, self.shape = prediction, tuple(shape)
        self.integrator, self.steps = integrator, steps
        self._fields = prediction.fields if velocity is None else (velocity,)
        self.spacing_mm, self.after = spacing_mm or (1.0,) * len(self.shape), after

    @property
    def looks(self) -> tuple[Mapping, ...]:
        """This mapping and the earlier ones, last first: the order in which they act on a point."""
        return (self,) if self.after is None else (self, *self.after.looks)

    @cached_property
    def forward(self) -> torch.Tensor:
        """From the fixed grid into the moving scan (pull-back)."""
        own = OWN.get(self.prediction.kind, Mapping._flow)(self)
        # matrices are joined as such
        return own if self.after is None or self.prediction.kind == "affine" else compose(self.after.forward, own)

    @cached_property
    def shot(self) -> Shot:
        """The flow of a momentum."""
        return Shot(self.prediction, self.shape, self.spacing_mm, self.steps)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """The whole map of matrices, (B, d, d + 1) on voxels counted from the middle."""
        own = self.prediction.field
        return own if self.after is None else joined(self.after.matrix, own)

    @property
    def invertible(self) -> bool:
        """Whether there is ``backward``."""
        return self.prediction.kind in INVERTIBLE and self.after is None

    @cached_property
    def backward(self) -> torch.Tensor:
        """The inverse: exp(-v), or the negated velocities in reversed order. ``InputError`` for other predictions."""
        if not self.invertible:
            raise InputError(
                f"Mapping.backward: a network that predicts a {self.prediction.kind} has no inverse to train on; take the loss "
                "'inverse', which asks it both ways"
            )
        return self._on_input(self._integrated(True))

    def _plain(self) -> torch.Tensor:
        return self._on_input(self._points[0])

    def _flow(self) -> torch.Tensor:
        return self._on_input(self._integrated(False))

    def _shot(self) -> torch.Tensor:
        return self._on_input(self.shot.displacement)

    def _matrix(self) -> torch.Tensor:
        return displaced(self.matrix, self.shape)

    def at(self, time: float) -> torch.Tensor:
        """exp(time v) of a stationary velocity."""
        if self.prediction.kind != "velocity":
            raise InputError(f"Mapping.at(): needs a stationary velocity, got a {self.prediction.kind} prediction")
        return self._on_input(integrate(time * self._points[0], self.integrator, self.steps))

    @cached_property
    def _points(self) -> list[torch.Tensor]:
        """The fields in distances of their own grid points."""
        unit, spacing = self.prediction.unit_voxels, self.prediction.spacing_voxels
        return [f * per_component([unit / h for h in spacing], f) for f in self._fields]

    def _integrated(self, backward: bool) -> torch.Tensor:
        if self.prediction.kind == "time_varying":
            return time_varying(self._points, backward)
        field = self._points[0]
        return integrate(-field if backward else field, self.integrator, self.steps)

    def _on_input(self, u: torch.Tensor) -> torch.Tensor:
        """A displacement in grid points, read linearly at the voxels of the input and given in these."""
        spacing = self.prediction.spacing_voxels
        u = u * per_component(spacing, u)
        if tuple(u.shape[2:]) == self.shape and set(spacing) == {1.0}:
            return u
        index = identity_index(self.shape, u.device, u.dtype)
        index = (index - self.prediction.offset_voxels) / per_component(spacing, index)
        return sample(u, index.expand(len(u), *index.shape[1:]), padding="border")


def looked(
    ask: Callable[..., Prediction], moving: torch.Tensor, fixed: torch.Tensor, looks: int = 1, **options
) -> Mapping:
    """The mapping of a pair that the network sees ``looks`` times, from the second on through the map so far.

    moving, fixed: (B, 1, *shape). options: of every ``Mapping``.
    """
    shape = tuple(fixed.shape[2:])
    mapping = Mapping(ask(moving, fixed), shape, **options)
    for _look in range(1, looks):
        mapping = Mapping(ask(warped(moving, mapping.forward), fixed), shape, **options, after=mapping)
    return mapping


OWN = {"displacement": Mapping._plain, "momentum": Mapping._shot, "affine": Mapping._matrix}
"""How a prediction becomes a displacement; the others are velocities."""
INVERTIBLE = ("velocity", "time_varying")


def warped(image: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """image o (Id + u), 0 outside: (B, C, *shape); u in voxels of the same grid. Differentiable in u (not in 3-D images)."""
    if image.ndim == 5 and image.device.type == "cpu" and image.dtype == u.dtype == torch.float32:
        return _Warp.apply(image, u)
    return sample(image, identity_index(tuple(u.shape[2:]), u.device, u.dtype) + u)


class _Warp(torch.autograd.Function):
    """The fused kernels for 3-D images on the CPU, whose own derivative torch does not know."""

    @staticmethod
    def forward(ctx, image, u):
        ctx.save_for_backward(image, u)
        return torch.cat([warp(i, v, np.eye(3, 4)) for i, v in zip(image.split(1), u.split(1))])

    @staticmethod
    def backward(ctx, residual):
        parts = (t.split(1) for t in (*ctx.saved_tensors, residual.contiguous()))
        return None, torch.cat([pull_gradient(i, v, np.eye(3, 4), r) for i, v, r in zip(*parts)])
