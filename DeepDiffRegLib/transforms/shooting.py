"""The finished map of a shooting model: momentum, weights and metric, from which everything else follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..checks import check_shape
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.sampling import identity_index, per_component, sample
from ..geometry.vector_fields import compose, lands_inside
from ._shooting_metric import Metric, Regional, State
from ._shooting_path import Path, Shooting, even
from .base import Inverse, ResidualMm, Transform, residual_mm
from .displacement import DisplacementTransform, to_voxels, to_world
from .kernels import MultiGaussian, Walls, along_axes, effective_sigma, interpolation_matrix


@dataclass(frozen=True, eq=False)
class ShootingTransform(Transform):
    """x_moving = Phi(1)(x_fixed) of the flow that ``momentum`` starts.

    momentum: (1, d, [Z,] Y, X), mm LPS, at time 0 (in moving space) on ``geometry``, the grid of the flow. metric: makes
    velocities of it. pre_weights: (1, N, *shape) h(0) on the same grid, with a ``Regional`` metric. walls: pinned ends of the
    grid's axes. domain: the (finer) grid the displacement is stored on. steps: time steps, raised where the flow is too fast.
    """

    momentum: torch.Tensor
    geometry: Geometry
    metric: Metric
    walls: Walls
    domain: Geometry
    steps: int = 6
    pre_weights: torch.Tensor | None = None

    flows = True

    def __post_init__(self):
        check_shape("ShootingTransform", "momentum", self.momentum, (1, self.geometry.ndim, *self.geometry.shape))
        if isinstance(self.metric, Regional) != (self.pre_weights is not None):
            raise ConfigError("ShootingTransform: pre_weights belong to a Regional metric, and it needs them")
        if self.pre_weights is not None:
            expected = (1, len(self.metric.sigmas_mm), *self.geometry.shape)
            check_shape("ShootingTransform", "pre_weights", self.pre_weights, expected)

    @property
    def ndim(self) -> int:
        return self.geometry.ndim

    @property
    def state(self) -> State:
        """(m, ) or (m, h) along the grid's axes, without batch axis."""
        m = rotated(self.momentum, self.geometry.rotation.T)[0]
        return (m,) if self.pre_weights is None else (m, self.pre_weights[0])

    @cached_property
    def shooting(self) -> Shooting:
        """The integrator on ``geometry``."""
        m = self.momentum
        flow = self.metric.on(self.geometry.shape, self.geometry.spacing_mm, self.walls, m.device, m.dtype)
        return Shooting(flow, self.geometry.spacing_mm, self.metric.stationary)

    @cached_property
    def path(self) -> Path:
        """States and velocities at the nodes 0..path.steps of unit time."""
        return self.shooting.run(self.state, self.steps)

    def at(self, time: float) -> ShootingTransform:
        """The map phi_t, t in [0, 1]: the flow of ``time`` times the momentum (shooting is homogeneous in time).

        It is not shot again: between the stored nodes its states and velocities are interpolated (cubic in time).
        """
        self._node(time)
        part = replace(self, momentum=self.momentum * float(time))
        vars(part)["shooting"], vars(part)["path"] = self.shooting, portion(self.path, float(time))
        return part

    def coarse(self, spacing_mm: float) -> ShootingTransform:
        """The same flow, its map stored on the grid that it is computed on."""
        other = replace(self, domain=self.geometry)
        vars(other)["shooting"], vars(other)["path"] = self.shooting, self.path
        return other

    def momentum_at(self, time: float) -> torch.Tensor:
        """m(t) on ``geometry``, (1, d, *shape) mm LPS; t is rounded to the next stored node."""
        state = self.path.states[self._node(time) if len(self.path.states) > 1 else 0]
        return rotated(state[0][None], self.geometry.rotation)

    def velocity(self, time: float) -> torch.Tensor:
        """v(t) on ``geometry``, (1, d, *shape) mm LPS per unit time; t is rounded to the next stored node."""
        return rotated(self.path.node(self._node(time))[None], self.geometry.rotation)

    def energy(self, time: float = 0.0) -> float:
        """1/2 <m, v> / L^2, the mean over voxels, L the longest edge of the grid; constant in time but for rounding."""
        node = self._node(time)
        m = self.path.states[node if len(self.path.states) > 1 else 0][0]
        scale = 0.5 / self.geometry.voxels / float(self.geometry.extent_mm.max()) ** 2
        return scale * float((m * self.path.node(node)).sum(dtype=torch.float64))

    def weights(self, time: float = 0.0) -> torch.Tensor:
        """w_i(t), (1, N, *shape) on ``geometry``: constant for one kernel, else the pre-weights carried along and blurred.

        Their squares are the shares of the Gaussians. time: 0 (moving space) to 1 (fixed space).
        """
        if self.pre_weights is None:
            shares = self.metric.kernel.weights if isinstance(self.metric.kernel, MultiGaussian) else (1.0,)
            ones = self.momentum.new_ones((1, 1, *self.geometry.shape))
            return torch.cat([ones * s**0.5 for s in shares], 1)
        h = self.pre_weights
        if time > 0:
            u = self.at(time).trace()
            h = sample(h, identity_index(tuple(h.shape[2:]), h.device, h.dtype) + u, padding="border")
        return self.shooting.flow.blurred(h[0])[None]

    def sigma_mm(self, time: float = 0.0) -> torch.Tensor:
        """Effective standard deviation sqrt(sum_i w_i^2 sigma_i^2 / sum_i w_i^2), (1, 1, *shape) in mm on ``geometry``."""
        w = self.weights(time)
        if self.pre_weights is None and not isinstance(self.metric.kernel, MultiGaussian):
            sigmas = [2 * (self.metric.kernel.beta * self.metric.kernel.alpha_mm2 / self.metric.kernel.gamma) ** 0.5]
        else:
            sigmas = self.metric.sigmas_mm if self.pre_weights is not None else self.metric.kernel.sigmas_mm
        return effective_sigma(w, sigmas)

    def trace(self) -> torch.Tensor:
        """Phi(1) - Id on ``geometry``: (1, d, *shape) in its voxels."""
        return self.shooting.trace(self.path, keep=False)

    @cached_property
    def finished(self) -> DisplacementTransform:
        """The map as a displacement on ``domain``."""
        return self._stored(self.trace())

    def _stored(self, u: torch.Tensor) -> DisplacementTransform:
        return DisplacementTransform(to_world(refined(u, self.geometry, self.domain), self.domain), self.domain)

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        return self.finished.map_points(points_mm)

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        return self.finished.follow(displacement, geometry)

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        return self.finished.displacement(geometry, device)

    def inverse(self) -> Inverse:
        """By following the stored velocities forward; the error is measured at all voxels of ``domain`` that stay on it."""
        backward = self._stored(self.shooting.trace_forward(self.path))
        inner = to_voxels(backward.tensor, self.domain)
        return Inverse(backward, self._error(inner))

    def _error(self, inner: torch.Tensor) -> ResidualMm:
        both = to_world(compose(to_voxels(self.finished.tensor, self.domain), inner), self.domain)
        distances = torch.linalg.vector_norm(both, dim=1, keepdim=True)[lands_inside(inner)]
        return residual_mm(distances.cpu().numpy())

    def to_itk(self):
        """The displacement as a DisplacementFieldTransform."""
        return self.finished.to_itk()

    def _node(self, time: float) -> int:
        if not 0 <= time <= 1:
            raise ConfigError(f"ShootingTransform: time must lie in [0, 1], got {time}")
        return round(time * self.path.steps)


