"""Exact Euclidean distances on the CPU in float32: lower envelopes of parabolas, one axis after the other.

Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012). Needs one float32 volume and lines of scratch memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

FAR = np.float32(1e12)
"""Squared distance of a voxel to a set that its line does not meet."""


@njit(cache=True, fastmath=True)
def _line(values, spacing, hull, border, scratch):
    """Replace values(i) by min_j values(j) + (spacing (i - j))^2."""
    n = values.size
    square = spacing * spacing
    last = -1
    for q in range(n):
        if values[q] >= FAR:
            continue
        height = values[q] / square + q * q
        start = -np.inf
        while last >= 0:
            v = hull[last]
            start = (height - (values[v] / square + v * v)) / (2.0 * (q - v))
            if start > border[last]:
                break
            last -= 1
        if last < 0:
            start = -np.inf
        last += 1
        hull[last], border[last] = q, start
    if last < 0:
        return
    k = 0
    for i in range(n):
        while k < last and border[k + 1] < i:
            k += 1
        gap = np.float32(i - hull[k])
        scratch[i] = values[hull[k]] + square * gap * gap
    for i in range(n):
        values[i] = scratch[i]


@njit(parallel=True, cache=True)
def sweep(volume, spacing):
    """One axis: ``volume`` is (outer, n, inner) float32 of squared distances, changed in place along the middle axis."""
    outer, n, inner = volume.shape
    for o in prange(outer):
        hull, border = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float64)
        line, scratch = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
        for i in range(inner):
            for k in range(n):
                line[k] = volume[o, k, i]
            _line(line, spacing, hull, border, scratch)
            for k in range(n):
                volume[o, k, i] = line[k]
