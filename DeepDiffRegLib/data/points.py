"""Points in the world and landmark pairs (mm, LPS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Points:
    """Named points. positions_mm: (N, d) float64, LPS; names: N labels (generated when absent)."""

    positions_mm: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self):
        positions = np.atleast_2d(np.asarray(self.positions_mm, dtype=np.float64))
        object.__setattr__(self, "positions_mm", positions)
        object.__setattr__(self, "names", tuple(self.names) or tuple(str(i + 1) for i in range(len(positions))))
        if len(self.names) != len(positions):
            raise InputError(f"Points: {len(positions)} positions but {len(self.names)} names")
        if not np.isfinite(positions).all():
            raise InputError("Points: positions must be finite")

    def __len__(self) -> int:
        return len(self.positions_mm)


@dataclass(frozen=True)
class Landmarks:
    """Corresponding points: row i of ``fixed`` and row i of ``moving`` mark the same anatomy.

    sd_mm: how far a click may be off (1 mm each by default); residuals are divided by it.
    """

    fixed: Points
    moving: Points
    sd_mm: float = 1.0

    def __post_init__(self):
        if len(self.fixed) != len(self.moving):
            raise InputError(
                f"Landmarks: {len(self.fixed)} fixed but {len(self.moving)} moving points; every landmark needs its partner"
            )

    def __len__(self) -> int:
        return len(self.fixed)

    @property
    def distances_mm(self) -> np.ndarray:
        """(N,) distances before registration."""
        return np.linalg.norm(self.fixed.positions_mm - self.moving.positions_mm, axis=1)