def portion(path: Path, time: float) -> Path:
    """The first ``time`` of a path stretched to unit time: m and v become ``time`` times as large, h stays."""
    steps = even(math.ceil(time * path.steps - 1e-9))
    if len(path.velocities) == 1:
        return Path(steps, [_slowed(path.states[0], time)], [path.velocities[0] * time])
    nodes = np.linspace(0.0, time * path.steps, steps + 1)
    return Path(
        steps,
        _Between(nodes, lambda place: _slowed(tuple(map(sum, zip(*_shares(path.states, place)))), time)),
        _Between(nodes, lambda place: time * sum(v for (v,) in _shares(path.velocities, place))),
    )


class _Between(Sequence):
    """Values at places between stored nodes, made when they are asked for. places: in units of the nodes' distance."""

    def __init__(self, places: np.ndarray, make: Callable[[float], State | torch.Tensor]):
        self._places, self._make = places, make

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, k: int):
        return self._make(float(self._places[k]))


def _shares(stored: Sequence, place: float) -> list[State]:
    """What the (up to) four nodes around ``place`` add to the polynomial through them there (Lagrange); tensors as 1-tuples."""
    count = min(4, len(stored))
    first = min(max(math.floor(place) - 1, 0), len(stored) - count)
    nodes = range(first, first + count)
    weights = [math.prod((place - b) / (a - b) for b in nodes if b != a) for a in nodes]
    used = [(stored[a], w) for a, w in zip(nodes, weights) if w]
    return [tuple(w * x for x in (one if isinstance(one, tuple) else (one,))) for one, w in used]


def _slowed(state: State, time: float) -> State:
    return (state[0] * time, *state[1:])


def rotated(field: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """matrix @ components of (1, d, *shape)."""
    return torch.einsum("ij,bj...->bi...", torch.as_tensor(matrix, dtype=field.dtype, device=field.device), field)


def refined(u: torch.Tensor, source: Geometry, target: Geometry) -> torch.Tensor:
    """A displacement in voxels of ``source`` to voxels of ``target`` with the same outer faces, by linear interpolation."""
    ratio = np.array(source.spacing_mm) / np.array(target.spacing_mm)
    return along_axes(u, refinement(source, target, u), from_last=False).mul_(per_component(ratio, u))


def refinement(source: Geometry, target: Geometry, like: torch.Tensor, cubic: bool = False) -> list[torch.Tensor]:
    """Interpolation between two grids of one box, a matrix per tensor axis; transposed they are its adjoint."""
    return [interpolation_matrix(a, b, cubic).to(like.device, like.dtype) for a, b in zip(source.shape, target.shape)]
