"""What a probabilistic network believes about one pair, and that belief as the prior of a refinement (Dalca et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry, resample, resample_displacement
from ..geometry.sampling import per_component, sample_points
from ..networks.base import Prediction
from ..networks.posterior import Posterior
from ..regularization.diffusion import Diffusion
from ..transforms.displacement import to_voxels, to_world
from ..transforms.model import Face, pin_faces


@dataclass(frozen=True, eq=False)
class Belief:
    """A velocity with its variance, as predicted on ``grid``. precision, smoothing_voxels: prior and covariance of the
    training (see ``networks.posterior``); precision None: not known.
    """

    prediction: Prediction
    grid: Geometry
    precision: float | None = None
    smoothing_voxels: float = 0.0

    @property
    def geometry(self) -> Geometry:
        """Grid of the velocity itself."""
        return prediction_geometry(self.prediction, self.grid)

    @property
    def posterior(self) -> Posterior:
        """Mean and variance in the network's units."""
        return Posterior(self.prediction.field, self.prediction.log_variance, self.smoothing_voxels)

    def spread_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """(N,) standard deviation of the velocity at (N, d) points of the fixed scan: root of the summed variances, mm."""
        length = np.array(self.grid.spacing_mm) * self.prediction.unit_voxels
        variance = self.prediction.log_variance.exp() * per_component(np.square(length), self.prediction.log_variance)
        return np.sqrt(sample_points(variance.sum(1, keepdim=True), self.geometry, points_mm, "border")[:, 0])

    def prior(self, fixed: Geometry, image_sigma: float, precision: float | None = None) -> VelocityPrior:
        """The belief on a grid parallel to ``fixed``, weighed against scans whose noise has s.d. ``image_sigma``.

        precision: of the smoothness prior, None: that of the training. Variances are turned with the grid; what correlation
        that brings between components is left out. The smoothness prior counts voxels as equally long on all axes.
        """
        own, unit = self.geometry, self.prediction.unit_voxels
        target = level_geometry(fixed, min(own.spacing_mm), 2)
        length = np.array(self.grid.spacing_mm) * unit
        mean = resample(to_world(self.prediction.field * unit, self.grid), own, target, blur=False).contiguous()
        turned = torch.as_tensor((target.rotation.T @ own.rotation) ** 2 * length**2, dtype=mean.dtype).to(mean.device)
        variance = torch.einsum("ij,bj...->bi...", turned, self.prediction.log_variance.exp())
        variance = resample(variance.log(), own, target, blur=False).exp()
        strength = image_sigma**2 / float(np.prod(self.prediction.spacing_voxels))
        known = self.precision if precision is None else precision
        stretch = float(np.prod(np.array(own.spacing_mm) / length)) ** (2 / own.ndim)
        return VelocityPrior(mean, variance, target, strength, strength * (known or 0.0) * stretch)


@dataclass(frozen=True, eq=False)
class VelocityPrior:
    """mean (mm LPS per unit time) and variance (mm^2, along the grid's axes): (1, d, *shape) on ``geometry``.

    With S the mean over voxels of the squared difference of the scans, s their noise, and Z, N the numbers of voxels of velocity
    and scans, S N / (2 s^2) + 1/2 sum (z - mean)^2 / variance + 1/2 precision z^T L z is divided by N / (2 s^2):
    strength = s^2 Z / N, roughness = strength * precision (in mm). So the similarity keeps its scale.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    geometry: Geometry
    strength: float
    roughness: float

    def on(self, geometry: Geometry, device: torch.device | str, pinned: tuple[Face, ...] = ()) -> LevelPrior:
        """The prior on a level's grid, parallel to its own. pinned: faces where the mean is taken as 0."""
        mean = resample_displacement(to_voxels(self.mean, self.geometry), self.geometry, geometry).contiguous()
        variance = resample(self.variance, self.geometry, geometry, blur=False)
        per_mm = torch.as_tensor(np.square(geometry.spacing_mm), dtype=variance.dtype).to(variance.device)
        weight = per_mm.reshape(1, -1, *(1,) * geometry.ndim) * (2 * self.strength / geometry.voxels) / variance
        mean = mean.clone() if mean is self.mean else mean
        pin_faces(mean, pinned)
        return LevelPrior(mean.to(device), weight.to(device), self.roughness, geometry)


@dataclass(frozen=True, eq=False)
class LevelPrior:
    """1/2 sum weight (z - mean)^2 + roughness * diffusion of z in mm; mean, weight: (1, d, *shape), voxels of ``geometry``."""

    mean: torch.Tensor
    weight: torch.Tensor
    roughness: float
    geometry: Geometry

    def distance(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        """How far z is from the mean, in standard deviations: value and derivative."""
        rest = z - self.mean
        gradient = self.weight * rest
        return 0.5 * float((gradient * rest).sum()), gradient

    def smoothness(self, z: torch.Tensor) -> tuple[float, torch.Tensor | None]:
        """Value and derivative of the smoothness prior; None without one."""
        if not self.roughness:
            return 0.0, None
        spacing = z.new_tensor(self.geometry.spacing_mm).reshape(1, -1, *(1,) * self.geometry.ndim)
        value, gradient = Diffusion().value_and_gradient(z * spacing, self.geometry.spacing_mm)
        return self.roughness * value, gradient.mul_(spacing).mul_(self.roughness)

    def drawn(self, z: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Minimum of |x - z|^2 / (2 step) + distance(x), written over z: implicit, so no weight is too strong for a step."""
        return z.sub_(self.mean).div_(1 + step * self.weight).add_(self.mean)


def prediction_geometry(prediction: Prediction, grid: Geometry) -> Geometry:
    """Grid of the fields of a prediction made on ``grid``."""
    spacing = tuple(h * r for h, r in zip(grid.spacing_mm, prediction.spacing_voxels))
    origin = grid.to_world(np.full((1, grid.ndim), prediction.offset_voxels))[0]
    return Geometry(prediction.field.shape[:1:-1], spacing, tuple(float(v) for v in origin), grid.direction)
