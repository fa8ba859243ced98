"""A network's guess of the affine map against that from moments, on slices of brains (Shen et al., CVPR 2019, section 3).

Affine-net learns on slices of some people, turned, scaled and shifted at random, and is asked about those of others. The slices were
aligned with each other before, so the map to be found is known up to how people differ. Different from the paper: 2-D slices, a short
training at a larger rate, and a head that takes scans of any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..affine.gradient import align
from ..config import Choice, Config, Preprocess, Schedule, Start
from ..data.image import Image
from ..data.pair import Pair
from ..geometry.grid import Geometry
from ..geometry.sampling import sample, warp_index
from ..methods.feedforward import told_matrix
from ..networks.weights import CanonicalGrid, Intensities, Model, ModelCard
from ..problem import Problem
from ..progress import Progress
from ..training.augmentation import drawn_matrix
from ..training.base import Batch
from ..training.config import Augmentation
from ..training.streams import numbers
from ..transforms.affine import AffineTransform
from ._published import slices
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, picture, save
from .trained import Recipe, trained

COARSER = 2
"""The network sees every slice on half its pixels per axis."""
LOOKS, TRAINED_LOOKS = 7, 3
TURN_DEG, SCALE, SHIFT = 30.0, 0.15, 0.12
"""Largest random turn, change of scale, and shift in shares of the picture."""
BRAIN = 0.02
DRAWN, TESTED = 0, 1
"""Streams of random numbers."""
WAYS = (
    "as it is",
    "moments",
    "network",
    "network from the given position",
    "descent from moments",
    "descent from network",
)


@dataclass(frozen=True)
class Plan:
    """How much is computed. slices: to train and held out. starts: random positions that are tested; descents: of them followed."""

    slices: tuple[int, int] = (50, 10)
    starts: int = 50
    descents: int = 50
    steps: int = 2000
    batch: int = 8
    learning_rate: float = 1e-3
    seed: int = 2018


QUICK = Plan(descents=10, steps=400)


@dataclass(frozen=True)
class View:
    """One start: the fixed slice, and the moving one through every way's map."""

    fixed: np.ndarray
    warped: dict[str, np.ndarray]


class Pairs:
    """Batches of pairs of slices, the moving ones placed at random, a function of the step alone."""

    def __init__(self, images: list[Image], plan: Plan):
        self.plan = plan
        self.scans = torch.cat([F.avg_pool2d(image.tensor, COARSER) for image in images[: plan.slices[0]]])

    def __call__(self, step: int) -> Batch:
        rows = []
        for row in range(self.plan.batch):
            rng = numbers(self.plan.seed, DRAWN, step, row)
            fixed, moving = (self.scans[int(n)][None] for n in rng.choice(len(self.scans), 2, replace=False))
            rows.append((placed(moving, random_matrix(moving.shape[2:], rng)), fixed))
        moving, fixed = (torch.cat(scans) for scans in zip(*rows))
        return {"moving": moving, "fixed": fixed}


class AffineNetwork(Experiment):
    """One training at 64 x 64 pixels, 50 random positions; quick: a shorter training, 10 of them followed to the end."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        plan = replace(QUICK if quick else Plan(), seed=self.seed)
        tell(progress, "slices", 0.0)
        return self.judge(plan, slices(sum(plan.slices), "affine-net"), outdir, progress)

    def judge(self, plan: Plan, images: list[Image], outdir: Path, progress: Progress) -> Outcome:
        """Train, then hold the distance of each way's map from the known one against the others'."""
        (found, view), *_ = each(
            partial(work, plan=plan, images=images), 1, self.workers, "network", progress, (0.0, 0.97)
        )
        tell(progress, "figures", 0.98)
        means = {way: float(np.mean(values)) for way, values in found.items()}
        network, moments = (np.array(found[way]) for way in ("network", "moments"))
        criteria = (
            Criterion("distance from the known map, network over moments", means["network"] / means["moments"], "", "<=", 0.8),
            Criterion("share of starts where the network is nearer than moments", float((network < moments).mean()), "", ">=", 0.7),
            Criterion(
                "the same distance after the descent, begun by the network over begun by moments",
                means["descent from network"] / means["descent from moments"], "", "<=", 1.05,
            ),
            Criterion(
                "of those starts, descent from network over network alone",
                means["descent from network"] / float(np.mean(network[: plan.descents])), "", "<=", 1.0,
            ),
        )  # fmt: skip
        details = {
            "starts": plan.starts, "descents": plan.descents, "steps": plan.steps,
            "mean_mm": {way: float(f"{value:.4g}") for way, value in means.items()},
            "median_mm": {way: float(f"{np.median(values):.4g}") for way, values in found.items()},
            "largest_mm": {way: float(f"{np.max(values):.4g}") for way, values in found.items()},
        }  # fmt: skip
        return Outcome(criteria, (draw(found, view, outdir / "starts.png"),), details)


def work(number: int, plan: Plan, images: list[Image]) -> tuple[dict[str, list[float]], View]:
    """Train and test: mean distance (mm) over the brain from the known map, per way and start."""
    model = model_of(trained(recipe(plan), Pairs(images, plan), plan.seed), images[0].geometry)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    shown = None
    for start in range(plan.starts):
        pair, truth = drawn_pair(images, plan, start)
        maps = ways(pair, model, start < plan.descents)
        for way, transform in maps.items():
            found[way].append(distance_mm(transform, truth, pair.fixed))
        shown = shown or view(pair, maps)
    return found, shown


def recipe(plan: Plan) -> Recipe:
    """The published curriculum: correlation of the whole slices, then local; more looks; both directions; less and less held back."""
    half, late = plan.steps // 2, 3 * plan.steps // 4
    losses = (
        {"name": "ncc", "until_step": half},
        {"name": "lncc", "from_step": half},
        {"name": "identity", "weight": 0.1, "until_step": half, "final_weight": 1e-3},
        {"name": "inverse", "weight": 1.0, "from_step": late},
    )
    return Recipe(
        "affine-net",
        losses,
        plan.steps,
        learning_rate=plan.learning_rate,
        looks=TRAINED_LOOKS,
        looks_from=plan.steps // 4,
    )


def random_matrix(shape, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) map of pixels about the middle."""
    return drawn_matrix(tuple(shape), Augmentation((), TURN_DEG, SCALE, SHIFT * max(shape)), rng)


