"""Where a landmark would help most: the places whose neighborhoods the current map misses by the most that can be told.

Matching on a lattice over the anatomy says how far and how surely each place is off (its residual in mm, not in brightness). A
landmark corrects a neighborhood; the one that takes the most off the squared residuals is named, what it takes off is subtracted, and the next one is
sought in what remains. Each is confirmed by a full proposal first, so that a click there can be answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry
from ..transforms.base import Transform
from ._matching import NOISE, PRIOR, UNSEEN, gaussian_patch, log_likelihood
from ._views import SCALES, Sight, Views, seen_from
from .proposals import STRUCTURE, Proposal, checked, default_radius_mm, propose, tolerance_mm

MOST = 20
LATTICE = 350
"""At most about this many places are looked at."""
MOST_VOXELS = 1_000_000
"""Of the finer of the two grids: large scans are looked at more coarsely."""
CLOSE = 2
"""Places on each side of the coarsest scale's answer that are looked at at the next one."""
SHARE = len(SCALES) / 2
"""Two scales speak for all: their logarithms count so much more."""
FOREGROUND = 0.05
"""Brightness above which a place counts as anatomy, of the scan's range."""
NEIGHBORHOOD_MM = 15.0
"""Standard deviation of what a landmark corrects; at most ``NEIGHBORHOOD_SHARE`` of the anatomy's shortest side."""
NEIGHBORHOOD_SHARE = 0.15
APART = 0.8
"""Places stay this far from each other and from landmarks, in neighborhoods."""
CONFIRMED = 0.3
"""Places whose proposal is at least this sure come first; what is missing is filled with the surest of the others, for a person to
drag."""
TRIALS_PER_PLACE = 3
LEAST_SHIFT = 0.5
"""A proposal nearer to the map's place than this share of the tolerance would change nothing."""


@dataclass(frozen=True)
class Residuals:
    """How far the map is off. places_mm: (N, d) in fixed space; shifts_mm: (N, d), LPS; trust: (N,) in [0, 1]."""

    places_mm: np.ndarray
    shifts_mm: np.ndarray
    trust: np.ndarray


