"""Maps of a probabilistic network's uncertainty as files on the fixed grid, and what ``result.json`` says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.image import Image
from ..data.io import write_image
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample
from ..methods.uncertainty import QUANTITIES, Uncertainty

if TYPE_CHECKING:
    from ..result import Result

SUFFIX = ".nii.gz"


def uncertainty_files(result: Result) -> dict[str, Callable[[Path], None]]:
    """Name and writer of each map; empty without a probabilistic network."""
    if result.uncertainty is None:
        return {}
    fixed, own = result.pair.fixed.geometry, result.uncertainty.geometry
    return {
        quantity.key + SUFFIX: lambda path, v=values: write_image(on_fixed(v, own, fixed), path)
        for quantity, values in result.uncertainty.maps()
    }


def uncertainty_summary(found: Uncertainty | None) -> dict | None:
    """Samples, seed and, per map, its file, title, unit and meaning; None without a probabilistic network."""
    if found is None:
        return None
    maps = {
        quantity.name: {
            "file": quantity.key + SUFFIX, "title": quantity.title, "unit": quantity.unit, "help": quantity.help
        }
        for quantity, _ in found.maps()
    }  # fmt: skip
    return {"samples": found.samples, "seed": found.seed, "maps": maps}


def on_fixed(values: torch.Tensor, own: Geometry, fixed: Geometry) -> Image:
    """A map on the fixed grid, its border values beyond its own."""
    return Image(resample(values, own, fixed, blur=False), fixed)


def belongs(name: str) -> bool:
    """Whether a file of this name is one of these."""
    return name in {quantity.key + SUFFIX for quantity in QUANTITIES}
