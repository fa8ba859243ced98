"""The bump that carries a landmark's pull into the volume, and the small systems and bounds built on it.

k(r) = (1 - r^2 / (16 sigma^2))_+^8 is within 0.04 of exp(-r^2 / 2 sigma^2), but vanishes with seven derivatives at
4 sigma: what is farther away does not move at all, and a voxel costs three squarings in place of an exponential.
"""

from __future__ import annotations

import numpy as np
import torch

POWER = 8
REACH = 4.0
"""The bump ends at this many sigma; REACH^2 == 2 * POWER makes its curvature that of the Gaussian."""


def bump(distance_mm: np.ndarray, sigma_mm: np.ndarray | float) -> np.ndarray:
    """k(r), any shape; sigma_mm: one reach, or one per entry of the last axis."""
    return np.maximum(0.0, 1 - (distance_mm / (REACH * sigma_mm)) ** 2) ** POWER


def solve_forces(positions_mm: np.ndarray, steps_mm: np.ndarray, sigma_mm: np.ndarray, ridge: float) -> np.ndarray:
    """(N, d) coefficients c with sum_j k(y_i - y_j) c_j + ridge c_i = step_i, so that overlapping bumps do not add up.

    sigma_mm: (N,), the reach of each bump. The ridge keeps nearly coinciding landmarks with different steps from cancelling with huge forces.
    """
    matrix = bump(np.linalg.norm(positions_mm[:, None] - positions_mm[None], axis=2), sigma_mm)
    return np.linalg.solve(matrix + ridge * np.eye(len(matrix)), steps_mm)


def lipschitz(positions_mm: np.ndarray, forces_mm: np.ndarray, sigma_mm: np.ndarray, axes: np.ndarray) -> float:
    """Largest spectral norm of the derivative of sum_i c_i k(x - y_i), probed where it is steepest.

    Probes: a shell at sigma around every center (each bump alone is steepest at 1.03 sigma), and the middle between
    close centers. sigma_mm: (N,). axes: (d, d), columns are the probing directions, so that the value does not depend on the grid's.
    """
    d = positions_mm.shape[1]
    signs = np.array(list(np.ndindex(*(3,) * d)), dtype=float) - 1
    shell = signs[np.abs(signs).sum(1) > 0]
    shell = shell / np.linalg.norm(shell, axis=1, keepdims=True) @ axes.T
    sigma = np.broadcast_to(np.asarray(sigma_mm, dtype=float), (len(positions_mm),))
    shells = positions_mm[:, None] + sigma[:, None, None] * shell[None]
    probes = [shells.reshape(-1, d), _middles(positions_mm, 2 * sigma.max())]
    radius2 = (REACH * sigma) ** 2
    largest = 0.0
    for part in np.array_split(np.concatenate(probes), max(1, len(positions_mm) // 16)):
        offset = part[:, None] - positions_mm[None]
        inner = np.maximum(0.0, 1 - (offset**2).sum(2) / radius2)
        slope = (-2 * POWER / radius2 * inner ** (POWER - 1))[..., None] * offset
        derivative = np.einsum("pid,ie->ped", slope, forces_mm)
        largest = max(largest, float(np.linalg.norm(derivative, ord=2, axis=(1, 2)).max(initial=0.0)))
    return largest


def _middles(positions_mm: np.ndarray, closer_than_mm: float) -> np.ndarray:
    first, second = np.triu_indices(len(positions_mm), 1)
    close = np.linalg.norm(positions_mm[first] - positions_mm[second], axis=1) < closer_than_mm
    return (positions_mm[first[close]] + positions_mm[second[close]]) / 2


def add_bumps(
    displacement: torch.Tensor,
    spacing_mm: tuple[float, ...],
    centers_mm: np.ndarray,
    forces_mm: np.ndarray,
    sigma_mm: np.ndarray | float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """u + d o (Id + u) with d(x) = sum_i c_i k(x - y_i), evaluated exactly at every voxel's current image.

    displacement: u, (1, d, *shape), mm along the grid's axes. centers_mm: y_i, (N, d), forces_mm: c_i, (N, d), both along
    the grid's axes from the first voxel's center. sigma_mm: one reach or (N,). out: may be ``displacement`` itself; allocated
    when absent.
    """
    out = torch.empty_like(displacement, memory_format=torch.contiguous_format) if out is None else out
    tensors = (displacement, out)
    radii = np.broadcast_to(REACH * np.asarray(sigma_mm, dtype=float), (len(centers_mm),))
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
    if displacement.ndim == 5 and plain:
        from . import _kernels_fused as fused

        single = [np.ascontiguousarray(v, dtype=np.float32) for v in (spacing_mm, centers_mm, forces_mm, radii)]
        u, target = (t.detach()[0].numpy() for t in tensors)
        fused.add_bumps(u, *single, target)
        return out
    step = torch.zeros_like(displacement)
    low = displacement.amin(tuple(range(2, displacement.ndim)))[0].tolist()
    high = displacement.amax(tuple(range(2, displacement.ndim)))[0].tolist()
    for center, force, radius in zip(centers_mm, forces_mm, radii):
        _add_bump(step, displacement, spacing_mm, center, force, float(radius), (low, high))
    return torch.add(displacement, step, out=out)


def _add_bump(step, displacement, spacing_mm, center, force, radius: float, bounds) -> None:
    """Add one bump to ``step`` inside the box of voxels that its radius and the range of u allow."""
    d = displacement.shape[1]
    box, squared = [slice(None)], 0.0
    for c in reversed(range(d)):
        n, h = displacement.shape[-1 - c], spacing_mm[c]
        first = int(np.clip((center[c] - radius - bounds[1][c]) / h, 0, n))
        last = int(np.clip((center[c] + radius - bounds[0][c]) / h + 1, 0, n))
        if first >= last:
            return
        box.append(slice(first, last))
    for c in range(d):
        along = box[d - c]
        ticks = torch.arange(along.start, along.stop, device=step.device, dtype=step.dtype) * spacing_mm[c] - center[c]
        squared = squared + (displacement[:, c][tuple(box)] + ticks.reshape(-1, *(1,) * c)) ** 2
    value = (1 - squared / radius**2).clamp_(min=0) ** POWER
    for c in range(d):
        step[:, c][tuple(box)].add_(value, alpha=float(force[c]))
