"""Whether two scans share any space where a run would start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from ..config import Config
    from ..data.pair import Pair
    from ..geometry.grid import Geometry
    from ..transforms.base import Transform

_LATTICE = 24


def check_overlap(pair: Pair, config: Config, initial: Transform | None, asked: bool) -> None:
    """Refuse scans that share no space where the run would start.

    Two scans whose boxes do not touch are more likely a mistake (another patient, a lost origin) than a wish, so their
    centers are only brought together when ``--start`` asks for it (``asked``).
    """
    fixed, moving = pair.fixed.geometry, pair.moving.geometry
    if initial is not None:
        if not _lands_in(fixed, moving, initial):
            raise InputError("--initial leaves the scans without any overlap; is it fixed_to_moving, in mm, LPS?")
        return
    if boxes_touch(fixed, moving) or (asked and config.start.initial != "identity"):
        return
    apart = float(np.linalg.norm(fixed.center_mm - moving.center_mm))
    raise InputError(
        f"the scans do not overlap at all: their centers are {apart:.0f} mm apart; check that they belong together, "
        "then pass --start centers to bring the centers together first"
    )


def boxes_touch(first: Geometry, second: Geometry) -> bool:
    """Whether the two grids' boxes (outer faces of the voxels) share a point: separating axis test, exact."""
    halves = [g.rotation * (g.extent_mm / 2) for g in (first, second)]
    axes = [*first.rotation.T, *second.rotation.T]
    if first.ndim == 3:
        axes += [np.cross(a, b) for a in first.rotation.T for b in second.rotation.T]
    between = second.center_mm - first.center_mm
    reach = [sum(np.abs(axis @ half).sum() for half in halves) for axis in axes]
    return all(abs(axis @ between) <= r + 1e-9 for axis, r in zip(axes, reach))


def _lands_in(fixed: Geometry, moving: Geometry, initial: Transform) -> bool:
    """Whether any point of a lattice over the fixed scan lands inside the moving one."""
    axes = [np.linspace(0, n - 1, _LATTICE) for n in fixed.size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, fixed.ndim)
    return bool(moving.contains(initial.map_points(fixed.to_world(index))).any())
