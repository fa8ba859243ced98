"""A click in one scan proposes the corresponding point in the other, with the confidence that it is right.

The place is found by matching (``_matching``), around where a map puts the click. The match is looked for once from each scan:
where both searches disagree, neither is trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.points import Landmarks, Points
from ..errors import InputError
from ..transforms.base import Transform
from ._matching import matched
from ._views import Views, lattice, looked_up, seen_from

__all__ = ["Proposal", "Views", "landmarks", "propose"]

SIDES = ("fixed", "moving")
RADIUS_MM = 12.0
"""Searched around the map's own place unless told otherwise; at least ``RADIUS_VOXELS`` of the working spacing."""
RADIUS_VOXELS = 4.0
MOST_RADIUS_MM = 60.0
TOLERANCE_MM = 2.0
"""A proposal this near the truth counts as right; at least ``TOLERANCE_VOXELS`` of the working spacing."""
TOLERANCE_VOXELS = 1.5
STRUCTURE = 0.01
"""Least standard deviation of a scan around a click, of its intensity range."""
RETURNED = 0.5
"""Share of the gap between the click and where the way back ends that is taken off the match."""
SCALES_AGREE = 0.5
"""Share of the tolerance at which a disagreement between scales counts as one standard deviation."""
EDGE = 0.85
"""A match farther out than this share of the radius may have its like beyond it."""
DOUBTFUL = 0.3
LEAST_SD_MM = 1.0
INVERTED_WITHIN_MM = 0.01
MOST_INVERSIONS = 60


@dataclass(frozen=True)
class Proposal:
    """A pair of corresponding points, mm LPS; the one on ``side`` was given, the other one is proposed.

    confidence: probability that the proposed point lies within ``tolerance_mm`` of the truth, 0 where nothing can be proposed
    (the point is then where the map puts it). error_mm: expected distance from the truth, None for confidence 0. shift_mm: from
    where the map puts it, in fixed space. note: why it should not be trusted, in one line, or empty. score: of a suggestion.
    """

    side: str
    fixed_mm: tuple[float, ...]
    moving_mm: tuple[float, ...]
    confidence: float
    tolerance_mm: float
    error_mm: float | None = None
    shift_mm: float = 0.0
    note: str = ""
    score: float = 0.0

    @property
    def values(self) -> dict:
        """Plain numbers for files and messages, rounded to what they mean."""
        error = None if self.error_mm is None else round(self.error_mm, 2)
        return {
            "fixed_mm": [round(v, 3) for v in self.fixed_mm], "moving_mm": [round(v, 3) for v in self.moving_mm],
            "confidence": round(self.confidence, 3), "tolerance_mm": round(self.tolerance_mm, 2), "error_mm": error,
            "shift_mm": round(self.shift_mm, 2), "note": self.note, "score": round(self.score, 2),
        }  # fmt: skip


def landmarks(proposals: tuple[Proposal, ...]) -> Landmarks:
    """The pairs as landmarks, numbered; each may be off by its expected error, at least ``LEAST_SD_MM``."""
    sides = [Points(np.array([getattr(p, f"{side}_mm") for p in proposals])) for side in SIDES]
    return Landmarks(*sides, sd_mm=np.array([max(LEAST_SD_MM, p.error_mm or 0.0) for p in proposals]))


def propose(
    views: Views,
    transform: Transform,
    points_mm: np.ndarray,
    side: str = "fixed",
    radius_mm: float | None = None,
    between: Callable[[], None] = lambda: None,
) -> tuple[Proposal, ...]:
    """One proposal per point (N, d), mm LPS, in the scan ``side``.

    transform: the map around which is searched, ``radius_mm`` far (None: ``default_radius_mm``). between: called before each
    point; may raise to stop. Raises ``InputError`` for an unknown side, points that are no finite (N, d) array and a radius
    that is not positive or above ``MOST_RADIUS_MM``. A point that cannot be answered gets confidence 0 and a note.
    """
    points, radius = checked(views, points_mm, side, radius_mm)
    found = []
    for point in points:
        between()
        found.append(_one(views, transform, point, SIDES.index(side), radius))
    return tuple(found)


