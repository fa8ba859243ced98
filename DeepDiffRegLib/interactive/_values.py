"""The values of the protocol: scans, maps, prompts, commands, events. Plain data, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..geometry.grid import Geometry

Kind = Literal["intensity", "labels", "mask"]
DTYPES: dict[str, np.dtype] = {
    "intensity": np.dtype("<f4"),
    "mask": np.dtype("<f4"),
    "labels": np.dtype("<i4"),
}
"""Number type in which each kind of scan travels."""
STIFFNESS = ("stiff", "soft")


class MessageError(InputError):
    """A message that does not follow the protocol."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume. array: (Z, Y, X), any real number type (whole numbers for labels); it is not copied and not changed."""

    array: np.ndarray
    geometry: Geometry
    kind: Kind = "intensity"
    name: str = ""

    def __post_init__(self):
        what = f"Scan {self.name!r}" if self.name else "Scan"
        if self.kind not in DTYPES:
            raise InputError(f"{what}: kind must be one of {', '.join(DTYPES)}, got {self.kind!r}")
        if self.geometry.ndim != 3 or min(self.geometry.size) < 2:
            raise InputError(f"{what}: a volume with at least 2 voxels per axis is needed, got {self.geometry.size}")
        if not isinstance(self.array, np.ndarray) or self.array.shape != self.geometry.shape:
            got = getattr(self.array, "shape", type(self.array).__name__)
            raise InputError(f"{what}: expected an array of shape {self.geometry.shape} (Z, Y, X), got {got}")
        allowed = "biu" if self.kind == "labels" else "biuf"
        if self.array.dtype.kind not in allowed:
            raise InputError(f"{what}: {self.kind} cannot be made from numbers of type {self.array.dtype}")


@dataclass(frozen=True, eq=False)
class Map:
    """fixed_to_moving: phi(x) = world @ (x + u(x)), mm, LPS; u is linear between the voxels and zero beyond the grid.

    world: (4, 4) homogeneous. displacement: u, (3, Z, Y, X) float32, components x, y, z, on ``geometry``; None: u = 0.
    The inverse of a registration has the same form, moving_to_fixed.
    """

    world: np.ndarray
    displacement: np.ndarray | None = None
    geometry: Geometry | None = None

    def __post_init__(self):
        world = np.array(self.world, dtype=float)
        object.__setattr__(self, "world", world)
        if world.shape != (4, 4) or not np.isfinite(world).all() or not np.allclose(world[3], (0, 0, 0, 1)):
            raise InputError(f"Map: world must be a finite homogeneous (4, 4) matrix, got {world.tolist()}")
        if abs(np.linalg.det(world[:3, :3])) < 1e-6:
            raise InputError("Map: the matrix of world cannot be inverted")
        if (self.displacement is None) != (self.geometry is None):
            raise InputError("Map: displacement and geometry come together")
        if self.displacement is not None and self.displacement.shape != (3, *self.geometry.shape):
            raise InputError(
                f"Map: displacement must have shape {(3, *self.geometry.shape)}, got {self.displacement.shape}"
            )

    def every(self, n: int) -> Map:
        """The map with every ``n``-th voxel of its displacement along each axis, from the first on; shares the voxels."""
        if self.displacement is None or n == 1:
            return self
        own = self.geometry
        size, spacing = tuple(-(-k // n) for k in own.size), tuple(n * s for s in own.spacing_mm)
        geometry = Geometry(size, spacing, own.origin_mm, own.direction)
        return Map(self.world, self.displacement[:, ::n, ::n, ::n], geometry)


@dataclass(frozen=True)
class LandmarkPair:
    """The same point of the anatomy in both scans, mm LPS. sd_mm: how far a click may be off."""

    label: str
    fixed_mm: tuple[float, float, float]
    moving_mm: tuple[float, float, float]
    enabled: bool = True
    sd_mm: float = 1.0

    def __post_init__(self):
        for name in ("fixed_mm", "moving_mm"):
            point = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, point)
            if len(point) != 3 or not all(map(math.isfinite, point)):
                raise InputError(f"landmark {self.label!r}: {name} must be three finite numbers, got {point}")
        if not (math.isfinite(self.sd_mm) and self.sd_mm > 0):
            raise InputError(f"landmark {self.label!r}: sd_mm must be positive, got {self.sd_mm}")


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Everything the user says about the pair. label_pairs: (value in fixed, value in moving, weight).

    stiffness: ``stiff`` or ``soft`` per value of ``stiffness_labels``, a label map of the moving scan, for transform models
    with a metric that varies in space.
    """

    landmarks: tuple[LandmarkPair, ...] = ()
    fixed_labels: Scan | None = None
    moving_labels: Scan | None = None
    label_pairs: tuple[tuple[int, int, float], ...] = ()
    fixed_mask: Scan | None = None
    moving_mask: Scan | None = None
    stiffness: Mapping[int, str] = field(default_factory=dict)
    stiffness_labels: Scan | None = None

    def __post_init__(self):
        object.__setattr__(self, "landmarks", tuple(self.landmarks))
        pairs = tuple((int(f), int(m), float(w)) for f, m, w in self.label_pairs)
        object.__setattr__(self, "label_pairs", pairs)
        object.__setattr__(self, "stiffness", {int(k): str(v) for k, v in self.stiffness.items()})
        for name in ("fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "stiffness_labels"):
            scan, wanted = getattr(self, name), name.split("_")[1]
            if scan is not None and scan.kind != wanted:
                raise InputError(f"PromptSet: {name} must be a Scan of kind {wanted!r}, got {scan.kind!r}")
        if any(not math.isfinite(w) or w < 0 for _, _, w in pairs):
            raise InputError("PromptSet: weights of label pairs must be finite and not negative")
        wrong = sorted(set(self.stiffness.values()) - set(STIFFNESS))
        if wrong:
            raise InputError(f"PromptSet: stiffness must be one of {', '.join(STIFFNESS)}, got {wrong[0]!r}")

    @property
    def summary(self) -> dict[str, Any]:
        """Plain values for a list of steps: how many landmarks, which label pairs, which masks."""
        return {
            "landmarks": sum(pair.enabled for pair in self.landmarks),
            "label_pairs": [list(pair) for pair in self.label_pairs],
            "masks": [name for name in ("fixed", "moving") if getattr(self, f"{name}_mask") is not None],
            "stiffness": {str(k): v for k, v in self.stiffness.items()},
        }


@dataclass(frozen=True, eq=False)
class Event:
    """Something the worker tells. generation: number of the command that it belongs to. data: see ``EVENTS``."""

    kind: str
    generation: int
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Command:
    """Something the front end asks for. data: see ``COMMANDS``."""

    name: str
    generation: int
    data: dict[str, Any] = field(default_factory=dict)
