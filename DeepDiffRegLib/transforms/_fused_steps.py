"""Fused CPU kernels of the optimisers' updates: 3-D, float32, all threads. Arrays are (3, Z, Y, X) and (Z, Y, X)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
OPTIONS = {"parallel": True, "fastmath": True, "cache": True}


@njit(**OPTIONS)
def update_moments(g, m, s, b1, b2):
    """m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) |g|^2; returns the largest s."""
    nz, ny, nx = s.shape
    most = np.zeros(nz, dtype=np.float32)
    for z in prange(nz):
        largest = F(0)
        for y in range(ny):
            for x in range(nx):
                a, b, c = g[0, z, y, x], g[1, z, y, x], g[2, z, y, x]
                m[0, z, y, x] = b1 * m[0, z, y, x] + (F(1) - b1) * a
                m[1, z, y, x] = b1 * m[1, z, y, x] + (F(1) - b1) * b
                m[2, z, y, x] = b1 * m[2, z, y, x] + (F(1) - b1) * c
                v = b2 * s[z, y, x] + (F(1) - b2) * (a * a + b * b + c * c)
                s[z, y, x] = v
                largest = max(largest, v)
        most[z] = largest
    return most.max()


@njit(**OPTIONS)
def direction(m, s, scale_m, scale_s, floor, out):
    """out = scale_m m / (sqrt(scale_s s) + floor); returns the longest vector's squared length."""
    nz, ny, nx = s.shape
    most = np.zeros(nz, dtype=np.float32)
    for z in prange(nz):
        largest = F(0)
        for y in range(ny):
            for x in range(nx):
                w = scale_m / (np.sqrt(scale_s * s[z, y, x]) + floor)
                a, b, c = w * m[0, z, y, x], w * m[1, z, y, x], w * m[2, z, y, x]
                out[0, z, y, x], out[1, z, y, x], out[2, z, y, x] = a, b, c
                largest = max(largest, a * a + b * b + c * c)
        most[z] = largest
    return most.max()
