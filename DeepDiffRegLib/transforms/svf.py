"""Stationary velocity fields: phi = exp(v), inverse exp(-v)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..checks import check_shape
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample_displacement
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import compose, lands_inside
from .base import Inverse, ResidualMm, Transform, residual_mm
from .displacement import DisplacementModel, DisplacementTransform, coarsened, to_voxels, to_world
from .integrate import INTEGRATORS, integrate, squarings
from .model import Push

SQUARINGS_WHILE_OPTIMISING = 3
LOGARITHM_SIGMA_VOXELS = 0.5


@dataclass(frozen=True, eq=False)
class SVFTransform(Transform):
    """x_moving = exp(v)(x_fixed); v: (1, d, [Z,] Y, X) float32, mm LPS per unit time, on ``geometry``.

    The displacement is integrated once, on v's own grid (edge-clamped while integrating), and read linearly from there;
    outside follows ITK (zero). integrator: ``integrate.INTEGRATORS``. steps: squarings or time steps, None chooses.
    """

    velocity: torch.Tensor
    geometry: Geometry
    integrator: str = "scaling_squaring"
    steps: int | None = None

    flows = True

    def __post_init__(self):
        check_shape("SVFTransform", "velocity", self.velocity, (1, self.geometry.ndim, *self.geometry.shape))
        INTEGRATORS[self.integrator]

    @property
    def ndim(self) -> int:
        return self.geometry.ndim

    def at(self, time: float) -> DisplacementTransform:
        """exp(time * v): the map at another time; 1 is the transform itself, negative times go back."""
        u = integrate(to_voxels(self.velocity.detach() * time, self.geometry), self.integrator, self.steps)
        return DisplacementTransform(to_world(u, self.geometry), self.geometry)

    def coarse(self, spacing_mm: float) -> SVFTransform:
        velocity, grid = coarsened(self.velocity.detach(), self.geometry, spacing_mm)
        return replace(self, velocity=velocity, geometry=grid)

    @cached_property
    def finished(self) -> DisplacementTransform:
        """exp(v) as a displacement on v's grid."""
        return self.at(1.0)

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        return self.finished.map_points(points_mm)

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        return self.finished.follow(displacement, geometry)

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        return self.finished.displacement(geometry, device)

    def inverse(self) -> Inverse:
        """exp(-v); the error |exp(v)(exp(-v)(y)) - y| is measured at all voxels y of the grid that stay on it."""
        backward = replace(self, velocity=-self.velocity)
        inner = to_voxels(backward.finished.tensor, self.geometry)
        return Inverse(backward, self._error(inner))

    def _error(self, inner: torch.Tensor) -> ResidualMm:
        both = to_world(compose(to_voxels(self.finished.tensor, self.geometry), inner), self.geometry)
        distances = torch.linalg.vector_norm(both, dim=1, keepdim=True)[lands_inside(inner)]
        return residual_mm(distances.cpu().numpy())

    def to_itk(self):
        """The integrated displacement as a DisplacementFieldTransform."""
        return self.finished.to_itk()


class SVFModel(DisplacementModel):
    """A velocity per voxel; phi = exp(v), updated by v <- v + d, the first term of log(exp(v) o exp(d)).

    So forces are those of compositional models (Vercauteren et al., NeuroImage 2009). sigma_warp_voxels smooths v.
    integrator, steps: as in ``SVFTransform``; while optimising, just enough squarings for half-voxel steps are taken.
    """

    derivative = "warped"
    stores_displacement = False

    def __init__(self, integrator: str = "scaling_squaring", steps: int | None = None, **options):
        super().__init__(**options)
        INTEGRATORS[integrator]
        self.integrator, self.steps = integrator, steps
        self._exponential: torch.Tensor | None = None

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        super().enter(geometry, device)
        self._exponential = None

    def displacement(self) -> torch.Tensor:
        if self._exponential is None:
            needed = max(SQUARINGS_WHILE_OPTIMISING, squarings(self._u, least=0))
            self._exponential = integrate(self._u, "scaling_squaring", needed)
        return self._exponential

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        super().step(force, apart)
        self._exponential = None

    def finish(self) -> Transform:
        return SVFTransform(to_world(self._u, self.geometry), self.geometry, self.integrator, self.steps)

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        """From another velocity field exactly; from any other map by ``logarithm`` (an approximation)."""
        if isinstance(transform, SVFTransform):
            velocity = to_voxels(transform.velocity, transform.geometry).to(device)
            self._u = resample_displacement(velocity, transform.geometry, geometry).contiguous()
        else:
            self._u = logarithm(to_voxels(transform.displacement(geometry, device), geometry))
        self.geometry = geometry


def logarithm(displacement: torch.Tensor, iterations: int = 15) -> torch.Tensor:
    """A velocity whose exponential comes close to Id + u; both (1, d, *shape) in voxels.

    Repeats v <- v + (u o exp(-v) - what exp(-v) leaves), smoothed lightly; exact only for maps that are exponentials of a
    smooth velocity (Bossa et al., MICCAI 2007, first order).
    """
    v = displacement.clone()
    for _ in range(iterations):
        backward = integrate(-v, "scaling_squaring", max(SQUARINGS_WHILE_OPTIMISING, squarings(v, least=0)))
        v = v + gaussian(compose(displacement, backward), LOGARITHM_SIGMA_VOXELS)
    return v
