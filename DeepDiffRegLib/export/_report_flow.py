"""What the report shows of a flow: the film, kernel widths over both scans, energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data.image import Image
from ..qc.base import Context
from ..qc.flow_figures import SUBPIXELS, film, width_pictures
from .flow import flow_of, flow_summary

if TYPE_CHECKING:
    from ..result import Result


def flow_values(result: Result, context: Context) -> dict | None:
    """Values for the template; None for a map that does not flow."""
    if not result.transform.flows:
        return None
    films = film(context, result.transform)
    return {
        "films": films,
        "frames": len(films[0].paths),
        "scale": 1 / SUBPIXELS,
        "summary": flow_summary(result.transform),
        "widths": _widths(result, context),
    }


def _widths(result: Result, context: Context) -> dict | None:
    flow = flow_of(result.transform)
    if flow is None or flow.shot.pre_weights is None:
        return None
    start, end = (Image(flow.shot.sigma_mm(t).float().cpu(), flow.shot.geometry) for t in (0.0, 1.0))
    return dict(zip(("start", "end", "legend"), width_pictures(context, start, end, flow.world)))
