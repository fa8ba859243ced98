"""Why features and not intensities: with one channel the moving image alone says along which line a voxel is pushed (Jena et al., 2024).

The force of the solver and the gradient of the mean of the moving channels are compared in every iteration, voxel by voxel. One
channel, be it the scan itself or a feature, leaves the force no other direction: |cos| = 1. With more channels it is
below 1 and falls towards 2 / pi, that of two directions in the plane that have nothing to do with each other. Networks that were
never trained differ in nothing but the number of channels; trained ones of one and of many channels stand beside them. Different
from the paper, which shows trained 3-D networks of 16 channels: invented people in 2-D.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Schedule
from ..data.pair import Pair
from ..geometry.pyramid import Pyramid, level_geometry
from ..geometry.sampling import index_matrix
from ..methods.bias import alignment, mean_alignment
from ..methods.features import scan_features
from ..networks import FEATURES
from ..networks.base import FeatureNetwork
from ..networks.weights import load_model
from ..progress import Progress
from ..session import RegistrationSession
from ..transforms.model import Model
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, picture, save, scaled
from .people import SGD, Pairs, People, Person, features_recipe, overlap, scanned, square, stored, whole
from .trained import Part, trained_features, untrained

SCANS = 0
"""Instead of a number of channels: the scans themselves, without a network."""
UNRELATED = 2 / math.pi
EXACT, BELOW = 1e-9, 0.9
MANY = 16
NETWORK = "unet"
SHARE = 0.97
"""Of the progress bar: everything but the figures."""


@dataclass(frozen=True)
class Case:
    """channels: of the features. steps: of their training, 0 for random weights."""

    channels: int
    steps: int = 0

    def __str__(self) -> str:
        return "scans" if self.channels == SCANS else f"{self.channels}{', trained' if self.steps else ''}"


RANDOM = tuple(Case(n) for n in (SCANS, 1, 2, 4, 8, MANY))


@dataclass(frozen=True)
class Plan:
    """pairs: of people to register, people: to train on. schedule: of the solver. iterations: of the training."""

    cases: tuple[Case, ...] = (*RANDOM, Case(1, 1000), Case(MANY, 1000))
    pairs: int = 12
    people: int = 40
    iterations: tuple[int, ...] = (20, 15, 8)
    schedule: Schedule = field(default_factory=lambda: Schedule((4, 2, 1), (40, 40, 30), tolerance=0.0))
    seed: int = 2018


QUICK = Plan(
    (*RANDOM, Case(1, 150), Case(MANY, 150)), pairs=3, schedule=Schedule((4, 2, 1), (30, 30, 20), tolerance=0.0)
)


@dataclass(frozen=True)
class Measured:
    """One case. means: (pairs, iterations) of |cos| over the pixels. lowest: of all. cosines: of the first pair at its end.

    dice: mean over the pairs, at the end.
    """

    means: np.ndarray
    lowest: float
    cosines: np.ndarray
    dice: float


class Watch(Progress):
    """Compares force and gradient after every iteration of a registration."""

    def __init__(self, fixed: Pyramid, moving: Pyramid):
        super().__init__()
        self.fixed, self.moving = fixed, moving
        self.means: list[float] = []
        self.lowest, self.last = math.inf, None

    def preview(self, model: Model, world: np.ndarray) -> None:
        grid = model.geometry
        number = self.fixed.serving(grid)
        level = level_geometry(self.moving.images[-1][1], min(grid.spacing_mm))
        matrix = index_matrix(grid, level, world)
        own, other = self.fixed.on(grid, number), self.moving.on(level, number)
        self.last = alignment(own, other, model.displacement(), matrix)
        self.means.append(mean_alignment(self.last))
        self.lowest = min(self.lowest, float(self.last.nan_to_num(math.inf).min()))


class ImplicitBias(Experiment):
    """Twelve pairs of people, all numbers of channels; quick: three pairs, short trainings."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Register with every number of channels and look at the directions on the way."""
        job = partial(measure, plan=plan, progress=progress if self.workers == 0 else None)
        found = each(job, len(plan.cases), self.workers, "networks", progress, (0.0, SHARE))
        tell(progress, "figures", 0.98)
        rows = dict(zip(plan.cases, found))
        figures = (draw_iterations(rows, plan, outdir / "iterations.png"), draw_maps(rows, plan, outdir / "maps.png"))
        details = {
            "pairs": plan.pairs, "steps": max(case.steps for case in rows), "unrelated": UNRELATED,
            "by_channels": {str(case): plain(row) for case, row in rows.items()},
        }  # fmt: skip
        return Outcome(criteria(rows), figures, details)


def measure(number: int, plan: Plan, progress: Progress | None = None) -> Measured:
    """One case of the plan, on all pairs. progress: of the whole experiment."""
    case, pairs = plan.cases[number], People(0, plan.seed, square()).tested(plan.pairs)
    share = SHARE / len(plan.cases)
    part = None if progress is None else Part(progress, (share * number, share * (number + 0.9)))
    with tempfile.TemporaryDirectory() as folder:
        model = None if case.channels == SCANS else stored(network(case, plan, part), NETWORK, Path(folder))
        watched = [watch(fixed, moving, plan, model) for fixed, moving in pairs]
    return Measured(
        np.array([w.means for w, _ in watched]),
        min(w.lowest for w, _ in watched),
        watched[0][0].last[0, 0].numpy(),
        float(np.mean([dice for _, dice in watched])),
    )


