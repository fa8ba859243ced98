"""Surfaces in the loss bring structures together that the images do not tell apart (Dalca et al., MedIA 2019, VoxelMorph-surf).

Two overlapping disks have one intensity: the picture shows the outline of both together and nothing of where the front one ends on
the other. VoxelMorph-diff is trained with the images alone and with a surface term of several s.d. sigma_s, and sees nothing
but images when it is tested. Different from the paper: disks instead of brain structures, in 2-D, with the light network;
the squared difference of the images in one direction; points drawn in proportion to length, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..geometry.sampling import identity_index, sample
from ..progress import Progress
from ..qc.overlap import dice, surface_distances
from ..training.base import Batch
from ..training.mapping import Mapping, warped
from ..training.streams import numbers
from ..training.surfaces import Surfaces, from_labels
from ..training.validation import judged
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, grid, outline, picture, save
from .trained import Recipe, trained

FRONT, BEHIND = 1, 2
STRUCTURES = {FRONT: "front disk", BEHIND: "rest of the other"}
RADIUS, APART, TURN_DEG, SHIFT = (0.14, 0.26), (0.85, 1.1), 25.0, 0.04
"""Radii and shift in shares of the picture, distance of the centers in shares of the larger radius."""
IMAGE_SIGMA, PRECISION = 0.06, 10.0
NONE, PUBLISHED, IGNORED = 0.0, 1.0, 50.0
"""sigma_s: without the term, the default of the released code, one so large that the term has no weight."""
GOOD = (0.5, 2.0)
"""The range of sigma_s that the paper calls good."""
TRAIN, HELD_OUT, POINTS = 0, 1, 2
"""Streams of random numbers."""


@dataclass(frozen=True)
class Plan:
    """How much is computed. sigmas_mm: of the surface term, ``NONE`` trains without it. A pixel is 1 mm wide."""

    sigmas_mm: tuple[float, ...] = (NONE, 0.5, PUBLISHED, 2.0, 5.0, IGNORED)
    size: int = 64
    scenes: int = 400
    pairs: int = 100
    steps: int = 3500
    batch: int = 4
    points: int = 128
    learning_rate: float = 1e-3
    seed: int = 2018


QUICK = Plan(sigmas_mm=(NONE, 0.5, PUBLISHED, 2.0, IGNORED), scenes=200, pairs=40, steps=900)


@dataclass(frozen=True)
class Scene:
    """image: (size, size) in [0, 1]. labels: of the same shape. surfaces: channel 0 of ``FRONT``, 1 of ``BEHIND``."""

    image: np.ndarray
    labels: np.ndarray
    surfaces: Surfaces

    @classmethod
    def drawn(cls, seed: int, stream: int, number: int, size: int) -> Scene:
        """Scene ``number`` of a population: both disks turned and shifted a little, the front one left."""
        rng = numbers(seed, stream, number)
        radii = rng.uniform(*RADIUS, 2) * size
        apart = rng.uniform(*APART) * radii.max()
        turn = np.deg2rad(rng.uniform(-TURN_DEG, TURN_DEG))
        middle = (size - 1) / 2 + rng.uniform(-SHIFT, SHIFT, 2) * size
        offset = apart / 2 * np.array([np.cos(turn), np.sin(turn)])
        points = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="xy"), -1)
        depths = [np.linalg.norm(points - c, axis=-1) - r for c, r in zip((middle - offset, middle + offset), radii)]
        labels = np.where(depths[0] <= 0, FRONT, np.where(depths[1] <= 0, BEHIND, 0)).astype(np.int32)
        image = np.clip(0.5 - np.minimum(*depths), 0.0, 1.0).astype(np.float32)
        return cls(image, labels, from_labels(labels, tuple(STRUCTURES), (1.0, 1.0)))

    def tensors(self, role: str, rng: np.random.Generator | None = None, points: int = 0) -> Batch:
        """A batch of one. rng: draws ``points`` of its surfaces, which come with their distances."""
        found = {role: _row(self.image), f"{role}_labels": _row(self.labels)}
        if rng is not None:
            chosen = rng.integers(len(self.surfaces.points), size=points)
            found[f"{role}_points"] = torch.from_numpy(self.surfaces.points[chosen])[None]
            found[f"{role}_structure"] = torch.from_numpy(self.surfaces.structure[chosen])[None]
            found[f"{role}_distance"] = torch.from_numpy(self.surfaces.distance)[None]
        return found


class Pairs:
    """Batches of training pairs of a population, a function of the step alone."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.scenes = [Scene.drawn(plan.seed, TRAIN, number, plan.size) for number in range(plan.scenes)]

    def __call__(self, step: int) -> Batch:
        rows = []
        for row in range(self.plan.batch):
            rng = numbers(self.plan.seed, POINTS, step, row)
            moving, fixed = (self.scenes[i] for i in rng.choice(len(self.scenes), 2, replace=False))
            rows.append(moving.tensors("moving", rng, self.plan.points) | fixed.tensors("fixed", rng, self.plan.points))
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class View:
    """One held-out pair, for the figure. u: (2, size, size) pixels."""

    fixed: np.ndarray
    warped: np.ndarray
    fixed_labels: np.ndarray
    warped_labels: np.ndarray
    u: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Means over the held-out pairs. dice, surface_mm: per structure. folds: share of pixels. removed: share of the squared difference
    of the images that is gone.
    """

    dice: tuple[float, ...]
    surface_mm: tuple[float, ...]
    folds: float
    sdlogj: float
    mse: float
    removed: float


class SurfaceTerm(Experiment):
    """Six trainings at 64 x 64 pixels; quick: five, shorter ones. Scores are of pairs of scenes that no training saw."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train with every sigma_s of the plan and compare with the training without the term."""
        job = partial(train_and_measure, plan=plan)
        found = each(job, len(plan.sigmas_mm), self.workers, "networks trained", progress, (0.0, 0.97))
        tell(progress, "figures", 0.98)
        rows = {sigma: measured for sigma, (measured, _) in zip(plan.sigmas_mm, found)}
        still = [torch.zeros(1, 2, plan.size, plan.size)] * plan.pairs
        start = _means(held_out(plan), still, 0.0, 0.0)
        views = {sigma: view for sigma, (_, view) in zip(plan.sigmas_mm, found)}
        figures = (draw_pair(views, outdir / "pair.png"), draw_sweep(rows, start, outdir / "sigma.png"))
        details = {
            "structures": list(STRUCTURES.values()), "held_out_pairs": plan.pairs, "steps": plan.steps,
            "before": plain(start), "by_sigma_mm": {f"{s:g}" if s else "without": plain(row) for s, row in rows.items()},
        }  # fmt: skip
        return Outcome(criteria(rows), figures, details)


