"""Shooting: from a first state to the map it leads to, and back from a force on the map to a force on the state.

Runge-Kutta 4 in time for the state; the map Phi(1) by following every voxel back from time 1 to 0 through the stored
velocities (semi-Lagrangian over the whole interval, Runge-Kutta 4 over two time steps at once, so that stored velocities are
its nodes): only smooth velocities are ever interpolated, never the map itself. The inverse follows them forward. Going back
for derivatives, each time step is computed again from its stored state (checkpoints), so memory is a few fields per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import RegistrationError
from ..geometry.sampling import identity_index, sample
from ._shooting_metric import ConstantFlow, RegionalFlow, State
from ._shooting_rhs import each, is_fused

COURANT = 1.6
"""Voxels, summed over the axes, that a time step may move; Runge-Kutta 4 with these differences is stable to 2."""
RAISE = 1.25
"""Time steps are raised by this much more than needed, so that they need not be raised again soon."""
MOST_STEPS = 96
MOST_PARTS = 4
"""Threads that gather derivatives of the trace at most: each needs three fields of its own."""


class ShootingDiverged(RegistrationError):
    """The velocities became too fast for ``MOST_STEPS`` time steps, or not finite."""


@dataclass
class Path:
    """States at the nodes k = 0..steps and their velocities (mm), with the way of every voxel.

    Stationary paths have one state and one velocity. States may be those of a batch of pairs. backward: displacement (voxels) at the start of each double step of the
    trace and at its end; the last is Phi(1) - Id.
    """

    steps: int
    states: list[State]
    velocities: list[torch.Tensor]
    backward: list[torch.Tensor] = field(default_factory=list)

    def node(self, k: int) -> torch.Tensor:
        """Velocity at time k / steps."""
        return self.velocities[k if len(self.velocities) > 1 else 0]


class Shooting:
    """Shoots on one grid. flow: ``Constant.on(...)`` or ``Regional.on(...)``; spacing_mm: x, y[, z]."""

    def __init__(self, flow: ConstantFlow | RegionalFlow, spacing_mm, stationary: bool = False):
        self.flow, self.stationary = flow, stationary
        self.spacing = tuple(float(s) for s in spacing_mm)
        self._per_voxel = (1 / np.array(self.spacing)).astype(np.float32)

    @torch.no_grad()
    def run(self, state: State, steps: int) -> Path:
        """States and velocities over unit time; more steps than asked for (even, said in the path) when it goes too fast.

        Raises ``ShootingDiverged``.
        """
        first = self.flow.velocity(state)
        steps = self._steps(first, even(steps))
        if self.stationary:
            return Path(steps, [state], [first])
        while True:
            path = self._run(state, steps)
            if path.steps == steps:
                return path
            steps = path.steps

    def _run(self, state: State, steps: int) -> Path:
        """One attempt; the path it returns carries another number of steps when more are needed."""
        path = Path(steps, [state], [])
        for k in range(steps + 1):
            if k < steps:
                v, after = self.step(path.states[-1], 1 / steps)
                path.states.append(after)
            else:
                v = self.flow.velocity(path.states[-1])
            needed = self._steps(v, steps)
            if needed > steps:
                return Path(needed, [], [])
            path.velocities.append(v)
        return path

    def _steps(self, v: torch.Tensor, steps: int) -> int:
        fastest = self.courant(v)
        if not math.isfinite(fastest) or even(math.ceil(fastest / COURANT)) > MOST_STEPS:
            raise ShootingDiverged(
                f"shooting diverged: voxels move {fastest:.3g} voxels per unit time, {MOST_STEPS * COURANT:.0f} at most"
            )
        if fastest <= COURANT * steps:
            return steps
        return min(MOST_STEPS, even(math.ceil(RAISE * fastest / COURANT)))

    def courant(self, v: torch.Tensor) -> float:
        """Largest sum over the axes of |v_j| / h_j, in voxels per unit time."""
        return float(sum(c.abs() / h for c, h in zip(each(v, len(self.spacing)), self.spacing)).amax())

    def step(self, state: State, dt: float) -> tuple[torch.Tensor, State]:
        """(velocity now, state after dt) by Runge-Kutta 4; differentiable."""
        v, k1 = self.flow.rates(state)
        k2 = self.flow.rates(_moved(state, k1, dt / 2))[1]
        k3 = self.flow.rates(_moved(state, k2, dt / 2))[1]
        k4 = self.flow.rates(_moved(state, k3, dt))[1]
        return v, tuple(y + dt / 6 * (a + 2 * (b + c) + e) for y, a, b, c, e in zip(state, k1, k2, k3, k4))

    @torch.no_grad()
    def trace(self, path: Path, keep: bool = True) -> torch.Tensor:
        """Phi(1) - Id in voxels, (1, d, *shape) or, of a batch, (B, d, *shape): every voxel followed from time 1 back to 0.

        keep: store the way in ``path.backward`` for ``pull_back``.
        """
        ways = self._follow(path, range(path.steps, 0, -2), -1.0)
        path.backward = ways if keep else []
        return ways[-1]

    @torch.no_grad()
    def trace_forward(self, path: Path) -> torch.Tensor:
        """psi(1) - Id, the inverse of ``trace``: every voxel followed from time 0 to 1."""
        return self._follow(path, range(0, path.steps, 2), 1.0)[-1]

    def _follow(self, path: Path, starts: range, sign: float) -> list[torch.Tensor]:
        first = path.velocities[0]
        ways, dt = [torch.zeros_like(self._batch(first))], sign * 2 / path.steps
        fused = is_fused(first, ndim=len(self.spacing))
        identity = None if fused else self._identity(first)
        for k in starts:
            nodes = [path.node(k + int(sign) * i) for i in range(3)]
            if fused:
                ways.append(self._fused_step(ways[-1], nodes, dt))
            else:
                ways.append(trace_step(identity, ways[-1], [self._voxels(v) for v in nodes], dt))
        return ways

    def _fused_step(self, u: torch.Tensor, nodes: list[torch.Tensor], dt: float) -> torch.Tensor:
        from ._fused_shooting import trace_step as fused_step

        out = torch.empty_like(u)
        fused_step(_array(u[0]), *map(_array, nodes), self._per_voxel, np.float32(dt), out[0].numpy())
        return out

    def pull_back(self, path: Path, force: torch.Tensor, energy: float = 0.0) -> State:
        """dE/dstate(0) from dE/du at u = Phi(1) - Id (voxels, (1, d, *shape)) plus ``energy`` times 1/2 sum m . v.

        Needs ``trace(path)`` to have stored the way.
        """
        pushes = self._through_trace(path, force)
        last = len(pushes) - 1
        state = path.states[0]
        pushes[0].add_(state[0], alpha=energy / 2)
        at_end = self._through(lambda y: (self.flow.velocity(y),), path.states[last], (pushes[last],))
        for k in reversed(range(last)):
            at_end = self._through(lambda y: _flat(*self.step(y, 1 / path.steps)), path.states[k], (pushes[k], *at_end))
            pushes[k + 1] = None
        return (at_end[0].add(path.velocities[0], alpha=energy / 2), *at_end[1:])

    @staticmethod
    def _through(function, state: State, wanted: tuple[torch.Tensor, ...]) -> State:
        """Vector-Jacobian product of one recomputed piece."""
        with torch.enable_grad():
            leaves = tuple(y.detach().requires_grad_() for y in state)
            return torch.autograd.grad(function(leaves), leaves, wanted)

    def _through_trace(self, path: Path, force: torch.Tensor) -> list[torch.Tensor]:
        """dE/dv (mm) at every stored velocity."""
        if is_fused(path.velocities[0], force[0], ndim=len(self.spacing)):
            return self._through_fused_trace(path, force)
        identity = self._identity(force)
        pushes = [torch.zeros_like(v) for v in path.velocities]
        scale = _column(self.spacing, force)
        for number, k in reversed(list(enumerate(range(path.steps, 0, -2)))):
            distinct = [k, k - 1, k - 2] if len(pushes) > 1 else [0]
            with torch.enable_grad():
                leaves = [self._voxels(path.velocities[i]).requires_grad_() for i in distinct]
                nodes = leaves if len(leaves) > 1 else leaves * 3
                start = path.backward[number].detach().requires_grad_()
                end = trace_step(identity, start, nodes, -2 / path.steps)
                force, *found = torch.autograd.grad(end, (start, *leaves), force)
            for i, push in zip(distinct, found):
                pushes[i].add_((push / scale).view_as(pushes[i]))
        return pushes

    def _through_fused_trace(self, path: Path, force: torch.Tensor) -> list[torch.Tensor]:
        """The same by the fused kernel; each thread adds to fields of its own, one set per node of a double step."""
        import numba

        from ._fused_shooting import trace_pull_back

        parts = min(numba.get_num_threads(), MOST_PARTS, force.shape[2])
        force = force[0].detach().clone(memory_format=torch.contiguous_format)
        pushes: list[torch.Tensor | None] = [None] * len(path.velocities)

        def room() -> torch.Tensor:
            return torch.zeros((parts, *force.shape))

        ahead = room()
        for number, k in reversed(list(enumerate(range(path.steps, 0, -2)))):
            nodes = [path.node(k - i) for i in range(3)]
            stationary = len(pushes) == 1
            end, middle, start = (ahead,) * 3 if stationary else (ahead, room(), room())
            trace_pull_back(
                _array(path.backward[number][0]), *map(_array, nodes), self._per_voxel, np.float32(-2 / path.steps),
                force.numpy(), start.numpy(), middle.numpy(), end.numpy(),
            )  # fmt: skip
            if not stationary:
                pushes[k - 2], pushes[k - 1], ahead = end.sum(0), middle.sum(0), start
        pushes[-1] = ahead.sum(0)
        return pushes

    def _batch(self, v: torch.Tensor) -> torch.Tensor:
        """(d, *shape) with a batch axis; a batch as it is."""
        return v if v.ndim == len(self.spacing) + 2 else v[None]

    def _identity(self, v: torch.Tensor) -> torch.Tensor:
        return identity_index(tuple(v.shape[-len(self.spacing) :]), v.device, v.dtype)

    def _voxels(self, v: torch.Tensor) -> torch.Tensor:
        v = self._batch(v)
        return (v / _column(self.spacing, v)).detach()


def trace_step(identity: torch.Tensor, u: torch.Tensor, nodes: list[torch.Tensor], dt: float) -> torch.Tensor:
    """One Runge-Kutta 4 step of dx/dt = v(x): displacement after dt; all in voxels, (1, d, *shape).

    nodes: velocity at the start, the middle and the end of the step. dt < 0 goes back in time.
    """
    x = identity + u
    k1 = sample(nodes[0], x, padding="border")
    k2 = sample(nodes[1], x + dt / 2 * k1, padding="border")
    k3 = sample(nodes[1], x + dt / 2 * k2, padding="border")
    k4 = sample(nodes[2], x + dt * k3, padding="border")
    return u + dt / 6 * (k1 + 2 * (k2 + k3) + k4)


def even(steps: int) -> int:
    """The next even number, at least 2."""
    return max(2, steps + steps % 2)


def _flat(v: torch.Tensor, state: State) -> State:
    return (v, *state)


def _moved(state: State, rates: State, dt: float) -> State:
    return tuple(y + dt * r for y, r in zip(state, rates))


def _column(values, like: torch.Tensor) -> torch.Tensor:
    """d numbers shaped (1, d, 1, ...)."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, *(1,) * (like.ndim - 2))


def _array(field: torch.Tensor) -> np.ndarray:
    """A contiguous NumPy view (or copy) for the fused kernels."""
    return field.detach().contiguous().numpy()
