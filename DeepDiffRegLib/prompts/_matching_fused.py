"""How well a patch fits at every place around it, compiled (numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
SUMS = 7
"""Weighted sums per place: of squared differences of the descriptors, 1, t, t^2, s, s^2 and t s (t, s: brightness)."""


@njit(fastmath=True, cache=True)
def _row(template, searched, taps, first, dz, dy, sums):
    """One row of places. template, searched: (descriptors (C, Z, Y, X), brightness (Z, Y, X), weight (Z, Y, X)), float32.

    first: (2, 3) array indices at which the patch begins in the template, and in ``searched`` for the first of all places.
    sums: (SUMS, places), zeros.
    """
    here, bright, seen = template
    there, other_bright, other_seen = searched
    channels, depth, height, width = there.shape
    places = sums.shape[1]
    row = np.empty(places, np.float32)
    for z in range(taps.shape[0]):
        a, sz = first[0, 0] + z, first[1, 0] + dz + z
        if not (0 <= a < here.shape[1] and 0 <= sz < depth):
            continue
        for y in range(taps.shape[1]):
            b, sy = first[0, 1] + y, first[1, 1] + dy + y
            if not (0 <= b < here.shape[2] and 0 <= sy < height):
                continue
            for x in range(taps.shape[2]):
                c, sx = first[0, 2] + x, first[1, 2] + x
                if not 0 <= c < here.shape[3]:
                    continue
                weight = taps[z, y, x] * seen[a, b, c]
                begin, end = max(0, -sx), min(places, width - sx)
                if weight <= F(0) or begin >= end:
                    continue
                row[begin:end] = F(0)
                for k in range(channels):
                    value = here[k, a, b, c]
                    line = there[k, sz, sy]
                    for dx in range(begin, end):
                        difference = value - line[sx + dx]
                        row[dx] += difference * difference
                t = bright[a, b, c]
                known, values = other_seen[sz, sy], other_bright[sz, sy]
                for dx in range(begin, end):
                    share, s = weight * known[sx + dx], values[sx + dx]
                    sums[0, dx] += share * row[dx]
                    sums[1, dx] += share
                    sums[2, dx] += share * t
                    sums[3, dx] += share * t * t
                    sums[4, dx] += share * s
                    sums[5, dx] += share * s * s
                    sums[6, dx] += share * t * s


@njit(fastmath=True, cache=True)
def _judge(sums, channels, noise, out):
    """out (3, places) of a row of sums: mean squared difference, 1 - squared correlation, share of the patch that is seen."""
    for d in range(sums.shape[1]):
        mass = sums[1, d]
        out[2, d] = mass
        if mass <= F(1e-6):
            continue
        t, s = sums[2, d] / mass, sums[4, d] / mass
        here = max(sums[3, d] / mass - t * t, F(0)) + noise
        there = max(sums[5, d] / mass - s * s, F(0)) + noise
        both = sums[6, d] / mass - t * s
        out[0, d] = sums[0, d] / (mass * channels)
        out[1, d] = max(F(1) - both * both / (here * there), F(0))


@njit(parallel=True, fastmath=True, cache=True)
def one_patch(template, searched, taps, first, noise, out):
    """How a patch of ``template`` fits at places of ``searched``: see ``_row`` and ``_judge``; out: (3, Dz, Dy, Dx), zeros.

    taps: (tz, ty, tx), weights of the patch. noise: variance of brightness that says nothing.
    """
    rows = out.shape[2]
    for i in prange(out.shape[1] * rows):
        dz, dy = i // rows, i % rows
        sums = np.zeros((SUMS, out.shape[3]), np.float32)
        _row(template, searched, taps, first, dz, dy, sums)
        _judge(sums, F(template[0].shape[0]), F(noise), out[:, dz, dy])


@njit(parallel=True, fastmath=True, cache=True)
def many_patches(template, searched, taps, centers, middles, noise, out):
    """``one_patch`` for patches around ``centers`` (N, 3), searched around ``middles`` (N, 3): array indices of one grid.

    out: (N, 3, Dz, Dy, Dx), zeros.
    """
    for n in prange(centers.shape[0]):
        first = np.empty((2, 3), np.int64)
        for axis in range(3):
            first[0, axis] = centers[n, axis] - taps.shape[axis] // 2
            first[1, axis] = middles[n, axis] - taps.shape[axis] // 2 - out.shape[axis + 2] // 2
        for dz in range(out.shape[2]):
            for dy in range(out.shape[3]):
                sums = np.zeros((SUMS, out.shape[4]), np.float32)
                _row(template, searched, taps, first, dz, dy, sums)
                _judge(sums, F(template[0].shape[0]), F(noise), out[n, :, dz, dy])
