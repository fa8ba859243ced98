"""The flow that a predicted momentum starts: its map, its energy and its weights, differentiable and for whole batches.

The integrator and its exact derivative are those of the optimised models (``transforms._shooting_path``). Two-dimensional batches
are shot at once, volumes one by one through the fused kernels.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch

from ..geometry.sampling import per_component
from ..networks.base import Kernels, Prediction
from ..transforms._shooting_metric import Constant, Metric, Regional
from ..transforms._shooting_path import Shooting
from ..transforms.kernels import MultiGaussian

TIME_STEPS = 4
"""Of Runge-Kutta; raised where a flow is too fast for them."""


def metric_of(kernels: Kernels, longest_mm: float) -> Metric:
    """The metric of a network on a grid whose longest edge has this length."""
    sigmas = tuple(s * longest_mm for s in kernels.sigmas)
    if kernels.blur is not None:
        return Regional(sigmas, kernels.blur * longest_mm)
    return Constant(MultiGaussian(sigmas, kernels.weights), kernels.stationary)


class Shot:
    """The flow of a ``momentum`` prediction made on scans of ``shape`` (tensor order) with voxels of ``spacing_mm`` (x, y[, z])."""

    def __init__(
        self, prediction: Prediction, shape: tuple[int, ...], spacing_mm: tuple[float, ...], steps: int | None = None
    ):
        self.prediction, self.steps = prediction, steps or TIME_STEPS
        self.longest_mm = max(n * h for n, h in zip(shape[::-1], spacing_mm))
        own = tuple(h * r for h, r in zip(spacing_mm, prediction.spacing_voxels))
        field = prediction.field
        self._unit = tuple(h * prediction.unit_voxels for h in spacing_mm)
        metric = metric_of(prediction.kernels, self.longest_mm)
        self.shooting = _shooting(metric, tuple(field.shape[2:]), own, str(field.device), field.dtype)

    @cached_property
    def state(self) -> tuple[torch.Tensor, ...]:
        """(m,) or (m, h): momentum (B, d, *grid) in mm along the grid's axes, pre-weights (B, N, *grid)."""
        m = self.prediction.field * per_component(self._unit, self.prediction.field)
        return (m,) if self.prediction.pre_weights is None else (m, self.prediction.pre_weights)

    @cached_property
    def displacement(self) -> torch.Tensor:
        """Phi(1) - Id: (B, d, *grid) in voxels of its own grid."""
        if self.prediction.field.ndim == 5:
            rows = zip(*(field.unbind(0) for field in self.state))
            return torch.cat([_Map.apply(self.shooting, self.steps, *row) for row in rows])
        return _Map.apply(self.shooting, self.steps, *self.state)

    @property
    def energy(self) -> torch.Tensor:
        """1/2 <m, v> / L^2: mean over voxels and pairs, L the longest edge of the grid; constant in time."""
        v = self.shooting.flow.velocity(self.state)
        return 0.5 * (self.state[0] * v).sum(1).mean() / self.longest_mm**2

    @property
    def weights(self) -> torch.Tensor:
        """w(0) of RDMM: the pre-weights after their filter, (B, N, *grid)."""
        return self.shooting.flow.blurred(self.state[1])


class _Map(torch.autograd.Function):
    """State at time 0 to Phi(1) - Id; back by the integrator's own adjoint."""

    @staticmethod
    def forward(ctx, shooting, steps, *state):
        state = tuple(field.detach().contiguous() for field in state)
        ctx.shooting, ctx.path = shooting, shooting.run(state, steps)
        # the way is stored in the path, and what is returned is one of its entries
        return shooting.trace(ctx.path, keep=any(ctx.needs_input_grad)).clone()

    @staticmethod
    def backward(ctx, force):
        return None, None, *ctx.shooting.pull_back(ctx.path, force.contiguous())


@lru_cache(maxsize=8)
def _shooting(metric: Metric, shape: tuple[int, ...], spacing_mm: tuple[float, ...], device: str, dtype) -> Shooting:
    """Made once per grid: the modes of the kernels take time."""
    flow = metric.on(shape, spacing_mm, ((False, False),) * len(shape), torch.device(device), dtype)
    return Shooting(flow, spacing_mm, isinstance(metric, Constant) and metric.stationary)
