"""Drawing for the experiments: matplotlib without a screen, one look for all figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
GRID_LINES = 25


def canvas(rows: int, columns: int, width: float = 2.6, height: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` panels, each ``width`` x ``height`` inches; no window is ever opened.

    Raises InputError when matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def require_matplotlib() -> None:
    """Raise InputError, before any work, when there is nothing to draw the figures with."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise InputError("the figures need matplotlib, which is missing: pip install matplotlib") from error


def save(figure: Figure, path: Path) -> Path:
    """Write the PNG and return its path."""
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def picture(axes: Axes, values: np.ndarray, title: str = "", **options) -> None:
    """Show a (Y, X) or (Y, X, 3) array without axes; gray from 0 to 1 unless other ``imshow`` options say so."""
    options = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0, "interpolation": "nearest", **options}
    axes.imshow(values, **options)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def scaled(figure: Figure, axes: Axes, values: np.ndarray, title: str, **options) -> None:
    """``picture`` with a color bar."""
    options = {"cmap": "viridis", "vmin": None, "vmax": None, **options}
    picture(axes, values, title, **options)
    bar = figure.colorbar(axes.images[-1], ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=7)


def grid(axes: Axes, map_voxels: np.ndarray, color: str = "tab:cyan") -> None:
    """Lines of a square grid seen through the map: level lines of its coordinates. map_voxels: phi (2, Y, X), x then y."""
    for values in map_voxels:
        step = max(values.shape) / GRID_LINES
        levels = np.arange(step / 2, max(values.shape), step)
        axes.contour(values, levels=levels, colors=color, linewidths=0.5)


def outline(axes: Axes, mask: np.ndarray, color: str = "tab:red", width: float = 1.0) -> None:
    """The border of a mask; nothing when it is empty or full."""
    if mask.any() and not mask.all():
        axes.contour(mask.astype(float), levels=[0.5], colors=color, linewidths=width)
