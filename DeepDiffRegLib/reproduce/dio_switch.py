"""Learned features serve transform models that they were not trained with, and hints at test time (Jena et al., 2024).

A feature network is trained through gradient descent of a free displacement, on images and labels of invented people. Then the same
weights are used with that model, with composed steps, with a stationary velocity and with a matrix. Landmarks, given where the
map misses most, are met at test time; the scans' own term is compared with that of a registration which goes on
equally long without them. Different from the paper: 2-D, small, a network of 8 channels, and people instead of brains.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..config import Choice, Schedule
from ..data.pair import LabelPair, Prompts
from ..data.points import Landmarks, Points
from ..geometry.pyramid import Pyramid
from ..geometry.sampling import identity_index, index_matrix, sample, warp
from ..geometry.vector_fields import strict_folds
from ..methods.features import scan_features
from ..networks.base import FeatureNetwork
from ..networks.weights import load_model
from ..progress import Progress
from ..qc.overlap import dice
from ..session import RegistrationSession
from ..similarity.mean_squares import mean_squares
from ..transforms.affine import AffineTransform
from ..transforms.base import Transform
from ..transforms.displacement import to_voxels
from ._switch_figures import View, draw_numbers, draw_prompts, draw_transforms
from .base import Criterion, Experiment, Outcome, each, tell
from .people import (
    AROUND,
    SGD,
    Pairs,
    People,
    Person,
    features_recipe,
    landmarks,
    overlap,
    scanned,
    square,
    stored,
    whole,
)
from .trained import Part, trained_features

TRAINED, COMPOSED = "displacement (SGD)", "diffeomorphic"
TRANSFORMS = {"affine": Choice("affine"), TRAINED: SGD, "svf": Choice("svf"), COMPOSED: Choice("diffeomorphic")}
"""The last one goes on with prompts."""
BEFORE = "before"
TRAINING_SHARE = 0.7


@dataclass(frozen=True)
class Plan:
    """people: to train on. steps, iterations: of the training. pairs: to test. marks: landmarks that are given as prompts."""

    people: int = 80
    steps: int = 1200
    iterations: tuple[int, ...] = (30, 20, 10)
    pairs: int = 20
    marks: int = 3
    schedule: Schedule = field(default_factory=lambda: Schedule((4, 2, 1), (60, 40, 30), tolerance=1e-3))
    seed: int = 2018


QUICK = Plan(people=40, steps=400, iterations=(20, 15, 8), pairs=8)


@dataclass(frozen=True)
class Judged:
    """One map. folds: pixels with a fold in any corner. errors_mm: of every landmark. feature_term, image_term: mean squares."""

    dice: float
    folds: int
    errors_mm: np.ndarray
    feature_term: float
    image_term: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Prompted:
    """One pair of which some landmarks, then one structure, are given.

    chosen: numbers of the landmarks. before, without, with_marks: as reached, gone on without prompts, and with the landmarks.
    with_label: with the structure instead. label_dice: its overlap as reached and with it.
    """

    chosen: np.ndarray
    before: Judged
    without: Judged
    with_marks: Judged
    with_label: Judged
    label_dice: tuple[float, float]

    @property
    def given_mm(self) -> tuple[float, float]:
        """Mean error of the landmarks that were given, before and after."""
        return tuple(float(j.errors_mm[self.chosen].mean()) for j in (self.before, self.with_marks))

    @property
    def others_mm(self) -> tuple[float, float]:
        """Of all others."""
        rest = np.setdiff1d(np.arange(len(self.before.errors_mm)), self.chosen)
        return tuple(float(j.errors_mm[rest].mean()) for j in (self.before, self.with_marks))

    def worse(self, term: str) -> float:
        """How much a term grew by the landmarks, as a share of what it is without them."""
        return getattr(self.with_marks, term) / getattr(self.without, term) - 1


class DIOSwitch(Experiment):
    """Twenty pairs; quick: eight, and a short training."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train once, then register every pair with every transform and with prompts."""
        tell(progress, "training", 0.0)
        people = People(plan.people, plan.seed, square())
        recipe = features_recipe(plan.steps, plan.iterations)
        network = trained_features(recipe, Pairs(people), plan.seed, Part(progress, (0.0, TRAINING_SHARE)))
        with tempfile.TemporaryDirectory() as folder:
            job = partial(register, plan=plan, model=stored(network, recipe.network, Path(folder)))
            found = each(job, plan.pairs, self.workers, "pairs", progress, (TRAINING_SHARE, 0.97))
        tell(progress, "figures", 0.98)
        rows = {name: [judged[name] for judged, _, _ in found] for name in found[0][0]}
        prompted, view = [p for _, p, _ in found], found[0][2]
        figures = (
            draw_transforms(view, outdir / "transforms.png"),
            draw_numbers(rows, outdir / "numbers.png"),
            draw_prompts(view, prompted, outdir / "prompts.png"),
        )
        return Outcome(criteria(rows, prompted), figures, details(plan, network, rows, prompted))


