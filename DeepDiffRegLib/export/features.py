"""Feature images of a network as files: all channels of each resolution and scan, on the grid on which the network saw it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.atomic import write_aside
from ..data.io_nifti import write_nifti
from .flow import VECTOR_INTENT

if TYPE_CHECKING:
    from ..result import Result


def feature_files(result: Result) -> dict[str, Callable[[Path], None]]:
    """Name and writer of ``features_SIDE_N.nii.gz``, N from 1, the coarsest; empty where no learned features were compared."""
    if result.features is None:
        return {}
    return {
        f"features_{side}_{number}.nii.gz": lambda path, i=image, g=geometry: _write(i, g, path)
        for side, pyramid in zip(("fixed", "moving"), result.features)
        for number, (image, geometry) in enumerate(pyramid.images, 1)
    }


def _write(image, geometry, path: Path) -> None:
    with write_aside(path) as aside:
        write_nifti(aside, image[0].cpu().float().numpy(), geometry, intent=VECTOR_INTENT)
