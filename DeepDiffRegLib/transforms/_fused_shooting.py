"""Fused CPU kernels that follow voxels through velocities: 3-D, float32, all threads.

They compute what ``_shooting_path.trace_step`` and its automatic derivative compute (a test compares them). Arrays are
(3, Z, Y, X), components x, y, z; every axis has at least 2 voxels.
"""

from __future__ import annotations

from numba import njit, prange

from ..geometry._fused_fields import _look_up
from ..geometry._fused_sampling import FAST, OPTIONS, F, _trilinear, _weights


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
