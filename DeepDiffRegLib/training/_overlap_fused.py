"""Overlap of all labels of two maps at once: 3-D, float32 on the CPU, two passes over the voxels however many labels there are.

A label's soft mask at a voxel is the sum of the interpolation weights of those corners that carry it, so at most eight labels
matter anywhere. Labels come as numbers 1 ... L of those that count, 0 for all others.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..geometry._fused_sampling import OPTIONS, _inside, _weights

F = np.float32


@njit(inline="always")
def _corners(moving, x, y, z, labels, weights):
    """Labels and weights of the eight corners around a place, x fastest; returns the three fractions and whether it is inside."""
    depth, height, width = moving.shape
    inside = F(_inside(x, width) & _inside(y, height) & _inside(z, depth))
    i, fx = _weights(x, width)
    j, fy = _weights(y, height)
    k, fz = _weights(z, depth)
    for q in range(8):
        a, b, c = q & 1, (q >> 1) & 1, q >> 2
        labels[q] = moving[k + c, j + b, i + a]
        wx, wy, wz = fx if a else F(1) - fx, fy if b else F(1) - fy, fz if c else F(1) - fz
        weights[q] = wx * wy * wz * inside
    return fx, fy, fz, inside


@njit(**OPTIONS)
def sums(moving, fixed, u, count):
    """(3, count + 1): per label the sums of soft * fixed, of soft^2 and of fixed. moving: (Z, Y, X), fixed: (z, y, x)."""
    nz, ny, nx = fixed.shape
    found = np.zeros((nz, 3, count + 1))
    for z in prange(nz):
        own = found[z]
        labels, weights = np.empty(8, np.int32), np.empty(8, np.float32)
        for y in range(ny):
            for x in range(nx):
                _corners(moving, F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x], labels, weights)
                here = fixed[z, y, x]
                own[2, here] += 1.0
                for q in range(8):
                    label, first = labels[q], True
                    for p in range(q):
                        first &= labels[p] != label
                    if first and label > 0:
                        soft = F(0)
                        for p in range(q, 8):
                            soft += weights[p] * F(labels[p] == label)
                        own[1, label] += soft * soft
                        if label == here:
                            own[0, label] += soft
    return found.sum(axis=0)


@njit(**OPTIONS)
def slopes(moving, fixed, u, met, size, out):
    """out = d/du of sum over labels of met[l] sum(soft * fixed) + size[l] / 2 sum(soft^2)."""
    nz, ny, nx = fixed.shape
    depth, height, width = moving.shape
    for z in prange(nz):
        labels, weights = np.empty(8, np.int32), np.empty(8, np.float32)
        pull = np.empty(8, np.float32)
        for y in range(ny):
            for x in range(nx):
                px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
                fx, fy, fz, inside = _corners(moving, px, py, pz, labels, weights)
                here = fixed[z, y, x]
                for q in range(8):
                    soft = F(0)
                    for p in range(8):
                        soft += weights[p] * F(labels[p] == labels[q])
                    pull[q] = size[labels[q]] * soft + met[labels[q]] * F(labels[q] == here)
                x0, x1 = pull[1] - pull[0], pull[3] - pull[2]
                x2, x3 = pull[5] - pull[4], pull[7] - pull[6]
                near0, far0 = pull[0] + fx * x0, pull[2] + fx * x1
                near1, far1 = pull[4] + fx * x2, pull[6] + fx * x3
                gx0, gx1 = x0 + fy * (x1 - x0), x2 + fy * (x3 - x2)
                gy0, gy1 = far0 - near0, far1 - near1
                low, high = near0 + fy * gy0, near1 + fy * gy1
                out[0, z, y, x] = (gx0 + fz * (gx1 - gx0)) * inside * F((px >= F(0)) & (px <= F(width - 1)))
                out[1, z, y, x] = (gy0 + fz * (gy1 - gy0)) * inside * F((py >= F(0)) & (py <= F(height - 1)))
                out[2, z, y, x] = (high - low) * inside * F((pz >= F(0)) & (pz <= F(depth - 1)))
