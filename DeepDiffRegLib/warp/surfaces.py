"""Bring surfaces through a transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from ..transforms.base import Transform

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData


def warp_surface(surface: vtkPolyData, transform: Transform) -> vtkPolyData:
    """A copy of the surface with every vertex (mm LPS) at ``transform(vertex)``; normals are dropped.

    Surfaces move against images, as points do: pass ``moving_to_fixed`` to show a moving surface in the fixed scan, and
    ``fixed_to_moving`` for the other way. Raises InputError for a 2-D transform.
    """
    from ..data.io_surfaces import surface_points, with_surface_points

    if transform.ndim != 3:
        raise InputError("warp_surface(): surfaces are 3-D, the transform is 2-D")
    return with_surface_points(surface, transform.map_points(surface_points(surface)))
