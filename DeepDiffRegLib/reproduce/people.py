"""What the experiments on learned features share: invented people in 2-D slices, scanned on any grid, with labels and landmarks.

Every person has organs, texture and a deformation of their own. Scans and labels are looked up in functions of position, so
nothing is interpolated, and a map can be judged at any point by what it maps there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import Choice, Config, Preprocess, Schedule, Start
from ..data.anatomy import LANDMARK_ORGANS, Anatomy, poles
from ..data.image import Image
from ..data.pair import Pair
from ..data.phantoms import TrueMap
from ..data.points import Landmarks, Points
from ..geometry.grid import Geometry
from ..methods.implicit import Layer
from ..networks.base import Stored
from ..networks.weights import CanonicalGrid, Intensities, ModelCard, save_model
from ..qc.overlap import dice
from ..training.base import Batch
from ..training.streams import numbers
from ..transforms.base import Transform
from .trained import FeatureRecipe

ANATOMY, HEIGHT = "torso", -0.06
"""Who is scanned, and where the slice lies (as a fraction of the half field of view of the anatomy)."""
ZOOM = 0.8
"""What is seen, as a fraction of that field of view: little air around the body."""
VIEW_MM = 64.0
BUMPS, REACH, STEEPEST = 10, 0.15, 0.25
"""Of a person's own deformation: how many Gaussians, their s.d. as a share of the view, the least determinant."""
NOISE = 0.02
SGD = Choice("displacement", {"optimizer": "sgd", "learning_rate": 0.5})
"""What features are trained through."""
LOSSES = ({"name": "mse", "image_sigma": 0.1}, "dice")
"""Of every network; those that predict a map add their own smoothness."""
AROUND = (0, 1, 2)
"""Labels of air, skin and muscle: no organs."""
LEAST_PIXELS = 10
TRAIN, TEST = 0, 1
"""Streams of random numbers: no person of one is a person of the other."""
Look = Callable[[np.ndarray], np.ndarray]
"""From values in [0, 1] to those that a scanner shows."""


def as_they_are(values: np.ndarray) -> np.ndarray:
    """The contrast of the training."""
    return values


@dataclass(frozen=True)
class Scan:
    """image: in [0, 1]. labels: of the same grid."""

    image: Image
    labels: Image


