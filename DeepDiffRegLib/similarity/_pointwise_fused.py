"""Squared differences and global moments on the CPU: float32, any dimension, one pass each, no temporary volume.

Arrays are flat. Sums run in float32 over blocks and in float64 over the blocks, in an order that does not depend on the
number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

BLOCK = 4096
CHUNKS = 64


@njit(parallel=True, fastmath=True, cache=True)
def squares(fixed, warped, weight, weighted, scale, gradient):
    """Sum of w (I - J)^2; gradient = scale w (I - J)."""
    n = fixed.size
    sums = np.zeros(CHUNKS)
    for chunk in prange(CHUNKS):
        start, stop = chunk * n // CHUNKS, (chunk + 1) * n // CHUNKS
        for low in range(start, stop, BLOCK):
            total = np.float32(0.0)
            if weighted:
                for i in range(low, min(low + BLOCK, stop)):
                    difference = warped[i] - fixed[i]
                    pull = weight[i] * difference
                    total += pull * difference
                    gradient[i] = scale * pull
            else:
                for i in range(low, min(low + BLOCK, stop)):
                    difference = warped[i] - fixed[i]
                    total += difference * difference
                    gradient[i] = scale * difference
            sums[chunk] += total
    return sums.sum()


@njit(parallel=True, fastmath=True, cache=True)
def moments(fixed, warped, weight, weighted, center_fixed, center_warped):
    """Sums of w, wI, wJ, wII, wJJ, wIJ, with I and J measured from their centers."""
    n = fixed.size
    sums = np.zeros((CHUNKS, 6))
    for chunk in prange(CHUNKS):
        start, stop = chunk * n // CHUNKS, (chunk + 1) * n // CHUNKS
        for low in range(start, stop, BLOCK):
            w0 = i1 = j1 = i2 = j2 = ij = np.float32(0.0)
            high = min(low + BLOCK, stop)
            if weighted:
                for k in range(low, high):
                    w, i, j = weight[k], warped[k] - center_warped, fixed[k] - center_fixed
                    w0 += w
                    i1 += w * i
                    j1 += w * j
                    i2 += w * i * i
                    j2 += w * j * j
                    ij += w * i * j
            else:
                w0 += np.float32(high - low)
                for k in range(low, high):
                    i, j = warped[k] - center_warped, fixed[k] - center_fixed
                    i1 += i
                    j1 += j
                    i2 += i * i
                    j2 += j * j
                    ij += i * j
            sums[chunk, 0] += w0
            sums[chunk, 1] += i1
            sums[chunk, 2] += j1
            sums[chunk, 3] += i2
            sums[chunk, 4] += j2
            sums[chunk, 5] += ij
    return sums.sum(axis=0)


@njit(parallel=True, fastmath=True, cache=True)
def combine(fixed, warped, weight, weighted, mean_fixed, mean_warped, along, against, gradient):
    """gradient = w (along (J - mean J) - against (I - mean I))."""
    n = fixed.size
    for chunk in prange(CHUNKS):
        for k in range(chunk * n // CHUNKS, (chunk + 1) * n // CHUNKS):
            pull = along * (fixed[k] - mean_fixed) - against * (warped[k] - mean_warped)
            gradient[k] = weight[k] * pull if weighted else pull
