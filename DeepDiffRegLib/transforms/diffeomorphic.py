"""Composed small deformations: phi <- phi o (Id + d), Adam directions kept in the Lie algebra.

Each step is smooth and short (``learning_rate`` voxels at most, so |Dd| < 1), hence invertible, and so is their
composition. Update: Jena et al., FireANTs, 2024; greedy composition: Avants et al., MedIA 2008.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..geometry.grid import Geometry
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import compose
from .displacement import DisplacementModel
from .model import Push, pin_faces


class DiffeomorphicModel(DisplacementModel):
    """A displacement per voxel, updated by composition. Options as in ``DisplacementModel``."""

    derivative = "warped"

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        super().enter(geometry, device)
        self._spare: torch.Tensor | None = None

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        self._spare = compose(self._u, self.move(force, apart), out=self._spare)
        gaussian(self._spare, self.sigma_warp, out=self._u)
        pin_faces(self._u, self.pinned)
