"""LNCC on the CPU in one sweep: 3-D, float32, value and exact gradient, no temporary volume.

Each thread takes a slab of planes and walks along z once. Window sums run along z and y as running sums and along x as
direct sums of one row, so the cost does not depend on the radius and the x loops vectorize. The coefficient maps of the
closed-form gradient live in a ring of ``2 r + 2`` planes per thread; planes in the halo of a slab are computed twice.

Every inner loop has a single store: with more, the compiler cannot prove that rows do not overlap and stops
vectorizing.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from ._box_fused import OPTIONS, box_rows, inside, shift

MINIMUM_FILL = np.float32(0.1 - 1e-4)
"""As in ``lncc``: the least part of a window that must carry weight."""
LONGEST_RUN = 96
"""Planes per slab at most: a running sum gathers rounding errors, so it starts afresh once in a while."""


@njit(**OPTIONS)
def _add_products(sums, image, other, sign, image_center, other_center):
    """Add or remove one row's I, J, II, JJ, IJ. sums: (5, X)."""
    s0, s1, s2, s3, s4 = sums[0], sums[1], sums[2], sums[3], sums[4]
    n = image.size
    for x in range(n):
        s0[x] += sign * (image[x] - image_center)
    for x in range(n):
        s1[x] += sign * (other[x] - other_center)
    for x in range(n):
        i = image[x] - image_center
        s2[x] += sign * i * i
    for x in range(n):
        j = other[x] - other_center
        s3[x] += sign * j * j
    for x in range(n):
        s4[x] += sign * (image[x] - image_center) * (other[x] - other_center)


@njit(**OPTIONS)
def _exchange_products(sums, image, other, old_image, old_other, image_center, other_center):
    """One row enters and one leaves in a single read of the sums: the common case of ``_add_products``."""
    s0, s1, s2, s3, s4 = sums[0], sums[1], sums[2], sums[3], sums[4]
    n = image.size
    for x in range(n):
        s0[x] += image[x] - old_image[x]
    for x in range(n):
        s1[x] += other[x] - old_other[x]
    for x in range(n):
        i, k = image[x] - image_center, old_image[x] - image_center
        s2[x] += i * i - k * k
    for x in range(n):
        j, k = other[x] - other_center, old_other[x] - other_center
        s3[x] += j * j - k * k
    for x in range(n):
        s4[x] += (image[x] - image_center) * (other[x] - other_center) - (old_image[x] - image_center) * (
            old_other[x] - other_center
        )


@njit(**OPTIONS)
def _add_weighted(sums, image, other, weight, sign, image_center, other_center):
    """Add or remove one row's wI, wJ, wII, wJJ, wIJ, w. sums: (6, X)."""
    s0, s1, s2, s3, s4, s5 = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
    n = image.size
    for x in range(n):
        s0[x] += sign * weight[x] * (image[x] - image_center)
    for x in range(n):
        s1[x] += sign * weight[x] * (other[x] - other_center)
    for x in range(n):
        i = image[x] - image_center
        s2[x] += sign * weight[x] * i * i
    for x in range(n):
        j = other[x] - other_center
        s3[x] += sign * weight[x] * j * j
    for x in range(n):
        s4[x] += sign * weight[x] * (image[x] - image_center) * (other[x] - other_center)
    for x in range(n):
        s5[x] += sign * weight[x]


@njit(**OPTIONS)
def _coefficients(rows, inverse_count, part, a, b, c, epsilon):
    """One row of a, b, c from the window sums; returns the row's sum of LNCC.

    rows: (>= 5, X) sums of I, J, II, JJ, IJ; inverse_count: (X) along x; part: 1 / (voxels along y and z).
    """
    s0, s1, s2, s3, s4 = rows[0], rows[1], rows[2], rows[3], rows[4]
    n = a.size
    value = np.float32(0.0)
    zero, two = np.float32(0.0), np.float32(2.0)
    for x in range(n):
        scale = inverse_count[x] * part
        mi, mj = s0[x] * scale, s1[x] * scale
        covariance = s4[x] * scale - mi * mj
        vi = max(s2[x] * scale - mi * mi, zero) + epsilon
        vj = max(s3[x] * scale - mj * mj, zero) + epsilon
        ratio = covariance / (vi * vj)
        value += covariance * ratio
        a[x] = two * ratio * scale
    for x in range(n):
        scale = inverse_count[x] * part
        mi, mj = s0[x] * scale, s1[x] * scale
        covariance = s4[x] * scale - mi * mj
        vi = max(s2[x] * scale - mi * mi, zero) + epsilon
        b[x] = a[x] * covariance / vi
    for x in range(n):
        scale = inverse_count[x] * part
        c[x] = (b[x] * s0[x] - a[x] * s1[x]) * scale
    return value


