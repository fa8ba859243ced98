"""Refinement of a predicted velocity under the belief that came with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..geometry.grid import Geometry
from ..geometry.smoothing import gaussian
from ..transforms.model import Push, pin_faces
from ..transforms.svf import SVFModel
from ._belief import LevelPrior, VelocityPrior


class PriorSVFModel(SVFModel):
    """An SVF that descends scans + prior (``VelocityPrior``): where the network was unsure, the velocity moves first.

    Each step of the scans is followed by the exact minimum of the distance term around it, weighed by the length of that voxel's
    step. At rest the force of the scans, seen through the Gaussian of sigma_gradient_voxels, is in balance with the prior;
    without variance nothing moves, with an infinite one this is ``SVFModel``. sigma_warp_voxels smooths what is added to the mean.
    """

    def __init__(self, prior: VelocityPrior, **options):
        super().__init__(**options)
        self._prior = prior
        self._held: LevelPrior | None = None

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        """Only what was added to the mean is resampled; the mean comes from the prediction on every level."""
        if self._u is not None:
            held = self._held or self._prior.on(self.geometry, device, self.pinned)
            self._u = self._u - held.mean
        self._held = self._prior.on(geometry, device, self.pinned)
        super().enter(geometry, device)
        self._u = self._u + self._held.mean

    def energy(self) -> dict[str, float]:
        distance, smoothness = self._held.distance(self._u)[0], self._held.smoothness(self._u)[0]
        return {"posterior": distance, "smoothness": smoothness} if self._held.roughness else {"posterior": distance}

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        slope = self._held.smoothness(self._u)[1]
        if slope is not None:
            force.add_(slope)
        added = self._u.add_(self.move(force, apart)).sub_(self._held.mean)
        gaussian(added, self.sigma_warp, out=added)
        self._held.drawn(added.add_(self._held.mean), self._adam.scale().reciprocal_().mul_(self.rate))
        pin_faces(self._u, self.pinned)
        self._exponential = None