def placed(scan: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """scan(matrix x) on its own grid."""
    return sample(scan, warp_index(scan.new_zeros((1, 2, *scan.shape[2:])), matrix))


def model_of(network, geometry: Geometry) -> Model:
    """The network with a card: its grid has the slices' field of view."""
    grid = geometry.resized(tuple(n // COARSER for n in geometry.size))
    axes = tuple(tuple(float(v) for v in row) for row in grid.rotation)
    canonical = CanonicalGrid(grid.size, grid.spacing_mm, axes)
    card = ModelCard(
        "affine-net", network.architecture.to_dict(), "none", "2-D brain slices", canonical, Intensities((0.0, 100.0))
    )
    return Model(network, card)


def drawn_pair(images: list[Image], plan: Plan, start: int) -> tuple[Pair, AffineTransform]:
    """Two held-out slices, the moving one placed at random, and the map from fixed to moving that undoes it."""
    rng = numbers(plan.seed, TESTED, start)
    fixed, moving = (images[plan.slices[0] + int(n)] for n in rng.choice(plan.slices[1], 2, replace=False))
    matrix = random_matrix(moving.geometry.shape, rng)
    whole = np.eye(3)
    whole[:2] = matrix
    to_mm = moving.geometry.index_to_world
    truth = to_mm @ np.linalg.inv(whole) @ np.linalg.inv(to_mm)
    return Pair(fixed, Image(placed(moving.tensor, matrix), moving.geometry)), AffineTransform.from_homogeneous(truth)


def ways(pair: Pair, model: Model, followed: bool) -> dict[str, AffineTransform]:
    """The map of every way; the descents only when ``followed``."""
    guess = Config(preprocess=Preprocess((0.0, 100.0)), start=Start("moments", "none"), device="cpu", threads=1)
    problem = Problem.prepare(pair, guess, torch.device("cpu"))
    identity = AffineTransform.identity(2)
    moments = align(problem, guess, Progress()).transform
    better = partial(told_matrix, problem, model, looks=LOOKS)
    found = {
        "as it is": identity, "moments": moments, "network": better(moments), "network from the given position": better(identity),
    }  # fmt: skip
    if followed:
        schedule = Schedule((4, 2), (40, 30))
        descent = guess.replace(start=Start("moments", "affine", Choice("lncc", {"radius_voxels": 4}), schedule))
        found["descent from moments"] = align(problem, descent, Progress()).transform
        found["descent from network"] = align(problem, descent, Progress(), better=better).transform
    return found


def distance_mm(found: AffineTransform, truth: AffineTransform, fixed: Image) -> float:
    """Mean distance over the brain of where the two maps lead."""
    rows, columns = np.nonzero(fixed.numpy() > BRAIN)
    points = fixed.geometry.to_world(np.stack((columns, rows), 1).astype(float))
    return float(np.linalg.norm(found.map_points(points) - truth.map_points(points), axis=1).mean())


def view(pair: Pair, maps: dict[str, AffineTransform]) -> View:
    """What the figure shows of a start."""
    from ..warp.image import warp_image

    return View(
        pair.fixed.numpy(), {way: warp_image(pair.moving, m, pair.fixed.geometry).numpy() for way, m in maps.items()}
    )


def draw(found: dict[str, list[float]], shown: View, path: Path) -> Path:
    """The first start, and the distances of all."""
    figure, axes = canvas(2, len(WAYS) + 1)
    picture(axes[0, 0], shown.fixed, "fixed")
    axes[1, 0].set_axis_off()
    for column, way in zip(axes.T[1:], WAYS):
        if way in shown.warped:
            picture(column[0], shown.warped[way], way)
        column[1].hist(found[way], bins=np.linspace(0, 30, 16))
        column[1].set_xlabel("mm from the known map", fontsize=8)
    return save(figure, path)