@dataclass(frozen=True)
class Person:
    """anatomy: at rest, in fractions of its half field of view. bend: from mm of the scanner to mm at rest."""

    anatomy: Anatomy
    bend: TrueMap
    key: tuple[int, ...]

    @classmethod
    def drawn(cls, seed: int, stream: int, number: int, bend_mm: float = 5.0) -> Person:
        """Person ``number`` of a population, displaced by at most ``bend_mm``."""
        rng = numbers(seed, stream, number)
        anatomy = Anatomy.draw(ANATOMY, int(rng.integers(2**31)))
        lattice = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 24) * VIEW_MM] * 2), -1).reshape(-1, 2)
        while True:
            centers, heights = rng.uniform(-0.4, 0.4, (BUMPS, 2)) * VIEW_MM, rng.normal(size=(BUMPS, 2))
            bend = TrueMap(centers, heights, REACH * VIEW_MM, np.eye(2), np.zeros(2))
            longest = np.linalg.norm(bend.displacement(lattice), axis=1).max()
            bend = TrueMap(centers, heights * (bend_mm / longest), REACH * VIEW_MM, np.eye(2), np.zeros(2))
            if np.linalg.det(bend.jacobian(lattice)).min() > STEEPEST:
                return cls(anatomy, bend, (seed, stream, number))

    def at(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values in [0, 1] and labels at (N, 2) points of the scanner."""
        flat = self.bend(points_mm) * (2 * ZOOM / VIEW_MM)
        return self.anatomy.values_and_labels(np.column_stack([flat, np.full(len(flat), HEIGHT)]))

    def scan(self, grid: Geometry, look: Look = as_they_are, take: int = 0) -> Scan:
        """Pixels wider than 1 mm are means of what they cover. take: number of the scan, for its noise."""
        index = np.stack(np.unravel_index(np.arange(grid.voxels), grid.shape)[::-1], -1).astype(float)
        parts = [(np.arange(n) + 0.5) / n - 0.5 for n in np.ceil(np.round(grid.spacing_mm, 3)).astype(int)]
        offsets = np.stack(np.meshgrid(*parts), -1).reshape(-1, 2)
        values = np.mean([self.at(grid.to_world(index + offset))[0] for offset in offsets], axis=0)
        rng = numbers(*self.key, 1 + take)
        values = np.abs(look(np.clip(values, 0.0, 1.0)) + NOISE * rng.standard_normal(len(values)))
        values = (values - values.min()) / np.ptp(values)
        labels = self.at(grid.to_world(index))[1]
        return Scan(
            Image.from_array(values.reshape(grid.shape), grid),
            Image.from_array(labels.reshape(grid.shape), grid, "labels"),
        )

    def places_mm(self) -> dict[str, np.ndarray]:
        """Where points that every person has lie in the scanner, by name."""
        found = {}
        for name in LANDMARK_ORGANS[ANATOMY]:
            organ = self.anatomy.organ(name)
            if abs(organ.center[2] - HEIGHT) < 0.8 * organ.radii[2]:
                for part, place in poles(organ, flat=True):
                    at_rest = place[None, :2] * VIEW_MM / (2 * ZOOM)
                    found[f"{name} {part}"] = self.bend.inverse(at_rest)[0]
        return found


def square(spacing_mm: float | tuple[float, float] = 1.0, view_mm: float | tuple[float, float] = VIEW_MM) -> Geometry:
    """A grid around the middle of the view."""
    spacing, view = (np.broadcast_to(v, 2).astype(float) for v in (spacing_mm, view_mm))
    size = np.round(view / spacing).astype(int)
    origin = -(size - 1) / 2 * spacing
    return Geometry(tuple(int(n) for n in size), tuple(spacing), tuple(origin), np.eye(2).tolist())


def landmarks(fixed: Person, moving: Person) -> Landmarks:
    """The points that both of them have."""
    here, there = fixed.places_mm(), moving.places_mm()
    names = tuple(name for name in here if name in there)
    return Landmarks(*(Points(np.array([found[n] for n in names]), names) for found in (here, there)))


def overlap(fixed: Person, moving: Person, transform: Transform, grid: Geometry) -> float:
    """Mean Dice of the fixed person's structures on ``grid`` and what the map brings there; slivers at its border do not count."""
    index = np.stack(np.unravel_index(np.arange(grid.voxels), grid.shape)[::-1], -1).astype(float)
    points = grid.to_world(index)
    here, there = fixed.at(points)[1], moving.at(transform.map_points(points))[1]
    labels, counts = np.unique(here, return_counts=True)
    judged = [label for label, count in zip(labels, counts) if label > 0 and count >= LEAST_PIXELS]
    return float(np.mean([dice(here == label, there == label) for label in judged]))


@dataclass(frozen=True)
class People:
    """The training half of a population: ``count`` people, each scanned once on a grid of 1 mm."""

    count: int
    seed: int
    grid: Geometry

    def scans(self) -> list[Scan]:
        return [Person.drawn(self.seed, TRAIN, number).scan(self.grid) for number in range(self.count)]

    def tested(self, pairs: int) -> list[tuple[Person, Person]]:
        """Pairs (fixed, moving) of people that nobody was trained on."""
        drawn = [Person.drawn(self.seed, TEST, number) for number in range(2 * pairs)]
        return list(zip(drawn[::2], drawn[1::2]))


class Pairs:
    """Batches of training pairs with labels, a function of the step alone."""

    def __init__(self, people: People, batch: int = 1):
        self.people, self.batch, self.scans = people, batch, people.scans()

    def __call__(self, step: int) -> Batch:
        chosen = [
            numbers(self.people.seed, TRAIN, self.people.count, step, row).choice(len(self.scans), 2, replace=False)
            for row in range(self.batch)
        ]
        found = {}
        for role, places in zip(("moving", "fixed"), zip(*chosen)):
            found[role] = torch.cat([self.scans[i].image.tensor for i in places])
            found[f"{role}_labels"] = torch.cat([self.scans[i].labels.tensor for i in places])
        return found


def scanned(fixed: Person, moving: Person, grids: tuple[Geometry, Geometry], look: Look = as_they_are) -> Pair:
    """Both of them as a pair to register."""
    return Pair(fixed.scan(grids[0], look).image, moving.scan(grids[1], look).image)


def stored(network: Stored, name: str, folder: Path, canonical: CanonicalGrid | None = None) -> Path:
    """A file of the network, for methods that are given one. canonical: the grid it has to be shown scans on."""
    path = folder / f"{name}{'' if canonical is None else '-canonical'}.safetensors"
    card = ModelCard(name, {}, "none", "invented people", canonical, Intensities((0.0, 100.0)))
    save_model(path, network, card)
    return path


def whole(transform: Choice, schedule: Schedule, model: Path | None = None, method: str = "dio") -> Config:
    """A registration of whole slices by mean squares, of the scans or of what a model makes of them; no affine start."""
    return Config(
        method="iterative" if model is None else method,
        model=None if model is None else str(model),
        preprocess=Preprocess(clip_percentiles=(0.0, 100.0), crop=False),
        start=Start(initial="identity", transform="none"),
        transform=transform,
        similarity=Choice("mse"),
        schedule=schedule,
        device="cpu",
        threads=1,
    )


def features_recipe(
    steps: int, iterations: tuple[int, ...], learning_rate: float = 1e-3, channels: int = 8, statistics: str = "scan"
) -> FeatureRecipe:
    """Features trained through gradient descent of a displacement, on images and labels. statistics: as in ``FeatureUNet``."""
    layer, architecture = Layer(SGD, iterations), {"channels": channels, "statistics": statistics}
    return FeatureRecipe("unet", LOSSES, steps, "light", architecture, learning_rate, layer=layer)
