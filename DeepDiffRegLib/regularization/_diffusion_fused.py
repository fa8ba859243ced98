"""Diffusion energy on the CPU in one sweep: 3-D, float32."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_OPTIONS = {"fastmath": True, "cache": True, "nogil": True}


@njit(**_OPTIONS)
def _row(row, north, south, above, below, fx, fy, fz, out):
    """One row of the gradient; neighbors beyond the border are the row itself. Returns the row's energy."""
    n = row.size
    value = np.float32(0.0)
    for x in range(n):
        center = row[x]
        dy, dz = south[x] - center, below[x] - center
        value += fy * dy * dy + fz * dz * dz
        out[x] = fy * (center - north[x] - dy) + fz * (center - above[x] - dz)
    for x in range(n - 1):
        dx = row[x + 1] - row[x]
        value += fx * dx * dx
    for x in range(1, n - 1):
        out[x] += fx * (row[x] - row[x - 1] - (row[x + 1] - row[x]))
    if n > 1:
        out[0] += fx * (row[0] - row[1])
        out[n - 1] += fx * (row[n - 1] - row[n - 2])
    return value


@njit(parallel=True, fastmath=True, cache=True)
def _sweep(u, fx, fy, fz, gradient):
    components, depth, height, _ = u.shape
    values = np.zeros(components * depth)
    for plane in prange(components * depth):
        c, z = plane // depth, plane % depth
        total = 0.0
        for y in range(height):
            total += _row(
                u[c, z, y],
                u[c, z, max(y - 1, 0)],
                u[c, z, min(y + 1, height - 1)],
                u[c, max(z - 1, 0), y],
                u[c, min(z + 1, depth - 1), y],
                fx,
                fy,
                fz,
                gradient[c, z, y],
            )
        values[plane] = total
    return values


def diffusion(u: np.ndarray, factors: list[float], gradient: np.ndarray) -> float:
    """Energy of ``u`` (3, Z, Y, X); writes its gradient. factors: 1 / (N h^2) for x, y, z. Formula: ``Diffusion``."""
    largest = max(factors)
    scaled = [np.float32(f / largest) for f in factors]
    value = largest * float(_sweep(u, *scaled, gradient).sum())
    gradient *= np.float32(2.0 * largest)
    return value
