"""What the map does at one point, as numbers and as a line of text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .grids import determinants_at
from .maps import follow, grid_spacing_mm

LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True)
class Reading:
    """vector_ras: from the point of the fixed space to the one that the map takes its value from, mm."""

    displacement_mm: float
    vector_ras: tuple[float, float, float]
    moving_ras: tuple[float, float, float]
    jacobian: float

    @property
    def folded(self) -> bool:
        """Whether the map is turned inside out here."""
        return self.jacobian <= 0

    @property
    def text(self) -> str:
        """For example ``displacement 4.2 mm (1.0 R, 2.1 P, 3.5 S), Jacobian 0.87``."""
        parts = [f"{abs(v):.1f} {ends[0] if v >= 0 else ends[1]}" for v, ends in zip(self.vector_ras, LETTERS)]
        folded = " (folded)" if self.folded else ""
        return f"displacement {self.displacement_mm:.1f} mm ({', '.join(parts)}), Jacobian {self.jacobian:.2f}{folded}"


def readout(transform, ras) -> Reading:
    """Displacement phi(x) - x and determinant of its derivative at a RAS point, from an output transform node.

    The derivative is a central difference over one voxel of the map's grid to each side, as in the Jacobian volume.
    """
    point = np.asarray(ras, dtype=float)
    there = follow(transform, point)[0]
    vector = there - point
    jacobian = float(determinants_at(transform, point, grid_spacing_mm(transform))[0])
    return Reading(float(np.linalg.norm(vector)), tuple(vector.tolist()), tuple(there.tolist()), jacobian)
