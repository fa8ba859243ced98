"""Fused CPU kernels for separable smoothing: 3-D, float32, replicated borders.

Taps come as half kernels (center first), zero-padded to 1 + 3 n entries: three symmetric pairs are added per pass over a
row, which keeps the running sum in registers three times as long.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
OPTIONS = {"parallel": True, "fastmath": True, "cache": True}


@njit(**OPTIONS)
def smooth_xy(volume, taps_x, taps_y, out):
    """Convolve each z slice of (Z, Y, X) along x, then y; ``out`` may be ``volume``."""
    nz, ny, nx = volume.shape
    rx, ry = taps_x.size - 1, taps_y.size - 1
    for z in prange(nz):
        padded = np.empty(nx + 2 * rx, dtype=np.float32)
        rows = np.empty((ny, nx), dtype=np.float32)
        for y in range(ny):
            for x in range(rx):
                padded[x] = volume[z, y, 0]
                padded[nx + rx + x] = volume[z, y, nx - 1]
            for x in range(nx):
                padded[rx + x] = volume[z, y, x]
            row = rows[y]
            for x in range(nx):
                row[x] = taps_x[0] * padded[rx + x]
            for k in range(1, rx + 1, 3):
                a, b, c = taps_x[k], taps_x[k + 1], taps_x[k + 2]
                low, high = padded[rx - k - 2 :], padded[rx + k :]
                for x in range(nx):
                    row[x] += a * (low[x + 2] + high[x]) + b * (low[x + 1] + high[x + 1]) + c * (low[x] + high[x + 2])
        for y in range(ny):
            target = out[z, y]
            for x in range(nx):
                target[x] = taps_y[0] * rows[y, x]
            for k in range(1, ry + 1, 3):
                a, b, c = taps_y[k], taps_y[k + 1], taps_y[k + 2]
                a0, a1 = rows[max(y - k, 0)], rows[min(y + k, ny - 1)]
                b0, b1 = rows[max(y - k - 1, 0)], rows[min(y + k + 1, ny - 1)]
                c0, c1 = rows[max(y - k - 2, 0)], rows[min(y + k + 2, ny - 1)]
                for x in range(nx):
                    target[x] += a * (a0[x] + a1[x]) + b * (b0[x] + b1[x]) + c * (c0[x] + c1[x])


@njit(**OPTIONS)
def smooth_z(volume, taps, out):
    """Convolve (Z, Y, X) along z; ``out`` must not be ``volume``."""
    nz, ny, nx = volume.shape
    r = taps.size - 1
    for y in prange(ny):
        for z in range(nz):
            target = out[z, y]
            middle = volume[z, y]
            for x in range(nx):
                target[x] = taps[0] * middle[x]
            for k in range(1, r + 1, 3):
                a, b, c = taps[k], taps[k + 1], taps[k + 2]
                a0, a1 = volume[max(z - k, 0), y], volume[min(z + k, nz - 1), y]
                b0, b1 = volume[max(z - k - 1, 0), y], volume[min(z + k + 1, nz - 1), y]
                c0, c1 = volume[max(z - k - 2, 0), y], volume[min(z + k + 2, nz - 1), y]
                for x in range(nx):
                    target[x] += a * (a0[x] + a1[x]) + b * (b0[x] + b1[x]) + c * (c0[x] + c1[x])
