"""Fused CPU kernels for separable smoothing: 3-D, float32, replicated borders, in place allowed."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
OPTIONS = {"parallel": True, "fastmath": True, "cache": True}


@njit(**OPTIONS)
def smooth_xy(volume, taps_x, taps_y, out):
    """Convolve each z slice of (Z, Y, X) along x, then y."""
    nz, ny, nx = volume.shape
    rx, ry = taps_x.size // 2, taps_y.size // 2
    for z in prange(nz):
        padded = np.empty(nx + 2 * rx, dtype=np.float32)
        rows = np.empty((ny, nx), dtype=np.float32)
        for y in range(ny):
            for x in range(rx):
                padded[x] = volume[z, y, 0]
                padded[nx + rx + x] = volume[z, y, nx - 1]
            for x in range(nx):
                padded[rx + x] = volume[z, y, x]
            for x in range(nx):
                rows[y, x] = taps_x[rx] * padded[rx + x]
            for k in range(1, rx + 1):
                w = taps_x[rx + k]
                for x in range(nx):
                    rows[y, x] += w * (padded[rx + x - k] + padded[rx + x + k])
        for y in range(ny):
            for x in range(nx):
                out[z, y, x] = taps_y[ry] * rows[y, x]
            for k in range(1, ry + 1):
                w, low, high = taps_y[ry + k], max(y - k, 0), min(y + k, ny - 1)
                for x in range(nx):
                    out[z, y, x] += w * (rows[low, x] + rows[high, x])


@njit(**OPTIONS)
def smooth_z(volume, taps, out):
    """Convolve (Z, Y, X) along z; ``out`` must not be ``volume``."""
    nz, ny, nx = volume.shape
    r = taps.size // 2
    for y in prange(ny):
        for z in range(nz):
            for x in range(nx):
                out[z, y, x] = taps[r] * volume[z, y, x]
            for k in range(1, r + 1):
                w, low, high = taps[r + k], max(z - k, 0), min(z + k, nz - 1)
                for x in range(nx):
                    out[z, y, x] += w * (volume[low, y, x] + volume[high, y, x])
