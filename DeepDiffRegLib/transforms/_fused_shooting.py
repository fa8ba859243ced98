"""Fused CPU kernels of shooting: 3-D, float32, all threads. They compute what ``_shooting_rhs`` and ``trace_step`` compute.

Arrays are (3, Z, Y, X), components x, y, z; every axis has at least 4 voxels.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..geometry._fused_fields import _look_up
from ..geometry._fused_sampling import FAST, OPTIONS, F, _trilinear, _weights


@njit(fastmath=FAST, cache=True)
def _mirror(i, n):
    """Index in a field mirrored at its outer faces, and -1 where it was mirrored, else 1."""
    if i < 0:
        return -1 - i, F(-1)
    if i >= n:
        return 2 * n - 1 - i, F(-1)
    return i, F(1)


@njit(fastmath=FAST, cache=True)
def _around(i, n):
    """The four neighbors i-2, i-1, i+1, i+2 and their signs in an odd continuation."""
    a, sa = _mirror(i - 2, n)
    b, sb = _mirror(i - 1, n)
    c, sc = _mirror(i + 1, n)
    d, sd = _mirror(i + 2, n)
    return (a, b, c, d), (sa, sb, sc, sd)


@njit(fastmath=FAST, cache=True)
def _coadjoint_at(m, v, z, y, x, at_z, odd_z, at_y, odd_y, at_x, odd_x, near, far, sign, out):
    px, py, pz = m[0, z, y, x], m[1, z, y, x], m[2, z, y, x]
    rx, ry, rz = F(0), F(0), F(0)
    weights = (F(1), F(-1), F(1), F(-1))
    for k in range(4):
        factor = near[0] if k == 1 or k == 2 else far[0]
        f = weights[k] * factor
        i = at_x[k]
        a, b, c = v[0, z, y, i], v[1, z, y, i], v[2, z, y, i]
        g = f * odd_x[k] * a
        rx -= g * m[0, z, y, i] + f * (px * a + py * b + pz * c)
        ry -= g * m[1, z, y, i]
        rz -= g * m[2, z, y, i]
        factor = near[1] if k == 1 or k == 2 else far[1]
        f = weights[k] * factor
        j = at_y[k]
        a, b, c = v[0, z, j, x], v[1, z, j, x], v[2, z, j, x]
        g = f * odd_y[k] * b
        rx -= g * m[0, z, j, x]
        ry -= g * m[1, z, j, x] + f * (px * a + py * b + pz * c)
        rz -= g * m[2, z, j, x]
        factor = near[2] if k == 1 or k == 2 else far[2]
        f = weights[k] * factor
        h = at_z[k]
        a, b, c = v[0, h, y, x], v[1, h, y, x], v[2, h, y, x]
        g = f * odd_z[k] * c
        rx -= g * m[0, h, y, x]
        ry -= g * m[1, h, y, x]
        rz -= g * m[2, h, y, x] + f * (px * a + py * b + pz * c)
    out[0, z, y, x], out[1, z, y, x], out[2, z, y, x] = sign * rx, sign * ry, sign * rz


@njit(fastmath=FAST, cache=True)
def _coadjoint_plane(m, v, z, near, far, sign, out):
    _, nz, ny, nx = m.shape
    one = (F(1), F(1), F(1), F(1))
    at_z, odd_z = _around(z, nz)
    for y in range(ny):
        at_y, odd_y = _around(y, ny)
        for x in (0, 1, nx - 2, nx - 1):
            at_x, odd_x = _around(x, nx)
            _coadjoint_at(m, v, z, y, x, at_z, odd_z, at_y, odd_y, at_x, odd_x, near, far, sign, out)
        for x in range(2, nx - 2):
            at_x = (x - 2, x - 1, x + 1, x + 2)
            _coadjoint_at(m, v, z, y, x, at_z, odd_z, at_y, odd_y, at_x, one, near, far, sign, out)


@njit(**OPTIONS)
def coadjoint(m, v, near, far, sign, out):
    """out = sign (-div(m (x) v) - (Dv)^T m); near, far: (3,) stencil weights 8/12 and 1/12 over the spacing."""
    for z in prange(m.shape[1]):
        _coadjoint_plane(m, v, z, near, far, sign, out)


@njit(fastmath=FAST, cache=True)
def _along_at(v, w, z, y, x, at_z, at_y, at_x, near, far, out):
    weights = (F(1), F(-1), F(1), F(-1))
    a0, a1, a2 = v[0, z, y, x], v[1, z, y, x], v[2, z, y, x]
    b0, b1, b2 = w[0, z, y, x], w[1, z, y, x], w[2, z, y, x]
    for c in range(3):
        total = F(0)
        for k in range(4):
            inner = k == 1 or k == 2
            f = weights[k] * (near[0] if inner else far[0])
            total += f * (a0 * w[c, z, y, at_x[k]] - b0 * v[c, z, y, at_x[k]])
            f = weights[k] * (near[1] if inner else far[1])
            total += f * (a1 * w[c, z, at_y[k], x] - b1 * v[c, z, at_y[k], x])
            f = weights[k] * (near[2] if inner else far[2])
            total += f * (a2 * w[c, at_z[k], y, x] - b2 * v[c, at_z[k], y, x])
        out[c, z, y, x] = total


@njit(fastmath=FAST, cache=True)
def _along_plane(v, w, z, near, far, out):
    _, nz, ny, nx = v.shape
    at_z, _ = _around(z, nz)
    for y in range(ny):
        at_y, _ = _around(y, ny)
        for x in (0, 1, nx - 2, nx - 1):
            at_x, _ = _around(x, nx)
            _along_at(v, w, z, y, x, at_z, at_y, at_x, near, far, out)
        for x in range(2, nx - 2):
            _along_at(v, w, z, y, x, at_z, at_y, (x - 2, x - 1, x + 1, x + 2), near, far, out)


@njit(**OPTIONS)
def along(v, w, near, far, out):
    """out = (v . D) w - (w . D) v."""
    for z in prange(v.shape[1]):
        _along_plane(v, w, z, near, far, out)


@njit(fastmath=FAST, cache=True)
def _value(field, px, py, pz, scale):
    """Velocity at a position in voxels, times ``scale``."""
    _, nz, ny, nx = field.shape
    i, fa = _weights(px, nx)
    j, fb = _weights(py, ny)
    k, fc = _weights(pz, nz)
    a = scale[0] * _trilinear(field[0], k, j, i, fc, fb, fa)
    b = scale[1] * _trilinear(field[1], k, j, i, fc, fb, fa)
    c = scale[2] * _trilinear(field[2], k, j, i, fc, fb, fa)
    return a, b, c


@njit(**OPTIONS)
def trace_step(u, start, middle, end, scale, dt, out):
    """One Runge-Kutta 4 step of dx/dt = scale v(x) for every voxel: displacement u before, ``out`` after (may be u)."""
    _, nz, ny, nx = u.shape
    half, sixth = dt / F(2), dt / F(6)
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
                a1, b1, c1 = _value(start, px, py, pz, scale)
                a2, b2, c2 = _value(middle, px + half * a1, py + half * b1, pz + half * c1, scale)
                a3, b3, c3 = _value(middle, px + half * a2, py + half * b2, pz + half * c2, scale)
                a4, b4, c4 = _value(end, px + dt * a3, py + dt * b3, pz + dt * c3, scale)
                out[0, z, y, x] = u[0, z, y, x] + sixth * (a1 + F(2) * (a2 + a3) + a4)
                out[1, z, y, x] = u[1, z, y, x] + sixth * (b1 + F(2) * (b2 + b3) + b4)
                out[2, z, y, x] = u[2, z, y, x] + sixth * (c1 + F(2) * (c2 + c3) + c4)


@njit(fastmath=FAST, cache=True)
def _spread(push, px, py, pz, gx, gy, gz):
    """Add a vector onto the eight voxels around a position, with the weights of the interpolation."""
    _, nz, ny, nx = push.shape
    i, fa = _weights(px, nx)
    j, fb = _weights(py, ny)
    k, fc = _weights(pz, nz)
    for dk in range(2):
        wk = fc if dk else F(1) - fc
        for dj in range(2):
            wj = wk * (fb if dj else F(1) - fb)
            for di in range(2):
                w = wj * (fa if di else F(1) - fa)
                push[0, k + dk, j + dj, i + di] += w * gx
                push[1, k + dk, j + dj, i + di] += w * gy
                push[2, k + dk, j + dj, i + di] += w * gz


@njit(fastmath=FAST, cache=True)
def _slope(field, px, py, pz, gx, gy, gz):
    """Transposed Jacobian of the interpolant times (gx, gy, gz); no slope along an axis whose position is clamped."""
    _, nz, ny, nx = field.shape
    i, fa = _weights(px, nx)
    j, fb = _weights(py, ny)
    k, fc = _weights(pz, nz)
    _, xx, xy, xz = _look_up(field[0], k, j, i, fc, fb, fa)
    _, yx, yy, yz = _look_up(field[1], k, j, i, fc, fb, fa)
    _, zx, zy, zz = _look_up(field[2], k, j, i, fc, fb, fa)
    ia = F((px >= F(0)) & (px <= F(nx - 1)))
    ib = F((py >= F(0)) & (py <= F(ny - 1)))
    ic = F((pz >= F(0)) & (pz <= F(nz - 1)))
    return ia * (xx * gx + yx * gy + zx * gz), ib * (xy * gx + yy * gy + zy * gz), ic * (xz * gx + yz * gy + zz * gz)


@njit(fastmath=FAST, cache=True)
def _pull_back_plane(u, start, middle, end, scale, dt, force, push_start, push_middle, push_end, z):
    _, _, ny, nx = u.shape
    half, sixth, third = dt / F(2), dt / F(6), dt / F(3)
    sx, sy, sz = scale[0], scale[1], scale[2]
    for y in range(ny):
        for x in range(nx):
            px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
            a, b, c = _value(start, px, py, pz, scale)
            qx, qy, qz = px + half * a, py + half * b, pz + half * c
            a, b, c = _value(middle, qx, qy, qz, scale)
            rx, ry, rz = px + half * a, py + half * b, pz + half * c
            a, b, c = _value(middle, rx, ry, rz, scale)
            tx, ty, tz = px + dt * a, py + dt * b, pz + dt * c
            fx, fy, fz = force[0, z, y, x], force[1, z, y, x], force[2, z, y, x]
            gx, gy, gz = sx * sixth * fx, sy * sixth * fy, sz * sixth * fz
            _spread(push_end, tx, ty, tz, gx, gy, gz)
            dx, dy, dz = _slope(end, tx, ty, tz, gx, gy, gz)
            ex, ey, ez = fx + dx, fy + dy, fz + dz
            gx, gy, gz = sx * (third * fx + dt * dx), sy * (third * fy + dt * dy), sz * (third * fz + dt * dz)
            _spread(push_middle, rx, ry, rz, gx, gy, gz)
            dx, dy, dz = _slope(middle, rx, ry, rz, gx, gy, gz)
            ex, ey, ez = ex + dx, ey + dy, ez + dz
            gx, gy, gz = (
                sx * (third * fx + half * dx),
                sy * (third * fy + half * dy),
                sz * (third * fz + half * dz),
            )
            _spread(push_middle, qx, qy, qz, gx, gy, gz)
            dx, dy, dz = _slope(middle, qx, qy, qz, gx, gy, gz)
            ex, ey, ez = ex + dx, ey + dy, ez + dz
            gx, gy, gz = (
                sx * (sixth * fx + half * dx),
                sy * (sixth * fy + half * dy),
                sz * (sixth * fz + half * dz),
            )
            _spread(push_start, px, py, pz, gx, gy, gz)
            dx, dy, dz = _slope(start, px, py, pz, gx, gy, gz)
            force[0, z, y, x], force[1, z, y, x], force[2, z, y, x] = ex + dx, ey + dy, ez + dz


@njit(**OPTIONS)
def trace_pull_back(u, start, middle, end, scale, dt, force, push_start, push_middle, push_end):
    """Transposed derivative of ``trace_step``: dE/dout in ``force`` becomes dE/du; dE/dv is added to the pushes.

    The pushes are (parts, 3, Z, Y, X), one part per thread's share of the planes, to be summed.
    """
    parts, nz = push_start.shape[0], u.shape[1]
    for part in prange(parts):
        for z in range(part * nz // parts, (part + 1) * nz // parts):
            _pull_back_plane(
                u, start, middle, end, scale, dt, force, push_start[part], push_middle[part], push_end[part], z
            )


def stencil(near: float, far: float, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the kernels above, (3,) float32 each."""
    spacing = np.asarray(spacing, dtype=np.float64)
    return (near / spacing).astype(np.float32), (far / spacing).astype(np.float32)
