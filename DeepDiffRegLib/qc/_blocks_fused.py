"""Squared correlation of small blocks at many shifts, compiled (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, fastmath=True, cache=True)
def block_scores(fixed, warped, centers, shifts, radius, noise, out):
    """out[n, s] = squared correlation of the fixed block at centers[n] with the warped block at centers[n] + shifts[s].

    fixed, warped: (Z, Y, X) float32, padded so that no block leaves them. centers (N, 3), shifts (S, 3), radius (3,):
    array order. noise: variance added to the warped block's, so that flat blocks match nothing.
    """
    rz, ry, rx = radius
    count = np.float32((2 * rz + 1) * (2 * ry + 1) * (2 * rx + 1))
    for n in prange(centers.shape[0]):
        z, y, x = centers[n]
        mean = np.float32(0)
        square = np.float32(0)
        for a in range(-rz, rz + 1):
            for b in range(-ry, ry + 1):
                for c in range(-rx, rx + 1):
                    f = fixed[z + a, y + b, x + c]
                    mean += f
                    square += f * f
        mean /= count
        variance = square / count - mean * mean
        for s in range(shifts.shape[0]):
            dz, dy, dx = z + shifts[s, 0], y + shifts[s, 1], x + shifts[s, 2]
            total = np.float32(0)
            squares = np.float32(0)
            product = np.float32(0)
            for a in range(-rz, rz + 1):
                for b in range(-ry, ry + 1):
                    for c in range(-rx, rx + 1):
                        w = warped[dz + a, dy + b, dx + c]
                        total += w
                        squares += w * w
                        product += w * (fixed[z + a, y + b, x + c] - mean)
            total /= count
            spread = squares / count - total * total
            covariance = product / count
            out[n, s] = covariance * covariance / ((variance + noise) * (max(spread, np.float32(0)) + noise))


@njit(parallel=True, fastmath=True, cache=True)
def edge_scores(fixed, warped, centers, shifts, radius, out):
    """As ``block_scores`` for channels (C, Z, Y, X): cosine between the features of the two blocks."""
    rz, ry, rx = radius
    channels = fixed.shape[0]
    for n in prange(centers.shape[0]):
        z, y, x = centers[n]
        own = np.float32(1e-12)
        for c in range(channels):
            for a in range(-rz, rz + 1):
                for b in range(-ry, ry + 1):
                    for e in range(-rx, rx + 1):
                        f = fixed[c, z + a, y + b, x + e]
                        own += f * f
        for s in range(shifts.shape[0]):
            dz, dy, dx = z + shifts[s, 0], y + shifts[s, 1], x + shifts[s, 2]
            other = np.float32(1e-12)
            product = np.float32(0)
            for c in range(channels):
                for a in range(-rz, rz + 1):
                    for b in range(-ry, ry + 1):
                        for e in range(-rx, rx + 1):
                            w = warped[c, dz + a, dy + b, dx + e]
                            other += w * w
                            product += w * fixed[c, z + a, y + b, x + e]
            out[n, s] = product / np.sqrt(own * other)
