"""VM-1, VM-2 and how much smoothness they want, on slices of brains (Balakrishnan et al., CVPR 2018, Table 1 and Fig. 6).

VM-2 is trained with several weights lambda of the diffusion term and VM-1 with the one of them that the authors chose for VM-2.
All are compared with the slices as they are, which were aligned affinely before. Different from the paper: 2-D slices of 50
people, any slice registered to any other instead of to one atlas, a short training at a larger rate, and structures
that were never drawn by hand: they are classes of the slices' own gray values (deep dark pixels, gray and white matter) after a
Gaussian. Without it every pixel that takes the right gray value scores, also by folding, and no smoothness looks best; what
is wider than a fold is found as in the paper: best with a little smoothness, then a plateau that reaches the authors' lambda.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..geometry.smoothing import gaussian
from ..progress import Progress
from ..prompts.distance import distance_to
from ..training.base import Batch
from ..training.mapping import Mapping, warped
from ..training.streams import numbers
from ..training.validation import judged
from ._published import slices
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, grid, outline, picture, save
from .trained import Recipe, trained

CSF, GRAY, WHITE = 1, 2, 3
BRAIN = 0.02
"""Gray value above which a pixel belongs to the brain."""
STRUCTURE_PIXELS = 2.0
"""S.d. of the Gaussian before gray values are sorted into classes: structures are wider than single folds."""
DEEP_MM = 12.0
"""Dark pixels so far from the brain's outline are ventricles; nearer ones have no label."""
CHOSEN = 1.5
"""The authors' lambda of VM-2."""
VM1, VM2 = "voxelmorph1", "voxelmorph2"
DRAWN, TESTED = 0, 1
"""Streams of random numbers."""
TITLES = {"dice": "Dice of gray-value classes", "lncc": "LNCC", "sdlogj": "SDlogJ", "folds": "share of folded pixels"}
"""What is drawn over lambda."""


@dataclass(frozen=True)
class Plan:
    """How much is computed. lambdas: of VM-2; ``CHOSEN`` is one. variant: of both networks. slices: to train and held out."""

    lambdas: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, CHOSEN, 3.0)
    variant: str = "paper"
    slices: tuple[int, int] = (50, 10)
    pairs: int = 45
    steps: int = 1500
    batch: int = 2
    learning_rate: float = 1e-3
    seed: int = 2018


QUICK = Plan(lambdas=(0.0, 0.25, 0.75, CHOSEN), variant="light", pairs=30, steps=800)


@dataclass(frozen=True)
class Slices:
    """images: (N, Y, X) in [0, 1]. labels: classes of gray values, of the same shape; 0: none."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def read(cls, count: int) -> Slices:
        """The first ``count`` slices among the data. ``InputError`` in one line when there are fewer."""
        images = np.stack([image.numpy() for image in slices(count, "lambda-sweep")]).astype(np.float32)
        return cls(images, np.stack([tissue(image) for image in images]))

    def pair(self, moving: int, fixed: int) -> Batch:
        """A batch of one, with labels."""
        numbers_of = {"moving": moving, "fixed": fixed}
        scans = {role: torch.from_numpy(self.images[n])[None, None] for role, n in numbers_of.items()}
        return scans | {
            f"{role}_labels": torch.from_numpy(self.labels[n])[None, None] for role, n in numbers_of.items()
        }


class Pairs:
    """Batches of training pairs, a function of the step alone."""

    def __init__(self, slices: Slices, plan: Plan):
        self.slices, self.plan = slices, plan

    def __call__(self, step: int) -> Batch:
        chosen = [
            numbers(self.plan.seed, DRAWN, step, row).choice(self.plan.slices[0], 2, replace=False)
            for row in range(self.plan.batch)
        ]
        moving, fixed = (torch.from_numpy(self.slices.images[list(n)])[:, None] for n in zip(*chosen))
        return {"moving": moving, "fixed": fixed}


@dataclass(frozen=True)
class Measured:
    """Means over the held-out pairs. dice: of the classes. folds: share of pixels. before: dice and lncc without deformation."""

    dice: float
    lncc: float
    folds: float
    sdlogj: float
    before: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class View:
    """The first held-out pair. u: (2, Y, X) pixels."""

    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    labels: np.ndarray
    u: np.ndarray


class LambdaSweep(Experiment):
    """Seven trainings of the published networks on 128 x 128 pixels; quick: five of light ones, shorter."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        plan = replace(QUICK if quick else Plan(), seed=self.seed)
        tell(progress, "slices", 0.0)
        return self.judge(plan, Slices.read(sum(plan.slices)), outdir, progress)

    def judge(self, plan: Plan, slices: Slices, outdir: Path, progress: Progress) -> Outcome:
        """Train all networks and compare them with each other and with the slices as they are."""
        work = [(VM1, CHOSEN), *((VM2, weight) for weight in plan.lambdas)]
        job = partial(train_and_measure, work=work, slices=slices, plan=plan)
        found = each(job, len(work), self.workers, "networks trained", progress, (0.02, 0.97))
        tell(progress, "figures", 0.98)
        rows = {one: measured for one, (measured, _) in zip(work, found)}
        start = Measured(*found[0][0].before, 0.0, 0.0)
        views = {one: view for one, (_, view) in zip(work, found)}
        figures = (draw_sweep(rows, start, outdir / "lambda.png"), draw_pairs(views, outdir / "pair.png"))
        details = {
            "slices": list(plan.slices), "held_out_pairs": plan.pairs, "steps": plan.steps, "variant": plan.variant,
            "affine": plain(start), VM1: plain(rows[VM1, CHOSEN]),
            VM2: {f"{weight:g}": plain(rows[VM2, weight]) for weight in plan.lambdas},
        }  # fmt: skip
        return Outcome(criteria(rows, start), figures, details)