def checked(views: Views, points_mm: np.ndarray, side: str, radius_mm: float | None) -> tuple[np.ndarray, float]:
    """Points and radius in the form that is used; raises as ``propose``."""
    if side not in SIDES:
        raise InputError(f"propose: side must be 'fixed' or 'moving', got {side!r}")
    try:
        points = np.atleast_2d(np.asarray(points_mm, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"propose: points must be {views.ndim} numbers each, in mm") from error
    if points.ndim != 2 or points.shape[1] != views.ndim or not len(points):
        raise InputError(f"propose: expected points of {views.ndim} coordinates, got an array of shape {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("propose: points must be finite")
    return points, default_radius_mm(views) if radius_mm is None else _radius(radius_mm)


def default_radius_mm(views: Views) -> float:
    """How far is searched unless told otherwise."""
    return max(RADIUS_MM, RADIUS_VOXELS * views.spacing_mm)


def tolerance_mm(views: Views) -> float:
    """How near the truth a proposal has to lie to count as right."""
    return max(TOLERANCE_MM, TOLERANCE_VOXELS * views.spacing_mm)


def _radius(radius_mm: float) -> float:
    if not 0 < radius_mm <= MOST_RADIUS_MM:
        raise InputError(f"propose: radius_mm must be positive and at most {MOST_RADIUS_MM:g} mm, got {radius_mm}")
    return float(radius_mm)


def _one(views: Views, transform: Transform, point: np.ndarray, side: int, radius_mm: float) -> Proposal:
    place = point if side == 0 else back(transform, point)
    refused = _refusal(views, transform, point, place, side)
    belief = None if refused else matched(views, transform, place, place, side, radius_mm)
    if belief is None:
        refused = refused or f"too little of the {SIDES[1 - side]} scan is seen around there"
        return _pair(views, transform, point, place, side, 0.0, note=refused)
    turn = views.grids[0].rotation
    there = turn @ belief.mean
    again = matched(views, transform, place + there, place, 1 - side, radius_mm)
    if again is None:
        return _pair(views, transform, point, place, side, 0.0, note="the match cannot be checked from the other scan")
    returned = turn @ again.mean
    shift = there - RETURNED * returned
    miss = RETURNED * float(np.linalg.norm(returned))
    partner = place + shift if side == 1 else transform.map_points((place + shift)[None])[0]
    if not views.grids[1 - side].contains(partner):
        return _pair(
            views, transform, point, place, side, 0.0, note=f"the match lies outside the {SIDES[1 - side]} scan"
        )
    allowed = tolerance_mm(views)
    gap = max(belief.gap_mm, again.gap_mm) / SCALES_AGREE
    certain = np.sqrt(belief.within(allowed) * again.within(allowed))
    confidence = float(certain * np.exp(-0.5 * (miss**2 + gap**2) / allowed**2))
    error = float(np.hypot((belief.error_mm + again.error_mm) / 2, miss))
    return _pair(
        views, transform, point, place + shift, side, confidence, error, float(np.linalg.norm(shift)), radius_mm
    )


def _pair(
    views: Views, transform: Transform, point: np.ndarray, place: np.ndarray, side: int, confidence: float,
    error_mm: float | None = None, shift_mm: float = 0.0, radius_mm: float = np.inf, note: str = "",
) -> Proposal:  # fmt: skip
    """The proposal for a click that belongs to ``place`` in fixed space."""
    pair = (point, transform.map_points(place[None])[0]) if side == 0 else (place, point)
    if not note and shift_mm > EDGE * radius_mm:
        note = f"the match lies at the edge of the search ({radius_mm:.0f} mm); try a larger radius"
    elif not note and confidence < DOUBTFUL:
        note = "several places match about equally well; check it"
    fixed, moving = (tuple(float(v) for v in p) for p in pair)
    return Proposal(SIDES[side], fixed, moving, confidence, tolerance_mm(views), error_mm, shift_mm, note)


def _refusal(views: Views, transform: Transform, point: np.ndarray, place: np.ndarray | None, side: int) -> str:
    """Why nothing can be proposed for a click, empty when it can."""
    here, there = SIDES[side], SIDES[1 - side]
    if not views.grids[side].contains(point):
        return f"outside the {here} scan"
    partner = place if side == 1 else transform.map_points(place[None])[0]
    if not np.isfinite(partner).all():
        return "the current map leads nowhere from there"
    if not views.grids[1 - side].contains(partner):
        return f"the current map leads outside the {there} scan"
    if structure(views, side, point) < STRUCTURE:
        return f"the {here} scan is uniform around there: nothing to recognise"
    return ""


def structure(views: Views, side: int, point: np.ndarray) -> float:
    """Standard deviation of a scan in the cube of 7 working voxels around a point of its own."""
    grid = views.grids[side]
    around = lattice(point, grid.rotation, 3, views.spacing_mm)
    return float(looked_up(*views.scans[side].images[-1], seen_from(around, None)).std())


def back(transform: Transform, point_mm: np.ndarray) -> np.ndarray:
    """x with phi(x) = y for one point y, mm LPS: quasi-Newton steps from an inverted matrix; the best x found."""
    d = len(point_mm)
    step = 1e-1 * np.eye(d)
    x = point_mm.copy()
    jacobian = _derivative(transform, x, step)
    best, least = x, np.inf
    for _ in range(MOST_INVERSIONS):
        miss = transform.map_points(x[None])[0] - point_mm
        length = float(np.linalg.norm(miss))
        if not np.isfinite(length):
            break
        if length < least:
            best, least = x.copy(), length
        if length < INVERTED_WITHIN_MM:
            break
        x = x - np.linalg.lstsq(jacobian, miss, rcond=None)[0]
    return best


def _derivative(transform: Transform, x: np.ndarray, step: np.ndarray) -> np.ndarray:
    ahead, behind = transform.map_points(x + step), transform.map_points(x - step)
    return (ahead - behind).T / (2 * step[0, 0])