@njit(**OPTIONS)
def _coefficients_weighted(rows, weight, inverse_count, part, factor, a, b, c, epsilon):
    """As ``_coefficients``, weighted: rows[5] holds the sums of w and is overwritten; returns (sum w LNCC, sum w)."""
    s0, s1, s2, s3, s4, s5 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    n = a.size
    value, mass = np.float32(0.0), np.float32(0.0)
    zero, one, two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
    for x in range(n):
        full = s5[x] * inverse_count[x] * part >= MINIMUM_FILL
        kept = weight[x] if full else zero
        mass += kept
        factor[x] = kept
    for x in range(n):
        s5[x] = one / s5[x] if factor[x] > zero else zero
    for x in range(n):
        scale = s5[x]
        mi, mj = s0[x] * scale, s1[x] * scale
        covariance = s4[x] * scale - mi * mj
        vi = max(s2[x] * scale - mi * mi, zero) + epsilon
        vj = max(s3[x] * scale - mj * mj, zero) + epsilon
        ratio = factor[x] * covariance / (vi * vj)
        value += covariance * ratio
        a[x] = two * ratio * scale
    for x in range(n):
        scale = s5[x]
        mi, mj = s0[x] * scale, s1[x] * scale
        covariance = s4[x] * scale - mi * mj
        vi = max(s2[x] * scale - mi * mi, zero) + epsilon
        b[x] = a[x] * covariance / vi
    for x in range(n):
        c[x] = (b[x] * s0[x] - a[x] * s1[x]) * s5[x]
    return value, mass


@njit(**OPTIONS)
def _gradient_row(out, image, other, rows, image_center, other_center, scale):
    """out = scale (J box(a) - I box(b) + box(c)), or added to what is there."""
    a, b, c = rows[0], rows[1], rows[2]
    for x in range(out.size):
        out[x] = scale * ((other[x] - other_center) * a[x] - (image[x] - image_center) * b[x] + c[x])


@njit(**OPTIONS)
def _move_plane(sums, image, other, weight, weighted, z, radius, start, image_center, other_center):
    """Let plane ``z + r`` enter and ``z - r - 1`` leave the running sums along z. sums: (Y, maps, X)."""
    depth, height, _ = image.shape
    one = np.float32(1.0)
    entering, leaving = z + radius, z - radius - 1
    enters, leaves = entering < depth, leaving >= max(start, 0)
    for y in range(height):
        if weighted:
            if enters:
                _add_weighted(
                    sums[y],
                    image[entering, y],
                    other[entering, y],
                    weight[entering, y],
                    one,
                    image_center,
                    other_center,
                )
            if leaves:
                _add_weighted(
                    sums[y], image[leaving, y], other[leaving, y], weight[leaving, y], -one, image_center, other_center
                )
        elif enters and leaves:
            _exchange_products(
                sums[y],
                image[entering, y],
                other[entering, y],
                image[leaving, y],
                other[leaving, y],
                image_center,
                other_center,
            )
        elif enters:
            _add_products(sums[y], image[entering, y], other[entering, y], one, image_center, other_center)
        elif leaves:
            _add_products(sums[y], image[leaving, y], other[leaving, y], -one, image_center, other_center)


