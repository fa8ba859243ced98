"""Where an image lies: a frozen value of size, spacing, origin and direction, in millimetres, LPS.

Sizes and components are in x, y, z order here; tensors are (..., Z, Y, X), so ``shape == size[::-1]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import GeometryError

DIRECTION_TOLERANCE = 1e-3
"""Largest accepted |D^T D - I|: single-precision headers are orthogonal to about 1e-5, sheared ones are not near this."""


@dataclass(frozen=True)
class Geometry:
    """A regular grid in 2-D or 3-D world space.

    size: voxels along x, y[, z]. spacing_mm, origin_mm: same order. direction: rows of the direction matrix, whose
    columns are the unit axes of the grid in LPS (ITK's convention). world = origin + direction @ (spacing * index).
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        for name in ("size", "spacing_mm", "origin_mm"):
            kind = int if name == "size" else float
            object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        matrix = np.asarray(self.direction, dtype=float)
        if matrix.ndim == 1:
            matrix = matrix.reshape(self.ndim, -1)
        object.__setattr__(self, "direction", tuple(tuple(row) for row in matrix.tolist()))
        self._check(matrix)

    def _check(self, matrix: np.ndarray) -> None:
        d = self.ndim
        if d not in (2, 3):
            raise GeometryError(f"Geometry: an image must have 2 or 3 axes, got {d}")
        if not (len(self.spacing_mm) == len(self.origin_mm) == d and matrix.shape == (d, d)):
            raise GeometryError(f"Geometry: size, spacing, origin and direction must all be {d}-D, got {self}")
        if min(self.size) < 1:
            raise GeometryError(f"Geometry: every axis needs at least 1 voxel, got size {self.size}")
        if not np.isfinite(self.spacing_mm).all() or min(self.spacing_mm) <= 0:
            raise GeometryError(f"Geometry: spacing must be positive, got {self.spacing_mm} mm")
        if not (np.isfinite(self.origin_mm).all() and np.isfinite(matrix).all()):
            raise GeometryError("Geometry: origin and direction must be finite")
        if np.abs(matrix.T @ matrix - np.eye(d)).max() > DIRECTION_TOLERANCE:
            raise GeometryError(
                "Geometry: the direction matrix must be orthonormal (a rotation, flips allowed), got rows "
                f"{np.round(matrix, 4).tolist()}; resample the sheared scan onto an orthogonal grid first"
            )

    @classmethod
    def from_sitk(cls, image) -> Geometry:
        """Read the grid of a SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def identity(cls, size: Sequence[int], spacing_mm: float | Sequence[float] = 1.0) -> Geometry:
        """An axis-aligned grid with its first voxel at the world's origin."""
        d = len(size)
        spacing = (float(spacing_mm),) * d if np.isscalar(spacing_mm) else tuple(spacing_mm)
        return cls(tuple(size), spacing, (0.0,) * d, np.eye(d).tolist())

    @property
    def ndim(self) -> int:
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Tensor order: (Z, Y, X) or (Y, X)."""
        return self.size[::-1]

    @property
    def voxels(self) -> int:
        return int(np.prod(self.size))

    @property
    def rotation(self) -> np.ndarray:
        """Direction as a (d, d) float64 matrix; columns are the grid's axes in LPS."""
        return np.array(self.direction)

    @property
    def index_to_world(self) -> np.ndarray:
        """(d+1, d+1) homogeneous matrix from voxel indices (x, y, z order) to mm LPS."""
        return self._matrices[0].copy()

    @property
    def world_to_index(self) -> np.ndarray:
        return self._matrices[1].copy()

    @cached_property
    def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Solvers ask for them in every iteration."""
        matrix = np.eye(self.ndim + 1)
        matrix[:-1, :-1] = self.rotation * np.array(self.spacing_mm)
        matrix[:-1, -1] = self.origin_mm
        return matrix, np.linalg.inv(matrix)

    @property
    def center_mm(self) -> np.ndarray:
        """World position of the grid's middle."""
        return self.to_world((np.array(self.size) - 1) / 2)

    @property
    def extent_mm(self) -> np.ndarray:
        """Edge lengths of the grid, outer faces of the voxels, per grid axis."""
        return np.array(self.size) * np.array(self.spacing_mm)

    def to_world(self, index) -> np.ndarray:
        """Map (..., d) voxel indices to mm."""
        matrix = self.index_to_world
        return np.asarray(index, dtype=float) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def to_index(self, world_mm) -> np.ndarray:
        """Map (..., d) points in mm to continuous voxel indices."""
        matrix = self.world_to_index
        return np.asarray(world_mm, dtype=float) @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def contains(self, world_mm) -> np.ndarray:
        """Whether each (..., d) point lies inside the voxels' outer faces."""
        index = self.to_index(world_mm)
        return ((index >= -0.5) & (index <= np.array(self.size) - 0.5)).all(-1)

    def cropped(self, start: Sequence[int], size: Sequence[int]) -> Geometry:
        """The box of ``size`` voxels whose first voxel is ``start`` (negative starts grow the grid)."""
        return Geometry(tuple(size), self.spacing_mm, tuple(self.to_world(start)), self.direction)

    def resized(self, size: Sequence[int]) -> Geometry:
        """Another number of voxels over the same outer faces (half-voxel shifts included)."""
        spacing = self.extent_mm / np.array(size)
        first = (spacing / np.array(self.spacing_mm) - 1) / 2
        return Geometry(tuple(size), tuple(spacing), tuple(self.to_world(first)), self.direction)

    def coarsened(self, factors: float | Sequence[float], minimum: int = 1) -> Geometry:
        """Fewer voxels by ``factors`` per axis (rounded), never below ``minimum`` nor above today's size."""
        factors = np.broadcast_to(np.asarray(factors, dtype=float), (self.ndim,))
        wanted = np.maximum(np.round(np.array(self.size) / factors), minimum).astype(int)
        return self.resized(tuple(int(v) for v in np.minimum(wanted, self.size)))

    def same_grid(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Equal sizes and corner positions within ``tolerance_mm``."""
        if self.size != other.size:
            return False
        corners = np.array([np.zeros(self.ndim), np.array(self.size) - 1, np.eye(self.ndim)[0] * (self.size[0] - 1)])
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= tolerance_mm)

    def overlap_fraction(self, other: Geometry) -> float:
        """Share of this grid's volume (sampled on a 16-point lattice per axis) that lies inside ``other``."""
        axes = [np.linspace(0, n - 1, 16) for n in self.size]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.ndim)
        return float(other.contains(self.to_world(index)).mean())
