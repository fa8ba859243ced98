"""Pictures of a registration as plain arrays and SVG paths: overlays, checkerboards, grid, volume change, displacement."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from ._planes import Plane, center_of, standard_planes
from .base import Context

FIXED_COLOR = np.array([0.0, 0.56, 1.0], np.float32)
MOVING_COLOR = 1.0 - FIXED_COLOR
"""Complementary, and told apart by color-blind readers: where both scans agree the sum is gray."""
FOLD_COLOR = np.array([1.0, 0.0, 0.85], np.float32)
SHRINK_COLOR = np.array([0.13, 0.45, 0.95], np.float32)
GROW_COLOR = np.array([0.93, 0.24, 0.16], np.float32)
RAMP = np.array(
    [[0.27, 0.0, 0.33], [0.23, 0.32, 0.55], [0.13, 0.57, 0.55], [0.37, 0.79, 0.38], [0.99, 0.91, 0.14]], np.float32
)
TILES = 7
GRID_LINES = 26
VOLUME_LIMITS = (1.25, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Picture:
    """One view. png: encoded bytes. size: width, height in pixels. path: SVG path drawn over it, or empty."""

    plane: str
    letters: tuple[str, str, str, str]
    png: bytes
    size: tuple[int, int]
    path: str = ""

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Legend:
    """A color bar. colors: CSS colors from left to right. ticks: (position 0..1, text)."""

    colors: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    title: str
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Figures:
    """All pictures, each a tuple with one ``Picture`` per view."""

    center_mm: tuple[float, ...]
    overlay_before: tuple[Picture, ...]
    overlay_after: tuple[Picture, ...]
    checkerboard_before: tuple[Picture, ...]
    checkerboard_after: tuple[Picture, ...]
    grid: tuple[Picture, ...]
    volume: tuple[Picture, ...]
    volume_legend: Legend
    displacement: tuple[Picture, ...]
    displacement_legend: Legend


def draw(context: Context, center_mm=None) -> Figures:
    """All figures through ``center_mm`` (the middle of the fixed anatomy when absent)."""
    work = context.work
    if center_mm is None:
        center_mm = center_of(context.pair.fixed, work.fixed_foreground, work.geometry)
    planes = standard_planes(work.geometry, center_mm)
    gray = _Gray(context)
    near = [_near_anatomy(context, plane) for plane in planes]
    fixed = [gray.fixed(plane) for plane in planes]
    before, after = [gray.before(p) for p in planes], [gray.after(p) for p in planes]
    limit = _volume_limit(context)
    lengths = [_length(context, p) for p in planes]
    low, high = _length_range(lengths, fixed)
    rows = list(zip(planes, fixed, before, after))
    return Figures(
        tuple(round(float(v), 1) for v in center_mm),
        tuple(_picture(p, overlay(f, b)) for p, f, b, _ in rows),
        tuple(_picture(p, overlay(f, a)) for p, f, _, a in rows),
        tuple(_picture(p, checkerboard(f, b)) for p, f, b, _ in rows),
        tuple(_picture(p, checkerboard(f, a)) for p, f, _, a in rows),
        tuple(_picture(p, 0.75 * f, deformation_grid(context, p)) for p, f, _, _ in rows),
        tuple(_picture(p, volume_change(f, _determinant(context, p), limit, n)) for (p, f, _, _), n in zip(rows, near)),
        _volume_legend(limit),
        tuple(_picture(p, ramped(f, (m - low) / (high - low), n)) for (p, f, _, _), m, n in zip(rows, lengths, near)),
        _length_legend(low, high),
    )


def overlay(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1]: fixed in blue plus moving in orange, gray where they agree."""
    return np.clip(fixed[..., None] * FIXED_COLOR + moving[..., None] * MOVING_COLOR, 0, 1)


