"""Squared differences of images of many channels and their force on the map: float32 on the CPU, one pass for both.

Channels lie side by side in memory (the last axis here), so that the corners around a place are read as whole vectors: positions
and weights are worked out once for all channels. Sums run per row in float32 and over rows in float64, in an order that does
not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ..geometry._fused_sampling import OPTIONS, _inside, _weights

F = np.float32


@njit(**OPTIONS)
def pulled_volume(values, fixed, weight, weighted, u, m, out):
    """Sum of w r^2, r = values(m (i + u(i))) - fixed, 0 beyond the border; out = sum_c w r dvalues/du.

    values: (Z, Y, X, C), fixed: (z, y, x, C), weight: (z, y, x), u and out: (3, z, y, x), m: (3, 4).
    """
    depth, height, width, channels = values.shape
    nz, ny, nx = u.shape[1:]
    sums = np.zeros(nz * ny)
    for row in prange(nz * ny):
        z, y = row // ny, row % ny
        total = F(0)
        for x in range(nx):
            w = weight[z, y, x] if weighted else F(1)
            px, py, pz = F(x) + u[0, z, y, x], F(y) + u[1, z, y, x], F(z) + u[2, z, y, x]
            a = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
            b = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
            d = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz + m[2, 3]
            inside = F(_inside(a, width) & _inside(b, height) & _inside(d, depth))
            i, fa = _weights(a, width)
            j, fb = _weights(b, height)
            k, fc = _weights(d, depth)
            v000, v100 = values[k, j, i], values[k, j, i + 1]
            v010, v110 = values[k, j + 1, i], values[k, j + 1, i + 1]
            v001, v101 = values[k + 1, j, i], values[k + 1, j, i + 1]
            v011, v111 = values[k + 1, j + 1, i], values[k + 1, j + 1, i + 1]
            there = fixed[z, y, x]
            squared = ga = gb = gd = F(0)
            for c in range(channels):
                x00, x10 = v100[c] - v000[c], v110[c] - v010[c]
                x01, x11 = v101[c] - v001[c], v111[c] - v011[c]
                x0, x1 = x00 + fb * (x10 - x00), x01 + fb * (x11 - x01)
                near0, far0 = v000[c] + fa * x00, v010[c] + fa * x10
                near1, far1 = v001[c] + fa * x01, v011[c] + fa * x11
                y0, y1 = far0 - near0, far1 - near1
                v0, v1 = near0 + fb * y0, near1 + fb * y1
                r = (v0 + fc * (v1 - v0)) * inside - there[c]
                squared += r * r
                ga += r * (x0 + fc * (x1 - x0))
                gb += r * (y0 + fc * (y1 - y0))
                gd += r * (v1 - v0)
            total += w * squared
            ga *= w * inside * F((a >= F(0)) & (a <= F(width - 1)))
            gb *= w * inside * F((b >= F(0)) & (b <= F(height - 1)))
            gd *= w * inside * F((d >= F(0)) & (d <= F(depth - 1)))
            out[0, z, y, x] = ga * m[0, 0] + gb * m[1, 0] + gd * m[2, 0]
            out[1, z, y, x] = ga * m[0, 1] + gb * m[1, 1] + gd * m[2, 1]
            out[2, z, y, x] = ga * m[0, 2] + gb * m[1, 2] + gd * m[2, 2]
        sums[row] = total
    return sums.sum()


@njit(**OPTIONS)
def pulled_plane(values, fixed, weight, weighted, u, m, out):
    """The same in 2-D. values: (Y, X, C), fixed: (y, x, C), weight: (y, x), u and out: (2, y, x), m: (2, 3)."""
    height, width, channels = values.shape
    ny, nx = u.shape[1:]
    sums = np.zeros(ny)
    for y in prange(ny):
        total = F(0)
        for x in range(nx):
            w = weight[y, x] if weighted else F(1)
            px, py = F(x) + u[0, y, x], F(y) + u[1, y, x]
            a = m[0, 0] * px + m[0, 1] * py + m[0, 2]
            b = m[1, 0] * px + m[1, 1] * py + m[1, 2]
            inside = F(_inside(a, width) & _inside(b, height))
            i, fa = _weights(a, width)
            j, fb = _weights(b, height)
            v00, v10 = values[j, i], values[j, i + 1]
            v01, v11 = values[j + 1, i], values[j + 1, i + 1]
            there = fixed[y, x]
            squared = ga = gb = F(0)
            for c in range(channels):
                x0, x1 = v10[c] - v00[c], v11[c] - v01[c]
                near, far = v00[c] + fa * x0, v01[c] + fa * x1
                r = (near + fb * (far - near)) * inside - there[c]
                squared += r * r
                ga += r * (x0 + fb * (x1 - x0))
                gb += r * (far - near)
            total += w * squared
            ga *= w * inside * F((a >= F(0)) & (a <= F(width - 1)))
            gb *= w * inside * F((b >= F(0)) & (b <= F(height - 1)))
            out[0, y, x] = ga * m[0, 0] + gb * m[1, 0]
            out[1, y, x] = ga * m[0, 1] + gb * m[1, 1]
        sums[y] = total
    return sums.sum()


@njit(**OPTIONS)
def warped_volume(warped, fixed, weight, weighted, out):
    """Sum of w r^2, r = warped - fixed; out = sum_c w r grad warped, central differences as ``sampling.warped_gradient`` takes them.

    warped, fixed: (z, y, x, C), weight: (z, y, x), out: (3, z, y, x).
    """
    nz, ny, nx, channels = warped.shape
    sums = np.zeros(nz * ny)
    for row in prange(nz * ny):
        z, y = row // ny, row % ny
        up, down = warped[min(z + 1, nz - 1), y], warped[max(z - 1, 0), y]
        north, south = warped[z, min(y + 1, ny - 1)], warped[z, max(y - 1, 0)]
        total = F(0)
        for x in range(nx):
            w = weight[z, y, x] if weighted else F(1)
            here, there = warped[z, y, x], fixed[z, y, x]
            east, west = warped[z, y, min(x + 1, nx - 1)], warped[z, y, max(x - 1, 0)]
            n, s, u, d = north[x], south[x], up[x], down[x]
            squared = ga = gb = gd = F(0)
            for c in range(channels):
                r = here[c] - there[c]
                squared += r * r
                ga += r * (east[c] - west[c])
                gb += r * (n[c] - s[c])
                gd += r * (u[c] - d[c])
            total += w * squared
            w *= F(0.5)
            out[0, z, y, x] = w * ga * F((x > 0) & (x < nx - 1))
            out[1, z, y, x] = w * gb
            out[2, z, y, x] = w * gd
        sums[row] = total
    return sums.sum()


@njit(**OPTIONS)
def warped_plane(warped, fixed, weight, weighted, out):
    """The same in 2-D. warped, fixed: (y, x, C), weight: (y, x), out: (2, y, x)."""
    ny, nx, channels = warped.shape
    sums = np.zeros(ny)
    for y in prange(ny):
        north, south = warped[min(y + 1, ny - 1)], warped[max(y - 1, 0)]
        total = F(0)
        for x in range(nx):
            w = weight[y, x] if weighted else F(1)
            here, there = warped[y, x], fixed[y, x]
            east, west = warped[y, min(x + 1, nx - 1)], warped[y, max(x - 1, 0)]
            n, s = north[x], south[x]
            squared = ga = gb = F(0)
            for c in range(channels):
                r = here[c] - there[c]
                squared += r * r
                ga += r * (east[c] - west[c])
                gb += r * (n[c] - s[c])
            total += w * squared
            w *= F(0.5)
            out[0, y, x] = w * ga * F((x > 0) & (x < nx - 1))
            out[1, y, x] = w * gb
        sums[y] = total
    return sums.sum()
