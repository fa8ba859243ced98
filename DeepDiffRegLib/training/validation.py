"""How good a network is on pairs that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from ..geometry.sampling import identity_index, per_component, sample
from ..geometry.vector_fields import jacobian_determinant
from ..networks.base import Network
from ..qc.jacobian import sd_log
from ..qc.overlap import dice
from ..similarity.lncc import LNCC
from .base import Batch
from .mapping import looked, warped

RADIUS_VOXELS = 4


def judged(
    network: Network,
    pairs: Iterable[Batch],
    spacing_mm: tuple[float, ...],
    integrator: str = "scaling_squaring",
    steps: int | None = None,
    looks: int = 1,
) -> dict[str, float]:
    """Means over pairs (batches of one): ``lncc`` and ``lncc_before`` (windows of 9), ``folds_percent``, ``sdlogj``; with labels
    ``dice`` and ``dice_before`` (mean over the labels of the fixed scan). ``score`` is the Dice, or else the LNCC.

    spacing_mm: x, y[, z]. The network is asked as it is used: the mean of its velocity, no drawing; ``looks`` times.
    """
    options = {"integrator": integrator, "steps": steps, "spacing_mm": tuple(spacing_mm)}
    device = next(network.parameters()).device
    return judged_maps(
        lambda moving, fixed: looked(network, moving, fixed, looks, **options).forward, pairs, spacing_mm, device
    )


def judged_maps(
    find: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    pairs: Iterable[Batch],
    spacing_mm: tuple[float, ...],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The same of anything that finds maps: moving and fixed (1, 1, *shape) on ``device`` to u (1, d, *shape) in voxels."""
    rows = [_row(find, pair, tuple(spacing_mm), device) for pair in pairs]
    means = {name: round(float(np.mean([row[name] for row in rows if name in row])), 6) for name in rows[0]}
    return {"score": means.get("dice", means["lncc"]), **means}


def _row(find, pair: Batch, spacing_mm: tuple[float, ...], device: torch.device | str) -> dict[str, float]:
    moving, fixed = (pair[role].to(device) for role in ("moving", "fixed"))
    with torch.no_grad():
        u = find(moving, fixed)
        similarity = LNCC(RADIUS_VOXELS)
        determinant = jacobian_determinant(u * per_component(spacing_mm, u), spacing_mm)[0, 0].cpu().numpy()
        interior = determinant[(slice(1, -1),) * determinant.ndim]
        row = {
            "lncc": 1 - similarity.value(fixed, warped(moving, u)),
            "lncc_before": 1 - similarity.value(fixed, moving),
            "folds_percent": 100 * float((interior <= 0).mean()),
            "sdlogj": sd_log(interior),
        }
        if "moving_labels" in pair and "fixed_labels" in pair:
            before, target = pair["moving_labels"], pair["fixed_labels"]
            after = sample(before, identity_index(tuple(u.shape[2:])) + u.cpu(), mode="nearest")
            row |= {"dice": overlap(after, target), "dice_before": overlap(before, target)}
    return row


def overlap(labels: torch.Tensor, fixed: torch.Tensor) -> float:
    """Mean Dice over the positive labels of ``fixed``."""
    here, there = labels.numpy(), fixed.numpy()
    found = [dice(here == label, there == label) for label in np.unique(there) if label > 0]
    return float(np.mean(found)) if found else 0.0