def train_and_measure(number: int, work: list[tuple[str, float]], slices: Slices, plan: Plan) -> tuple[Measured, View]:
    """Network ``number`` of the work (name, lambda), on pairs of slices it has not seen."""
    name, weight = work[number]
    network = trained(recipe(name, weight, plan), Pairs(slices, plan), plan.seed)
    pairs = held_out(slices, plan)
    found = judged(network, pairs, (1.0, 1.0))
    first = pairs[0]
    with torch.no_grad():
        u = Mapping(network(first["moving"], first["fixed"]), tuple(first["fixed"].shape[2:])).forward
    view = View(
        *(t[0, 0].numpy() for t in (first["fixed"], first["moving"], warped(first["moving"], u), first["fixed_labels"])),
        u[0].numpy(),
    )  # fmt: skip
    folds, before = found["folds_percent"] / 100, (found["dice_before"], found["lncc_before"])
    return Measured(found["dice"], found["lncc"], folds, found["sdlogj"], before), view


def recipe(name: str, weight: float, plan: Plan) -> Recipe:
    """LNCC with windows of 9 pixels, and the diffusion of the displacement with its weight."""
    losses = ["lncc", {"name": "diffusion", "weight": weight}] if weight else ["lncc"]
    return Recipe(name, tuple(losses), plan.steps, plan.variant, learning_rate=plan.learning_rate)


def held_out(slices: Slices, plan: Plan) -> list[Batch]:
    """Different pairs of held-out slices."""
    train, test = plan.slices
    every = [(a, b) for a in range(train, train + test) for b in range(train, train + test) if a != b]
    order = numbers(plan.seed, TESTED).permutation(len(every))[: plan.pairs]
    return [slices.pair(*every[i]) for i in order]


def tissue(image: np.ndarray) -> np.ndarray:
    """Ventricles, gray and white matter of a slice, int32; 0 elsewhere: its groups of gray values, and to which of them each pixel
    belongs after the Gaussian (over the brain only, so that its rim is not darker than it is).
    """
    from scipy.ndimage import binary_fill_holes

    brain = binary_fill_holes(image > BRAIN)
    both = torch.from_numpy(np.stack([image * brain, brain]).astype(np.float32))[None]
    values, weight = gaussian(both, STRUCTURE_PIXELS)[0].numpy()
    values = values / np.maximum(weight, 1e-6)
    low, middle, high = three_means(image[brain])
    deep = distance_to(~brain, (1.0, 1.0)) > DEEP_MM
    found = np.where(values > (middle + high) / 2, WHITE, np.where(values > (low + middle) / 2, GRAY, CSF * deep))
    return np.where(brain, found, 0).astype(np.int32)


