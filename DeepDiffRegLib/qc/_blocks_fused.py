"""Squared correlation of small blocks at many shifts, compiled (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

TINY = np.float32(1e-6)
"""Smaller values become 0: their squares would be denormal numbers, on which a processor is twenty times slower."""


def _block_scores(fixed, warped, centers, shifts, radius, noise, out):
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


block_scores = njit(parallel=True, fastmath=True, cache=True)(_block_scores)
block_scores_serial = njit(fastmath=True, cache=True)(_block_scores)
"""For many small calls in a row, where waking threads costs more than the work."""


@njit(fastmath=True, cache=True)
def look_up_affine(values, matrix, out):
    """out(i) = values(matrix @ i), linear, 0 outside; arrays (Z, Y, X) float32, matrix (3, 4) for x, y, z."""
    depth, height, width = values.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                a = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
                b = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
                c = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
                total = np.float32(0)
                if -0.5 <= a < width - 0.5 and -0.5 <= b < height - 0.5 and -0.5 <= c < depth - 0.5:
                    a, b, c = (
                        min(max(a, 0.0), width - 1.0),
                        min(max(b, 0.0), height - 1.0),
                        min(max(c, 0.0), depth - 1.0),
                    )
                    i, j, k = int(a), int(b), int(c)
                    i1, j1, k1 = min(i + 1, width - 1), min(j + 1, height - 1), min(k + 1, depth - 1)
                    u, v, w = a - i, b - j, c - k
                    low = (1 - v) * ((1 - u) * values[k, j, i] + u * values[k, j, i1])
                    low += v * ((1 - u) * values[k, j1, i] + u * values[k, j1, i1])
                    high = (1 - v) * ((1 - u) * values[k1, j, i] + u * values[k1, j, i1])
                    high += v * ((1 - u) * values[k1, j1, i] + u * values[k1, j1, i1])
                    total = np.float32((1 - w) * low + w * high)
                    if abs(total) < TINY:
                        total = np.float32(0)
                out[z, y, x] = total


@njit(parallel=True, fastmath=True, cache=True)
def edge_scores(fixed, warped, centers, shifts, radius, out):
    """As ``block_scores`` for gradients n, (C, Z, Y, X): cosine between the blocks' outer products n n^T.

    <n n^T, m m^T> = (n . m)^2, so the products are never stored. Beyond the grid there are no edges.
    """
    channels, depth, height, width = fixed.shape
    for n in prange(centers.shape[0]):
        for s in range(shifts.shape[0]):
            own = np.float32(1e-12)
            other = np.float32(1e-12)
            product = np.float32(0)
            for a in range(-radius[0], radius[0] + 1):
                for b in range(-radius[1], radius[1] + 1):
                    for e in range(-radius[2], radius[2] + 1):
                        z, y, x = centers[n, 0] + a, centers[n, 1] + b, centers[n, 2] + e
                        p, q, r = z + shifts[s, 0], y + shifts[s, 1], x + shifts[s, 2]
                        here = 0 <= z < depth and 0 <= y < height and 0 <= x < width
                        there = 0 <= p < depth and 0 <= q < height and 0 <= r < width
                        ff = np.float32(0)
                        ww = np.float32(0)
                        fw = np.float32(0)
                        for c in range(channels):
                            f = fixed[c, z, y, x] if here else np.float32(0)
                            w = warped[c, p, q, r] if there else np.float32(0)
                            ff += f * f
                            ww += w * w
                            fw += f * w
                        own += ff * ff
                        other += ww * ww
                        product += fw * fw
            out[n, s] = product / np.sqrt(own * other)
