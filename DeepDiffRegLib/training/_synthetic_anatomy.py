"""Invented anatomies as label maps: brains with folded cortex, chests, heaps of organs, cells. Lengths in mm.

Each is an implicit function of position on a randomly placed, turned and bent patch; later structures are painted over earlier
ones. ``NATURAL`` tables give intensities that a common scanner might show; most generated scans use others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ._synthetic_fields import Source, noise, waves


@dataclass
class Anatomy:
    """labels: (*shape) int32, 0 is outside. natural: an intensity in [0, 1] for each label, from 0 on. count: labels in use."""

    labels: torch.Tensor
    natural: list[float]

    @property
    def count(self) -> int:
        return len(self.natural)


class Canvas:
    """Positions p (3, *shape) in mm, and label after label on it. voxel_mm: edge of a voxel."""

    def __init__(self, source: Source, shape: tuple[int, ...], voxel_mm: float, reach_mm: tuple[float, ...]):
        self.source, self.shape, self.voxel_mm = source, shape, voxel_mm
        self.p = _positions(source, shape, voxel_mm, reach_mm)
        self.labels = torch.zeros(shape, dtype=torch.int32, device=source.device)
        self.natural = [0.0]

    def noise(self, cell_mm: float, channels: int = 1) -> torch.Tensor:
        return noise(self.source, self.shape, max(cell_mm / self.voxel_mm, 1.0), channels)

    def waves(self, cell_mm: float) -> torch.Tensor:
        return waves(self.source, self.shape, max(cell_mm / self.voxel_mm, 1.0))

    def paint(self, where: torch.Tensor, natural: float, label: int | None = None) -> int:
        """A new label (or one that exists) at the True voxels; returns it."""
        if label is None:
            label = len(self.natural)
            self.natural.append(natural)
        self.labels.masked_fill_(where, label)
        return label

    def depth(self, center, radii, power: float = 2.0, turn: np.ndarray | None = None) -> torch.Tensor:
        """Rough distance in mm to the surface of a superellipsoid, positive inside."""
        q = self.p - _column(center, self.p)
        if turn is not None:
            q = torch.tensordot(torch.as_tensor(turn, dtype=q.dtype, device=q.device), q, dims=1)
        q = q / _column(radii, q)
        norm = q.square().sum(0).sqrt_() if power == 2 else q.abs_().pow_(power).sum(0).pow_(1 / power)
        return (1 - norm) * float(np.min(radii))

    def finished(self) -> Anatomy:
        return Anatomy(self.labels, self.natural)


def _column(values, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=like.dtype, device=like.device).reshape(
        -1, *(1,) * (like.ndim - 1)
    )


def _positions(source: Source, shape: tuple[int, ...], voxel_mm: float, reach_mm: tuple[float, ...]) -> torch.Tensor:
    """Positions (3, *shape) of a patch somewhere within ``reach_mm`` of the middle; a 2-D patch is a slice."""
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * voxel_mm for n in shape]
    axes = [torch.zeros(1)] * (3 - len(shape)) + axes
    order = source.rng.permutation(3)
    turn = (rotation(source, 0.35) @ np.eye(3)[order]) * source.rng.choice([-1, 1], 3)
    extents = np.array([len(a) for a in axes][::-1]) * voxel_mm / 2
    room = np.maximum(np.array(reach_mm) - 0.5 * np.abs(turn) @ extents, 0.08 * np.array(reach_mm))
    center = source.vector(-room, room)
    z, y, x = (a.to(source.device).reshape([-1 if i == j else 1 for j in range(3)]) for i, a in enumerate(axes))
    parts = [center[i] + turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z for i in range(3)]
    p = torch.stack([part.float().reshape(shape) for part in parts])
    return p + source.uniform(1.5, 5.0) * noise(source, shape, source.uniform(22, 45) / voxel_mm, 3)


def rotation(source: Source, most: float) -> np.ndarray:
    """A rotation by at most ``most`` radians about each axis in turn."""
    out = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = source.uniform(-most, most)
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def brain(source: Source, shape: tuple[int, ...], voxel_mm: float) -> Anatomy:
    """Folded ribbon around a core, ventricles, nuclei, cerebellum and stem; with skull and skin in some."""
    size = source.uniform(0.8, 1.1)
    radii = size * source.vector([60, 78, 56], [70, 88, 66])
    c = Canvas(source, shape, voxel_mm, tuple(radii))
    depth = c.depth((0, 0, 0), radii, 2.3)
    if source.chance(0.4):
        scalp, bone = source.uniform(8, 14), source.uniform(4, 7)
        c.paint(depth > -scalp, 0.75)
        c.paint(depth > -bone, 0.06)
    fluid = c.paint(depth > 0, 0.18)
    if source.chance(0.5):
        c.natural[fluid] = 0.0  # stripped of skull and fluid
    below = _below_cortex(c, depth)
    fissure = (c.p[0].abs() < source.uniform(0.8, 2.0)) & (c.p[2] > -10)
    brain_ = (below > source.uniform(0.4, 1.2)) & ~fissure
    thickness = source.uniform(3.0, 5.0)
    gray = c.paint(brain_, 0.55)
    white = c.paint(brain_ & (below > thickness), 0.88)
    if source.chance(0.5):  # parcels, which no contrast tells apart
        _parcels(c, gray, source.whole(3, 8))
    lower = size * np.array([0, 38, -44])
    cerebellum = c.depth(lower, size * np.array([46, 27, 23]))
    c.paint(cerebellum > -1.5, c.natural[fluid], fluid)
    c.paint(cerebellum > 0, 0.57)
    c.paint((cerebellum - 4 - 3 * c.waves(3.0)) > 2, 0.82)
    stem = c.depth(size * np.array([0, 14, -48]), size * np.array([12, 13, 34]), 3)
    c.paint(stem > 0, 0.80, white if source.chance(0.5) else None)
    _deep_structures(c, size, fluid)
    return c.finished()


def _below_cortex(c: Canvas, depth: torch.Tensor) -> torch.Tensor:
    """Rough distance in mm to the folded surface: the hull, and sheets that go down from it where a wavy field changes its sign."""
    cell = c.source.uniform(6.0, 9.0)
    sheet = 0.5 * cell * c.waves(cell)
    bottom = (depth - c.source.uniform(14, 26) - 3 * c.noise(15)[0]).clamp(min=0)
    return torch.minimum(depth, torch.hypot(sheet, bottom))


def _parcels(c: Canvas, label: int, count: int) -> None:
    """Split one label into ``count`` territories of the same natural intensity."""
    territory = c.noise(25, count).argmax(0)
    inside = c.labels == label
    for number in range(1, count):
        c.paint(inside & (territory == number), c.natural[label])


def _deep_structures(c: Canvas, size: float, fluid: int) -> None:
    source, wide = c.source, c.source.uniform(0.5, 1.5)
    for side in (-1, 1):
        nuclei = (
            ((26, -4, 2), (8, 20, 12), 0.62),
            ((12, 16, 2), (9, 14, 10), 0.68),
            ((15, -12, 10), (5, 16, 10), 0.58),
        )
        for center, radii, value in nuclei:
            jitter = source.vector(-2, 2)
            at = size * (np.array(center) * [side, 1, 1] + jitter)
            c.paint(c.depth(at, size * np.array(radii), 2, rotation(source, 0.25)) > 0, value)
        bend = side * (9 + 0.006 * (c.p[1] - 5).square())
        tube = ((c.p[0] - size * bend) / (5 * wide)).square() + ((c.p[2] - size * 14) / (8 * wide)).square()
        tube = tube + ((c.p[1] - size * 5) / (36 * size)).square()
        c.paint(tube < 1, 0.1, fluid if c.natural[fluid] > 0 else None)
    third = c.depth(size * np.array([0, 8, 0]), size * np.array([2.5, 13, 12]))
    c.paint(third > 0, 0.1, fluid if c.natural[fluid] > 0 else None)


def chest(source: Source, shape: tuple[int, ...], voxel_mm: float) -> Anatomy:
    """Wall with ribs and spine, lungs with vessels, heart, great vessels, and what lies below the diaphragm."""
    s = source.uniform(0.75, 1.1)
    c = Canvas(source, shape, voxel_mm, tuple(s * np.array([150, 110, 130])))
    outside = np.array([1, 1, 8.0])
    body = c.depth((0, 0, 0), s * np.array([170, 120, 170]) * outside, 3)
    fat, muscle = s * source.uniform(5, 20), s * source.uniform(10, 18)
    c.paint(body > 0, 0.33)
    c.paint(body > fat, 0.52)
    inner = body - fat - muscle
    angle = torch.atan2(c.p[0], -c.p[1])
    bands = torch.sin(c.p[2] * (0.23 / s) + 3 * angle.abs())
    c.paint((inner > -0.75 * muscle) & (inner < -0.15 * muscle) & (bands > 0.45), 0.9)
    c.paint(inner > 0, 0.45)
    dome = c.p[2] + s * (45 + 25 * ((c.p[0].abs() / s - 75) / 60).square()) + 3 * c.noise(40)[0]
    for side in (-1, 1):
        lung = c.depth(s * np.array([78 * side, -2, 30]), s * np.array([62, 92, 130]), 2.5)
        inside = (lung > 0) & (dome > 0) & (inner > 2)
        c.paint(inside, 0.10)
        width = source.uniform(0.12, 0.30)
        tree = c.noise(s * source.uniform(10, 20), 2).square().sum(0)
        c.paint(inside & (tree < width**2), 0.5)
    c.paint(c.depth(s * np.array([18, -32, 5]), s * np.array([55, 45, 52]), 2, rotation(source, 0.4)) > 0, 0.55)
    c.paint(c.depth(s * np.array([22, -34, 2]), s * np.array([32, 26, 32]), 2, rotation(source, 0.4)) > 0, 0.66)
    below = (dome < -4) & (inner > 1)
    c.paint(below, 0.38)
    c.paint(below & (c.depth(s * np.array([-55, -5, -90]), s * np.array([95, 80, 75]), 2.5) > 0), 0.60)
    c.paint(below & (c.depth(s * np.array([70, -15, -85]), s * np.array([50, 40, 40])) > 0), 0.48)
    c.paint(below & (c.depth(s * np.array([95, 35, -85]), s * np.array([26, 42, 40])) > 0), 0.64)
    disk = torch.sin(c.p[2] * (0.2 / s)) > -0.75
    spine = c.depth(s * np.array([0, 62, 0]), s * np.array([22, 20, 900]), 3)
    c.paint(spine > 0, 0.55)
    c.paint((spine > 1.5) & disk, 0.92)
    c.paint(c.depth(s * np.array([0, 90, 0]), s * np.array([9, 8, 900])) > 0, 0.45)
    for x, y, r, value in ((16, 34, 13, 0.62), (-18, 10, 11, 0.58), (2, 15, 8, 0.03)):
        c.paint((c.depth(s * np.array([x, y, 0]), s * np.array([r, r, 900])) > 0) & (inner > 0), value)
    return c.finished()


def organs(source: Source, shape: tuple[int, ...], voxel_mm: float) -> Anatomy:
    """Blobs, shells, nested blobs, tubes and layers of random sizes, with or without a body around them."""
    reach = 0.5 * max(shape) * voxel_mm
    c = Canvas(source, shape, voxel_mm, (0.7 * reach,) * 3)
    if source.chance(0.7):
        body = c.depth((0, 0, 0), reach * source.vector(0.7, 1.6), source.uniform(2, 4))
        c.paint(body > 0, source.uniform(0.2, 0.8))
        if source.chance(0.5):
            c.paint(body > source.uniform(0.04, 0.15) * reach, source.uniform(0.2, 0.8))
    for _ in range(source.whole(5, 14)):
        _structure(c, reach)
    return c.finished()


def _structure(c: Canvas, reach: float) -> None:
    source = c.source
    kind = source.rng.choice(["blob", "shell", "nested", "tube", "layers", "folds"], p=[0.3, 0.15, 0.2, 0.15, 0.1, 0.1])
    radii = reach * np.exp(source.vector(np.log(0.08), np.log(0.5)))
    center = source.vector(-0.9 * reach, 0.9 * reach)
    depth = c.depth(center, radii, source.uniform(1.6, 4), rotation(source, 3.0))
    least = float(radii.min())
    if kind in ("blob", "shell", "nested") and source.chance(0.6):
        depth = depth + 0.25 * least * c.noise(source.uniform(0.15, 0.5) * reach)[0]
    width = least * source.uniform(0.15, 0.4)
    value = source.uniform(0, 1)
    if kind == "shell":
        c.paint((depth > 0) & (depth < width), value)
    elif kind == "tube":
        tree = c.noise(source.uniform(0.12, 0.35) * reach, 2).square().sum(0)
        c.paint((tree < source.uniform(0.1, 0.3) ** 2) & (depth > -least), value)
    elif kind == "layers":
        c.paint((depth > 0) & (torch.sin(depth * (6.3 / max(width, 3 * c.voxel_mm))) > 0), value)
    elif kind == "folds":
        bumps = 0.3 * least * c.waves(max(0.25 * least, 2.0 * c.voxel_mm))
        c.paint(depth + bumps > 0, value)
        c.paint(depth + bumps > width, source.uniform(0, 1))
    else:
        c.paint(depth > 0, value)
        if kind == "nested":
            c.paint(depth > width, source.uniform(0, 1))
            c.paint(depth > 2 * width, source.uniform(0, 1))


def cells(source: Source, shape: tuple[int, ...], voxel_mm: float) -> Anatomy:
    """A partition of the patch into blobs: the largest of several smooth random fields wins."""
    c = Canvas(source, shape, voxel_mm, (10.0,) * 3)
    count = source.whole(3, 9)
    winner = c.noise(source.uniform(0.08, 0.3) * max(shape) * voxel_mm, count).argmax(0)
    first = 0 if source.chance(0.6) else 1
    for number in range(first, count):
        c.paint(winner == number, source.uniform(0, 1))
    return c.finished()


KINDS = {"brain": brain, "chest": chest, "organs": organs, "cells": cells}