def three_means(values: np.ndarray) -> np.ndarray:
    """Centers of the three groups of values, in rising order, each value with the nearest center."""
    centers = np.quantile(values, (0.1, 0.5, 0.9))
    for _ in range(50):
        nearest = np.abs(values[:, None] - centers).argmin(1)
        moved = np.array([values[nearest == k].mean() if (nearest == k).any() else centers[k] for k in range(3)])
        if np.allclose(moved, centers, atol=1e-4):
            break
        centers = moved
    return np.sort(moved)


def criteria(rows: dict[tuple[str, float], Measured], start: Measured) -> tuple[Criterion, ...]:
    """The order and the plateau of the paper as numbers; the margins are ours."""
    sweep = {weight: row for (name, weight), row in rows.items() if name == VM2}
    weights = sorted(sweep)
    scores, smoothness = [sweep[w].dice for w in weights if w], [sweep[w].sdlogj for w in weights]
    best = int(np.argmax(scores))
    beside = [scores[k] for k in (best - 1, best + 1) if 0 <= k < len(scores)]
    first, second = rows[VM1, CHOSEN], sweep[CHOSEN]
    return (
        Criterion("Dice of gray-value classes, VM-1 less affine", first.dice - start.dice, "", ">=", 0.05),
        Criterion("the same, VM-2 less VM-1", second.dice - first.dice, "", ">=", -0.005),
        Criterion("the same, VM-2 with lambda = 0 less affine", sweep[0.0].dice - start.dice, "", ">=", 0.02),
        Criterion("the same, VM-2 with the best lambda above 0 less lambda = 0", scores[best] - sweep[0.0].dice, "", ">=", 0.0),
        Criterion("loss of Dice at the neighbors of that lambda", scores[best] - min(beside), "", "<=", 0.02),
        Criterion(f"the same at the authors' lambda, {CHOSEN:g}", scores[best] - second.dice, "", "<=", 0.04),
        Criterion("largest rise of SDlogJ with the next lambda", max(np.diff(smoothness)), "", "<=", 0.0),
        Criterion("folded pixels at the largest lambda over those at lambda = 0", sweep[weights[-1]].folds / max(sweep[0.0].folds, 1e-9), "", "<=", 0.2),
    )  # fmt: skip


def plain(row: Measured) -> dict:
    """A row for ``result.json``."""
    values = {"dice": row.dice, "lncc": row.lncc, "folds": row.folds, "sdlogj": row.sdlogj}
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def draw_sweep(rows: dict[tuple[str, float], Measured], start: Measured, path: Path) -> Path:
    """Dice, LNCC, SDlogJ and folds over lambda."""
    figure, panels = canvas(1, 4, 3.4, 3.0)
    sweep = sorted((weight, row) for (name, weight), row in rows.items() if name == VM2)
    weights = [weight for weight, _ in sweep]
    for axes, title in zip(panels[0], TITLES):
        axes.plot(weights, [getattr(row, title) for _, row in sweep], "o-", label="VM-2")
        axes.plot([CHOSEN], [getattr(rows[VM1, CHOSEN], title)], "s", color="tab:orange", label="VM-1")
        axes.axhline(getattr(start, title), color="gray", linestyle="--", label="affine")
        axes.set_title(TITLES[title], fontsize=9)
        axes.set_xlabel("lambda")
    panels[0, 0].legend(fontsize=7)
    return save(figure, path)


def draw_pairs(views: dict[tuple[str, float], View], path: Path) -> Path:
    """The first held-out pair and what every network makes of it."""
    figure, axes = canvas(2, 1 + len(views))
    first = next(iter(views.values()))
    picture(axes[0, 0], first.fixed, "fixed")
    picture(axes[1, 0], first.moving, "moving")
    outline(axes[0, 0], first.labels == CSF)
    outline(axes[1, 0], first.labels == CSF)
    for column, ((name, weight), view) in zip(axes.T[1:], views.items()):
        title = f"{'VM-1' if name == VM1 else 'VM-2'}, lambda {weight:g}"
        picture(column[0], view.warped, title)
        outline(column[0], view.labels == CSF)
        picture(column[1], 0.5 * view.warped)
        grid(column[1], np.indices(view.fixed.shape)[::-1] + view.u)
    return save(figure, path)
