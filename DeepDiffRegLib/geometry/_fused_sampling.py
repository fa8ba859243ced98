"""Fused CPU kernels for sampling: 3-D, float32, all threads, coordinates made on the fly.

They compute what ``sampling.py`` computes with torch operations (a test compares them) without storing an index grid.
Arrays are (C, Z, Y, X); vector components are x, y, z; ``zeros`` selects ITK's rule (0 beyond half a voxel outside).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

F = np.float32
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
"""Fast arithmetic that keeps NaN and Inf meaningful: a diverged field must not become a wild memory address."""
OPTIONS = {"parallel": True, "fastmath": FAST, "cache": True}


@njit(inline="always", fastmath=FAST)
def _weights(a, size):
    """Clamp a coordinate (NaN to 0); return its lower voxel and the fraction towards the next one."""
    a = a if a > F(0) else F(0)
    a = a if a < F(size - 1) else F(size - 1)
    i = min(np.int32(a), np.int32(size - 2))
    return i, a - F(i)


@njit(inline="always", fastmath=FAST)
def _inside(a, size):
    return (a >= F(-0.5)) & (a < F(size) - F(0.5))


@njit(inline="always", fastmath=FAST)
def _trilinear(volume, k, j, i, fc, fb, fa):
    v00 = volume[k, j, i] + fa * (volume[k, j, i + 1] - volume[k, j, i])
    v01 = volume[k, j + 1, i] + fa * (volume[k, j + 1, i + 1] - volume[k, j + 1, i])
    v10 = volume[k + 1, j, i] + fa * (volume[k + 1, j, i + 1] - volume[k + 1, j, i])
    v11 = volume[k + 1, j + 1, i] + fa * (volume[k + 1, j + 1, i + 1] - volume[k + 1, j + 1, i])
    v0 = v00 + fb * (v01 - v00)
    v1 = v10 + fb * (v11 - v10)
    return v0 + fc * (v1 - v0)


@njit(**OPTIONS)
def sample_at(values, index, zeros, out):
    """out[c] = values[c] at continuous ``index`` (3, Z, Y, X)."""
    channels, depth, height, width = values.shape
    nz, ny, nx = index.shape[1:]
    for z in prange(nz):
        for c in range(channels):
            volume = values[c]
            for y in range(ny):
                for x in range(nx):
                    a, b, d = index[0, z, y, x], index[1, z, y, x], index[2, z, y, x]
                    keep = (not zeros) | (_inside(a, width) & _inside(b, height) & _inside(d, depth))
                    i, fa = _weights(a, width)
                    j, fb = _weights(b, height)
                    k, fc = _weights(d, depth)
                    out[c, z, y, x] = _trilinear(volume, k, j, i, fc, fb, fa) * F(keep)


@njit(**OPTIONS)
def warp(values, u, m, zeros, out):
    """out[c](i) = values[c](m (i + u(i))); u in voxels of its own grid, m (3, 4) maps them to voxels of ``values``."""
    channels, depth, height, width = values.shape
    nz, ny, nx = u.shape[1:]
    for z in prange(nz):
        for c in range(channels):
            volume = values[c]
            for y in range(ny):
                for x in range(nx):
                    px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
                    a = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
                    b = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
                    d = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
                    keep = (not zeros) | (_inside(a, width) & _inside(b, height) & _inside(d, depth))
                    i, fa = _weights(a, width)
                    j, fb = _weights(b, height)
                    k, fc = _weights(d, depth)
                    out[c, z, y, x] = _trilinear(volume, k, j, i, fc, fb, fa) * F(keep)


@njit(**OPTIONS)
def warp_beside(values, u, m, zeros, out):
    """``warp`` of channels that lie side by side: values (Z, Y, X, C) to out (z, y, x, C), one place worked out for all channels."""
    depth, height, width, channels = values.shape
    nz, ny, nx = u.shape[1:]
    for row in prange(nz * ny):
        z, y = row // ny, row % ny
        for x in range(nx):
            px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
            a = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
            b = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
            d = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
            keep = F((not zeros) | (_inside(a, width) & _inside(b, height) & _inside(d, depth)))
            i, fa = _weights(a, width)
            j, fb = _weights(b, height)
            k, fc = _weights(d, depth)
            near, far = (F(1) - fc) * keep, fc * keep
            w00, w10, w01, w11 = (F(1) - fa) * (F(1) - fb), fa * (F(1) - fb), (F(1) - fa) * fb, fa * fb
            v000, v100, v010, v110 = values[k, j, i], values[k, j, i + 1], values[k, j + 1, i], values[k, j + 1, i + 1]
            k += 1
            v001, v101, v011, v111 = values[k, j, i], values[k, j, i + 1], values[k, j + 1, i], values[k, j + 1, i + 1]
            here = out[z, y, x]
            for c in range(channels):
                below = w00 * v000[c] + w10 * v100[c] + w01 * v010[c] + w11 * v110[c]
                above = w00 * v001[c] + w10 * v101[c] + w01 * v011[c] + w11 * v111[c]
                here[c] = near * below + far * above


@njit(**OPTIONS)
def warp_plane(values, u, m, zeros, out):
    """``warp`` in 2-D: values (C, Y, X), u (2, y, x), m (2, 3)."""
    channels, height, width = values.shape
    ny, nx = u.shape[1:]
    for y in prange(ny):
        for x in range(nx):
            px, py = F(x) + u[0, y, x], F(y) + u[1, y, x]
            a = m[0, 0] * px + m[0, 1] * py + m[0, 2]
            b = m[1, 0] * px + m[1, 1] * py + m[1, 2]
            keep = F((not zeros) | (_inside(a, width) & _inside(b, height)))
            i, fa = _weights(a, width)
            j, fb = _weights(b, height)
            for c in range(channels):
                near = values[c, j, i] + fa * (values[c, j, i + 1] - values[c, j, i])
                far = values[c, j + 1, i] + fa * (values[c, j + 1, i + 1] - values[c, j + 1, i])
                out[c, y, x] = (near + fb * (far - near)) * keep


@njit(**OPTIONS)
def pull_gradient(values, u, m, residual, out):
    """out += sum_c residual[c] * d values[c](m (i + u)) / du, the exact derivative of the interpolant."""
    channels, depth, height, width = values.shape
    nz, ny, nx = u.shape[1:]
    for z in prange(nz):
        for c in range(channels):
            v = values[c]
            for y in range(ny):
                for x in range(nx):
                    px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
                    a = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
                    b = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
                    d = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
                    r = residual[c, z, y, x]
                    ra = r * F((a >= F(0)) & (a <= F(width - 1)))
                    rb = r * F((b >= F(0)) & (b <= F(height - 1)))
                    rd = r * F((d >= F(0)) & (d <= F(depth - 1)))
                    inside = F(_inside(a, width) & _inside(b, height) & _inside(d, depth))
                    i, fa = _weights(a, width)
                    j, fb = _weights(b, height)
                    k, fc = _weights(d, depth)
                    a000, a100 = v[k, j, i], v[k, j, i + 1]
                    a010, a110 = v[k, j + 1, i], v[k, j + 1, i + 1]
                    a001, a101 = v[k + 1, j, i], v[k + 1, j, i + 1]
                    a011, a111 = v[k + 1, j + 1, i], v[k + 1, j + 1, i + 1]
                    x00, x10 = a100 - a000, a110 - a010
                    x01, x11 = a101 - a001, a111 - a011
                    x0, x1 = x00 + fb * (x10 - x00), x01 + fb * (x11 - x01)
                    ga = (x0 + fc * (x1 - x0)) * ra * inside
                    v00, v10 = a000 + fa * x00, a010 + fa * x10
                    v01, v11 = a001 + fa * x01, a011 + fa * x11
                    gb = ((v10 - v00) + fc * ((v11 - v01) - (v10 - v00))) * rb * inside
                    v0, v1 = v00 + fb * (v10 - v00), v01 + fb * (v11 - v01)
                    gd = (v1 - v0) * rd * inside
                    out[0, z, y, x] += ga * m[0, 0] + gb * m[1, 0] + gd * m[2, 0]
                    out[1, z, y, x] += ga * m[0, 1] + gb * m[1, 1] + gd * m[2, 1]
                    out[2, z, y, x] += ga * m[0, 2] + gb * m[1, 2] + gd * m[2, 2]


@njit(**OPTIONS)
def warped_gradient(warped, residual, out):
    """out += sum_c residual[c] * grad warped[c], central differences in voxels (zero across the border)."""
    channels, nz, ny, nx = warped.shape
    half = F(0.5)
    for z in prange(nz):
        up, down = min(z + 1, nz - 1), max(z - 1, 0)
        for c in range(channels):
            w = warped[c]
            for y in range(ny):
                north, south = min(y + 1, ny - 1), max(y - 1, 0)
                for x in range(1, nx - 1):
                    r = half * residual[c, z, y, x]
                    out[0, z, y, x] += r * (w[z, y, x + 1] - w[z, y, x - 1])
                for x in range(nx):
                    r = half * residual[c, z, y, x]
                    out[1, z, y, x] += r * (w[z, north, x] - w[z, south, x])
                    out[2, z, y, x] += r * (w[up, y, x] - w[down, y, x])
