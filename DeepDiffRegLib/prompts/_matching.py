"""Where a patch of one scan lies in the other: descriptors compared at three scales around the place that a map names.

Both scans are looked at in fixed space, the moving one through the map, so that grids, orientations and what the map already
explains are no matter. At each scale a Gaussian patch is compared at every shift d: the mean squared difference E(d) of its
descriptors and the squared correlation rho^2(d) of its brightness. Where the noise is not known, n independent differences have
the likelihood E^(-n/2), and a linear relation of brightness (1 - rho^2)^(-n/2); times a Gaussian prior around the map's own
place this is a probability over shifts. Its mean is the match, between voxels; its spread is the expected error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..geometry.sampling import sample
from ..transforms.base import Transform
from ._views import SCALES, Views, lattice, seen_from

MIDDLE = SCALES[-2]
CLOSE = 5
"""Places on each side of the coarse scales' answer that are looked at at the finest scale."""
PATCH_VOXELS = 4
PATCH_SIGMA = 2.0
REACH = 12
"""Places searched on each side of the middle, at the finest scale."""
INDEPENDENT = (2.5, 2.5, 2.5)
"""Independent differences in a patch (n above) of each scale: descriptors overlap, and people differ, so far fewer than voxels."""
PRIOR = 0.5
"""Standard deviation of the prior, as a share of the search radius."""
FLOOR = 1e-3
"""Noise of descriptors: squared differences below it say nothing (descriptors lie in [0, 1] or have variance 1)."""
NOISE = 1e-4
"""Variance of brightness (range 1) that says nothing."""
LEAST_SEEN = 0.5
"""A place counts where both scans know at least this share of the patch."""
UNSEEN = -1e4
"""Logarithm of the likelihood of a place that does not count."""


@dataclass(frozen=True)
class Belief:
    """Probability over shifts. shifts: (N, d) mm along the fixed grid's axes. probability: (N,), sum 1.

    gap_mm: how far the finest scale moved what the coarse ones had said: where scales disagree, as along a sliding surface, all of
    them may be wrong.
    """

    shifts: np.ndarray
    probability: np.ndarray
    gap_mm: float = 0.0

    @property
    def mean(self) -> np.ndarray:
        return self.probability @ self.shifts

    @property
    def error_mm(self) -> float:
        """Root of the expected squared distance from the mean."""
        return float(np.sqrt(self.probability @ np.square(self.shifts - self.mean).sum(1)))

    def within(self, tolerance_mm: float) -> float:
        """Probability that the truth lies within a distance of the mean."""
        return float(self.probability[np.square(self.shifts - self.mean).sum(1) <= tolerance_mm**2].sum())


