"""Time-varying velocities: one field per unit step, followed one after the other; the inverse goes back through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..checks import check_shape
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.vector_fields import compose, lands_inside
from .base import Inverse, Transform, residual_mm
from .displacement import DisplacementTransform, coarsened, to_voxels, to_world
from .integrate import time_varying


@dataclass(frozen=True, eq=False)
class TVFTransform(Transform):
    """x_moving = phi_N(x_fixed) with phi_t = flow of v_t over one step after phi_{t-1} (midpoint rule).

    velocities: N fields (1, d, [Z,] Y, X) float32, mm LPS per step, on ``geometry``, in order of time. backward: follow the
    negated fields in reversed order instead. The map is read linearly from the grid; outside follows ITK (zero).
    """

    velocities: tuple[torch.Tensor, ...]
    geometry: Geometry
    backward: bool = False

    flows = True

    def __post_init__(self):
        object.__setattr__(self, "velocities", tuple(self.velocities))
        if not self.velocities:
            raise InputError("TVFTransform: expected one or more velocities, got none")
        for velocity in self.velocities:
            check_shape("TVFTransform", "velocities", velocity, (1, self.geometry.ndim, *self.geometry.shape))

    @property
    def ndim(self) -> int:
        return self.geometry.ndim

    def after(self, steps: int) -> DisplacementTransform:
        """The map after the first ``steps`` of the N steps (of a backward one: the inverse of that)."""
        return self._followed(self.velocities[:steps]) if steps else self._followed(self.velocities[:1], 0.0)

    def at(self, time: float) -> DisplacementTransform:
        """The map after ``time`` times N steps, of the last one only the part that is left over (of a backward one: its inverse)."""
        if not 0 <= time <= 1:
            raise InputError(f"TVFTransform: time must lie in [0, 1], got {time}")
        whole = int(time * len(self.velocities))
        share = time * len(self.velocities) - whole
        if not share:
            return self.after(whole)
        return self._followed([*self.velocities[:whole], self.velocities[whole] * share])

    def coarse(self, spacing_mm: float) -> TVFTransform:
        fields = [coarsened(v.detach(), self.geometry, spacing_mm) for v in self.velocities]
        return TVFTransform([v for v, _ in fields], fields[0][1], self.backward)

    def _followed(self, velocities: Sequence[torch.Tensor], scale: float = 1.0) -> DisplacementTransform:
        fields = [to_voxels(v.detach() * scale, self.geometry) for v in velocities]
        return DisplacementTransform(to_world(time_varying(fields, self.backward), self.geometry), self.geometry)

    @cached_property
    def finished(self) -> DisplacementTransform:
        """The whole map as a displacement on the velocities' grid."""
        return self._followed(self.velocities)

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        return self.finished.map_points(points_mm)

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        return self.finished.follow(displacement, geometry)

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        return self.finished.displacement(geometry, device)

    def inverse(self) -> Inverse:
        """The negated fields in reversed order; the error is measured at all voxels of the grid that stay on it."""
        other = TVFTransform(self.velocities, self.geometry, not self.backward)
        inner = to_voxels(other.finished.tensor, self.geometry)
        both = to_world(compose(to_voxels(self.finished.tensor, self.geometry), inner), self.geometry)
        distances = torch.linalg.vector_norm(both, dim=1, keepdim=True)[lands_inside(inner)]
        return Inverse(other, residual_mm(distances.cpu().numpy()))

    def to_itk(self):
        """The followed displacement as a DisplacementFieldTransform."""
        return self.finished.to_itk()
