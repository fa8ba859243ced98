"""Costs of all translations of one square against another: what a solver that goes downhill sees from wherever it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..geometry.pyramid import Pyramid
from ..geometry.sampling import identity_index, sample
from ..training.base import Batch
from .figures import canvas, picture, save

BEYOND = 2
"""Pixels that the landscape goes on beyond what pairs may have."""
NEAR = 2
"""Pixels beside the partner that a way down may end at the least; one voxel where these are larger, as the least cost mostly lies on
whole voxels."""


@dataclass(frozen=True)
class Costs:
    """Mean squared difference of one kind of image for every translation of the moving one.

    values: (Y, X) over ``offsets`` (pixels along either axis). true: (x, y) translation of the partner. apart: (Y, X) where the
    squares lie inside the picture and do not overlap. usual: those of them that bring the square where squares of pairs lie.
    led: (Y, X) from where going downhill, neighbor by neighbor, ends beside the partner: within 2 pixels or one voxel of the image.
    """

    name: str
    offsets: np.ndarray
    values: np.ndarray
    true: np.ndarray
    apart: np.ndarray
    usual: np.ndarray
    led: np.ndarray

    @property
    def flat(self) -> float:
        """How much the cost changes among translations without overlap, as a share of all it changes."""
        return float(np.ptp(self.values[self.apart]) / max(np.ptp(self.values), 1e-12))

    @property
    def leading(self) -> float:
        """Share of the usual translations without overlap from which the way down leads to the partner."""
        return float(self.led[self.usual].mean())


def of_intensities(pair: Batch, edge: int) -> Costs:
    """``landscape`` of the pictures themselves."""
    return landscape(pair, edge, "intensities", pair["fixed"], pair["moving"], 1)


def of_features(pair: Batch, edge: int, features: tuple[Pyramid, Pyramid], number: int) -> Costs:
    """``landscape`` of one resolution of features (fixed, moving), 0 the coarsest."""
    (fixed, grid), (moving, _) = (pyramid.images[number] for pyramid in features)
    stride = round(grid.spacing_mm[0])
    return landscape(pair, edge, f"features, stride {stride}", fixed, moving, stride)


def landscape(pair: Batch, edge: int, name: str, fixed: torch.Tensor, moving: torch.Tensor, stride: int) -> Costs:
    """Of all translations that a pair may have, and a little more.

    edge: of the squares, pixels; pairs lie in the middle half of the picture. fixed, moving: what is compared, its voxels ``stride``
    pixels wide.
    """
    size = pair["fixed"].shape[-1]
    corners = [np.argwhere(pair[role][0, 0].numpy() > 0.5).min(0)[::-1] for role in ("moving", "fixed")]
    true, reach = corners[0] - corners[1], size // 2 - edge + BEYOND
    offsets = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(offsets, offsets), -1)
    brought = corners[0] - grid  # where the moving square comes to lie
    apart = (np.abs(grid - true) >= edge).any(-1)
    apart &= ((brought >= BEYOND) & (brought <= size - edge - BEYOND)).all(-1)
    first, last = size // 4 - BEYOND, 3 * size // 4 - edge + BEYOND
    usual = apart & ((brought >= first) & (brought <= last)).all(-1)
    values = np.array([[cost(fixed, moving, (x / stride, y / stride)) for x in offsets] for y in offsets])
    return Costs(name, offsets, values, true, apart, usual, downhill(values, true + reach, max(NEAR, stride)))


def cost(fixed: torch.Tensor, moving: torch.Tensor, shift: tuple[float, float]) -> float:
    """Mean over channels and voxels of (M(x + shift) - F(x))^2, M continued by its border; shift: x, y in voxels."""
    index = identity_index(tuple(fixed.shape[2:])) + torch.tensor(shift, dtype=torch.float32).reshape(1, 2, 1, 1)
    return float((sample(moving, index, padding="border") - fixed).square().mean())


def downhill(values: np.ndarray, goal: np.ndarray, within: int = NEAR) -> np.ndarray:
    """(Y, X) whether going to the lowest of the eight neighbors, as long as one is lower, ends within pixels of ``goal`` (x, y)."""
    padded = np.pad(values, 1, constant_values=np.inf)
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    rows, columns = np.indices(values.shape)
    around = np.stack([padded[rows + 1 + y, columns + 1 + x] for y, x in steps])
    chosen = np.where(around.min(0) < values, around.argmin(0), steps.index((0, 0)))
    ways = np.array(steps)[chosen]
    flat = np.ravel_multi_index((rows + ways[..., 0], columns + ways[..., 1]), values.shape).ravel()
    ends = np.arange(flat.size)
    for _ in range(values.size):
        following = flat[ends]
        if np.array_equal(following, ends):
            break
        ends = following
    y, x = np.unravel_index(ends, values.shape)
    return (np.maximum(abs(x - goal[0]), abs(y - goal[1])) <= within).reshape(values.shape)


def draw_landscape(pair: Batch, costs: list[Costs], path: Path) -> Path:
    """Above the costs of all translations, below the same along x through the partner.

    The cross is the partner, the dot the start, framed what brings the square apart from the other where squares of pairs lie.
    """
    figure, axes = canvas(2, len(costs) + 1, 2.7, 2.6)
    both = torch.stack([pair["fixed"][0, 0], pair["moving"][0, 0], torch.zeros_like(pair["fixed"][0, 0])], -1)
    picture(axes[0, 0], both.numpy(), "fixed (red), moving (green)")
    axes[1, 0].set_axis_off()
    for top, below, one in zip(axes[0, 1:], axes[1, 1:], costs):
        first, last = one.offsets[0], one.offsets[-1]
        edges = (first - 0.5, last + 0.5, last + 0.5, first - 0.5)
        top.imshow(one.values, cmap="viridis", extent=edges, interpolation="nearest")
        top.contour(one.offsets, one.offsets, one.usual, [0.5], colors="white", linewidths=0.6)
        top.plot(*one.true, "x", color="white")
        top.plot(0, 0, "o", color="tab:red", markersize=3)
        top.set_title(one.name, fontsize=9)
        below.plot(one.offsets, one.values[one.true[1] - first])
        below.axvline(one.true[0], color="gray", linewidth=0.7)
        below.set_xlabel("translation along x (pixels)", fontsize=8)
        for panel in (top, below):
            panel.tick_params(labelsize=7)
    return save(figure, path)
