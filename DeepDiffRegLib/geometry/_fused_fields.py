"""Fused CPU kernels for displacement fields: 3-D, float32, all threads, nothing of the size of a Jacobian stored.

They compute what ``vector_fields.py`` computes with torch operations (a test compares them). Arrays are (3, Z, Y, X),
components x, y, z; every axis has at least 2 voxels.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ._fused_sampling import FAST, OPTIONS, F, _inside, _trilinear, _weights

FLOOR = F(0.05)
"""Smallest determinant that a Newton step divides by; below it the plain step -r is taken."""
LONGEST = F(4.0)
"""Longest Newton step in voxels."""


@njit(**OPTIONS)
def compose(outer, inner, out):
    """out(i) = inner(i) + outer(i + inner(i)), edge-clamped; ``out`` must be another array than the inputs."""
    _, nz, ny, nx = inner.shape
    for z in prange(nz):
        for y in range(ny):
            for c in range(3):
                field = outer[c]
                for x in range(nx):
                    i, fa = _weights(F(x) + inner[0, z, y, x], nx)
                    j, fb = _weights(F(y) + inner[1, z, y, x], ny)
                    k, fc = _weights(F(z) + inner[2, z, y, x], nz)
                    out[c, z, y, x] = inner[c, z, y, x] + _trilinear(field, k, j, i, fc, fb, fa)


@njit(inline="always", fastmath=FAST)
def _look_up(v, k, j, i, fc, fb, fa):
    """Value and the three partial derivatives (per voxel) of the trilinear interpolant in its cell."""
    a00, a10 = v[k, j, i], v[k, j + 1, i]
    a01, a11 = v[k + 1, j, i], v[k + 1, j + 1, i]
    x00, x10 = v[k, j, i + 1] - a00, v[k, j + 1, i + 1] - a10
    x01, x11 = v[k + 1, j, i + 1] - a01, v[k + 1, j + 1, i + 1] - a11
    x0, x1 = x00 + fb * (x10 - x00), x01 + fb * (x11 - x01)
    v00, v10 = a00 + fa * x00, a10 + fa * x10
    v01, v11 = a01 + fa * x01, a11 + fa * x11
    y0, y1 = v10 - v00, v11 - v01
    v0, v1 = v00 + fb * y0, v01 + fb * y1
    return v0 + fc * (v1 - v0), x0 + fc * (x1 - x0), y0 + fc * (y1 - y0), v1 - v0


@njit(inline="always", fastmath=FAST)
def _newton_step(r, jx, jy, jz):
    """-(J^-1) r where that is safe, else -r; rows jx, jy, jz of J = I + Du."""
    ax = jy[1] * jz[2] - jy[2] * jz[1]
    ay = jy[2] * jz[0] - jy[0] * jz[2]
    az = jy[0] * jz[1] - jy[1] * jz[0]
    det = jx[0] * ax + jx[1] * ay + jx[2] * az
    if not det > FLOOR:
        return -r[0], -r[1], -r[2]
    s = -F(1) / det
    bx, by, bz = jx[2] * jz[1] - jx[1] * jz[2], jx[0] * jz[2] - jx[2] * jz[0], jx[1] * jz[0] - jx[0] * jz[1]
    cx, cy, cz = jx[1] * jy[2] - jx[2] * jy[1], jx[2] * jy[0] - jx[0] * jy[2], jx[0] * jy[1] - jx[1] * jy[0]
    dx = s * (ax * r[0] + bx * r[1] + cx * r[2])
    dy = s * (ay * r[0] + by * r[1] + cy * r[2])
    dz = s * (az * r[0] + bz * r[1] + cz * r[2])
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    shrink = min(F(1), LONGEST / max(length, F(1e-9)))
    return dx * shrink, dy * shrink, dz * shrink


@njit(**OPTIONS)
def invert(u, unit, iterations, tolerance, out, residual):
    """Solve v + u(y + v) = 0 at every voxel y by Newton steps with step halving, starting from the left neighbor's v.

    unit: (3,) factor per axis for the reported ``residual`` (Z, Y, X); tolerance: on the length of v + u(y+v), voxels.
    """
    _, nz, ny, nx = u.shape
    square = F(tolerance * tolerance)
    for z in prange(nz):
        for y in range(ny):
            vx, vy, vz = -u[0, z, y, 0], -u[1, z, y, 0], -u[2, z, y, 0]
            for x in range(nx):
                best, omega = F(np.inf), F(1)
                bx, by, bz = vx, vy, vz
                sx, sy, sz = F(0), F(0), F(0)
                error = F(np.inf)
                for _ in range(iterations):
                    px, py, pz = F(x) + vx, F(y) + vy, F(z) + vz
                    i, fa = _weights(px, nx)
                    j, fb = _weights(py, ny)
                    k, fc = _weights(pz, nz)
                    ux, xx, xy, xz = _look_up(u[0], k, j, i, fc, fb, fa)
                    uy, yx, yy, yz = _look_up(u[1], k, j, i, fc, fb, fa)
                    uz, zx, zy, zz = _look_up(u[2], k, j, i, fc, fb, fa)
                    rx, ry, rz = vx + ux, vy + uy, vz + uz
                    now = rx * rx + ry * ry + rz * rz
                    if now < best:
                        best, bx, by, bz = now, vx, vy, vz
                        error = (rx * unit[0]) ** 2 + (ry * unit[1]) ** 2 + (rz * unit[2]) ** 2
                        if best < square:
                            break
                        ia = F((px >= F(0)) & (px <= F(nx - 1)))
                        ib = F((py >= F(0)) & (py <= F(ny - 1)))
                        ic = F((pz >= F(0)) & (pz <= F(nz - 1)))
                        sx, sy, sz = _newton_step(
                            (rx, ry, rz),
                            (F(1) + xx * ia, xy * ib, xz * ic),
                            (yx * ia, F(1) + yy * ib, yz * ic),
                            (zx * ia, zy * ib, F(1) + zz * ic),
                        )
                        omega = F(1)
                    else:
                        omega *= F(0.5)
                    vx, vy, vz = bx + omega * sx, by + omega * sy, bz + omega * sz
                vx, vy, vz = bx, by, bz
                out[0, z, y, x], out[1, z, y, x], out[2, z, y, x] = bx, by, bz
                residual[z, y, x] = np.sqrt(error)
                if best > F(1) and x + 1 < nx:
                    vx, vy, vz = -u[0, z, y, x + 1], -u[1, z, y, x + 1], -u[2, z, y, x + 1]


@njit(inline="always", fastmath=FAST)
def _determinant(ax, ay, az, bx, by, bz, cx, cy, cz):
    return ax * (by * cz - bz * cy) + bx * (cy * az - cz * ay) + cx * (ay * bz - az * by)


@njit(**OPTIONS)
def jacobian(u, scale, base, sign, out):
    """out = sign * det(base + du/dx), central differences, one-sided at the border. scale: 1/spacing, x, y, z."""
    _, nz, ny, nx = u.shape
    for z in prange(nz):
        up, down = min(z + 1, nz - 1), max(z - 1, 0)
        sz = scale[2] / F(up - down)
        for y in range(ny):
            north, south = min(y + 1, ny - 1), max(y - 1, 0)
            sy = scale[1] / F(north - south)
            for x in range(nx):
                right, left = min(x + 1, nx - 1), max(x - 1, 0)
                sx = scale[0] / F(right - left)
                out[z, y, x] = sign * _determinant(
                    base[0, 0] + sx * (u[0, z, y, right] - u[0, z, y, left]),
                    base[0, 1] + sy * (u[0, z, north, x] - u[0, z, south, x]),
                    base[0, 2] + sz * (u[0, up, y, x] - u[0, down, y, x]),
                    base[1, 0] + sx * (u[1, z, y, right] - u[1, z, y, left]),
                    base[1, 1] + sy * (u[1, z, north, x] - u[1, z, south, x]),
                    base[1, 2] + sz * (u[1, up, y, x] - u[1, down, y, x]),
                    base[2, 0] + sx * (u[2, z, y, right] - u[2, z, y, left]),
                    base[2, 1] + sy * (u[2, z, north, x] - u[2, z, south, x]),
                    base[2, 2] + sz * (u[2, up, y, x] - u[2, down, y, x]),
                )


@njit(**OPTIONS)
def strict_jacobian(u, scale, base, sign, out):
    """out = least sign * det(base + du/dx) over the forward/backward differences of each axis that exist."""
    _, nz, ny, nx = u.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                least = F(np.inf)
                for corner in range(8):
                    dx, dy, dz = (corner & 1) * 2 - 1, (corner & 2) - 1, (corner & 4) // 2 - 1
                    i, j, k = x + dx, y + dy, z + dz
                    if i < 0 or i >= nx or j < 0 or j >= ny or k < 0 or k >= nz:
                        continue
                    sx, sy, sz = scale[0] * F(dx), scale[1] * F(dy), scale[2] * F(dz)
                    a, b, c = u[0, z, y, x], u[1, z, y, x], u[2, z, y, x]
                    det = sign * _determinant(
                        base[0, 0] + sx * (u[0, z, y, i] - a),
                        base[0, 1] + sy * (u[0, z, j, x] - a),
                        base[0, 2] + sz * (u[0, k, y, x] - a),
                        base[1, 0] + sx * (u[1, z, y, i] - b),
                        base[1, 1] + sy * (u[1, z, j, x] - b),
                        base[1, 2] + sz * (u[1, k, y, x] - b),
                        base[2, 0] + sx * (u[2, z, y, i] - c),
                        base[2, 1] + sy * (u[2, z, j, x] - c),
                        base[2, 2] + sz * (u[2, k, y, x] - c),
                    )
                    least = min(least, det)
                out[z, y, x] = least


@njit(**OPTIONS)
def linear_field(m, linear, u, out):
    """out(i) = m (i, 1) + linear u(i); m (3, 4) float64 so that far origins keep their digits, linear (3, 3) float32."""
    _, nz, ny, nx = out.shape
    for z in prange(nz):
        for y in range(ny):
            for r in range(3):
                start = m[r, 1] * y + m[r, 2] * z + m[r, 3]
                a, b, c = linear[r, 0], linear[r, 1], linear[r, 2]
                for x in range(nx):
                    moved = a * u[0, z, y, x] + b * u[1, z, y, x] + c * u[2, z, y, x]
                    out[r, z, y, x] = F(start + m[r, 0] * x) + moved


@njit(**OPTIONS)
def lands_inside(v, out):
    """out(i) = whether i + v(i) lies within the voxels' outer faces."""
    _, nz, ny, nx = v.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                a, b, c = F(x) + v[0, z, y, x], F(y) + v[1, z, y, x], F(z) + v[2, z, y, x]
                out[z, y, x] = _inside(a, nx) & _inside(b, ny) & _inside(c, nz)
