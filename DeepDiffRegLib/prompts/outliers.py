"""Which landmark contradicts the others: robust trend, leave-one-out prediction from the neighbors, a fixed rule."""

from __future__ import annotations

import numpy as np

NEIGHBORS = 5
FEWEST = 4
"""With fewer landmarks nobody can say which one is wrong."""
SCALES = 5.0
STANDARD_DEVIATIONS = 15.0


def disagreement(points_mm: np.ndarray, displacements_mm: np.ndarray) -> np.ndarray:
    """(N,) distance of each displacement from the trend plus the median deviation of its (up to 5) nearest neighbors.

    The median keeps a wrong landmark from spoiling its neighbors' predictions. Fewer than 4 landmarks: zeros.
    """
    n = len(points_mm)
    if n < FEWEST:
        return np.zeros(n)
    deviation = displacements_mm - robust_trend(points_mm, displacements_mm)
    distance = np.linalg.norm(points_mm[:, None] - points_mm[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    neighbors = np.argsort(distance, axis=1, kind="stable")[:, : min(NEIGHBORS, n - 1)]
    return np.linalg.norm(deviation - np.median(deviation[neighbors], axis=1), axis=1)


def outliers(
    points_mm: np.ndarray, displacements_mm: np.ndarray, sd_mm: np.ndarray, nearest_mm: np.ndarray
) -> np.ndarray:
    """(N,) bool. A landmark is suspicious when its disagreement is larger than all of: 5 robust standard deviations
    of everybody's, 15 times its own click error, and the distance to its nearest neighbor (a smooth map that followed
    both would nearly fold). Real local corrections are shorter than that; a wrong click in another structure is not.
    """
    if len(points_mm) < FEWEST:
        return np.zeros(len(points_mm), dtype=bool)
    found = disagreement(points_mm, displacements_mm)
    scale = 1.4826 * np.median(found)
    return found > np.maximum(np.maximum(SCALES * scale, STANDARD_DEVIATIONS * sd_mm), nearest_mm)


def robust_trend(points_mm: np.ndarray, displacements_mm: np.ndarray) -> np.ndarray:
    """(N, d) smooth part of (N, d) displacements: least-trimmed-squares affine for n >= 2 (d + 1), else their median.

    Concentration steps from several starts (Rousseeuw and Van Driessen, 2006); coplanar points are no obstacle, since
    the least-norm solution is taken.
    """
    n, d = points_mm.shape
    if n < 2 * (d + 1):
        return np.broadcast_to(np.median(displacements_mm, axis=0), displacements_mm.shape)
    centered = points_mm - points_mm.mean(0)
    design = np.hstack((centered / max(float(np.abs(centered).max()), 1e-9), np.ones((n, 1))))
    kept_count = max(d + 2, int(np.ceil(0.75 * n)))
    generator, best, best_cost = np.random.default_rng(0), None, np.inf
    for _ in range(50):
        kept = generator.permutation(n)[: d + 2]
        for _ in range(4):
            solution = np.linalg.lstsq(design[kept], displacements_mm[kept], rcond=1e-6)[0]
            squared = ((displacements_mm - design @ solution) ** 2).sum(1)
            kept = np.argsort(squared, kind="stable")[:kept_count]
        cost = squared[kept].sum()
        if cost < best_cost:
            best, best_cost = solution, cost
    return design @ best
