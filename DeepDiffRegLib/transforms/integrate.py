"""From a stationary velocity to the displacement it generates: phi' = v(phi), phi(0) = Id.

Fields are (B, d, [Z,] Y, X) in voxels of their own grid (per unit time for velocities), edge-clamped outside. Each function
is differentiable when the velocity tracks gradients; otherwise the fused composition is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..geometry.sampling import identity_index, sample
from ..geometry.vector_fields import compose
from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.transforms.integrate"
INTEGRATORS = Registry(
    "integrator",
    Entry("scaling_squaring", f"{_HERE}:scaling_squaring", "repeated self-composition", "Arsigny et al., MICCAI 2006"),
    Entry("quadrature", f"{_HERE}:quadrature", "Euler steps"),
    Entry("rk4", f"{_HERE}:rk4", "classical fourth-order Runge-Kutta steps"),
)
LEAST_SQUARINGS = 7
RK4_VOXELS_PER_STEP = 0.5


def squarings(velocity_voxels: torch.Tensor, least: int = LEAST_SQUARINGS) -> int:
    """T = max(least, ceil(log2(2 max|v|))), so that max|v| / 2^T is below half a voxel."""
    largest = _largest(velocity_voxels)
    return max(least, math.ceil(math.log2(2 * largest)) if largest > 0 else 0)


def automatic_steps(velocity_voxels: torch.Tensor, integrator: str) -> int:
    """Squarings for ``scaling_squaring``; 2^squarings for ``quadrature``; at least 8 half-voxel steps for ``rk4``."""
    if integrator == "scaling_squaring":
        return squarings(velocity_voxels)
    if integrator == "quadrature":
        return 2 ** squarings(velocity_voxels)
    return max(8, math.ceil(_largest(velocity_voxels) / RK4_VOXELS_PER_STEP))


def scaling_squaring(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """u = v / 2^steps, then ``steps`` times u <- u + u o (Id + u)."""
    u = velocity / 2**steps
    scratch = None
    for _ in range(steps):
        if velocity.requires_grad:
            u = compose(u, u)
        else:
            squared = compose(u, u, out=scratch)
            u, scratch = squared, u
    return u


def quadrature(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """u = v / n, then n - 1 times u <- u + (v / n) o (Id + u): explicit Euler."""
    step = velocity / steps
    u = step
    for _ in range(steps - 1):
        u = compose(step, u)
    return u


def rk4(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """Classical Runge-Kutta for du/dt = v(x + u), ``steps`` equal steps over unit time."""
    h = 1 / steps
    x = identity_index(tuple(velocity.shape[2:]), velocity.device, velocity.dtype)
    u = torch.zeros_like(velocity)
    for _ in range(steps):
        k1 = sample(velocity, x + u, padding="border")
        k2 = sample(velocity, x + u + h / 2 * k1, padding="border")
        k3 = sample(velocity, x + u + h / 2 * k2, padding="border")
        k4 = sample(velocity, x + u + h * k3, padding="border")
        u = u + h / 6 * (k1 + 2 * (k2 + k3) + k4)
    return u


def time_step(velocity: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One midpoint step of unit length along ``velocity`` (voxels per step) after the displacement u.

    u(x) + v(x + u(x) + v(x + u(x)) / 2).
    """
    if u.abs().amax() == 0:
        return compose(velocity, velocity / 2) - velocity / 2
    half = compose(velocity / 2, u)
    return u + (compose(velocity, half) - half)


def time_varying(velocities: Sequence[torch.Tensor], backward: bool = False) -> torch.Tensor:
    """Displacement of one velocity per step, one after the other; backward: of the inverse map.

    The inverse follows the negated fields in reversed order. Fields in voxels per step of one grid.
    """
    u = torch.zeros_like(velocities[0])
    for velocity in reversed(velocities) if backward else velocities:
        u = time_step(-velocity if backward else velocity, u)
    return u


def integrate(velocity: torch.Tensor, integrator: str = "scaling_squaring", steps: int | None = None) -> torch.Tensor:
    """Displacement of exp(v) in voxels by a registered integrator; steps: None chooses (``automatic_steps``)."""
    function = INTEGRATORS.load(integrator)
    return function(velocity, automatic_steps(velocity, integrator) if steps is None else steps)


def _largest(velocity: torch.Tensor) -> float:
    """Longest vector, in voxels."""
    return float(torch.linalg.vector_norm(velocity.detach(), dim=1).amax())
