"""A displacement at every voxel of a grid, linear in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..checks import check_shape
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample, resample_displacement
from ..geometry.sampling import index_matrix, sample, sample_points
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import invert, linear_field
from ..registry import nearest
from .base import Inverse, ResidualMm, Transform
from .model import OPTIMIZERS, Model, Push, pin_faces

SAME_GRID_MM = SAME_GRID_VOXELS = 1e-5


@dataclass(frozen=True, eq=False)
class DisplacementTransform(Transform):
    """x_moving = x_fixed + u(x_fixed); u: (1, d, [Z,] Y, X) float32, mm LPS, on ``geometry``.

    Outside follows ITK: up to half a voxel beyond the border voxels' centers u continues, further out it is zero.
    """

    tensor: torch.Tensor
    geometry: Geometry

    def __post_init__(self):
        check_shape("DisplacementTransform", "tensor", self.tensor, (1, self.geometry.ndim, *self.geometry.shape))

    @property
    def ndim(self) -> int:
        return self.geometry.ndim

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        points = np.asarray(points_mm, dtype=np.float64)
        return points + sample_points(self.tensor, self.geometry, points)

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        """u + the field sampled at x + u."""
        matrix = index_matrix(geometry, self.geometry)
        if displacement is None:
            window = _window(matrix, geometry.size, self.geometry.size)
            if window is not None:
                return self.tensor[(slice(None), slice(None), *window)]
            return sample(self.tensor, linear_field(matrix, geometry.shape).to(self.tensor.device))
        index = linear_field(matrix, geometry.shape, displacement, self.geometry.world_to_index[:-1, :-1])
        return sample(self.tensor.to(index.device), index).add_(displacement)

    def displacement(self, geometry: Geometry, device: torch.device | str = "cpu") -> torch.Tensor:
        """phi(x) - x; on its own grid this is the stored tensor itself."""
        if geometry.same_grid(self.geometry, SAME_GRID_MM):
            return self.tensor.to(device)
        return super().displacement(geometry, device)

    def at(self, time: float) -> DisplacementTransform:
        """x + time * u(x)."""
        return DisplacementTransform(self.tensor.detach() * float(time), self.geometry)

    def coarse(self, spacing_mm: float) -> DisplacementTransform:
        return DisplacementTransform(*coarsened(self.tensor.detach(), self.geometry, spacing_mm))

    def inverse(self) -> Inverse:
        """A field on the same grid, by ``vector_fields.invert``.

        The error is measured at the voxels whose partner in fixed space lies on the grid: elsewhere nothing is mapped.
        """
        result = invert(to_voxels(self.tensor, self.geometry), unit=self.geometry.spacing_mm)
        tensor = to_world(result.displacement, self.geometry)
        return Inverse(DisplacementTransform(tensor, self.geometry), ResidualMm(result.mean, result.p99, result.max))

    def to_itk(self):
        """DisplacementFieldTransform in double precision: 8 d bytes per voxel; files are written without it."""
        import SimpleITK as sitk

        array = self.tensor[0].movedim(0, -1).detach().cpu().double().contiguous().numpy()
        image = sitk.GetImageFromArray(array, isVector=True)
        image.SetSpacing(self.geometry.spacing_mm)
        image.SetOrigin(self.geometry.origin_mm)
        image.SetDirection(self.geometry.rotation.ravel().tolist())
        return sitk.DisplacementFieldTransform(image)


def coarsened(field: torch.Tensor, geometry: Geometry, spacing_mm: float) -> tuple[torch.Tensor, Geometry]:
    """(1, C, *shape) and its grid with voxels of about ``spacing_mm`` where they are smaller; same outer faces."""
    grid = geometry.coarsened(np.maximum(spacing_mm / np.array(geometry.spacing_mm), 1.0), 2)
    return resample(field, geometry, grid), grid


def _window(matrix: np.ndarray, size: tuple[int, ...], own: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Tensor slices of the own grid that are exactly the other grid's voxels (``matrix`` maps its indices), if so."""
    start = np.round(matrix[:, -1]).astype(int)
    shift = np.column_stack([np.eye(len(size)), start])
    differs = (np.abs(matrix - shift) * [*size, 1]).max() > SAME_GRID_VOXELS
    if differs or start.min() < 0 or (start + size > own).any():
        return None
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start[::-1], size[::-1]))


