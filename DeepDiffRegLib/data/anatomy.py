"""Invented anatomies as analytic functions of position: organs with soft edges, vessels, texture.

Coordinates are fractions of the half field of view, patient axes LPS: x to the left, y to the back, z to the head, each
from -1 to 1. Everything is asymmetric, so that a mirrored scan is a different scan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

EDGE = 0.018
"""Half width of an organ's soft edge."""
JITTER = 0.025
"""How much centers and radii vary between invented people."""


@dataclass(frozen=True)
class Organ:
    """A superellipsoid ``sum |q|**power <= 1``, power 2, 3 or 4. label: 0 when it is not a structure of its own. tilt: degrees about z.

    texture: relative amplitude of the fine pattern. rings: bright bands along z (vertebrae). vessels: branches inside.
    """

    name: str
    label: int
    value: float
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: float = 0.0
    power: int = 2
    texture: float = 0.06
    rings: float = 0.0
    vessels: float = 0.0


TORSO = (
    Organ("skin and fat", 1, 0.28, (0.0, 0.02, 0.0), (0.74, 0.63, 0.84), power=3, texture=0.10),
    Organ("muscle", 2, 0.52, (0.0, 0.03, 0.0), (0.67, 0.56, 0.79), power=3, texture=0.10),
    Organ("cavity", 0, 0.40, (0.0, -0.02, 0.0), (0.58, 0.45, 0.73), power=3, texture=0.16),
    Organ("right lung", 3, 0.07, (-0.27, -0.02, 0.50), (0.24, 0.33, 0.31), 8, texture=0.5, vessels=0.40),
    Organ("left lung", 4, 0.07, (0.33, 0.04, 0.53), (0.19, 0.30, 0.27), -12, texture=0.5, vessels=0.40),
    Organ("heart", 5, 0.62, (0.09, -0.15, 0.42), (0.17, 0.18, 0.19), 35),
    Organ("blood in the heart", 0, 0.84, (0.11, -0.14, 0.40), (0.09, 0.10, 0.11), 35, texture=0.02),
    Organ("liver", 6, 0.66, (-0.27, -0.06, 0.00), (0.26, 0.32, 0.26), -20, vessels=0.22),
    Organ("left liver lobe", 6, 0.66, (-0.05, -0.24, 0.05), (0.24, 0.12, 0.15), -14),
    Organ("gall bladder", 0, 0.33, (-0.17, -0.22, -0.13), (0.065, 0.10, 0.09), 25, texture=0.02),
    Organ("stomach", 7, 0.58, (0.24, -0.20, 0.06), (0.23, 0.13, 0.19), 38, texture=0.03),
    Organ("stomach filling", 0, 0.22, (0.26, -0.21, 0.08), (0.16, 0.07, 0.13), 38, texture=0.05),
    Organ("spleen", 8, 0.74, (0.42, 0.17, 0.06), (0.10, 0.18, 0.17), -25, vessels=0.10),
    Organ("right kidney", 9, 0.80, (-0.29, 0.28, -0.20), (0.11, 0.14, 0.20), -28, texture=0.04),
    Organ("right renal pelvis", 0, 0.47, (-0.265, 0.265, -0.20), (0.05, 0.06, 0.11), -28, texture=0.04),
    Organ("left kidney", 10, 0.80, (0.27, 0.30, -0.08), (0.10, 0.13, 0.19), 24, texture=0.04),
    Organ("left renal pelvis", 0, 0.47, (0.25, 0.285, -0.08), (0.045, 0.055, 0.10), 24, texture=0.04),
    Organ("bowel", 0, 0.50, (0.20, -0.18, -0.33), (0.20, 0.11, 0.11), 20, texture=0.25),
    Organ("bowel gas", 0, 0.12, (0.13, -0.24, -0.33), (0.09, 0.05, 0.07), 10),
    Organ("colon", 0, 0.45, (-0.33, -0.12, -0.42), (0.12, 0.14, 0.20), 0, texture=0.30),
    Organ("bladder", 11, 0.30, (-0.03, -0.12, -0.58), (0.17, 0.13, 0.11), 0, texture=0.02),
    Organ("aorta", 12, 0.90, (0.055, 0.16, 0.0), (0.055, 0.052, 0.74), power=3, texture=0.02),
    Organ("vena cava", 0, 0.77, (-0.085, 0.15, 0.0), (0.062, 0.042, 0.70), 20, power=3, texture=0.02),
    Organ("spine", 13, 0.97, (0.0, 0.31, 0.0), (0.12, 0.10, 0.68), power=4, texture=0.10, rings=0.38),
    Organ("spinal canal", 0, 0.36, (0.0, 0.43, 0.0), (0.05, 0.045, 0.68), power=4, texture=0.02),
    Organ("spinous process", 0, 0.90, (0.0, 0.50, 0.0), (0.025, 0.05, 0.60), power=4, rings=0.5),
    Organ("lesion", 0, 0.43, (-0.36, 0.06, 0.06), (0.055, 0.05, 0.06), 10, texture=0.02),
)

