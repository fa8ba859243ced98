"""Fused CPU kernels of the right-hand sides of shooting: 3-D, float32, all threads.

They compute what ``_shooting_rhs`` and its derivatives compute in torch (a test compares them). Vector fields are (3, Z, Y, X),
components x, y, z; pre-weights (N, Z, Y, X). Every axis has at least 2 voxels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit, prange

from ..geometry._fused_sampling import FAST, OPTIONS, F

PAD = 2


@lru_cache(maxsize=64)
def taps(n: int, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences at each of n positions: indices (n, 4), factors of the even and of the odd continuation (n, 4)."""
    position = np.arange(n)[:, None] + np.array([-2, -1, 1, 2])
    inside = (position >= 0) & (position < n)
    index = np.where(position < 0, -1 - position, np.where(position >= n, 2 * n - 1 - position, position))
    even = np.broadcast_to(np.array([1, -8, 8, -1]) / (12 * spacing), index.shape)
    return index, even.astype(np.float32), np.where(inside, even, -even).astype(np.float32)


@njit(fastmath=FAST, cache=True, inline="always")
def _padded(row, sign, out):
    """A row with two mirrored values (times ``sign``) at each end."""
    n = row.shape[0]
    for x in range(n):
        out[PAD + x] = row[x]
    out[0], out[1], out[n + 2], out[n + 3] = sign * row[1], sign * row[0], sign * row[n - 1], sign * row[n - 2]


@njit(fastmath=FAST, cache=True, inline="always")
def _slope_row(field, z, y, iz, cz, iy, cy, far, near, pad, out):
    """Slopes of one row along x, y and z: ``out`` (3, X). far, near: factors of the differences along x."""
    z0, z1, z2, z3 = iz[z, 0], iz[z, 1], iz[z, 2], iz[z, 3]
    y0, y1, y2, y3 = iy[y, 0], iy[y, 1], iy[y, 2], iy[y, 3]
    a0, a1, a2, a3 = cz[z, 0], cz[z, 1], cz[z, 2], cz[z, 3]
    b0, b1, b2, b3 = cy[y, 0], cy[y, 1], cy[y, 2], cy[y, 3]
    _padded(field[z, y], F(1), pad)
    for x in range(field.shape[2]):
        out[0, x] = near * (pad[x + 3] - pad[x + 1]) - far * (pad[x + 4] - pad[x])
        out[1, x] = b0 * field[z, y0, x] + b1 * field[z, y1, x] + b2 * field[z, y2, x] + b3 * field[z, y3, x]
        out[2, x] = a0 * field[z0, y, x] + a1 * field[z1, y, x] + a2 * field[z2, y, x] + a3 * field[z3, y, x]


@njit(**OPTIONS)
def coadjoint(m, v, iz, ez, oz, iy, ey, oy, far, near, out):
    """out_i = sum_j D_j^T(m_i v_j) - m_j D_i v_j. e, o: factors of even and odd continuation along z and y."""
    _, nz, ny, nx = m.shape
    for z in prange(nz):
        slopes, pad, flux = np.empty((3, nx), F), np.empty(nx + 4, F), np.empty(nx + 4, F)
        z0, z1, z2, z3 = iz[z, 0], iz[z, 1], iz[z, 2], iz[z, 3]
        a0, a1, a2, a3 = oz[z, 0], oz[z, 1], oz[z, 2], oz[z, 3]
        for y in range(ny):
            y0, y1, y2, y3 = iy[y, 0], iy[y, 1], iy[y, 2], iy[y, 3]
            b0, b1, b2, b3 = oy[y, 0], oy[y, 1], oy[y, 2], oy[y, 3]
            _padded(v[0, z, y], F(-1), pad)
            for i in range(3):
                _padded(m[i, z, y], F(1), flux)
                for x in range(nx + 4):
                    flux[x] *= pad[x]
                for x in range(nx):
                    along_x = near * (flux[x + 3] - flux[x + 1]) - far * (flux[x + 4] - flux[x])
                    along_y = (
                        b0 * m[i, z, y0, x] * v[1, z, y0, x]
                        + b1 * m[i, z, y1, x] * v[1, z, y1, x]
                        + b2 * m[i, z, y2, x] * v[1, z, y2, x]
                        + b3 * m[i, z, y3, x] * v[1, z, y3, x]
                    )
                    along_z = (
                        a0 * m[i, z0, y, x] * v[2, z0, y, x]
                        + a1 * m[i, z1, y, x] * v[2, z1, y, x]
                        + a2 * m[i, z2, y, x] * v[2, z2, y, x]
                        + a3 * m[i, z3, y, x] * v[2, z3, y, x]
                    )
                    out[i, z, y, x] = -along_x - along_y - along_z
            for j in range(3):
                _slope_row(v[j], z, y, iz, ez, iy, ey, far, near, pad, slopes)
                for i in range(3):
                    for x in range(nx):
                        out[i, z, y, x] -= m[j, z, y, x] * slopes[i, x]


