"""What a flow leaves beside its map: momentum, velocities, the maps phi_t, kernel widths and weights, energy.

Vectors are mm (velocities mm per unit time), written like displacements; widths are mm. All of it belongs to the deformable
part: fixed space -> flow -> affine part -> moving scan. What is carried by tissue stands at t = 0 on the moving scan and at
t = 1 on the fixed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.atomic import write_aside
from ..data.image import Image
from ..data.io import write_image
from ..data.io_nifti import write_nifti
from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, warp
from ..transforms.affine import AffineTransform
from ..transforms.base import Transform
from ..transforms.composite import CompositeTransform
from ..transforms.displacement import to_voxels
from ..transforms.shooting import ShootingTransform
from ..transforms.svf import SVFTransform
from ..transforms.tvf import TVFTransform
from .nifti_warp import VECTOR_INTENT, write_displacement

if TYPE_CHECKING:
    from ..result import Result

PATTERNS = ("momentum.nii.gz", "sigma_[01].nii.gz", "weights_[01].nii.gz", "velocity_*.nii.gz", "phi_*.nii.gz")
"""Names of the files of this page; * is a time between 0 and 1."""
Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Flow:
    """The shooting transform in a map, and the affine part (homogeneous, mm) that leads from its space to the moving scan.

    later: flows of a network's further looks; points of the fixed scan go through them before they come to ``shot``.
    """

    shot: ShootingTransform
    world: np.ndarray
    later: tuple[Transform, ...] = ()

    def widths(self, time: int, moving: Geometry) -> Image | None:
        """sigma(x) in mm: on the moving scan's grid (coarsened to about the flow's) at time 0, on the flow's own at 1.

        None where it is the same everywhere (``Constant`` metrics). Beyond the flow's box its border goes on.
        """
        return None if self.shot.pre_weights is None else self._placed(self.shot.sigma_mm(float(time)), time, moving)

    def weights(self, time: int, moving: Geometry) -> Image | None:
        """w_i(x), one channel per Gaussian, placed as ``widths``."""
        return None if self.shot.pre_weights is None else self._placed(self.shot.weights(float(time)), time, moving)

    def _placed(self, values: torch.Tensor, time: int, moving: Geometry) -> Image:
        own = self.shot.geometry
        if time == 1:
            values = values.float().cpu()
            if self.later:
                u = to_voxels(CompositeTransform(self.later).displacement(own), own)
                values = warp(values, u.float(), np.eye(own.ndim, own.ndim + 1), padding="border")
            return Image(values, own)
        grid = moving.coarsened(np.maximum(min(own.spacing_mm) / np.array(moving.spacing_mm), 1.0), 2)
        matrix = index_matrix(grid, own, np.linalg.inv(self.world))
        return Image(
            warp(values.float().cpu(), torch.zeros((1, own.ndim, *grid.shape)), matrix, padding="border"), grid
        )


def flow_of(transform: Transform) -> Flow | None:
    """The flow of a map made by a shooting model; None for every other map.

    Of several flows, one for each look of a network, it is the first found one, next to the moving scan.
    """
    parts = transform.transforms if isinstance(transform, CompositeTransform) else (transform,)
    places = [i for i, part in enumerate(parts) if isinstance(part, ShootingTransform)]
    after = parts[places[-1] + 1 :] if places else ()
    together = places == list(range(len(places)))
    if not places or not together or not all(isinstance(part, AffineTransform) for part in after):
        return None
    world = np.eye(transform.ndim + 1)
    for part in after:
        world = part.homogeneous @ world
    return Flow(parts[places[-1]], world, tuple(parts[: places[-1]]))


def flow_files(result: Result) -> dict[str, Writer]:
    """Name and writer of every file that belongs to the flow of this result; ``config.intermediate`` asks for more."""
    files: dict[str, Writer] = {}
    flow, moving, frames = flow_of(result.transform), result.pair.moving.geometry, result.config.intermediate
    if flow is not None:
        shot = flow.shot
        files["momentum.nii.gz"] = lambda path: write_displacement(shot.momentum, shot.geometry, path)
        if shot.pre_weights is not None:
            for t in (0, 1):
                files[f"sigma_{t}.nii.gz"] = lambda path, t=t: write_image(flow.widths(t, moving), path)
                files[f"weights_{t}.nii.gz"] = lambda path, t=t: _write_channels(flow.weights(t, moving), path)
    if flow is not None or frames:
        for number, (t, geometry, velocity) in enumerate(velocities(result.transform)):
            if number == 0 or frames:
                name = f"velocity_{t:.3g}.nii.gz"
                files[name] = lambda path, v=velocity, g=geometry: write_displacement(v(), g, path)
    for t in frame_times(frames) if frames else ():
        files[f"phi_{t:.3g}.nii.gz"] = lambda path, t=t: _write_map(result, t, path)
    return files


def frame_times(count: int) -> list[float]:
    """``count`` (2 or more) times from 0 to 1, both included."""
    return [k / (count - 1) for k in range(count)]


def velocities(transform: Transform) -> Iterator[tuple[float, Geometry, Callable[[], torch.Tensor]]]:
    """(time, grid, maker of the field in mm LPS per unit time) of every velocity that the map keeps, first to last.

    Of several flows of momenta those of the one that ``flow_of`` finds.
    """
    flow = flow_of(transform)
    parts = transform.transforms if isinstance(transform, CompositeTransform) else (transform,)
    for part in parts if flow is None else (flow.shot,):
        if isinstance(part, ShootingTransform):
            nodes = [0] if part.metric.stationary else range(part.path.steps + 1)
            for k in nodes:
                yield k / part.path.steps, part.geometry, lambda p=part, t=k / part.path.steps: p.velocity(t)
        elif isinstance(part, SVFTransform):
            yield 0.0, part.geometry, lambda p=part: p.velocity
        elif isinstance(part, TVFTransform):
            count = len(part.velocities)
            for k, v in enumerate(part.velocities):
                yield k / count, part.geometry, lambda v=v, n=count: v * float(n)


def flow_summary(transform: Transform) -> dict | None:
    """What ``result.json`` says about a shooting transform: energy and its drift, time steps, grid, kernel widths in mm."""
    flow = flow_of(transform)
    if flow is None:
        return None
    shot = flow.shot
    nodes = [0.0] if shot.metric.stationary else [k / shot.path.steps for k in range(shot.path.steps + 1)]
    energies = [shot.energy(t) for t in nodes]
    sigma = shot.sigma_mm(0.0)
    return {
        "energy": energies[0],
        "energy_drift": max(abs(e / energies[0] - 1) for e in energies) if energies[0] else 0.0,
        "steps": shot.path.steps,
        "size": list(shot.geometry.size),
        "spacing_mm": list(shot.geometry.spacing_mm),
        "sigma_mm": [float(sigma.min()), float(sigma.max())],
    }


def belongs(name: str) -> bool:
    """Whether a file of this name is one of those above."""
    return any(fnmatchcase(name, pattern) for pattern in PATTERNS)


def _write_map(result: Result, time: float, path: Path) -> None:
    grid = result.pair.fixed.geometry
    write_displacement(result.transform.at(time).displacement(grid), grid, path)


def _write_channels(image: Image, path: Path) -> None:
    with write_aside(path) as aside:
        write_nifti(aside, image.tensor[0].numpy(), image.geometry, intent=VECTOR_INTENT)
