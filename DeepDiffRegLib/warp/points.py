"""Bring points through a transform."""

from __future__ import annotations

from ..data.points import Points
from ..errors import InputError
from ..transforms.base import Transform


def warp_points(points: Points, transform: Transform) -> Points:
    """The points at ``transform(points)``, float64, names kept.

    Points move against images: ``fixed_to_moving`` (which warps the moving *image* onto the fixed one) takes fixed
    *points* into the moving scan. To show moving points in the fixed scan, pass ``moving_to_fixed`` (``inverse()``).
    """
    if points.positions_mm.shape[1] != transform.ndim:
        raise InputError(
            f"warp_points(): expected {transform.ndim}-D points for a {transform.ndim}-D transform, "
            f"got {points.positions_mm.shape[1]}-D"
        )
    return Points(transform.map_points(points.positions_mm), points.names)