def train_and_measure(number: int, plan: Plan) -> tuple[Measured, View]:
    """VoxelMorph-diff with sigma_s ``number`` of the plan, on pairs it has not seen."""
    network = trained(recipe(plan.sigmas_mm[number], plan), Pairs(plan), plan.seed)
    return measure(network, plan)


def recipe(sigma_mm: float, plan: Plan) -> Recipe:
    """How the network is trained; sigma_mm ``NONE``: without the surface term."""
    losses = [{"name": "mse", "image_sigma": IMAGE_SIGMA}, {"name": "kl", "precision": PRECISION}]
    if sigma_mm != NONE:
        losses.append({"name": "surface", "sigma_mm": sigma_mm})
    return Recipe("voxelmorph-diff", tuple(losses), plan.steps, learning_rate=plan.learning_rate)


def held_out(plan: Plan) -> list[Batch]:
    """Pairs of scenes that are in no training batch."""

    scenes = [Scene.drawn(plan.seed, HELD_OUT, number, plan.size) for number in range(2 * plan.pairs)]
    return [a.tensors("moving") | b.tensors("fixed") for a, b in zip(scenes[::2], scenes[1::2])]


def measure(network, plan: Plan) -> tuple[Measured, View]:
    """Means over the held-out pairs, and the first of them."""
    pairs = held_out(plan)
    with torch.no_grad():
        fields = [Mapping(network(p["moving"], p["fixed"]), (plan.size,) * 2).forward for p in pairs]
    general = judged(network, pairs, (1.0, 1.0))
    measured = _means(pairs, fields, general["folds_percent"] / 100, general["sdlogj"])
    pair, u = pairs[0], fields[0]
    view = View(
        pair["fixed"][0, 0].numpy(), warped(pair["moving"], u)[0, 0].numpy(), pair["fixed_labels"][0, 0].numpy(),
        moved_labels(pair, u), u[0].numpy(),
    )  # fmt: skip
    return measured, view


def moved_labels(pair: Batch, u: torch.Tensor) -> np.ndarray:
    """The moving labels on the fixed scene."""
    labels = pair["moving_labels"]
    return sample(labels, identity_index(tuple(u.shape[2:])) + u, mode="nearest")[0, 0].numpy()


def surface_mm(found: np.ndarray, fixed: np.ndarray) -> float:
    """Mean distance of two masks' surfaces, both ways; the farthest possible when one is empty."""
    if not found.any() or not fixed.any():
        return float(np.hypot(*found.shape))
    return float(np.concatenate(surface_distances(found, fixed, (1.0, 1.0))).mean())


