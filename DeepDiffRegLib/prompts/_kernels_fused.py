"""Fused CPU kernel of a landmark step: 3-D, float32, all threads, only voxels within reach of a landmark are computed.

It computes what ``kernels.py`` computes with torch operations (a test compares them). Arrays are (3, Z, Y, X), components
x, y, z in mm along the grid's axes.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
OPTIONS = {"parallel": True, "fastmath": True, "cache": True}


@njit(**OPTIONS)
def add_bumps(u, spacing, centers, coefficients, radii, out):
    """out(x) = u(x) + sum_i c_i (1 - |x + u(x) - y_i|^2 / radius_i^2)_+^8; ``out`` may be ``u``.

    spacing: (3,). centers, coefficients: (n, 3). radii: (n,). All float32; positions count from the first voxel's center.
    """
    _, nz, ny, nx = u.shape
    for z in prange(nz):
        position = np.empty((3, nx), dtype=np.float32)
        step = np.empty((3, nx), dtype=np.float32)
        for y in range(ny):
            base_y, base_z = F(y) * spacing[1], F(z) * spacing[2]
            low, high = u[0, z, y, 0], u[0, z, y, 0]
            low_y, high_y = u[1, z, y, 0], u[1, z, y, 0]
            low_z, high_z = u[2, z, y, 0], u[2, z, y, 0]
            for x in range(nx):
                ux, uy, uz = u[0, z, y, x], u[1, z, y, x], u[2, z, y, x]
                low, high = min(low, ux), max(high, ux)
                low_y, high_y = min(low_y, uy), max(high_y, uy)
                low_z, high_z = min(low_z, uz), max(high_z, uz)
                position[0, x] = F(x) * spacing[0] + ux
                position[1, x] = base_y + uy
                position[2, x] = base_z + uz
                out[0, z, y, x] = ux
                out[1, z, y, x] = uy
                out[2, z, y, x] = uz
            begin, end = nx, 0
            for i in range(centers.shape[0]):
                py, pz, radius = centers[i, 1], centers[i, 2], radii[i]
                if py + radius < base_y + low_y or py - radius > base_y + high_y:
                    continue
                if pz + radius < base_z + low_z or pz - radius > base_z + high_z:
                    continue
                px = centers[i, 0]
                first = int(min(max((px - radius - high) / spacing[0], F(0)), F(nx)))
                last = int(min(max((px + radius - low) / spacing[0] + F(1), F(0)), F(nx)))
                if first >= last:
                    continue
                if end == 0:
                    step[:] = F(0)
                begin, end = min(begin, first), max(end, last)
                scale = F(1) / (radius * radius)
                cx, cy, cz = coefficients[i, 0], coefficients[i, 1], coefficients[i, 2]
                for x in range(first, last):
                    dx, dy, dz = position[0, x] - px, position[1, x] - py, position[2, x] - pz
                    t = max(F(0), F(1) - scale * (dx * dx + dy * dy + dz * dz))
                    t *= t
                    t *= t
                    t *= t
                    step[0, x] += cx * t
                    step[1, x] += cy * t
                    step[2, x] += cz * t
            for x in range(begin, end):
                out[0, z, y, x] += step[0, x]
                out[1, z, y, x] += step[1, x]
                out[2, z, y, x] += step[2, x]
