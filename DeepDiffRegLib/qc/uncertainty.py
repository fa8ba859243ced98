"""How sure a probabilistic network is of its map, over the anatomy; for information, as no limit is known."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, warp
from ..methods.uncertainty import Quantity, Uncertainty
from .base import Context, Finding


def compute(context: Context) -> list[Finding]:
    """One finding per map of uncertainty: mean, 95th percentile and largest value in the anatomy."""
    found = context.uncertainty
    if found is None:
        return []
    inside = on_grid(context.anatomy, context.pair.fixed.geometry, found.geometry)
    return [_finding(quantity, values, inside, found) for quantity, values in found.maps()]


def _finding(quantity: Quantity, values: torch.Tensor, inside: np.ndarray, found: Uncertainty) -> Finding:
    array = values[0, 0].cpu().numpy()
    chosen = array[inside]
    worst = np.argwhere(inside & (array == chosen.max()))[0]
    unit = f" {quantity.unit}" if quantity.unit else ""
    numbers = {"mean": float(chosen.mean()), "p95": float(np.percentile(chosen, 95)), "max": float(chosen.max())}
    return Finding(
        quantity.key,
        quantity.title,
        round(numbers["mean"], 4),
        quantity.unit,
        "",
        "info",
        f"{quantity.help} Mean over the anatomy; 95 % below {numbers['p95']:.3g}{unit}. {found.samples} samples of the network's "
        "belief, before refinement and prompts.",
        tuple(round(float(v), 1) for v in found.geometry.to_world(worst[::-1])),
        {**numbers, "samples": found.samples},
    )


def on_grid(mask: np.ndarray, own: Geometry, grid: Geometry) -> np.ndarray:
    """A mask on another grid; everything, when nothing of it lies there."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    there = warp(values, torch.zeros((1, grid.ndim, *grid.shape)), index_matrix(grid, own))[0, 0].numpy() >= 0.5
    return there if there.any() else np.ones_like(there)