def checkerboard(fixed: np.ndarray, moving: np.ndarray, tiles: int = TILES) -> np.ndarray:
    """(H, W): squares of both scans in turn, ``tiles`` along the longer side."""
    side = max(fixed.shape) / tiles
    rows, columns = ((np.arange(n) // side).astype(int) for n in fixed.shape)
    return np.where((rows[:, None] + columns[None]) % 2 == 0, fixed, moving)


def volume_change(
    gray: np.ndarray, determinant: np.ndarray, limit: float, near: np.ndarray | float = 1.0
) -> np.ndarray:
    """Fixed scan with the determinant in diverging colors: 1 transparent, smaller blue, larger red, folded magenta.

    near: (H, W) in 0..1, 1 at the anatomy; colors fade in the air around it, folded voxels do not.
    """
    strength = np.log(np.clip(determinant, 1e-6, None)) / np.log(limit)
    alpha = (0.85 * np.clip(np.abs(strength), 0, 1) ** 0.8 * near)[..., None]
    color = np.where((strength < 0)[..., None], SHRINK_COLOR, GROW_COLOR)
    picture = (1 - alpha) * gray[..., None] + alpha * color
    return np.where((determinant <= 0)[..., None], FOLD_COLOR, picture)


def ramped(gray: np.ndarray, share: np.ndarray, near: np.ndarray | float = 1.0) -> np.ndarray:
    """Fixed scan under a sequential color scale; share 0..1; near: as in ``volume_change``."""
    alpha = np.broadcast_to(0.62 * np.asarray(near), gray.shape)[..., None]
    return (1 - alpha) * gray[..., None] + alpha * ramp(share)


def ramp(share: np.ndarray) -> np.ndarray:
    """Colors (..., 3) of the sequential scale at 0..1."""
    at = np.clip(share, 0, 1) * (len(RAMP) - 1)
    out = np.empty((*at.shape, 3), np.float32)
    for c in range(3):
        out[..., c] = np.interp(at, np.arange(len(RAMP)), RAMP[:, c])
    return out


def deformation_grid(context: Context, plane: Plane, lines: int = GRID_LINES) -> str:
    """SVG path of a square grid bent by the deformation beyond the affine part, A^-1(phi(x)), projected into the view."""
    height, width = plane.shape
    step = max(height, width) / lines
    along = max(2.0, step / 4)
    matrix = np.linalg.inv(context.work.matrix)
    pieces = []
    for vertical in (False, True):
        length, across = (height, width) if vertical else (width, height)
        places = np.arange(step / 2, across, step)
        run = np.append(np.arange(0, length - 1, along), length - 1.0)
        first, second = np.meshgrid(places, run, indexing="ij")
        columns, rows = (first, second) if vertical else (second, first)
        points = plane.start_mm + (columns[..., None] * plane.right + rows[..., None] * plane.down) * plane.pixel_mm
        moved = points + np.moveaxis(_field_at(context, points), 0, -1)
        bent = moved @ matrix[:-1, :-1].T + matrix[:-1, -1]
        pieces += [_polyline(row) for row in plane.pixels(bent)]
    return "".join(pieces)


def png(picture: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) in [0, 1] as PNG; colors are reduced to a palette of 256 to keep the file small."""
    from PIL import Image as Pillow

    values = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    image = Pillow.fromarray(values)
    if values.ndim == 3:
        image = image.quantize(256, method=Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


class _Gray:
    """Both scans in the views, scaled to [0, 1] by windows taken from the anatomy."""

    def __init__(self, context: Context):
        self._context = context
        pair, work = context.pair, context.work
        self._fixed_window = _window(pair.fixed.tensor)
        self._moving_window = _window(pair.moving.tensor)
        self._reached = work.reached

    def fixed(self, plane: Plane) -> np.ndarray:
        fixed = self._context.pair.fixed
        return _windowed(plane.look_up(fixed.tensor, fixed.geometry), self._fixed_window)

    def before(self, plane: Plane) -> np.ndarray:
        moving = self._context.pair.moving
        return _windowed(plane.look_up(moving.tensor, moving.geometry), self._moving_window)

    def after(self, plane: Plane) -> np.ndarray:
        """The moving scan at phi(x), sampled once from its own voxels."""
        field = _field_at(self._context, plane.points_mm)
        return self.moved(plane, plane.points_mm + np.moveaxis(field, 0, -1))

    def moved(self, plane: Plane, at_mm: np.ndarray) -> np.ndarray:
        """The moving scan at (H, W, d) positions, black where the view leaves the fixed scan."""
        moving = self._context.pair.moving
        values = _windowed(plane.look_up_at(moving.tensor, moving.geometry, at_mm), self._moving_window)
        return values * self._context.pair.fixed.geometry.contains(plane.points_mm)


def _window(tensor) -> tuple[float, float]:
    """0.5th and 99.5th percentile of what is not the background's own value."""
    values = tensor.detach().flatten()[:: max(1, tensor.numel() // 200_000)].cpu().numpy()
    low = float(np.percentile(values, 0.5))
    body = values[values > low]
    high = float(np.percentile(body, 99.5)) if body.size else low + 1.0
    return low, max(high, low + 1e-6)


def _windowed(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    return np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)


def _field_at(context: Context, points_mm: np.ndarray) -> np.ndarray:
    """Displacement (d, H, W) in mm at (H, W, d) points; constant beyond the fixed grid."""
    import torch

    from ..geometry.sampling import sample

    grid = context.pair.fixed.geometry
    index = torch.from_numpy(np.ascontiguousarray(np.moveaxis(grid.to_index(points_mm), -1, 0), dtype=np.float32))[None]
    index = index[:, :, None] if grid.ndim == 3 else index
    return sample(context.displacement, index, padding="border")[0].numpy().reshape(grid.ndim, *points_mm.shape[:2])


def _near_anatomy(context: Context, plane: Plane) -> np.ndarray:
    """1 in the anatomy, fading to 0.25 within a few cells around it."""
    import torch

    from ..geometry.smoothing import gaussian

    work = context.work
    mask = torch.from_numpy(work.fixed_foreground.astype(np.float32))[None, None]
    soft = plane.look_up(gaussian(mask, 1.5), work.geometry, "border")
    return 0.25 + 0.75 * np.clip(2.5 * soft, 0, 1)


def _determinant(context: Context, plane: Plane) -> np.ndarray:
    return plane.look_up(context.jacobian, context.pair.fixed.geometry, "border")


def _length(context: Context, plane: Plane) -> np.ndarray:
    return np.linalg.norm(_field_at(context, plane.points_mm), axis=0)


def _length_range(lengths: list[np.ndarray], fixed: list[np.ndarray]) -> tuple[float, float]:
    inside = np.concatenate([m[f > 0.05] if (f > 0.05).any() else m.ravel() for m, f in zip(lengths, fixed)])
    low, high = (float(v) for v in np.percentile(inside, [1, 99]))
    if low < 0.35 * high:
        low = 0.0
    return low, max(high, low + 0.1)


def _volume_limit(context: Context) -> float:
    """The smallest of a few round limits that holds 98 % of the anatomy's volume changes."""
    values, inside = context.jacobian[0, 0].numpy().ravel(), context.anatomy.ravel()
    stride = max(1, (int(inside.sum()) or values.size) // 200_000)
    values, inside = values[::stride], inside[::stride]
    values = values[inside] if inside.any() else values
    reach = float(np.exp(np.percentile(np.abs(np.log(np.clip(values, 1e-3, 1e3))), 98)))
    return next((limit for limit in VOLUME_LIMITS if reach <= limit), VOLUME_LIMITS[-1])


def _volume_legend(limit: float) -> Legend:
    shares = np.linspace(-1, 1, 21)
    middle = np.full((1, 21), 0.5)
    colors = volume_change(middle, np.exp(shares * np.log(limit))[None], limit)[0]
    root = limit**0.5
    texts = (f"{1 / limit:.2f}", f"{1 / root:.2f}", "1", f"{root:.2f}", f"{limit:g}")
    ticks = tuple((i / 4, text) for i, text in enumerate(texts))
    return Legend(tuple(css(c) for c in colors), ticks, "volume change (1 = none)", ((css(FOLD_COLOR), "folded"),))


def _length_legend(low: float, high: float) -> Legend:
    colors = tuple(css(c) for c in ramp(np.linspace(0, 1, 16)))
    ticks = tuple((s, f"{low + s * (high - low):.1f}") for s in (0.0, 0.5, 1.0))
    return Legend(colors, ticks, "displacement (mm)")


def css(color: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(v) * 255):02x}" for v in np.clip(color, 0, 1))


def _picture(plane: Plane, pixels: np.ndarray, path: str = "") -> Picture:
    height, width = plane.shape
    return Picture(plane.name, plane.letters, png(pixels), (width, height), path)


def _polyline(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