def suggest(
    views: Views,
    transform: Transform,
    count: int = 5,
    radius_mm: float | None = None,
    existing_mm: np.ndarray | None = None,
    uncertainty: Callable[[np.ndarray], np.ndarray] | None = None,
    between: Callable[[], None] = lambda: None,
) -> tuple[Proposal, ...]:
    """At most ``count`` proposals for places in the fixed scan; ``score`` is the mm that each is expected to gain.

    Best first, those that are sure (``CONFIRMED``) before the others.
    The score is the mean that a landmark takes off the residuals of its neighborhood. existing_mm: (N, d) landmarks to stay away
    from. uncertainty: of the method at (N, d) points, any unit; doubles at most what it finds uncertain. between: called between
    steps; may raise to stop. Raises ``InputError`` for a count that is not 1 to ``MOST``.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
        raise InputError(f"suggest: count must be a whole number from 1 to {MOST}, got {count}")
    radius = (
        default_radius_mm(views)
        if radius_mm is None
        else checked(views, views.grids[0].center_mm, "fixed", radius_mm)[1]
    )
    found = residuals(views, transform, radius, between)
    if not len(found.places_mm):
        return ()
    trust = found.trust if uncertainty is None else found.trust * _relative(uncertainty(found.places_mm))
    sigma = neighborhood_mm(found.places_mm)
    search = _Search(replace(found, trust=trust), sigma, existing_mm)
    chosen: list[Proposal] = []
    doubtful: list[tuple[int, Proposal]] = []
    for _ in range(TRIALS_PER_PLACE * count):
        between()
        best = search.best()
        if best is None or len(chosen) == count:
            break
        (proposal,) = propose(views, transform, found.places_mm[best], "fixed", radius, between)
        if proposal.confidence >= CONFIRMED and proposal.shift_mm >= LEAST_SHIFT * tolerance_mm(views):
            chosen.append(replace(proposal, score=search.take(best)))
            continue
        search.leave_out(best)
        if proposal.shift_mm >= LEAST_SHIFT * tolerance_mm(views):
            doubtful.append((best, proposal))
    for place, proposal in sorted(doubtful, key=lambda tried: -tried[1].confidence):
        if len(chosen) < count and search.apart(place):
            chosen.append(replace(proposal, score=search.take(place)))
    return tuple(sorted(chosen, key=lambda p: (p.confidence < CONFIRMED, -p.score)))


def neighborhood_mm(places_mm: np.ndarray) -> float:
    """Standard deviation of what a landmark corrects around it."""
    return min(NEIGHBORHOOD_MM, NEIGHBORHOOD_SHARE * float(np.ptp(places_mm, axis=0).min() + 1e-6) + 1e-6)


def residuals(
    views: Views, transform: Transform, radius_mm: float, between: Callable[[], None] = lambda: None
) -> Residuals:
    """Match a lattice of places of the fixed anatomy with the moving scan through ``transform``, at the two coarse scales.

    The coarsest scale is searched in the whole radius, the next one around its answer.
    """
    coarse, fine = (_Level.of(views, transform, number) for number in (0, 1))
    cells = fine.anatomy()
    if not len(cells):
        return Residuals(*(np.zeros((0, views.ndim)),) * 2, np.zeros(0))
    places = fine.grid.to_world(cells[:, ::-1][:, : views.ndim])
    between()
    reach = np.maximum(np.ceil(radius_mm / coarse.step_mm - 1e-6), 1).astype(int)
    whole = coarse.search(places, np.zeros_like(places), reach)
    between()
    shifts, trust, _ = _expected(*whole, radius_mm)
    near = fine.search(places, shifts, CLOSE)
    logs = near[1] + _interpolated(whole, near[0], coarse.step_mm)
    inside = (np.abs(whole[0] - near[0].mean(1, keepdims=True)) <= (CLOSE + 0.5) * fine.step_mm).all(2)
    held = (_expected(*whole, radius_mm)[2] * inside).sum(1)
    shifts, sharp, _ = _expected(near[0], logs, radius_mm)
    return Residuals(places, shifts @ fine.grid.rotation.T, np.minimum(held, 1) * np.maximum(trust, sharp * held))


@dataclass(frozen=True)
class _Level:
    """Both scans on one grid of the fixed one's axes, descriptors included."""

    number: int
    grid: Geometry
    sights: tuple[Sight, Sight]

    @classmethod
    def of(cls, views: Views, transform: Transform, number: int) -> _Level:
        scan, d = views.scans[0].images[number][1], views.ndim
        least = (float(np.prod(scan.extent_mm)) / MOST_VOXELS) ** (1 / d) / SCALES[1]
        grid = level_geometry(scan, SCALES[number] * max(views.spacing_mm, least), 8)
        margin = views.margin
        window = grid.cropped([-margin] * grid.ndim, [n + 2 * margin for n in grid.size])
        spacing, through = float(np.mean(grid.spacing_mm)), (None, transform)
        sights = tuple(views.sight(side, number, seen_from(window, through[side]), spacing) for side in (0, 1))
        return cls(number, grid, sights)

    @property
    def step_mm(self) -> np.ndarray:
        """Length of a voxel, x, y[, z] along the grid's axes."""
        return np.array(self.grid.spacing_mm)

    def anatomy(self) -> np.ndarray:
        """(N, 3) array indices of an even lattice of cells with anatomy and structure that both scans know."""
        from scipy.ndimage import uniform_filter

        _, bright, seen = self.sights[0]
        mean = uniform_filter(bright, 3)
        spread = np.sqrt(np.maximum(uniform_filter(bright * bright, 3) - mean * mean, 0))
        fit = (mean > FOREGROUND) & (spread > STRUCTURE) & (seen * self.sights[1][2] > 0.5)
        stride = max(1, int(np.ceil((fit.sum() / LATTICE) ** (1 / self.grid.ndim))))
        lattice = np.zeros(bright.shape, dtype=bool)
        lattice[tuple(slice(0 if n == 1 else stride // 2, None, stride) for n in bright.shape)] = True
        return np.argwhere(fit & lattice)

    def search(
        self, places_mm: np.ndarray, shifts_mm: np.ndarray, reach: np.ndarray | int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shifts tried (N, S, d), mm along the grid's axes, and logarithms of their likelihoods (N, S).

        Around ``shifts_mm`` (N, d), rounded to voxels; reach: one number, or per axis x, y[, z].
        """
        from ._matching_fused import many_patches

        d = self.grid.ndim
        counts = np.broadcast_to(reach, (d,))
        sizes = [1] * (3 - d) + [2 * int(n) + 1 for n in counts[::-1]]
        centers = self._cells(places_mm)
        offsets = np.round(shifts_mm / self.step_mm).astype(np.int64)
        out = np.zeros((len(centers), 3, *sizes), np.float32)
        middles = centers + np.pad(offsets[:, ::-1], ((0, 0), (3 - d, 0)))
        many_patches(self.sights[0], self.sights[1], gaussian_patch(d), centers, middles, NOISE, out)
        axes = [np.arange(n) - n // 2 for n in sizes]
        around = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)[:, ::-1][:, :d]
        logs = np.stack([log_likelihood(one, self.number) for one in out]).reshape(len(out), -1)
        return (offsets[:, None] + around) * self.step_mm, logs * SHARE

    def _cells(self, places_mm: np.ndarray) -> np.ndarray:
        index = np.round(self.grid.to_index(places_mm)).astype(np.int64)
        return np.ascontiguousarray(np.pad(index[:, ::-1], ((0, 0), (3 - self.grid.ndim, 0))))


def _interpolated(whole: tuple[np.ndarray, np.ndarray], shifts: np.ndarray, step_mm: np.ndarray) -> np.ndarray:
    """Values of the coarse search (N, S) at other shifts (N, M, d): linear, edge-clamped."""
    from scipy.ndimage import map_coordinates

    known, logs = whole
    sizes = np.round(np.ptp(known[0], axis=0) / step_mm).astype(int) + 1
    index = (shifts - known[:, :1]) / step_mm
    values = [
        map_coordinates(row.reshape(sizes[::-1]), places[:, ::-1].T, order=1, mode="nearest")
        for row, places in zip(logs, index)
    ]
    return np.stack(values)


def _expected(shifts: np.ndarray, logs: np.ndarray, radius_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected shift (N, d), trust (N,) and probabilities (N, S): trust is how much less is left open than the prior leaves."""
    squares = np.square(shifts).sum(2)
    prior = (PRIOR * radius_mm) ** 2
    logits = np.where(squares <= radius_mm**2 + 1e-6, logs - squares / (2 * prior), 2 * UNSEEN)
    best = logits.max(1, keepdims=True)
    weights = np.exp(logits - best)
    weights /= weights.sum(1, keepdims=True)
    mean = np.einsum("ns,nsd->nd", weights, shifts)
    variance = np.maximum((weights * squares).sum(1) - np.square(mean).sum(1), 0) / shifts.shape[2]
    return mean, np.clip(1 - variance / prior, 0, 1) * (best[:, 0] > UNSEEN / 2), weights


def _relative(values: np.ndarray) -> np.ndarray:
    """Half to double, by the method's own uncertainty."""
    values = np.asarray(values, dtype=float)
    typical = float(np.median(values[values > 0])) if (values > 0).any() else 0.0
    return np.clip(values / typical, 0.5, 2.0) if typical else np.ones(len(values))


class _Search:
    """Greedy choice of the places whose landmarks take the most off the residuals."""

    def __init__(self, found: Residuals, sigma_mm: float, existing_mm: np.ndarray | None):
        self._found, self._left = found, found.shifts_mm.copy()
        self._gaps = np.linalg.norm(found.places_mm[:, None] - found.places_mm[None], axis=2)
        self._kernel = np.exp(-0.5 * (self._gaps / sigma_mm) ** 2)
        self._apart = APART * sigma_mm
        self._free = np.ones(len(found.trust), dtype=bool)
        if existing_mm is not None and len(existing_mm):
            away = np.linalg.norm(found.places_mm[:, None] - np.atleast_2d(existing_mm)[None], axis=2).min(1)
            self._free = away >= self._apart
        self._open = self._free & (found.trust > 0)

    def best(self) -> int | None:
        """The place that takes off the most; None when no place takes off anything."""
        trust, left, kernel = self._found.trust, self._left, self._kernel
        # sum_x w (|v|^2 - |v - k v_i|^2) = sum_x w (2 k v.v_i - k^2 |v_i|^2)
        along = (trust[:, None] * left).T @ kernel
        gain = 2 * np.einsum("dn,nd->n", along, left) - (trust @ kernel**2) * np.square(left).sum(1)
        gain = np.where(self._open, gain * trust, -np.inf)
        place = int(gain.argmax())
        return place if gain[place] > 0 else None

    def leave_out(self, place: int) -> None:
        """This place and the ones right beside it are not to be asked for again."""
        self._open &= self._gaps[place] >= 0.5 * self._apart

    def apart(self, place: int) -> bool:
        """Whether a place is far enough from all that were taken, and from landmarks."""
        return bool(self._free[place])

    def take(self, place: int) -> float:
        """Subtract what a landmark corrects; returns the mean length in mm that it takes off its neighborhood."""
        weight = self._kernel[place] * self._found.trust
        after = self._left - self._kernel[place][:, None] * self._left[place]
        gained = np.linalg.norm(self._left, axis=1) - np.linalg.norm(after, axis=1)
        self._left = after
        self._free = self._free & (self._gaps[place] >= self._apart)
        self._open &= self._free
        return float(weight @ gained / max(weight.sum(), 1e-9))