class Case:
    """One pair of people on the grid of the training, and what is measured of a map between them."""

    def __init__(self, fixed: Person, moving: Person, model: Path):
        self.fixed, self.moving, self.grid = fixed, moving, square()
        self.pair = scanned(fixed, moving, (self.grid, self.grid))
        self.marks = landmarks(fixed, moving)
        images, loaded = (self.pair.fixed, self.pair.moving), load_model(model)
        self.features: tuple[Pyramid, Pyramid] = tuple(scan_features(image, loaded) for image in images)

    @property
    def structures(self) -> list[int]:
        """Labels of the organs inside the body."""
        return [int(n) for n in np.unique(self.fixed.scan(self.grid).labels.numpy()) if n not in AROUND]

    def judged(self, transform: Transform, seconds: float = 0.0) -> Judged:
        """All numbers of one map."""
        mapped = transform.map_points(self.marks.fixed.positions_mm)
        own, other = (pyramid.images[-1] for pyramid in self.features)
        u_mm = transform.displacement(self.grid)
        return Judged(
            overlap(self.fixed, self.moving, transform, self.grid),
            strict_folds(u_mm, self.grid.spacing_mm),
            np.linalg.norm(mapped - self.marks.moving.positions_mm, axis=1),
            left_over(own, other, transform),
            left_over(*((image.tensor, image.geometry) for image in (self.pair.fixed, self.pair.moving)), transform),
            seconds,
        )

    def label_dice(self, label: int, transform: Transform) -> float:
        """Overlap of one structure on the grid."""
        points = self.grid.to_world(np.moveaxis(np.indices(self.grid.shape)[::-1], 0, -1).reshape(-1, 2))
        here, there = self.fixed.at(points)[1], self.moving.at(transform.map_points(points))[1]
        return dice(here == label, there == label)


def left_over(fixed, moving, transform: Transform) -> float:
    """Mean squared difference of two images (tensor, grid) through the map, where the moving one is seen."""
    (own, geometry), (other, moving_grid) = fixed, moving
    u = to_voxels(transform.displacement(geometry), geometry)
    matrix = index_matrix(geometry, moving_grid)
    seen = warp(other.new_ones((1, 1, *other.shape[2:])), u, matrix)
    return float(mean_squares(own, warp(other, u, matrix), seen)[0])


def register(number: int, plan: Plan, model: Path) -> tuple[dict[str, Judged], Prompted, View]:
    """One pair with every transform; then the diffeomorphic one goes on with and without prompts."""
    fixed, moving = People(0, plan.seed, square()).tested(number + 1)[number]
    case = Case(fixed, moving, model)
    session = RegistrationSession(case.pair, whole(SGD, plan.schedule, model))
    found = {BEFORE: case.judged(AffineTransform.identity(2))}
    maps: dict[str, Transform] = {}
    for name, transform in TRANSFORMS.items():
        session.configure(whole(transform, plan.schedule, model))
        started = time.process_time()
        maps[name] = session.run()
        found[name] = case.judged(maps[name], time.process_time() - started)
    prompted, steered = prompt(case, session, plan)
    return found, prompted, seen(case, maps, steered, prompted.chosen)


def prompt(case: Case, session: RegistrationSession, plan: Plan) -> tuple[Prompted, Transform]:
    """Go on from the map that the session holds: without prompts, with landmarks where it misses most, with a structure."""
    reached = session.transform
    before = case.judged(reached)
    chosen = np.sort(np.argsort(before.errors_mm)[-plan.marks :])
    label = min(case.structures, key=lambda n: case.label_dice(n, reached))
    given = Landmarks(*(Points(p.positions_mm[chosen]) for p in (case.marks.fixed, case.marks.moving)))
    structure = Prompts(
        fixed_labels=case.fixed.scan(case.grid).labels,
        moving_labels=case.moving.scan(case.grid).labels,
        label_pairs=(LabelPair(label, label),),
    )
    found = []
    for prompts in (Prompts(), Prompts(landmarks=given), structure):
        found.append(session.update(prompts))
        session.undo()
    overlaps = tuple(case.label_dice(label, transform) for transform in (reached, found[-1]))
    return Prompted(chosen, before, *map(case.judged, found), overlaps), found[1]


