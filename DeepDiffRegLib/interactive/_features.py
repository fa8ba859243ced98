"""What a network saw, as volumes for a front end: one channel, or the strongest directions of all channels as colors."""

from __future__ import annotations

import torch

from ..data.image import Image
from ..errors import InputError
from ..geometry.grid import Geometry
from ..qc.feature_figures import principal_coloring
from ..session import RegistrationSession
from ..warp.image import warp_image
from ._convert import scan_of

SIDES = ("fixed", "moving", "warped")
"""On the fixed scan, on the moving one where it lies, and of the moving one through the current map on the fixed grid."""
COLORS = ("red", "green", "blue")


def feature_volumes(session: RegistrationSession, side: str, scale: int, channel: int | None) -> dict:
    """Volumes and what can be asked for. scale: 0 for the coarsest; negative ones count from the finest. channel: None for colors.

    Colors are 0 to 1 and the same for both scans. Raises ``InputError`` for a side, scale or channel that there is not, and
    for a map that was made without a network's features.
    """
    if side not in SIDES:
        raise InputError(f"features: side must be one of {', '.join(SIDES)}, got {side!r}")
    seen = session.features()
    if seen is None:
        raise InputError("features: the current map was made from the scans themselves (method dio compares features)")
    fixed, moving = (pyramid.images for pyramid in seen)
    if not -len(fixed) <= scale < len(fixed):
        raise InputError(f"features: scale must lie between 0 and {len(fixed) - 1}, got {scale}")
    scale %= len(fixed)
    channels = fixed[scale][0].shape[1]
    if channel is not None and not 0 <= channel < channels:
        raise InputError(f"features: channel must lie between 0 and {channels - 1}, got {channel}")
    shown, geometry = (fixed if side == "fixed" else moving)[scale]
    values = _colors(fixed[scale][0], moving[scale][0], shown) if channel is None else shown[:, channel : channel + 1]
    image = Image(values.float().cpu(), geometry)
    if side == "warped":
        image = warp_image(image, session.transform, fixed[scale][1])
    names = COLORS if channel is None else (f"channel {channel + 1}",)
    return {
        "side": side, "scale": scale, "channel": channel, "channels": channels,
        "scales": [{"spacing_mm": list(grid.spacing_mm), "size": list(grid.size)} for _, grid in fixed],
        "images": [_scan(image, number, name) for number, name in enumerate(names)],
    }  # fmt: skip


def _colors(fixed: torch.Tensor, moving: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """(1, 3, *shape) in [0, 1]: a linear map of the channels, clamped; made channel by channel, as the features may be large."""
    coloring = principal_coloring((fixed, moving))
    span = torch.as_tensor(coloring.high - coloring.low).clamp(min=1e-12)
    axes = torch.as_tensor(coloring.axes) / span
    offset = -(torch.as_tensor(coloring.mean) @ axes) - torch.as_tensor(coloring.low) / span
    out = torch.empty((1, 3, *shown.shape[2:]))
    for color in range(3):
        out[:, color] = float(offset[color])
        for channel in range(shown.shape[1]):
            out[:, color].add_(shown[:, channel].cpu().float(), alpha=float(axes[channel, color]))
    return out.clamp_(0.0, 1.0)


def _scan(image: Image, number: int, name: str):
    geometry: Geometry = image.geometry
    return scan_of(Image(image.tensor[:, number : number + 1], geometry), name)
