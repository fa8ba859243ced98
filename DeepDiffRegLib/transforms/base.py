"""What every finished transform can do, whatever model or method made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.vector_fields import slabs


@dataclass(frozen=True)
class ResidualMm:
    """How far an inverse misses: |phi(phi^-1(y)) - y| over the grid it was measured on, in mm."""

    mean: float
    p99: float
    max: float


@dataclass(frozen=True)
class Inverse:
    """An inverse and its stated error (all zero when it is exact)."""

    transform: Transform
    error: ResidualMm


MEASURED_POINTS = 50_000
"""At most about this many lattice points are mapped there and back to state an error."""


class Transform(ABC):
    """The map fixed_to_moving: x_moving = phi(x_fixed), millimetres, LPS (ITK's resampling direction).

    flows: whether ``at`` follows a flow (each phi_t then is as invertible as the map itself) or only scales a displacement.
    """

    flows = False

    @property
    @abstractmethod
    def ndim(self) -> int:
        """2 or 3."""

    def forget(self) -> None:
        """Free what was computed from the parameters and kept (paths, fields); it is computed again when asked for."""
        for name in [n for n in vars(self) if isinstance(getattr(type(self), n, None), cached_property)]:
            del self.__dict__[name]

    @abstractmethod
    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Map (N, d) float64 fixed-space points to moving space."""

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        """Displacement of x -> phi(x + u(x)) on ``geometry``; u: (1, d, *shape) mm LPS, or None for 0.

        The step that composites repeat; float32 on u's device, not to be written to. Subclasses do it faster than point by point.
        """
        points = grid_points(geometry)
        start = (
            points if displacement is None else points + displacement[0].reshape(self.ndim, -1).T.cpu().double().numpy()
        )
        moved = torch.from_numpy(np.ascontiguousarray((self.map_points(start) - points).T, dtype=np.float32))
        moved = moved.reshape(1, self.ndim, *geometry.shape)
        return moved if displacement is None else moved.to(displacement.device)

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        """phi(x) - x at every voxel of ``geometry``: (1, d, [Z,] Y, X) float32, mm, components x, y, z in LPS.

        Computed slab by slab. Not to be written to: it may be the transform's own tensor.
        """
        out = torch.empty((1, self.ndim, *geometry.shape), device=device)
        for rows, slab in slabs(geometry):
            out[:, :, rows] = self.follow(None, slab)
        return out

    @abstractmethod
    def at(self, time: float) -> Transform:
        """phi_t, the map on its way: time 1 is the map itself, 0 the map without its deformation.

        A flow is followed to that time, a displacement is multiplied by it, and matrices stay as they are: they place the
        scan, they do not deform it. The moving scan through phi_t, t from 0 to 1, is the deformation as a film.
        """

    def coarse(self, spacing_mm: float) -> Transform:
        """About the same map with grids of about this spacing where its own are finer: for pictures, that need no more."""
        return self

    @abstractmethod
    def inverse(self) -> Inverse:
        """moving_to_fixed with the error it leaves."""

    @abstractmethod
    def to_itk(self):
        """An equal ``SimpleITK.Transform`` (TransformPoint maps fixed to moving)."""


def grid_points(geometry: Geometry) -> np.ndarray:
    """World positions of all voxels, (N, d) float64 mm LPS, x fastest."""
    index = np.indices(geometry.shape, dtype=np.float64)[::-1].reshape(geometry.ndim, -1).T
    return geometry.to_world(index)


def residual_mm(distances_mm: np.ndarray) -> ResidualMm:
    """mean, 99th percentile and maximum of (N,) distances; infinite when nothing could be measured."""
    if distances_mm.size == 0:
        return ResidualMm(np.inf, np.inf, np.inf)
    return ResidualMm(float(distances_mm.mean()), float(np.percentile(distances_mm, 99)), float(distances_mm.max()))


def round_trip_error(forward: Transform, backward: Transform, geometry: Geometry) -> ResidualMm:
    """|phi(phi^-1(y)) - y| at y = phi(lattice of voxels of ``geometry``), where phi^-1(y) lies on the grid."""
    stride = max(1, round((geometry.voxels / MEASURED_POINTS) ** (1 / geometry.ndim)))
    size = tuple((n + stride - 1) // stride for n in geometry.size)
    spacing = tuple(s * stride for s in geometry.spacing_mm)
    lattice = Geometry(size, spacing, geometry.origin_mm, geometry.direction)
    moved = forward.map_points(grid_points(lattice))
    fixed = backward.map_points(moved)
    inside = geometry.contains(fixed)
    return residual_mm(np.linalg.norm(forward.map_points(fixed[inside]) - moved[inside], axis=1))
