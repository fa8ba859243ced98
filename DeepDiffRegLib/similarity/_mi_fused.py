"""Joint histogram and its derivative on the CPU: float32, any dimension, one pass each, no temporary volume.

Arrays are flat. ``scale`` and ``shift`` map an intensity to a continuous bin number, clamped to [2, bins - 2].
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

CHUNKS = 16
"""Parts with a histogram each: fixed, so that the sum does not depend on the number of threads."""


@njit(inline="always")
def _bin(value, scale, shift, bins):
    """Lower bin, offset from it in [0, 1], and whether the intensity lay within the limits."""
    position = value * scale + shift
    low, high = np.float32(2.0), np.float32(bins - 2)
    free = (position > low) & (position < high)
    position = min(max(position, low), high)
    base = min(np.int64(position), bins - 3)
    return base, position - np.float32(base), free


@njit(inline="always")
def _cubic(t):
    """Cubic B-spline weights of the bins base - 1 .. base + 2."""
    one, six = np.float32(1.0), np.float32(1.0 / 6.0)
    s = one - t
    w0 = s * s * s * six
    w3 = t * t * t * six
    w1 = (np.float32(4.0) - np.float32(6.0) * t * t + np.float32(3.0) * t * t * t) * six
    return w0, w1, one - w0 - w1 - w3, w3


@njit(inline="always")
def _cubic_slope(t):
    """Derivatives of ``_cubic`` with respect to the bin number."""
    half, s = np.float32(0.5), np.float32(1.0) - t
    d0 = -half * s * s
    d3 = half * t * t
    d1 = (np.float32(1.5) * t - np.float32(2.0)) * t
    return d0, d1, -d0 - d1 - d3, d3


@njit(parallel=True, fastmath=True, cache=True)
def histogram(fixed, warped, weight, weighted, cubic, scale, shift, bins):
    """(bins, bins) sums of weights, rows along the fixed image's bins, columns along the warped image's."""
    n = fixed.size
    parts = np.zeros((CHUNKS, bins, bins))
    for chunk in prange(CHUNKS):
        part = parts[chunk]
        for i in range(chunk * n // CHUNKS, (chunk + 1) * n // CHUNKS):
            mass = weight[i] if weighted else np.float32(1.0)
            if mass == 0:
                continue
            m, t, _ = _bin(warped[i], scale, shift, bins)
            w0, w1, w2, w3 = _cubic(t)
            f, s, _ = _bin(fixed[i], scale, shift, bins)
            if cubic:
                v0, v1, v2, v3 = _cubic(s)
                for k, v in ((-1, v0), (0, v1), (1, v2), (2, v3)):
                    part[f + k, m - 1] += mass * v * w0
                    part[f + k, m] += mass * v * w1
                    part[f + k, m + 1] += mass * v * w2
                    part[f + k, m + 2] += mass * v * w3
            else:
                part[f, m - 1] += mass * w0
                part[f, m] += mass * w1
                part[f, m + 1] += mass * w2
                part[f, m + 2] += mass * w3
    return parts.sum(axis=0)


@njit(parallel=True, fastmath=True, cache=True)
def pull(fixed, warped, weight, weighted, cubic, scale, shift, table, gradient):
    """gradient = w scale sum_fm beta_f beta'_m table[f, m]; 0 where the warped intensity lies outside the limits."""
    n, bins = fixed.size, table.shape[0]
    for chunk in prange(CHUNKS):
        for i in range(chunk * n // CHUNKS, (chunk + 1) * n // CHUNKS):
            mass = weight[i] if weighted else np.float32(1.0)
            m, t, free = _bin(warped[i], scale, shift, bins)
            total = np.float32(0.0)
            if free and mass != 0:
                d0, d1, d2, d3 = _cubic_slope(t)
                f, s, _ = _bin(fixed[i], scale, shift, bins)
                if cubic:
                    v0, v1, v2, v3 = _cubic(s)
                    for k, v in ((-1, v0), (0, v1), (1, v2), (2, v3)):
                        row = table[f + k]
                        total += v * (d0 * row[m - 1] + d1 * row[m] + d2 * row[m + 1] + d3 * row[m + 2])
                else:
                    row = table[f]
                    total = d0 * row[m - 1] + d1 * row[m] + d2 * row[m + 1] + d3 * row[m + 2]
            gradient[i] = mass * scale * total