def matched(
    views: Views, transform: Transform, at_mm: np.ndarray, around_mm: np.ndarray, template: int, radius_mm: float
) -> Belief | None:
    """Belief where the patch of scan ``template`` (0 fixed, 1 moving) at ``at_mm`` lies in the other scan, around ``around_mm``.

    All places are in fixed space, where the moving scan is seen through ``transform``. The whole radius is searched at the coarse
    scales, the part around their answer at the finest; what the coarse ones believe of the rest stays. None where too little is
    seen, or a descriptor is not finite.
    """
    finest, d = search_spacing(views, radius_mm), views.ndim
    reach = int(np.ceil(radius_mm / (MIDDLE * finest) - 1e-6))
    logs = 0.0
    for number, scale in enumerate(SCALES[:-1]):
        step = scale // MIDDLE
        found = _look(views, transform, (at_mm, around_mm), template, number, scale * finest, -(-reach // step))
        if found is None:
            return None
        logs = logs + dense(found, step, reach)
    coarse = _belief(logs, MIDDLE * finest, np.zeros(d), radius_mm)
    if coarse is None:
        return None
    middle = np.round(coarse.mean / finest).astype(int)
    found = _look(views, transform, (at_mm, around_mm), template, len(SCALES) - 1, finest, CLOSE, middle)
    if found is None:
        return None
    fine = _belief(found + _between(logs, MIDDLE, middle), finest, middle * finest, radius_mm)
    return coarse if fine is None else _joined(fine, coarse, (CLOSE + 0.5) * finest, middle * finest)


def search_spacing(views: Views, radius_mm: float) -> float:
    """Spacing of the places tried: the working spacing, or so much coarser that ``REACH`` places span the radius."""
    return max(views.spacing_mm, radius_mm / REACH)


def gaussian_patch(ndim: int) -> np.ndarray:
    """Weights of a patch, (tz, ty, tx) float32 with sum 1; one slice in 2-D."""
    taps = np.exp(-0.5 * (np.arange(-PATCH_VOXELS, PATCH_VOXELS + 1) / PATCH_SIGMA) ** 2)
    patch = taps[:, None] * taps
    patch = patch[None] if ndim == 2 else taps[:, None, None] * patch
    return np.ascontiguousarray(patch / patch.sum(), dtype=np.float32)


def _look(
    views: Views,
    transform: Transform,
    places_mm: tuple[np.ndarray, np.ndarray],
    template: int,
    number: int,
    spacing_mm: float,
    reach: int,
    shift: np.ndarray | int = 0,
) -> np.ndarray | None:
    """Logarithm of the likelihood at one scale, (Dz, Dy, Dx), around ``shift`` voxels (x, y[, z]) from the second place.

    places_mm: of the patch, and the middle of the search. None where a descriptor is not finite.
    """
    from ._matching_fused import one_patch

    rotation = views.grids[0].rotation
    windows = [lattice(places_mm[0], rotation, PATCH_VOXELS + views.margin, spacing_mm)]
    beside = places_mm[1] + rotation @ (np.broadcast_to(shift, (views.ndim,)) * spacing_mm)
    windows.insert(1 - template, lattice(beside, rotation, PATCH_VOXELS + reach + views.margin, spacing_mm))
    sides = [seen_from(window, through) for window, through in zip(windows, (None, transform))]
    sights = [views.sight(side, number, sides[side], spacing_mm) for side in (0, 1)]
    if not all(np.isfinite(sight[0]).all() for sight in sights):
        return None
    places = (1 if views.ndim == 2 else 2 * reach + 1, 2 * reach + 1, 2 * reach + 1)
    out = np.zeros((3, *places), np.float32)
    one_patch(
        sights[template], sights[1 - template], gaussian_patch(views.ndim), np.zeros((2, 3), np.int64), NOISE, out
    )
    return log_likelihood(out, number)


def log_likelihood(found: np.ndarray, number: int) -> np.ndarray:
    """-n/2 (log E + log(1 - rho^2)) of (3, ...) from the compiled kernels at a scale; ``UNSEEN`` where too little is seen."""
    difference, disagreement, seen = found
    logs = -0.5 * INDEPENDENT[number] * (np.log(difference + FLOOR) + np.log(disagreement + FLOOR))
    return np.where(seen >= LEAST_SEEN, logs, UNSEEN).astype(np.float32)


def dense(logs: np.ndarray, scale: int, reach: int) -> np.ndarray:
    """Values on every ``scale``-th place, between them linear, cut to ``reach`` on each side of the middle."""
    if scale > 1:
        size = [n if n == 1 else scale * (n - 1) + 1 for n in logs.shape]
        values = torch.from_numpy(logs)[None, None]
        logs = torch.nn.functional.interpolate(values, size=size, mode="trilinear", align_corners=True)[0, 0].numpy()
    return logs[tuple(slice(None) if n == 1 else slice(n // 2 - reach, n // 2 + reach + 1) for n in logs.shape)]


def _between(logs: np.ndarray, scale: int, middle: np.ndarray) -> np.ndarray:
    """Values of the coarse places at the close ones around ``middle`` (fine places, x, y[, z])."""
    axes = [np.zeros(1) if n == 1 else (np.arange(-CLOSE, CLOSE + 1) + m) / scale + n // 2
            for n, m in zip(logs.shape, [0] * (3 - len(middle)) + list(middle[::-1]))]  # fmt: skip
    index = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij")[::-1]).astype(np.float32))[None]
    return sample(torch.from_numpy(np.ascontiguousarray(logs))[None, None], index, padding="border")[0, 0].numpy()


def _belief(logs: np.ndarray, spacing_mm: float, middle_mm: np.ndarray, radius_mm: float) -> Belief | None:
    """Likelihood times prior on the places around ``middle_mm``; None where nothing is seen."""
    axes = [np.arange(n) - n // 2 for n in logs.shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)[:, ::-1][:, : len(middle_mm)]
    shifts = places * spacing_mm + middle_mm
    squares = np.square(shifts).sum(1)
    logits = np.where(
        squares <= radius_mm**2 + 1e-6, logs.reshape(-1) - squares / (2 * (PRIOR * radius_mm) ** 2), -np.inf
    )
    best = logits.max()
    if best < UNSEEN / 2:
        return None
    weights = np.exp(logits - best)
    return Belief(shifts, weights / weights.sum())


def _joined(fine: Belief, coarse: Belief, half_mm: float, middle_mm: np.ndarray) -> Belief:
    """The fine belief inside its box, the coarse one outside; the coarse one says how much lies on which side."""
    outside = np.abs(coarse.shifts - middle_mm).max(1) > half_mm
    rest = coarse.probability[outside]
    shifts = np.concatenate([fine.shifts, coarse.shifts[outside]])
    probability = np.concatenate([fine.probability * (1 - rest.sum()), rest])
    return Belief(shifts, probability, float(np.linalg.norm(fine.mean - coarse.mean)))
