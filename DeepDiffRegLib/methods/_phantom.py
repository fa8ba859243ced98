"""One step of the solver as a differentiable function of the features: what training sees of an optimisation.

The map that the optimisation reached is taken as it is; the step from there on depends on the features through the force alone.
Each transform model has its way to make a step of a force (``STEPS``): the same as when it is optimised, with a constant rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.sampling import identity_index, index_matrix, per_component, warp
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import compose
from ..regularization.base import Regularizer
from ..transforms.integrate import integrate, squarings
from ..transforms.model import Model
from ._feature_force import feature_force

LONGEST_VOXELS = 0.5
"""No voxel moves farther in one such step."""


@dataclass(frozen=True)
class Comparison:
    """What one level compares: features (1, C, *shape) with their grids and the affine part (homogeneous, mm) between them."""

    fixed: torch.Tensor
    moving: torch.Tensor
    geometry: Geometry
    moving_geometry: Geometry
    world: np.ndarray
    regularizers: Sequence[tuple[float, Regularizer]] = ()

    def detached(self) -> Comparison:
        """The same without anything to differentiate."""
        return Comparison(
            self.fixed.detach(), self.moving.detach(), self.geometry, self.moving_geometry, self.world, self.regularizers
        )  # fmt: skip


class Phantom:
    """One step of a model: parameters (``Model.field``, or the displacement of linear models) to parameters.

    rate: times the force of the sum over voxels. The step is made shorter where it would exceed ``LONGEST_VOXELS``. What decides
    that, and the voxels that the moving scan covers, are taken at ``state`` and kept: constants of the function.
    """

    def __init__(self, model: Model, comparison: Comparison, state: torch.Tensor, rate: float = 1.0):
        self.model, self.comparison = model, comparison
        self.way = next(STEPS[base] for base in type(model).__mro__ if base in STEPS)
        self.matrix = index_matrix(comparison.geometry, comparison.moving_geometry, comparison.world)
        with torch.no_grad():
            still, moving = comparison.detached(), comparison.moving
            covered = moving.new_ones((1, 1, *moving.shape[2:]))
            self.seen = warp(covered, self.way.shown(state), self.matrix)
            longest = float(self.way.smoothed(model, self._force(state, still)).square().sum(1).max().sqrt())
        self.rate = min(rate, LONGEST_VOXELS / longest) if longest > 0 else rate

    def __call__(self, state: torch.Tensor, comparison: Comparison | None = None) -> torch.Tensor:
        """The parameters after the step. comparison: other features than those given first."""
        force = self._force(state, self.comparison if comparison is None else comparison)
        return self.way.stepped(self.model, state, self.way.smoothed(self.model, force) * -self.rate)

    def _force(self, state: torch.Tensor, comparison: Comparison) -> torch.Tensor:
        """dE/du of the sum over voxels."""
        u = self.way.shown(state)
        force = feature_force(comparison.fixed, comparison.moving, u, self.matrix, self.seen, self.model.derivative)
        spacing_mm = comparison.geometry.spacing_mm
        for weight, regularizer in comparison.regularizers:
            spacing = per_component(spacing_mm, u)
            force = force + weight * spacing * _Quadratic.apply(u * spacing, regularizer, spacing_mm)
        return force * u[0, 0].numel()


class _Quadratic(torch.autograd.Function):
    """Gradient of a quadratic energy: linear and symmetric, so that its transpose is itself."""

    @staticmethod
    def forward(ctx, displacement_mm, regularizer, spacing_mm):
        ctx.regularizer, ctx.spacing_mm = regularizer, spacing_mm
        return regularizer.value_and_gradient(displacement_mm, spacing_mm)[1]

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.regularizer.value_and_gradient(cotangent.contiguous(), ctx.spacing_mm)[1], None, None


@dataclass(frozen=True)
class Way:
    """How a kind of model goes a step. shown: parameters to displacement (voxels). smoothed: force to direction.

    stepped: model, parameters and a small displacement to the next parameters. start: a model's parameters.
    """

    shown: Callable[[torch.Tensor], torch.Tensor]
    smoothed: Callable[[Model, torch.Tensor], torch.Tensor]
    stepped: Callable[[Model, torch.Tensor, torch.Tensor], torch.Tensor]
    start: Callable[[Model], torch.Tensor]


def _itself(state: torch.Tensor) -> torch.Tensor:
    return state


def _viscous(model: Model, force: torch.Tensor) -> torch.Tensor:
    return gaussian(force, model.sigma_gradient)


def _added(model: Model, state: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return gaussian(state + step, model.sigma_warp)


def _composed(model: Model, state: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return gaussian(compose(state, step), model.sigma_warp)


def _exponential(velocity: torch.Tensor) -> torch.Tensor:
    return integrate(velocity, "scaling_squaring", max(3, squarings(velocity.detach(), least=0)))


def _field(model: Model) -> torch.Tensor:
    return model.field.detach().clone()


def _projected(model: Model, force: torch.Tensor) -> torch.Tensor:
    """The force as the linear map nearest to it, among those that the model can make of the identity."""
    basis = _linear_fields(model, force)
    flat = basis.flatten(1)
    gram = flat @ flat.T
    weights = torch.linalg.solve(gram, flat @ force.flatten())
    return torch.einsum("k,k...->...", weights, basis)[None]


def _linear_fields(model: Model, like: torch.Tensor) -> torch.Tensor:
    """(K, d, *shape) displacements in voxels: translations and the model's generators about the middle of the grid."""
    d = like.shape[1]
    index = identity_index(tuple(like.shape[2:]), like.device, like.dtype)[0]
    center = per_component([(n - 1) / 2 for n in like.shape[:1:-1]], like)[0]
    axes = model.geometry.index_to_world[:-1, :-1]
    turns = [np.linalg.solve(axes, generator @ axes) for generator in model.generators(d)]
    turns = torch.as_tensor(np.reshape(turns, (-1, d, d)), dtype=like.dtype, device=like.device)
    radius = float(max(like.shape[2:])) / 2
    linear = torch.einsum("kij,j...->ki...", turns, (index - center) / radius)
    shifts = torch.eye(d, dtype=like.dtype, device=like.device).reshape(d, d, *(1,) * d).expand(d, *index.shape)
    return torch.cat((shifts, linear))


def _moved(model: Model, state: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return state + step


def _displacement(model: Model) -> torch.Tensor:
    return model.displacement().detach().clone()


def _ways() -> dict[type, Way]:
    from ..transforms import TRANSFORMS

    rows = {
        "displacement": Way(_itself, _viscous, _added, _field),
        "diffeomorphic": Way(_itself, _viscous, _composed, _field),
        "svf": Way(_exponential, _viscous, _added, _field),
        **dict.fromkeys(
            ("translation", "rigid", "similarity", "affine"), Way(_itself, _projected, _moved, _displacement)
        ),
    }
    return {TRANSFORMS.load(name): way for name, way in rows.items()}


STEPS = _ways()