def network(case: Case, plan: Plan, progress: Progress | None = None) -> FeatureNetwork:
    """Random or trained, all from one seed."""
    recipe = features_recipe(case.steps, plan.iterations, channels=case.channels)
    if not case.steps:
        return untrained(FEATURES, recipe, plan.seed)
    return trained_features(recipe, Pairs(People(plan.people, plan.seed, square())), plan.seed, progress)


def watch(fixed: Person, moving: Person, plan: Plan, model: Path | None) -> tuple[Watch, float]:
    """One registration by gradient descent, and its overlap."""
    pair = scanned(fixed, moving, (square(), square()))
    found = Watch(*compared(pair, model))
    config = whole(SGD, plan.schedule, model)
    transform = RegistrationSession(pair, config, found).run()
    return found, overlap(fixed, moving, transform, square())


def compared(pair: Pair, model: Path | None) -> tuple[Pyramid, Pyramid]:
    """What the solver compares."""
    images = (pair.fixed, pair.moving)
    if model is None:
        return tuple(Pyramid(((image.tensor, image.geometry),)) for image in images)
    return tuple(scan_features(image, load_model(model)) for image in images)


def criteria(rows: dict[Case, Measured]) -> tuple[Criterion, ...]:
    """One channel is exact; how far below 1 many must be is ours."""
    one = [row for case, row in rows.items() if case.channels in (SCANS, 1)]
    random = sorted(case.channels for case in rows if not case.steps and case.channels > 1)
    means = [float(rows[Case(channels)].means.mean()) for channels in random]
    trained = [float(row.means.mean()) for case, row in rows.items() if case.steps and case.channels > 1]
    return (
        Criterion("largest 1 - |cos| of all pixels and iterations, one channel", 1 - min(row.lowest for row in one), "", "<=", EXACT),
        Criterion(f"mean |cos|, {random[-1]} channels", means[-1], "", "<=", BELOW),
        *(Criterion("the same, trained", value, "", "<=", BELOW) for value in trained),
        Criterion("largest rise of the mean with the next number of channels", max(np.diff([1.0, *means])), "", "<=", 0.0),
    )  # fmt: skip


def plain(row: Measured) -> dict:
    """A row for ``result.json``."""
    values = {"mean": row.means.mean(), "first": row.means[:, 0].mean(), "last": row.means[:, -1].mean()}
    found = {f"{name}_cosine": float(f"{value:.6g}") for name, value in values.items()}
    return found | {"lowest_cosine": float(f"{row.lowest:.12g}"), "dice": float(f"{row.dice:.4g}")}


def draw_iterations(rows: dict[Case, Measured], plan: Plan, path: Path) -> Path:
    """Mean |cos| over the iterations of all scales, and over the number of channels."""
    figure, axes = canvas(1, 2, 5.2, 3.6)
    over, totals = axes[0]
    for case, row in rows.items():
        dashed = case.steps or case.channels == SCANS
        over.plot(row.means.mean(0), label=str(case), linestyle="--" if dashed else "-")
    for border in np.cumsum(plan.schedule.iterations)[:-1]:
        over.axvline(border, color="lightgray", zorder=0)
    over.set(xlabel="iteration", ylabel="mean |cos|", ylim=(0.45, 1.02))
    over.legend(title="channels", fontsize=7, title_fontsize=7, ncols=4, loc="lower left")
    for trained in (False, True):
        known = [case for case in rows if case.channels != SCANS and bool(case.steps) is trained]
        means = [rows[case].means.mean(1) for case in known]
        channels, label = [case.channels for case in known], "trained" if trained else "random weights"
        totals.errorbar(channels, np.mean(means, 1), np.std(means, 1), marker="o", capsize=3, label=label)
    ticks = sorted({case.channels for case in rows} - {SCANS})
    totals.set(xlabel="channels", xscale="log", xticks=ticks, xticklabels=ticks, ylim=(0.45, 1.02))
    totals.minorticks_off()
    totals.legend(fontsize=7, loc="lower left")
    for panel in (over, totals):
        panel.axhline(UNRELATED, color="gray", linestyle=":")
        place = panel.get_yaxis_transform()
        panel.text(0.98, UNRELATED, "unrelated directions: 2 / pi", fontsize=7, va="top", ha="right", transform=place)
    return save(figure, path)


def draw_maps(rows: dict[Case, Measured], plan: Plan, path: Path) -> Path:
    """|cos| at every pixel of the first pair, at the end, for some numbers of channels."""
    shown = [case for case in rows if case.channels in (SCANS, 2, MANY)]
    figure, axes = canvas(1, 1 + len(shown), 2.5, 2.5)
    fixed, moving = People(0, plan.seed, square()).tested(1)[0]
    picture(axes[0, 0], scanned(fixed, moving, (square(), square())).moving.numpy(), "moving")
    for panel, case in zip(axes[0, 1:], shown):
        title = "|cos|, scans" if case.channels == SCANS else f"|cos|, channels: {case}"
        scaled(figure, panel, rows[case].cosines, title, vmin=0.0, vmax=1.0)
    return save(figure, path)