def to_voxels(displacement_mm: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(1, d, *shape) mm LPS to voxels along the grid's axes."""
    return _times(geometry.world_to_index[:-1, :-1], displacement_mm)


def to_world(displacement_voxels: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(1, d, *shape) voxels along the grid's axes to mm LPS."""
    return _times(geometry.index_to_world[:-1, :-1], displacement_voxels)


def _times(matrix: np.ndarray, field: torch.Tensor) -> torch.Tensor:
    if field.dtype == torch.float32 and not field.requires_grad:
        return linear_field(np.zeros((len(matrix), len(matrix) + 1)), tuple(field.shape[2:]), field, matrix)
    return torch.einsum("ij,bj...->bi...", torch.as_tensor(matrix, dtype=field.dtype, device=field.device), field)


class DisplacementModel(Model):
    """Free form: u <- u - learning_rate * direction, smoothed, in voxels. Nothing keeps it from folding.

    learning_rate: longest step in voxels of the level. sigma_gradient_voxels, sigma_warp_voxels: Gaussians on the force
    (viscous) and on the whole displacement (elastic). epsilon: of the field's Adam, relative to its largest root moment.
    optimizer: ``adam``, or ``sgd`` for steps along the gradient of the sum over voxels; one of length ``epsilon`` (or more) is then
    a step of ``learning_rate``.
    """

    stores_displacement = True

    def __init__(
        self,
        learning_rate: float = 0.25,
        sigma_gradient_voxels: float = 1.7,
        sigma_warp_voxels: float = 0.6,
        epsilon: float = 0.2,
        betas: tuple[float, float] = (0.9, 0.99),
        optimizer: str = "adam",
    ):
        if optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer: unknown value {optimizer!r}{nearest(str(optimizer), OPTIMIZERS)}")
        self.optimizer = optimizer
        self.learning_rate, self.epsilon, self.betas = learning_rate, epsilon, tuple(betas)
        self.sigma_gradient, self.sigma_warp = sigma_gradient_voxels, sigma_warp_voxels
        self._u: torch.Tensor | None = None

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        if self._u is None:
            self._u = torch.zeros((1, geometry.ndim, *geometry.shape), device=device)
        elif not geometry.same_grid(self.geometry):
            self._u = resample_displacement(self._u, self.geometry, geometry)
        self.geometry = geometry
        pin_faces(self._u, self.pinned)
        self._adam = OPTIMIZERS[self.optimizer](self._u, self.betas, self.epsilon)
        self._adams_apart = {}

    def displacement(self) -> torch.Tensor:
        return self._u

    @property
    def field(self) -> torch.Tensor:
        """What is optimised: (1, d, *shape) in voxels, the displacement or, for velocity models, the velocity."""
        return self._u

    def smooth_force(self, force: torch.Tensor) -> torch.Tensor:
        return gaussian(force, self.sigma_gradient)

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        self._u.add_(self.move(force, apart))
        gaussian(self._u, self.sigma_warp, out=self._u)
        pin_faces(self._u, self.pinned)

    def move(self, force: torch.Tensor, apart: Sequence[Push]) -> torch.Tensor:
        """The small displacement to take, in voxels; each force contributes at most ``learning_rate`` (times its weight if apart).

        ``rate`` is then what the direction of ``force`` was multiplied by.
        Every force has moments of its own: one normalization for all would let a strong prompt silence the scans.
        """
        gaussian(force, self.sigma_gradient, out=force)
        direction, longest = self._adam.direction(force)
        self.rate = self.learning_rate / max(1.0, longest)
        direction.mul_(-self.rate)
        for push in apart:
            if push.name not in self._adams_apart:
                self._adams_apart[push.name] = OPTIMIZERS[self.optimizer](self._u, self.betas, self.epsilon)
            gaussian(push.force, self.sigma_gradient, out=push.force)
            own, longest = self._adams_apart[push.name].direction(push.force)
            direction.sub_(own, alpha=push.weight * self.learning_rate / max(1.0, longest))
        return direction

    def finish(self) -> Transform:
        return DisplacementTransform(to_world(self._u, self.geometry), self.geometry)

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        self._u = to_voxels(transform.displacement(geometry, device), geometry).contiguous()
        self.geometry = geometry

    def set_displacement(self, displacement: torch.Tensor) -> None:
        self._u.copy_(displacement)
        pin_faces(self._u, self.pinned)