HEAD = (
    Organ("scalp", 1, 0.62, (0.0, 0.0, 0.0), (0.58, 0.70, 0.68), texture=0.10),
    Organ("skull", 2, 0.08, (0.0, 0.01, 0.02), (0.535, 0.655, 0.63), texture=0.05),
    Organ("fluid", 3, 0.24, (0.0, 0.01, 0.03), (0.485, 0.605, 0.575), texture=0.03),
    Organ("right hemisphere", 4, 0.55, (-0.225, 0.0, 0.07), (0.228, 0.56, 0.50), 3, texture=0.32),
    Organ("left hemisphere", 5, 0.55, (0.235, 0.03, 0.07), (0.218, 0.54, 0.49), -2, texture=0.32),
    Organ("right white matter", 6, 0.86, (-0.20, 0.0, 0.07), (0.135, 0.41, 0.33), 4, texture=0.10),
    Organ("left white matter", 7, 0.86, (0.205, 0.04, 0.07), (0.125, 0.39, 0.32), -3, texture=0.10),
    Organ("right ventricle", 8, 0.20, (-0.075, -0.02, 0.10), (0.055, 0.24, 0.09), 9, texture=0.02),
    Organ("left ventricle", 9, 0.20, (0.080, 0.03, 0.10), (0.042, 0.20, 0.08), -12, texture=0.02),
    Organ("right basal nuclei", 10, 0.52, (-0.19, -0.08, 0.02), (0.06, 0.12, 0.09), 20),
    Organ("left basal nuclei", 11, 0.52, (0.18, -0.05, 0.02), (0.055, 0.11, 0.09), -20),
    Organ("cerebellum", 12, 0.60, (0.03, 0.36, -0.38), (0.32, 0.20, 0.16), 5, texture=0.30),
    Organ("brain stem", 13, 0.76, (0.0, 0.10, -0.40), (0.09, 0.11, 0.26), power=4),
    Organ("lesion", 0, 0.98, (0.27, -0.22, 0.16), (0.08, 0.07, 0.08), texture=0.20),
    Organ("left eye", 0, 0.30, (0.22, -0.56, -0.22), (0.11, 0.11, 0.11), texture=0.02),
    Organ("right eye", 0, 0.30, (-0.22, -0.56, -0.22), (0.11, 0.11, 0.11), texture=0.02),
)
ANATOMIES = {"torso": TORSO, "head": HEAD}
LANDMARK_ORGANS = {
    "torso": (
        "liver",
        "stomach",
        "spleen",
        "right kidney",
        "left kidney",
        "aorta",
        "spine",
        "heart",
        "bladder",
        "lesion",
    ),
    "head": (
        "right hemisphere",
        "left hemisphere",
        "right ventricle",
        "left ventricle",
        "right basal nuclei",
        "left basal nuclei",
        "cerebellum",
        "brain stem",
        "left eye",
        "right eye",
        "lesion",
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """One invented person: jittered organs, vessel branches and texture waves, all drawn from ``seed``."""

    organs: tuple[Organ, ...]
    waves: np.ndarray
    phases: np.ndarray
    branches: np.ndarray = field(repr=False)

    @classmethod
    def draw(cls, name: str, seed: int) -> Anatomy:
        rng = np.random.default_rng([seed, len(name)])
        organs = tuple(_jittered(organ, rng) for organ in ANATOMIES[name])
        directions = rng.normal(size=(8, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * rng.uniform(14.0, 48.0, (8, 1))
        return cls(organs, waves.astype(np.float32), rng.uniform(0, 6.28, 8).astype(np.float32), _tree(rng))

    def values_and_labels(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise-free intensity in [0, 1] (float32) and structure (uint8) at (N, 3) points.

        Details without a label of their own belong to the structure around them.
        """
        p = np.ascontiguousarray(points.T, dtype=np.float32)
        values, labels = np.zeros(p.shape[1], np.float32), np.zeros(p.shape[1], np.uint8)
        texture = None
        for organ in self.organs:
            inside, distance = _distance(organ, p)
            if inside.size == 0:
                continue
            texture = self._texture(p) if texture is None else texture
            cover = np.clip(0.5 + distance / np.float32(2 * EDGE), 0, 1)
            values[inside] += cover * (self._paint(organ, p[:, inside], texture[inside]) - values[inside])
            if organ.label:
                labels[inside[distance > 0]] = organ.label
        return values, labels

    def organ(self, name: str) -> Organ:
        return next(organ for organ in self.organs if organ.name == name)

    def _texture(self, p: np.ndarray) -> np.ndarray:
        # Waves bent by a slower wave look like tissue; straight ones look like a test pattern.
        bend = np.float32(1.6) * np.sin(np.float32(0.6) * self.waves[0] @ p)
        total = np.zeros(p.shape[1], np.float32)
        for i, (wave, phase) in enumerate(zip(self.waves[1:], self.phases[1:])):
            total += np.sin(wave @ p + (phase + bend if i % 2 else phase - bend))
        return total / np.float32(2.0)

    def _paint(self, organ: Organ, p: np.ndarray, texture: np.ndarray) -> np.ndarray:
        paint = organ.value * (1 + organ.texture * texture)
        if organ.rings:
            paint *= 1 - organ.rings * np.clip(np.cos(38 * p[2] + 0.6) * 2.5 - 0.9, 0, 1)
        if organ.name == "muscle":
            paint += _ribs(organ, p)
        if organ.vessels:
            paint += organ.vessels * self._vessels(organ, p)
        return paint

    def _vessels(self, organ: Organ, p: np.ndarray) -> np.ndarray:
        q = (p - np.float32(organ.center)[:, None]) / np.float32(organ.radii)[:, None]
        cover = np.zeros(p.shape[1], np.float32)
        soft = np.float32(0.03)
        for start, along, radius in zip(self.branches[:, :3], self.branches[:, 3:6], self.branches[:, 6]):
            reach = np.linalg.norm(along) / 2 + radius + soft
            index = np.flatnonzero((np.abs(q - (start + along / 2)[:, None]) < reach).all(0))
            away = q[:, index] - start[:, None]
            t = np.clip(along @ away / (along @ along), 0, 1)
            gap = np.sqrt(np.square(away - along[:, None] * t).sum(0))
            cover[index] = np.maximum(cover[index], np.clip((radius - gap) / (2 * soft) + np.float32(0.5), 0, 1))
        return cover


def _jittered(organ: Organ, rng: np.random.Generator) -> Organ:
    shift, stretch = rng.uniform(-1, 1, 3) * JITTER / 2, 1 + rng.uniform(-1, 1, 3) * JITTER
    outer = organ.power > 2 or organ.name in ("scalp", "skull", "fluid")
    center = organ.center if outer else tuple(np.array(organ.center) + shift)
    return replace(organ, center=center, radii=tuple(np.array(organ.radii) * (1 if outer else stretch)))


def _tree(rng: np.random.Generator) -> np.ndarray:
    """Branches (start, direction, radius) of a vessel tree inside the unit ball, as rows of 7."""
    rows: list[np.ndarray] = []
    root = np.array([0.8, 0.55, -0.15])
    ends = [(root, np.array([-0.62, -0.5, rise]), 0.085) for rise in (-0.45, 0.05, 0.5)]
    for _ in range(4):
        grown = []
        for start, along, radius in ends:
            rows.append(np.concatenate([start, along, [radius]]))
            for sign in (-1, 1):
                turned = _turn(along, sign * rng.uniform(0.35, 0.75)) + rng.normal(0, 0.05, 3)
                grown.append((start + along, turned * 0.72, radius * 0.8))
        ends = grown
    return np.array(rows, dtype=np.float32)


def _turn(vector: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1], vector[2]])


def _distance(organ: Organ, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the (3, N) points within the soft edge of the organ, and their rough signed distance (inside > 0)."""
    reach = np.float32(max(organ.radii[:2]) * 1.2 + EDGE)
    near = (np.abs(p[0] - np.float32(organ.center[0])) < reach) & (np.abs(p[1] - np.float32(organ.center[1])) < reach)
    near &= np.abs(p[2] - np.float32(organ.center[2])) < np.float32(organ.radii[2] * 1.1 + EDGE)
    index = np.flatnonzero(near)
    q = p[:, index] - np.float32(organ.center)[:, None]
    angle = np.deg2rad(organ.tilt)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    q = np.stack([c * q[0] + s * q[1], c * q[1] - s * q[0], q[2]]) / np.float32(organ.radii)[:, None]
    np.abs(q, out=q)
    norm = _norm(q, organ.power)
    distance = (1 - norm) * np.float32(min(organ.radii))
    keep = distance > -EDGE
    return index[keep], distance[keep]


def _norm(q: np.ndarray, power: int) -> np.ndarray:
    square = q * q
    if power == 2:
        return np.sqrt(square.sum(0))
    return np.cbrt((square * q).sum(0)) if power == 3 else np.sqrt(np.sqrt((square * square).sum(0)))


def _ribs(organ: Organ, p: np.ndarray) -> np.ndarray:
    """Bright oblique bands in a shell (the ribs in the chest wall)."""
    q = (p - np.float32(organ.center)[:, None]) / np.float32(organ.radii)[:, None]
    radius = np.cbrt((np.abs(q[:2]) ** 3).sum(0))
    shell = np.clip(1 - np.abs(radius - 0.925) / 0.055, 0, 1)
    turn = np.arctan2(q[0], -q[1])
    bands = np.clip(2.4 * np.cos(26 * p[2] + 5 * np.abs(turn) + 0.7 * turn) - 0.4, 0, 1)
    upper = np.clip((p[2] + 0.22) / 0.1, 0, 1)
    return 0.42 * shell * bands * upper


def poles(organ: Organ, flat: bool) -> Iterable[tuple[str, np.ndarray]]:
    """Points a reader can find again: the center and two ends of the organ (in the plane of a 2-D slice when ``flat``)."""
    angle = np.deg2rad(organ.tilt)
    axis = np.array([-np.sin(angle), np.cos(angle), 0.0]) * organ.radii[1]
    yield "center", np.array(organ.center)
    yield "back", np.array(organ.center) + axis
    if not flat and organ.power == 2:
        yield "top", np.array(organ.center) + np.array([0.0, 0.0, organ.radii[2]])
