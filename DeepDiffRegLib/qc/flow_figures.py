"""Pictures of a flow: the deformation as a film, and how far tissue moves together (kernel width) over the scans."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..geometry.grid import Geometry
from ._planes import Plane, center_of, standard_planes
from .base import Context
from .figures import Legend, Picture, _Gray, _near_anatomy, css, png, ramp, ramped

if TYPE_CHECKING:
    import torch

    from ..data.image import Image
    from ..transforms.base import Transform

FRAMES = 9
FILM_PIXELS = 220
FILM_LINES = 18
POINTS_PER_CELL = 2
COARSE_PIXELS = 3.0
"""Spacing of the grids that the frames before the last are followed on."""
QUALITY = 60
SUBPIXELS = 4
"""Grid lines are written in whole quarters of a pixel."""


@dataclass(frozen=True)
class Film:
    """One view of the moving scan on its way. jpeg: all frames, one below the other. size: width, height of one frame.

    paths: the bent grid of each frame, SVG, in ``1 / SUBPIXELS`` of a pixel.
    """

    plane: str
    letters: tuple[str, str, str, str]
    jpeg: bytes
    size: tuple[int, int]
    paths: tuple[str, ...]

    @property
    def uri(self) -> str:
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def film(context: Context, transform: Transform, count: int = FRAMES) -> tuple[Film, ...]:
    """One ``Film`` per view: moving scan and grid through phi_t at ``count`` times from 0 to 1."""
    work = context.work
    center = center_of(context.pair.fixed, work.fixed_foreground, work.geometry)
    planes = standard_planes(work.geometry, center, FILM_PIXELS)
    gray, back = _Gray(context), np.linalg.inv(_placement(transform.at(0.0)))
    pictures, paths = [[] for _ in planes], [[] for _ in planes]
    coarse = transform.coarse(COARSE_PIXELS * planes[0].pixel_mm)
    for time in np.linspace(0.0, 1.0, count):
        now = transform if time == 1 else coarse.at(float(time))
        for i, plane in enumerate(planes):
            at = _followed(now, plane)
            pictures[i].append(gray.moved(plane, at))
            paths[i].append(_grid(plane, at @ back[:-1, :-1].T + back[:-1, -1]))
    return tuple(
        Film(plane.name, plane.letters, _strip(shown), plane.shape[::-1], tuple(lines))
        for plane, shown, lines in zip(planes, pictures, paths)
    )


def width_pictures(
    context: Context, start: Image, end: Image, world: np.ndarray
) -> tuple[tuple[Picture, ...], tuple[Picture, ...], Legend]:
    """Kernel width (mm) at t = 0 over the moving scan, at t = 1 over the fixed one, and their common scale.

    start, end: sigma(x) in the space of the flow. world: the affine part, which places the moving scan there.
    """
    work = context.work
    planes = standard_planes(work.geometry, center_of(context.pair.fixed, work.fixed_foreground, work.geometry))
    gray = _Gray(context)
    low, high = (float(v) for v in end.tensor.aminmax())
    scale = max(high - low, 1e-6)

    def picture(plane: Plane, scan: np.ndarray, sigma: Image) -> Picture:
        share = (plane.look_up(sigma.tensor, sigma.geometry, "border") - low) / scale
        pixels = ramped(scan, share, _near_anatomy(context, plane))
        return Picture(plane.name, plane.letters, png(pixels), plane.shape[::-1])

    before = tuple(picture(p, gray.moved(p, p.points_mm @ world[:-1, :-1].T + world[:-1, -1]), start) for p in planes)
    colors = tuple(css(c) for c in ramp(np.linspace(0, 1, 16)))
    ticks = tuple((s, f"{low + s * scale:.3g}") for s in (0.0, 0.5, 1.0))
    return before, tuple(picture(p, gray.fixed(p), end) for p in planes), Legend(colors, ticks, "kernel width (mm)")


def _placement(transform: Transform) -> np.ndarray:
    """The (d+1, d+1) matrix of a map without deformation."""
    d = transform.ndim
    ends = transform.map_points(np.vstack([np.zeros(d), np.eye(d)]))
    matrix = np.eye(d + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = (ends[1:] - ends[0]).T, ends[0]
    return matrix


def _followed(transform: Transform, plane: Plane) -> np.ndarray:
    """phi at the view's pixels, (H, W, d) mm."""
    axes = [plane.right, plane.down]
    size = plane.shape[::-1]
    if len(plane.right) == 3:
        axes, size = [*axes, np.cross(plane.right, plane.down)], (*size, 1)
    grid = Geometry(size, (plane.pixel_mm,) * len(size), tuple(plane.start_mm), np.stack(axes, 1).tolist())
    field: torch.Tensor = transform.displacement(grid)
    u = field[0].detach().cpu().numpy().reshape(len(size), *plane.shape)
    return plane.points_mm + np.moveaxis(u, 0, -1)


def _grid(plane: Plane, bent_mm: np.ndarray) -> str:
    """SVG path of a square grid whose pixels went to (H, W, d) positions."""
    pixels = plane.pixels(bent_mm)
    step = max(plane.shape) / FILM_LINES
    along = step / POINTS_PER_CELL
    pieces = []
    for axis in (0, 1):
        places = np.arange(step / 2, plane.shape[axis], step).astype(int)
        run = np.unique(np.append(np.floor(np.arange(0, plane.shape[1 - axis], along)), plane.shape[1 - axis] - 1))
        lines = np.take(np.take(pixels, places, axis), run.astype(int), 1 - axis)
        pieces += [_polyline(line) for line in (lines if axis == 0 else np.moveaxis(lines, 1, 0))]
    return "".join(pieces)


def _polyline(points: np.ndarray) -> str:
    whole = np.rint(points * SUBPIXELS).astype(int)
    (x, y), steps = whole[0], np.diff(whole, axis=0)
    return f"M{x} {y}l" + " ".join(f"{a} {b}" for a, b in steps)


def _strip(pictures: list[np.ndarray]) -> bytes:
    from PIL import Image as Pillow

    values = (np.clip(np.concatenate(pictures), 0, 1) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Pillow.fromarray(values).save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()