def seen(case: Case, maps: dict[str, Transform], steered: Transform, chosen: np.ndarray) -> View:
    """What figures show, as plain arrays."""
    moving = case.pair.moving

    def index_of(transform: Transform) -> torch.Tensor:
        return identity_index(case.grid.shape) + to_voxels(transform.displacement(case.grid), case.grid)

    def brought(transform: Transform) -> np.ndarray:
        return sample(moving.tensor, index_of(transform))[0, 0].numpy()

    marks = case.marks.fixed.positions_mm[chosen], case.marks.moving.positions_mm[chosen]
    landed = [transform.map_points(marks[0]) for transform in (maps[COMPOSED], steered)]
    return View(
        case.pair.fixed.numpy(), moving.numpy(), case.fixed.scan(case.grid).labels.numpy(),
        {name: brought(transform) for name, transform in maps.items()},
        {name: index_of(transform)[0].numpy() for name, transform in maps.items()},
        tuple(case.grid.to_index(points) for points in (*marks, *landed)),
        (brought(steered), index_of(steered)[0].numpy()),
    )  # fmt: skip


def criteria(rows: dict[str, list[Judged]], prompted: list[Prompted]) -> tuple[Criterion, ...]:
    """The paper's claims as numbers; margins of Dice are ours."""
    start, gains = mean(rows[BEFORE], "dice"), {}
    for name in TRANSFORMS:
        gains[name] = mean(rows[name], "dice") - start
    composed = [*rows[COMPOSED], *(j for p in prompted for j in (p.without, p.with_marks, p.with_label))]
    return (
        Criterion("folded pixels of all diffeomorphic maps, prompted ones too", sum(j.folds for j in composed), "", "<=", 0),
        Criterion("mean Dice, the least gain of a deformable transform", min(g for n, g in gains.items() if n != "affine"), "", ">=", 0.15),
        Criterion("mean Dice, gain of affine", gains["affine"], "", ">=", 0.0),
        Criterion(f"mean Dice, {COMPOSED} less {TRAINED}", gains[COMPOSED] - gains[TRAINED], "", ">=", -0.02),
        Criterion("largest error of a landmark that was given", max(p.with_marks.errors_mm[p.chosen].max() for p in prompted), "voxels", "<=", 1.0),
        Criterion("mean growth of the term of the features by landmarks", np.mean([p.worse("feature_term") for p in prompted]), "", "<=", 0.05),
        Criterion("mean growth of the difference of the scans by landmarks", np.mean([p.worse("image_term") for p in prompted]), "", "<=", 0.05),
        Criterion("mean gain in Dice of a structure that was given", np.mean([b - a for a, b in (p.label_dice for p in prompted)]), "", ">=", 0.0),
    )  # fmt: skip


def mean(judged: list[Judged], name: str) -> float:
    """Of one number over pairs."""
    return float(np.mean([getattr(one, name) for one in judged]))


def details(plan: Plan, network: FeatureNetwork, rows: dict[str, list[Judged]], prompted: list[Prompted]) -> dict:
    """What is not judged."""
    return {
        "people": plan.people, "steps": plan.steps, "pairs": plan.pairs, "weights": sum(p.numel() for p in network.parameters()),
        "transforms": {name: plain(judged) for name, judged in rows.items()},
        "landmarks": {
            "given_per_pair": plan.marks,
            "given_mm": [rounded(np.mean([p.given_mm[k] for p in prompted])) for k in (0, 1)],
            "others_mm": [rounded(np.mean([p.others_mm[k] for p in prompted])) for k in (0, 1)],
            "dice": [rounded(np.mean([j.dice for j in found])) for found in zip(*((p.without, p.with_marks) for p in prompted))],
            "feature_term_growth": [rounded(p.worse("feature_term")) for p in prompted],
            "image_term_growth": [rounded(p.worse("image_term")) for p in prompted],
        },
        "structure": {
            "dice": [rounded(np.mean([p.label_dice[k] for p in prompted])) for k in (0, 1)],
            "mean_dice_of_all": [rounded(np.mean([j.dice for j in found])) for found in zip(*((p.before, p.with_label) for p in prompted))],
        },
    }  # fmt: skip


def plain(judged: list[Judged]) -> dict:
    """Means over pairs for ``result.json``; folds are summed."""
    found = {name: rounded(mean(judged, name)) for name in ("dice", "feature_term", "image_term", "seconds")}
    return found | {
        "folds": sum(j.folds for j in judged),
        "landmarks_mm": rounded(np.mean([j.errors_mm.mean() for j in judged])),
    }


def rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")