def _means(pairs: list[Batch], fields: list[torch.Tensor], folds: float, sdlogj: float) -> Measured:
    overlaps, distances, before, after = [], [], [], []
    for pair, u in zip(pairs, fields):
        found, fixed = moved_labels(pair, u), pair["fixed_labels"][0, 0].numpy()
        overlaps.append([dice(found == s, fixed == s) for s in STRUCTURES])
        distances.append([surface_mm(found == s, fixed == s) for s in STRUCTURES])
        before.append(float((pair["moving"] - pair["fixed"]).square().mean()))
        after.append(float((warped(pair["moving"], u) - pair["fixed"]).square().mean()))
    means = (tuple(float(v) for v in np.mean(rows, 0)) for rows in (overlaps, distances))
    return Measured(*means, folds, sdlogj, float(np.mean(after)), float(1 - np.sum(after) / np.sum(before)))


def criteria(rows: dict[float, Measured]) -> tuple[Criterion, ...]:
    """The published behavior as numbers; the limits are ours, chosen after a look at the quick plan."""
    without, published = rows[NONE], rows[PUBLISHED]
    gains = {sigma: np.mean(row.dice) - np.mean(without.dice) for sigma, row in rows.items()}
    good = [sigma for sigma in rows if GOOD[0] <= sigma <= GOOD[1]]
    found = [
        Criterion("rise of the structures' mean Dice by the surface term, sigma_s = 1 mm", gains[PUBLISHED], "", ">=", 0.02),
        Criterion(
            "surface distance with the term over that without it",
            np.mean(published.surface_mm) / np.mean(without.surface_mm), "", "<=", 0.8,
        ),
        Criterion("share of folded pixels with the term", published.folds, "", "<=", 0.001),
        Criterion(
            "share of the squared image difference removed, with the term over without it",
            published.removed / without.removed, "", ">=", 0.95,
        ),
        Criterion("least rise of the mean Dice, sigma_s 0.5 to 2 mm", min(gains[s] for s in good), "", ">=", 0.01),
    ]  # fmt: skip
    if IGNORED in rows:
        name = f"change of the mean Dice by sigma_s = {IGNORED:g} mm, which is ignored"
        found.append(Criterion(name, abs(gains[IGNORED]), "", "<=", 0.015))
    return tuple(found)


def plain(row: Measured) -> dict:
    """A row for ``result.json``."""
    values = {"dice": row.dice, "surface_mm": row.surface_mm}
    found = {name: [float(f"{v:.4g}") for v in each_one] for name, each_one in values.items()}
    single = {"folds": row.folds, "sdlogj": row.sdlogj, "mse": row.mse, "removed": row.removed}
    return found | {name: float(f"{v:.4g}") for name, v in single.items()}


def _row(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None, None]


def draw_pair(views: dict[float, View], path: Path) -> Path:
    """The first held-out pair: what the network sees, and where the structures end up (red: fixed, blue: moved)."""
    shown = {s: views[s] for s in (NONE, PUBLISHED, IGNORED) if s in views}
    figure, axes = canvas(2, 1 + len(shown))
    first = next(iter(shown.values()))
    picture(axes[0, 0], first.fixed, "fixed, as the network sees it")
    picture(axes[1, 0], 0.5 * first.fixed, "its structures")
    for label, color in zip(STRUCTURES, ("tab:red", "tab:orange")):
        outline(axes[1, 0], first.fixed_labels == label, color)
    for column, (sigma, view) in zip(axes.T[1:], shown.items()):
        picture(column[0], view.warped, f"sigma_s {sigma:g} mm: warped" if sigma else "without the term: warped")
        grid(column[0], np.indices(view.fixed.shape)[::-1] + view.u)
        overlaps = [dice(view.warped_labels == s, view.fixed_labels == s) for s in STRUCTURES]
        picture(column[1], 0.5 * view.fixed, f"mean Dice {np.mean(overlaps):.3f}")
        for label in STRUCTURES:
            outline(column[1], view.fixed_labels == label, "tab:red")
            outline(column[1], view.warped_labels == label, "tab:cyan")
    return save(figure, path)


def draw_sweep(rows: dict[float, Measured], start: Measured, path: Path) -> Path:
    """Dice, surface distance, image difference and folds over sigma_s; dashed: without the term."""
    figure, panels = canvas(1, 4, 3.4, 3.0)
    sigmas = sorted(s for s in rows if s != NONE)
    for axes, title, value in (
        (panels[0, 0], "mean Dice", lambda r: np.mean(r.dice)),
        (panels[0, 1], "surface distance (mm)", lambda r: np.mean(r.surface_mm)),
        (panels[0, 2], "squared image difference", lambda r: r.mse),
        (panels[0, 3], "share of folded pixels", lambda r: r.folds),
    ):
        axes.semilogx(sigmas, [value(rows[s]) for s in sigmas], "o-", label="with the term")
        axes.axhline(value(rows[NONE]), color="gray", linestyle="--", label="without")
        axes.axvspan(*GOOD, color="tab:green", alpha=0.1)
        axes.set_title(f"{title} (before: {value(start):.3g})", fontsize=9)
        axes.set_xlabel("sigma_s (mm)")
    panels[0, 3].set_ylim(bottom=0)
    panels[0, 0].legend(fontsize=7)
    return save(figure, path)
