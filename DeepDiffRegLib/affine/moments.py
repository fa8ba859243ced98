"""First guesses from where the anatomy is: grid centers, centers of mass, principal axes."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry, resample
from ..transforms.affine import AffineTransform

LARGEST_TURN_DEGREES = 60.0
"""Principal axes that ask for more are not believed: headers say where the patient's head is."""
SAME_TURN_DEGREES = 5.0
COARSE_MM = 4.0
SAME_START_MM = 0.5


def guesses(
    initial: str, fixed: torch.Tensor, fixed_geometry: Geometry, moving: torch.Tensor, moving_geometry: Geometry
) -> list[AffineTransform]:
    """Candidate starts for ``initial``: ``identity``, ``centers``, ``moments`` or ``auto`` (all that make sense).

    fixed, moving: normalized scans (1, 1, *shape); brightness is mass.
    """
    d = fixed_geometry.ndim
    identity = AffineTransform.identity(d)
    if initial == "identity":
        return [identity]
    centers = AffineTransform(np.eye(d), moving_geometry.center_mm - fixed_geometry.center_mm)
    if initial == "centers":
        return [centers]
    fixed_mass, fixed_axes = moments(fixed, fixed_geometry)
    moving_mass, moving_axes = moments(moving, moving_geometry)
    mass = AffineTransform(np.eye(d), moving_mass - fixed_mass)
    turned = [_about(turn, fixed_mass, moving_mass) for turn in _turns(fixed_axes, moving_axes)]
    return [mass, *turned] if initial == "moments" else _distinct([identity, centers, mass, *turned], fixed_geometry)


def moments(scan: torch.Tensor, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Center of mass (d,) in mm and principal axes (d, d), columns by falling variance, of a normalized scan."""
    coarse = level_geometry(geometry, COARSE_MM, 8)
    mass = resample(scan, geometry, coarse)[0, 0].double().cpu().numpy()
    points = coarse.to_world(np.stack(np.indices(coarse.shape)[::-1], -1).reshape(-1, geometry.ndim))
    weight = mass.ravel() / max(mass.sum(), 1e-12)
    center = weight @ points
    covariance = (points - center).T @ ((points - center) * weight[:, None])
    values, vectors = np.linalg.eigh(covariance)
    return center, vectors[:, np.argsort(-values)]


def _distinct(candidates: list[AffineTransform], geometry: Geometry) -> list[AffineTransform]:
    """Without those that move the grid's corners as an earlier one does: scans often share their center."""
    corners = geometry.to_world(np.array(list(np.ndindex(*(2,) * geometry.ndim))) * (np.array(geometry.size) - 1))
    kept: list[AffineTransform] = []
    for candidate in candidates:
        moved = candidate.map_points(corners)
        if all(np.abs(moved - other.map_points(corners)).max() > SAME_START_MM for other in kept):
            kept.append(candidate)
    return kept


def _turns(fixed_axes: np.ndarray, moving_axes: np.ndarray) -> list[np.ndarray]:
    """Proper rotations that carry one set of axes to the other, small enough to be believed."""
    d = len(fixed_axes)
    turns = []
    for signs in itertools.product((1, -1), repeat=d):
        turn = moving_axes @ np.diag(signs) @ fixed_axes.T
        if np.linalg.det(turn) > 0 and SAME_TURN_DEGREES < _degrees(turn) < LARGEST_TURN_DEGREES:
            turns.append(turn)
    return turns


def _degrees(turn: np.ndarray) -> float:
    cosine = turn[0, 0] if len(turn) == 2 else (np.trace(turn) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _about(turn: np.ndarray, fixed_center: np.ndarray, moving_center: np.ndarray) -> AffineTransform:
    return AffineTransform(turn, moving_center - turn @ fixed_center)
