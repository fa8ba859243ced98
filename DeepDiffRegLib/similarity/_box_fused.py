"""Running window sums of rows on the CPU, float32: the parts that the LNCC kernel is made of."""

from __future__ import annotations

import numpy as np
from numba import njit

OPTIONS = {"fastmath": True, "cache": True, "nogil": True}


@njit(**OPTIONS)
def shift(total, entering, leaving, has_entering, has_leaving):
    """total += entering - leaving, for one row of one running window sum."""
    if has_entering and has_leaving:
        for x in range(total.size):
            total[x] += entering[x] - leaving[x]
    elif has_entering:
        for x in range(total.size):
            total[x] += entering[x]
    elif has_leaving:
        for x in range(total.size):
            total[x] -= leaving[x]


@njit(**OPTIONS)
def _box_row(row, out, radius):
    """Window sums along x for radius 1, 2 and 3. row: (X + 2 r) with r zeros at either end; out: (X)."""
    n = out.size
    if radius == 1:
        for x in range(n):
            out[x] = row[x] + row[x + 1] + row[x + 2]
    elif radius == 2:
        for x in range(n):
            out[x] = row[x] + row[x + 1] + row[x + 2] + row[x + 3] + row[x + 4]
    else:
        for x in range(n):
            out[x] = row[x] + row[x + 1] + row[x + 2] + row[x + 3] + row[x + 4] + row[x + 5] + row[x + 6]


@njit(**OPTIONS)
def _box_three_rows(rows, outs, first, radius):
    """Window sums along x for any radius, three maps at once: three chains of additions hide their latency."""
    in0, in1, in2 = rows[first], rows[first + 1], rows[first + 2]
    out0, out1, out2 = outs[first], outs[first + 1], outs[first + 2]
    width = 2 * radius
    t0, t1, t2 = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for x in range(width):
        t0 += in0[x]
        t1 += in1[x]
        t2 += in2[x]
    for x in range(out0.size):
        t0 += in0[x + width]
        t1 += in1[x + width]
        t2 += in2[x + width]
        out0[x], out1[x], out2[x] = t0, t1, t2
        t0 -= in0[x]
        t1 -= in1[x]
        t2 -= in2[x]


@njit(**OPTIONS)
def box_rows(rows, outs, radius):
    """Window sums along x of every map. rows: (maps, X + 2 r); outs: (maps, X); 3, 5 or 6 maps."""
    maps = rows.shape[0]
    if radius <= 3:
        for m in range(maps):
            _box_row(rows[m], outs[m], radius)
    else:
        for first in range(0, maps, 3):
            _box_three_rows(rows, outs, min(first, maps - 3), radius)


@njit(**OPTIONS)
def inside(index, radius, size):
    """Voxels of the window around ``index`` that lie inside an axis of ``size`` voxels."""
    return min(index + radius, size - 1) - max(index - radius, 0) + 1