@njit(**OPTIONS)
def _slab(
    image,
    other,
    weight,
    weighted,
    gradient,
    first,
    last,
    radius,
    epsilon,
    image_center,
    other_center,
    scale,
    inverse_count,
):
    """Planes first .. last-1 of the gradient; returns (sum w LNCC, sum w) over them."""
    depth, height, width = image.shape
    maps = 6 if weighted else 5
    ring = 2 * radius + 2
    one = np.float32(1.0)
    sums = np.zeros((height, maps, width), np.float32)
    running = np.zeros((maps, width + 2 * radius), np.float32)
    rows = np.empty((maps, width), np.float32)
    factor = np.empty(width, np.float32)
    coefficient = np.empty((ring, height, 3, width), np.float32)
    coefficient_sums = np.zeros((height, 3, width), np.float32)
    value, mass = 0.0, 0.0

    low, high = max(first - radius, 0), min(last + radius, depth)
    # the window of the first plane, less the plane that the loop lets enter
    for z in range(max(low - radius, 0), min(low + radius, depth)):
        for y in range(height):
            if weighted:
                _add_weighted(sums[y], image[z, y], other[z, y], weight[z, y], one, image_center, other_center)
            else:
                _add_products(sums[y], image[z, y], other[z, y], one, image_center, other_center)

    for z in range(low, high + radius):
        if z < high:
            _move_plane(sums, image, other, weight, weighted, z, radius, low - radius, image_center, other_center)
            slot = z % ring
            running[:] = np.float32(0.0)
            for y in range(-radius, height):
                for m in range(maps):
                    shift(
                        running[m, radius : radius + width],
                        sums[min(y + radius, height - 1), m],
                        sums[max(y - radius - 1, 0), m],
                        y + radius < height,
                        y - radius - 1 >= 0,
                    )
                if y < 0:
                    continue
                box_rows(running, rows, radius)
                part = one / np.float32(inside(y, radius, height) * inside(z, radius, depth))
                a, b, c = coefficient[slot, y, 0], coefficient[slot, y, 1], coefficient[slot, y, 2]
                if weighted:
                    found, counted = _coefficients_weighted(
                        rows, weight[z, y], inverse_count, part, factor, a, b, c, epsilon
                    )
                else:
                    found, counted = _coefficients(rows, inverse_count, part, a, b, c, epsilon), np.float32(width)
                if first <= z < last:
                    value += found
                    mass += counted
        center = z - radius
        leaving = center - radius - 1
        enters, leaves = z < high, leaving >= low
        for y in range(height):
            for m in range(3):
                shift(
                    coefficient_sums[y, m],
                    coefficient[z % ring, y, m],
                    coefficient[leaving % ring, y, m],
                    enters,
                    leaves,
                )
        if not first <= center < last:
            continue
        running[:] = np.float32(0.0)
        for y in range(-radius, height):
            for m in range(3):
                shift(
                    running[m, radius : radius + width],
                    coefficient_sums[min(y + radius, height - 1), m],
                    coefficient_sums[max(y - radius - 1, 0), m],
                    y + radius < height,
                    y - radius - 1 >= 0,
                )
            if y < 0:
                continue
            box_rows(running[:3], rows[:3], radius)
            out = gradient[center, y]
            _gradient_row(out, image[center, y], other[center, y], rows, image_center, other_center, scale)
            if weighted:
                w = weight[center, y]
                for x in range(width):
                    out[x] *= w[x]
    return value, mass


@njit(parallel=True, fastmath=True, cache=True)
def _sweep(
    image, other, weight, weighted, gradient, radius, epsilon, image_center, other_center, scale, inverse_count, values
):
    depth, slabs = image.shape[0], values.shape[0]
    for s in prange(slabs):
        value, mass = _slab(
            image,
            other,
            weight,
            weighted,
            gradient,
            s * depth // slabs,
            (s + 1) * depth // slabs,
            radius,
            epsilon,
            image_center,
            other_center,
            scale,
            inverse_count,
        )
        # one number at a time: assigning the pair would compile string formatting for an error message
        values[s, 0] = value
        values[s, 1] = mass


def _center(image: np.ndarray, weight: np.ndarray | None) -> np.float32:
    """About the mean: any constant will do, as correlation does not depend on it, but near zero fewer digits cancel."""
    some = (slice(None, None, 4),) * 3
    if weight is None:
        return np.float32(image[some].mean())
    mass = float(weight[some].sum(dtype=np.float64))
    return np.float32((image[some] * weight[some]).sum(dtype=np.float64) / mass if mass > 0 else 0.0)


def lncc_channel(
    fixed: np.ndarray, warped: np.ndarray, weight: np.ndarray | None, radius: int, epsilon: float, gradient: np.ndarray
) -> tuple[float, float]:
    """Sum of w LNCC and sum of w of one channel; writes the gradient of the sum of w LNCC with respect to ``warped``.

    fixed, warped, weight (or None), gradient: (Z, Y, X) float32, C-contiguous. Formula: ``lncc.LNCC``.
    """
    depth, _, width = fixed.shape
    threads = get_num_threads()
    slabs = max(1, min(threads * -(-depth // (threads * LONGEST_RUN)), depth // (radius + 1)))
    x = np.arange(width)
    counts = np.minimum(x + radius, width - 1) - np.maximum(x - radius, 0) + 1
    values = np.zeros((slabs, 2))
    _sweep(
        warped,
        fixed,
        fixed if weight is None else weight,
        weight is not None,
        gradient,
        int(radius),
        np.float32(epsilon),
        _center(warped, weight),
        _center(fixed, weight),
        np.float32(1.0),
        (1.0 / counts).astype(np.float32),
        values,
    )
    total = values.sum(axis=0)
    return float(total[0]), float(total[1])