@njit(**OPTIONS)
def along(v, w, iz, ez, iy, ey, far, near, out):
    """out = (v . D) w - (w . D) v."""
    _, nz, ny, nx = v.shape
    for z in prange(nz):
        first, second, pad = np.empty((3, nx), F), np.empty((3, nx), F), np.empty(nx + 4, F)
        for y in range(ny):
            for i in range(3):
                _slope_row(w[i], z, y, iz, ez, iy, ey, far, near, pad, first)
                _slope_row(v[i], z, y, iz, ez, iy, ey, far, near, pad, second)
                for x in range(nx):
                    total = F(0)
                    for j in range(3):
                        total += v[j, z, y, x] * first[j, x] - w[j, z, y, x] * second[j, x]
                    out[i, z, y, x] = total


@njit(**OPTIONS)
def carry(h, push, v, iz, ez, iy, ey, far, near, source, rate):
    """source = sum_i push_i D h_i, rate_i = -v . D h_i."""
    count, nz, ny, nx = h.shape
    for z in prange(nz):
        slopes, pad = np.empty((3, nx), F), np.empty(nx + 4, F)
        for y in range(ny):
            for j in range(3):
                for x in range(nx):
                    source[j, z, y, x] = F(0)
            for i in range(count):
                _slope_row(h[i], z, y, iz, ez, iy, ey, far, near, pad, slopes)
                for x in range(nx):
                    rate[i, z, y, x] = -(
                        v[0, z, y, x] * slopes[0, x] + v[1, z, y, x] * slopes[1, x] + v[2, z, y, x] * slopes[2, x]
                    )
                for j in range(3):
                    for x in range(nx):
                        source[j, z, y, x] += push[i, z, y, x] * slopes[j, x]


@njit(**OPTIONS)
def carry_back(push, v, wanted, rate, iz, oz, iy, oy, far, near, out):
    """out_i = sum_j D_j^T(push_i wanted_j - rate_i v_j): dE/dh from dE/dsource (wanted) and dE/drate of ``carry``."""
    count, nz, ny, nx = push.shape
    for z in prange(nz):
        flux = np.empty(nx + 4, F)
        z0, z1, z2, z3 = iz[z, 0], iz[z, 1], iz[z, 2], iz[z, 3]
        a0, a1, a2, a3 = oz[z, 0], oz[z, 1], oz[z, 2], oz[z, 3]
        for y in range(ny):
            y0, y1, y2, y3 = iy[y, 0], iy[y, 1], iy[y, 2], iy[y, 3]
            b0, b1, b2, b3 = oy[y, 0], oy[y, 1], oy[y, 2], oy[y, 3]
            for i in range(count):
                p, r = push[i], rate[i]
                for x in range(nx):
                    flux[PAD + x] = p[z, y, x] * wanted[0, z, y, x] - r[z, y, x] * v[0, z, y, x]
                flux[0], flux[1], flux[nx + 2], flux[nx + 3] = -flux[3], -flux[2], -flux[nx + 1], -flux[nx]
                for x in range(nx):
                    along_x = near * (flux[x + 3] - flux[x + 1]) - far * (flux[x + 4] - flux[x])
                    along_y = (
                        b0 * (p[z, y0, x] * wanted[1, z, y0, x] - r[z, y0, x] * v[1, z, y0, x])
                        + b1 * (p[z, y1, x] * wanted[1, z, y1, x] - r[z, y1, x] * v[1, z, y1, x])
                        + b2 * (p[z, y2, x] * wanted[1, z, y2, x] - r[z, y2, x] * v[1, z, y2, x])
                        + b3 * (p[z, y3, x] * wanted[1, z, y3, x] - r[z, y3, x] * v[1, z, y3, x])
                    )
                    along_z = (
                        a0 * (p[z0, y, x] * wanted[2, z0, y, x] - r[z0, y, x] * v[2, z0, y, x])
                        + a1 * (p[z1, y, x] * wanted[2, z1, y, x] - r[z1, y, x] * v[2, z1, y, x])
                        + a2 * (p[z2, y, x] * wanted[2, z2, y, x] - r[z2, y, x] * v[2, z2, y, x])
                        + a3 * (p[z3, y, x] * wanted[2, z3, y, x] - r[z3, y, x] * v[2, z3, y, x])
                    )
                    out[i, z, y, x] = -along_x - along_y - along_z
