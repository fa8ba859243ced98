"""Matrix transforms: x -> matrix @ x + translation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ConfigError, InputError
from ..geometry.grid import Geometry
from ..geometry.vector_fields import linear_field
from ..registry import nearest
from .base import Inverse, ResidualMm, Transform
from .model import OPTIMIZERS, Adam, Model, Plain, Push, summed


@dataclass(frozen=True, eq=False)
class AffineTransform(Transform):
    """x_moving = matrix @ x_fixed + translation_mm; matrix (d, d), translation (d,), float64, mm LPS, about the origin."""

    matrix: np.ndarray
    translation_mm: np.ndarray

    def __post_init__(self):
        matrix = np.array(self.matrix, dtype=np.float64)
        translation = np.array(self.translation_mm, dtype=np.float64)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "translation_mm", translation)
        d = len(translation)
        if d not in (2, 3) or matrix.shape != (d, d):
            raise InputError(
                f"AffineTransform: matrix (d, d) and translation (d,) with d 2 or 3, got {matrix.shape}, {translation.shape}"
            )
        if not (np.isfinite(matrix).all() and np.isfinite(translation).all()):
            raise InputError("AffineTransform: matrix and translation must be finite")

    @classmethod
    def identity(cls, ndim: int) -> AffineTransform:
        return cls(np.eye(ndim), np.zeros(ndim))

    @classmethod
    def from_homogeneous(cls, matrix: np.ndarray) -> AffineTransform:
        """From a (d+1, d+1) matrix whose last row is 0 ... 0 1."""
        matrix = np.asarray(matrix, dtype=np.float64)
        return cls(matrix[:-1, :-1], matrix[:-1, -1])

    @property
    def ndim(self) -> int:
        return len(self.translation_mm)

    @property
    def homogeneous(self) -> np.ndarray:
        """(d+1, d+1) float64."""
        matrix = np.eye(self.ndim + 1)
        matrix[:-1, :-1], matrix[:-1, -1] = self.matrix, self.translation_mm
        return matrix

    def after(self, first: AffineTransform) -> AffineTransform:
        """x -> self(first(x)) as one matrix."""
        return AffineTransform.from_homogeneous(self.homogeneous @ first.homogeneous)

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        return np.asarray(points_mm, dtype=np.float64) @ self.matrix.T + self.translation_mm

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        """(A - I) x + t from the voxel indices, plus A u."""
        matrix = (self.homogeneous - np.eye(self.ndim + 1)) @ geometry.index_to_world
        return linear_field(matrix[:-1], geometry.shape, displacement, self.matrix)

    def at(self, time: float) -> AffineTransform:
        """The matrix itself at every time."""
        return self

    def inverse(self) -> Inverse:
        """Exact; a singular matrix is an ``InputError``."""
        if abs(np.linalg.det(self.matrix)) < 1e-12:
            raise InputError("AffineTransform.inverse(): the matrix is singular, there is no inverse")
        return Inverse(self.from_homogeneous(np.linalg.inv(self.homogeneous)), ResidualMm(0.0, 0.0, 0.0))

    def to_itk(self):
        import SimpleITK as sitk

        transform = sitk.AffineTransform(self.ndim)
        transform.SetMatrix(self.matrix.ravel().tolist())
        transform.SetTranslation(self.translation_mm.tolist())
        return transform


class LinearModel(Model):
    """Matrix maps x -> exp(sum_k theta_k G_k) about a fixed center, moved by Adam on the generators G_k.

    learning_rate: longest step in voxels of the level (root mean square over the grid), falling to a tenth of it along
    ``decay_steps`` iterations of a level, so that it settles. optimizer: ``adam``, or ``sgd`` for steps along the gradient of the
    sum over voxels; a generator with a derivative of ``epsilon`` (or more) then goes a whole step. Where the gradient vanishes
    it stays, while Adam enlarges what is left.
    """

    def __init__(
        self,
        learning_rate: float = 0.5,
        decay_steps: int = 60,
        betas: tuple[float, float] = (0.8, 0.95),
        optimizer: str = "adam",
        epsilon: float = 1.0,
    ):
        if optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer: unknown value {optimizer!r}{nearest(str(optimizer), OPTIMIZERS)}")
        self.learning_rate, self.decay_steps, self.betas = learning_rate, decay_steps, tuple(betas)
        self.optimizer, self.epsilon = optimizer, epsilon
        self._map: AffineTransform | None = None

    def generators(self, ndim: int) -> np.ndarray:
        """(K, d, d) linear generators beside the translations."""
        raise NotImplementedError

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        d = geometry.ndim
        self._map = AffineTransform.identity(d) if self._map is None else self._map
        if not hasattr(self, "_center"):
            self._center = geometry.center_mm
        self.geometry, self._device = geometry, device
        radius = np.sqrt((geometry.extent_mm**2).sum() / 12)
        voxel = float(np.prod(geometry.spacing_mm)) ** (1 / d)
        self._linear = self.generators(d) * (voxel / radius)
        self._shifts = np.eye(d) * voxel
        if self.optimizer == "adam":
            self._steps = Adam(torch.zeros(d + len(self._linear), dtype=torch.float64), self.betas, epsilon=1e-3)
        else:
            self._steps = Plain(geometry.voxels / self.epsilon)

    def displacement(self) -> torch.Tensor:
        step = self._map.homogeneous - np.eye(self.geometry.ndim + 1)
        matrix = self.geometry.world_to_index[:-1, :-1] @ step[:-1] @ self.geometry.index_to_world
        return linear_field(matrix, self.geometry.shape).to(self._device)

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        force = summed(force, apart)
        gradient = torch.from_numpy(np.concatenate(self._moments(force)))
        decay = max(0.1, 1 - 0.9 * self._steps.steps / self.decay_steps)
        theta = -self.learning_rate * decay * self._steps.direction(gradient).clamp(-1, 1).numpy()
        d = self.geometry.ndim
        generator = np.zeros((d + 1, d + 1))
        generator[:-1, -1] = theta[:d] @ self._shifts
        generator[:-1, :-1] = np.tensordot(theta[d:], self._linear, 1)
        self._map = AffineTransform.from_homogeneous(self._exponential(generator) @ self._map.homogeneous)

    def _exponential(self, generator: np.ndarray) -> np.ndarray:
        """Of a homogeneous generator, about the center; that of a translation needs neither."""
        if not len(self._linear):
            return np.eye(len(generator)) + generator
        move = torch.linalg.matrix_exp(torch.from_numpy(generator)).numpy()
        to_center, back = np.eye(len(generator)), np.eye(len(generator))
        to_center[:-1, -1], back[:-1, -1] = self._center, -self._center
        return to_center @ move @ back

    def _moments(self, force: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """dE/dtheta for the translations and the linear generators, from sums of f and f x y^T over the grid."""
        d, shape = self.geometry.ndim, self.geometry.shape
        total, outer = np.zeros(d), np.zeros((d, d))
        flat = force[0].double()
        total[:] = flat.flatten(1).sum(1).cpu().numpy()
        to_mm = np.linalg.inv(self.geometry.index_to_world[:-1, :-1]).T
        if not len(self._linear):
            return self._shifts @ (to_mm @ total), np.zeros(0)
        for axis in range(d):
            keep = d - axis
            marginal = flat.sum([a for a in range(1, d + 1) if a != keep])
            outer[:, axis] = (marginal @ torch.arange(shape[keep - 1], dtype=torch.float64, device=flat.device)).cpu()
        total, outer = to_mm @ total, to_mm @ outer
        world = self._map.homogeneous @ self.geometry.index_to_world
        about_center = outer @ world[:-1, :-1].T + np.outer(total, world[:-1, -1] - self._center)
        return self._shifts @ total, np.einsum("kij,ij->k", self._linear, about_center)

    def finish(self) -> Transform:
        return self._map

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        if not isinstance(transform, AffineTransform):
            super().resume(transform, geometry, device)
        self._map = transform


def _rotations(ndim: int) -> np.ndarray:
    pairs = [(0, 1)] if ndim == 2 else [(0, 1), (0, 2), (1, 2)]
    out = np.zeros((len(pairs), ndim, ndim))
    for k, (i, j) in enumerate(pairs):
        out[k, i, j], out[k, j, i] = -1, 1
    return out


class TranslationModel(LinearModel):
    """Translation alone."""

    def generators(self, ndim: int) -> np.ndarray:
        return np.zeros((0, ndim, ndim))


class RigidModel(LinearModel):
    """Rotation and translation."""

    def generators(self, ndim: int) -> np.ndarray:
        return _rotations(ndim)


class SimilarityModel(LinearModel):
    """Rotation, translation and one scale."""

    def generators(self, ndim: int) -> np.ndarray:
        return np.concatenate([_rotations(ndim), np.eye(ndim)[None]])


class AffineModel(LinearModel):
    """Any invertible matrix and translation."""

    def generators(self, ndim: int) -> np.ndarray:
        return np.eye(ndim * ndim).reshape(-1, ndim, ndim)
