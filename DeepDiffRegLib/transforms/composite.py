"""Several transforms, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..errors import InputError
from ..geometry.grid import Geometry
from .affine import AffineTransform
from .base import Inverse, ResidualMm, Transform, round_trip_error


class CompositeTransform(Transform):
    """x_moving = last(...(first(x_fixed))); ``transforms`` = [first applied, ..., last applied].

    ITK's composite applies the transform that was added last first; ``to_itk`` turns the order around. Nested composites
    are unrolled.
    """

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = tuple(_unrolled(transforms))
        if not self.transforms or len({t.ndim for t in self.transforms}) != 1:
            raise InputError(
                f"CompositeTransform: expected one or more transforms of one dimension, got {[t.ndim for t in self.transforms]}"
            )

    @property
    def ndim(self) -> int:
        return self.transforms[0].ndim

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        points = np.asarray(points_mm, dtype=np.float64)
        for transform in self.transforms:
            points = transform.map_points(points)
        return points

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        for transform in self.transforms:
            displacement = transform.follow(displacement, geometry)
        return displacement

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        if len(self.transforms) == 1:
            return self.transforms[0].displacement(geometry, device)
        return super().displacement(geometry, device)

    @property
    def flows(self) -> bool:
        """Whether any of the transforms does."""
        return any(t.flows for t in self.transforms)

    def at(self, time: float) -> CompositeTransform:
        """Every transform at that time."""
        return CompositeTransform([t.at(time) for t in self.transforms])

    def coarse(self, spacing_mm: float) -> CompositeTransform:
        return CompositeTransform([t.coarse(spacing_mm) for t in self.transforms])

    def inverse(self) -> Inverse:
        """The inverses in reverse order.

        The error is measured on a lattice of voxels of the first grid found among the transforms, mapped to moving space
        and from there back and forth again; zero when all are matrices.
        """
        backward = CompositeTransform([t.inverse().transform for t in reversed(self.transforms)])
        grid = next((g for g in map(_grid_of, self.transforms) if g is not None), None)
        error = ResidualMm(0.0, 0.0, 0.0) if grid is None else round_trip_error(self, backward, grid)
        return Inverse(backward, error)

    def to_itk(self):
        import SimpleITK as sitk

        return sitk.CompositeTransform([t.to_itk() for t in reversed(self.transforms)])


def simplified(transform: Transform) -> Transform:
    """The same map with neighboring matrices multiplied; one transform is returned bare."""
    parts: list[Transform] = []
    for part in _unrolled([transform]):
        if parts and isinstance(part, AffineTransform) and isinstance(parts[-1], AffineTransform):
            parts[-1] = part.after(parts[-1])
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else CompositeTransform(parts)


def _grid_of(transform: Transform) -> Geometry | None:
    return getattr(transform, "geometry", None) or getattr(transform, "domain", None)


def _unrolled(transforms: Sequence[Transform]) -> Iterator[Transform]:
    for transform in transforms:
        if isinstance(transform, CompositeTransform):
            yield from transform.transforms
        else:
            yield transform
