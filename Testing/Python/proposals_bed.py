"""Textures with something to recognise everywhere, and maps between them: shared by the tests of proposed landmarks."""

from __future__ import annotations

import numpy as np
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.prompts.proposals import Views
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.displacement import DisplacementTransform


def texture(geometry: Geometry, seed: int = 0, sigma_mm: float = 3.0) -> torch.Tensor:
    """Smoothed noise in [0, 1]: something to recognise everywhere."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 1, *geometry.shape)).astype(np.float32))
    smooth = gaussian(noise, [sigma_mm / h for h in geometry.spacing_mm])
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def wave(geometry: Geometry, length_mm: float = 4.0, period_mm: float = 110.0) -> DisplacementTransform:
    """A smooth map of at most ``length_mm`` along each axis."""
    points = grid_points(geometry)
    moved = length_mm * np.sin(2 * np.pi * np.roll(points, 1, axis=1) / period_mm + np.arange(geometry.ndim))
    tensor = torch.from_numpy(np.ascontiguousarray(moved.T, dtype=np.float32)).reshape(1, -1, *geometry.shape)
    return DisplacementTransform(tensor, geometry)


def bump(geometry: Geometry, center_mm, shift_mm, sigma_mm: float) -> DisplacementTransform:
    """A shift around one place only."""
    away = np.linalg.norm(grid_points(geometry) - center_mm, axis=1)
    moved = np.exp(-0.5 * (away / sigma_mm) ** 2) * np.array(shift_mm)[:, None]
    return DisplacementTransform(torch.from_numpy(moved.astype(np.float32)).reshape(1, -1, *geometry.shape), geometry)


def views_of(fixed: Image, moving: Image, spacing_mm: float, **options) -> Views:
    return Views.of(((fixed.tensor, fixed.geometry), (moving.tensor, moving.geometry)), spacing_mm, **options)
