"""What vSVF, LDDMM and RDMM share as models: a momentum on half the level's grid, shot, upsampled, pulled back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch

from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample
from ..geometry.sampling import per_component
from ._shooting_descent import Block, LineSearch
from ._shooting_metric import Metric, State
from ._shooting_path import Path, Shooting, ShootingDiverged
from .base import Transform
from .kernels import Smoother, along_axes
from .model import FieldAdam, Model, Push, summed
from .shooting import ShootingTransform, refined, refinement, rotated

LEAST_VOXELS = 16
"""The flow's grid never has fewer voxels per axis than this (or than the level)."""
NARROWEST_VOXELS = 1.0
"""The narrowest Gaussian spans at least this many voxels of the flow's grid, where the level's grid allows it."""
FLOOR = 0.02
"""The preconditioner is 1 / (K + FLOOR): it undoes the smoothing up to 1 / FLOOR."""
FIRST_STEP_VOXELS = 0.5
LONGEST_STEP_VOXELS = 3.0


class ShootingModel(Model):
    """Momentum shooting. The loss it lowers holds its own energy, ``energy_weight`` times <m, v> / (2 L^2).

    sigmas, sigma_unit: of the Gaussians, in ``mm`` or as a ``fraction`` of the longest edge of the solved box. weights: their
    shares, sum 1. steps: time steps (raised when the flow is too fast). map_factor: the flow's grid is coarser than the level's
    by this much at most. optimizer: ``lbfgs`` (backtracking line search) or ``adam`` (steps of ``learning_rate`` voxels at most).
    """

    derivative = "pull"
    descends_energy: ClassVar[bool] = True

    def __init__(
        self,
        sigmas: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25),
        weights: tuple[float, ...] = (1 / 15, 2 / 15, 3 / 15, 4 / 15, 5 / 15),
        sigma_unit: Literal["mm", "fraction"] = "fraction",
        energy_weight: float = 10.0,
        steps: int = 6,
        map_factor: float = 2.0,
        optimizer: Literal["lbfgs", "adam"] = "lbfgs",
        learning_rate: float = 0.25,
        history: int = 5,
    ):
        if sigma_unit not in ("mm", "fraction"):
            raise ConfigError(f"sigma_unit must be 'mm' or 'fraction', got {sigma_unit!r}")
        if optimizer not in ("lbfgs", "adam"):
            raise ConfigError(f"optimizer must be 'lbfgs' or 'adam', got {optimizer!r}")
        if not (energy_weight >= 0 and steps >= 2 and map_factor >= 1):
            raise ConfigError(
                "energy_weight must be 0 or more, steps at least 2 and map_factor at least 1, "
                f"got {energy_weight}, {steps} and {map_factor}"
            )
        self.sigmas, self.weights, self.sigma_unit = tuple(sigmas), tuple(weights), sigma_unit
        self.energy_weight, self.time_steps, self.map_factor = energy_weight, steps, map_factor
        self.optimizer, self.learning_rate, self.history = optimizer, learning_rate, history
        self._start: ShootingTransform | None = None
        self._search: LineSearch | None = None
        self._at: Block | None = None
        self._grid: Geometry | None = None

    # --- what a family member says -------------------------------------------------------------------------------------

    @abstractmethod
    def _metric(self, sigmas_mm: tuple[float, ...]) -> Metric:
        """The metric for today's sigmas."""

    def _enter_parameters(self, before: Geometry | None) -> Block:
        """Parameters on ``self._grid``: zero at first, those of the grid ``before`` carried over."""
        if self._at is None:
            return [torch.zeros((self._grid.ndim, *self._grid.shape), device=self._device)]
        return [carried(self._at[0], before, self._grid)]

    def _state(self) -> State:
        """State at time 0 for today's parameters."""
        return (self._at[0],)

    def _own_terms(self) -> dict[str, float]:
        """Energies beside the kinetic one."""
        return {}

    def _own_gradient(self, wanted: State) -> Block:
        """dE/dparameters from dE/dstate(0), with those of ``_own_terms``."""
        return [wanted[0]]

    def _resumed(self, transform: ShootingTransform) -> Block:
        """Parameters of a finished map on its own grid."""
        return [transform.state[0].to(self._device)]

    # --- the interface of Model ------------------------------------------------------------------------------------------

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        self._settle()
        before, self._device = self._grid, torch.device(device)
        self.geometry = geometry
        sigmas = self._sigmas_mm()
        self._grid = self._flow_grid(min(sigmas))
        metric = self._metric(sigmas)
        self.metric = self._start.metric if self._start is not None else metric
        self._walls = tuple(((c, 0) in self.pinned, (c, -1) in self.pinned) for c in range(geometry.ndim))
        like = torch.empty(0, device=device)
        flow = self.metric.on(self._grid.shape, self._grid.spacing_mm, self._walls, like.device, like.dtype)
        self._shooting = Shooting(flow, self._grid.spacing_mm, self.metric.stationary)
        self._refinement = refinement(self._grid, geometry, like)
        self._at = self._enter_parameters(before)
        self._prepare_optimizer(like)
        self.stuck, self._u, self._path = False, None, None
        self._good: Block | None = None

    def displacement(self) -> torch.Tensor:
        if self._u is None:
            self._path = self._shoot()
            self._u = refined(self._shooting.trace(self._path), self._grid, self.geometry)
            self._good = self._at
        return self._u

    def energy(self) -> dict[str, float]:
        """``kinetic`` and what the family member adds, at the map of ``displacement``."""
        self.displacement()
        m, v = self._path.states[0][0], self._path.velocities[0]
        kinetic = 0.5 * self._energy_scale * float((m * v).sum(dtype=torch.float64))
        return {"kinetic": kinetic} | self._own_terms()

    def judge(self, loss: float) -> bool:
        if self._search is None or self._search.judge(loss):
            return True
        self._take(self._search.at)
        self.stuck = self._search.stuck
        return False

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        self.displacement()
        total = summed(force, apart)
        wanted = self._shooting.pull_back(self._path, self._coarse_force(total), self._energy_scale)
        gradient = self._own_gradient(wanted)
        if self._search is not None:
            self._scale(gradient)
            self._search.told(gradient)
            self.stuck = self._search.stuck
            self._take(self._search.at)
        else:
            self._take(self._adam_step(gradient))

    def smooth_force(self, force: torch.Tensor) -> torch.Tensor:
        """The change of velocity that the force asks for, on the flow's grid."""
        return self._shooting.flow.precondition(self._coarse_force(force)[0])[None]

    def finish(self) -> ShootingTransform:
        self._settle()
        self.displacement()
        state = self._state()
        momentum = rotated(state[0][None], self._grid.rotation)
        h = state[1][None].clone() if len(state) > 1 else None
        return ShootingTransform(momentum, self._grid, self.metric, self._walls, self.geometry, self._path.steps, h)

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        """From a map of the same family exactly, whatever its grid."""
        if not isinstance(transform, ShootingTransform) or not isinstance(
            transform.metric, type(self._metric((1.0,) * len(self.sigmas)))
        ):
            super().resume(transform, geometry, device)
        self._device = torch.device(device)
        self._start, self._grid, self.geometry = transform, transform.geometry, geometry
        self._at, self._search = self._resumed(transform), None

    # --- inside ------------------------------------------------------------------------------------------------------------

    @property
    def _energy_scale(self) -> float:
        """energy_weight / (voxels L^2): makes the sum over voxels of m . v a number without unit."""
        return self.energy_weight / self._grid.voxels / float(self.geometry.extent_mm.max()) ** 2

    def _sigmas_mm(self) -> tuple[float, ...]:
        longest = float(self.geometry.extent_mm.max())
        sigmas = tuple(s * (longest if self.sigma_unit == "fraction" else 1.0) for s in self.sigmas)
        if max(sigmas) > longest:
            raise ConfigError(
                f"sigma {max(sigmas):g} mm is larger than the scan ({longest:g} mm): every point would move alike; "
                "take smaller sigmas, or a rigid or affine transform"
            )
        return sigmas

    def _flow_grid(self, narrowest_mm: float) -> Geometry:
        """The level's grid coarsened by ``map_factor``, or by less where the narrowest Gaussian would be lost on it."""
        finest = min(self.geometry.spacing_mm)
        factor = min(self.map_factor, max(1.0, narrowest_mm / (NARROWEST_VOXELS * finest)))
        return self.geometry.coarsened(factor, LEAST_VOXELS)

    def _prepare_optimizer(self, like: torch.Tensor) -> None:
        symbol = self._mean_symbol
        self._flattener = Smoother(
            lambda k2: symbol(k2) / (symbol(k2) + FLOOR), self._grid.shape, self._grid.spacing_mm, self._walls,
            device=like.device, dtype=like.dtype,
        )  # fmt: skip
        self._scales: list[float] | None = None
        self._adams: list[FieldAdam] | None = None
        self._search = None
        if self.optimizer == "lbfgs":
            self._search = LineSearch(self._at, self._precondition, self._limit, self.history)

    @abstractmethod
    def _mean_symbol(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        """Symbol of the kernel, or of a mean kernel, that the preconditioner undoes."""

    def _precondition(self, gradient: Block) -> Block:
        """(K + FLOOR)^-1 on the momentum's gradient, a number on others'."""
        first = gradient[0]
        out = [(first - self._flattener(first)).mul_(self._scales[0] / FLOOR)]
        return out + [s * g for s, g in zip(self._scales[1:], gradient[1:])]

    def _scale(self, gradient: Block) -> None:
        """Fix the preconditioner's factors on the first gradients of the level that mean something: steps of a sensible length.

        Without momentum the other parameters do nothing, and what their gradient shows is rounding: they wait.
        """
        if self._scales is None:
            self._scales = [1.0] + [0.0] * (len(gradient) - 1)
            fastest = self._voxels_moved(self._precondition(gradient)[0])
            self._scales[0] = FIRST_STEP_VOXELS / fastest if fastest > 0 else 1.0
        if bool(self._at[0].any()):
            for i, other in enumerate(gradient[1:], 1):
                largest = float(other.abs().max())
                if self._scales[i] == 0 and largest > 0:
                    self._scales[i] = self.first_weight_step / largest

    first_weight_step = 0.2

    def _limit(self, direction: Block) -> float:
        return LONGEST_STEP_VOXELS / max(self._voxels_moved(direction[0]), 1e-30)

    def _voxels_moved(self, change: torch.Tensor) -> float:
        """Largest change of velocity, in voxels of the flow's grid, that a change of momentum makes."""
        v = self._shooting.flow.precondition(change)
        return float((v / per_component(self._grid.spacing_mm, v[None])[0]).abs().max())

    def _adam_step(self, gradient: Block) -> Block:
        self._scale(gradient)
        if self._adams is None:
            self._adams = [FieldAdam(g[None], (0.9, 0.99), 0.2) for g in gradient]
        out = []
        for i, (x, g, adam) in enumerate(zip(self._at, self._precondition(gradient), self._adams)):
            direction, longest = adam.direction(g[None])
            moved = self._voxels_moved(direction[0]) if i == 0 else float(direction.abs().max())
            rate = self.learning_rate if i == 0 else self.first_weight_step / 4
            out.append(x - direction[0] * (rate * min(1.0, longest) / max(moved, 1e-30)))
        return out

    def _coarse_force(self, force: torch.Tensor) -> torch.Tensor:
        """dE/du in voxels of the flow's grid from dE/du in voxels of the level: the adjoint of ``refined``."""
        ratio = np.array(self._grid.spacing_mm) / np.array(self.geometry.spacing_mm)
        return along_axes(force * per_component(ratio, force), [m.T for m in self._refinement])

    def _shoot(self) -> Path:
        """The path of today's trial; a trial whose flow diverges is drawn back towards the last good one."""
        while True:
            try:
                path = self._shooting.run(self._state(), self.time_steps)
            except ShootingDiverged as error:
                if self._search is not None and self._search.pending and self._search.accepted is not None:
                    self._search.retreat()
                    self._at = self._search.at
                    self.stuck = self._search.stuck
                elif self._good is not None and self._good is not self._at:
                    self._at, self.stuck = self._good, True
                    self._note(f"{error}; stopped with the last good state")
                else:
                    raise
                continue
            if path.steps > self.time_steps:
                self._note(f"time steps raised from {self.time_steps} to {path.steps} because the flow is fast")
                self.time_steps = path.steps
            return path

    def _note(self, text: str) -> None:
        self.notes = (*self.notes, text)

    def _take(self, at: Block) -> None:
        self._at, self._u, self._path = at, None, None

    def _settle(self) -> None:
        """Drop a trial whose loss was never seen."""
        if self._search is not None:
            settled = self._search.settle()
            if settled is not self._at:
                self._take(settled)


def carried(field: torch.Tensor, source: Geometry, target: Geometry) -> torch.Tensor:
    """(C, *source.shape) to (C, *target.shape): blurred where it gets coarser, cubic where it gets finer on the same box."""
    if source.same_grid(target):
        return field
    resized = source.resized(target.size)
    if resized.same_grid(target) and all(a <= b for a, b in zip(source.size, target.size)):
        return along_axes(field, refinement(source, target, field, cubic=True), from_last=False)
    return resample(field[None], source, target)[0]
