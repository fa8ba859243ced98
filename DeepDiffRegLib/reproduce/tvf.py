"""A sequence of velocities against one displacement from the same backbone (Chen et al., TransMorph-TVF, Table 2).

TransMorph, TM-TVF and TM-TVF_LDDMM learn to register generated shapes. Different from the paper: shapes in 2-D instead of
faces and brains, the light backbone of convolutions, no labels in the loss, a short training at a larger rate, the differential
operator of LDDMM itself (the authors' code has another), and its weight is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..data.shapes import ShapePair, make_shapes
from ..geometry.sampling import per_component
from ..geometry.vector_fields import compose, lands_inside
from ..networks.base import Prediction
from ..progress import Progress
from ..training.base import Batch
from ..training.mapping import Mapping, warped
from ..training.streams import numbers
from ..training.validation import judged
from ..transforms.integrate import time_varying
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, grid, picture, save, scaled
from .trained import Recipe, trained

BASE, TVF, LDDMM = "base", "TM-TVF", "TVF_LDDMM"
NAMES = (LDDMM, TVF, BASE)
"""Longest training first."""
INNER, OUTER = 2, 3
"""Objects within and around the large one."""
TEST_SEED = 1
"""Added to the seed for the pairs that are held out."""
IMAGE_SIGMA, OPERATOR_WEIGHT = 0.05, 3e7
"""The weight makes maps about as smooth (SDlogJ) as those of TM-TVF, as published."""
NAIVE, SAME, REVERSED, MIDPOINT = "Id - u", "same order", "reversed order", "reversed order, midpoint"


@dataclass(frozen=True)
class Plan:
    """How much is computed. velocities: N. shapes: pairs to train on (each in both directions), pairs: held out."""

    velocities: int = 8
    size: int = 64
    shapes: int = 300
    pairs: int = 50
    steps: int = 1500
    batch: int = 2
    learning_rate: float = 1e-3
    seed: int = 2018


QUICK = Plan(shapes=150, pairs=30, steps=400)


class Pairs:
    """Batches of generated pairs, a function of the step alone."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.pairs = [drawn(plan.seed, number, plan.size) for number in range(plan.shapes)]

    def __call__(self, step: int) -> Batch:
        rows = []
        for row in range(self.plan.batch):
            rng = numbers(self.plan.seed, step, row)
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            roles = ("moving", "fixed") if rng.random() < 0.5 else ("fixed", "moving")
            rows.append(dict(zip(("moving", "fixed"), (getattr(pair.pair, role).tensor for role in roles))))
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class Measured:
    """Means over the held-out pairs. dice: of all objects. folds: share of pixels. inverse: mean |phi o phi^-1 - Id| in pixels by the
    way the inverse is made; empty for a plain displacement.
    """

    lncc: float
    mse: float
    dice: float
    folds: float
    sdlogj: float
    inverse: dict[str, float]
    before: dict[str, float]


@dataclass(frozen=True)
class View:
    """The first held-out pair. u: (2, size, size) pixels. velocities: each (2, size / 2, size / 2)."""

    fixed: np.ndarray
    moving: np.ndarray
    warped: np.ndarray
    u: np.ndarray
    velocities: tuple[np.ndarray, ...]


class TimeVarying(Experiment):
    """Three trainings at 64 x 64 pixels; quick: shorter ones. Scores are of pairs that no training saw."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train all three networks and compare them."""
        job = partial(train_and_measure, plan=plan)
        found = each(job, len(NAMES), self.workers, "networks trained", progress, (0.0, 0.97))
        tell(progress, "figures", 0.98)
        rows = {name: measured for name, (measured, _) in zip(NAMES, found)}
        views = {name: view for name, (_, view) in zip(NAMES, found)}
        figures = (
            draw_pairs(views, outdir / "pair.png"),
            draw_velocities(views[TVF], outdir / "velocities.png"),
            draw_inverse(rows, outdir / "inverse.png"),
        )
        details = {
            "held_out_pairs": plan.pairs,
            "steps": plan.steps,
            "velocities": plan.velocities,
            "before": rows[BASE].before,
        }
        return Outcome(criteria(rows), figures, details | {name: plain(row) for name, row in rows.items()})


def drawn(seed: int, number: int, size: int) -> ShapePair:
    """Pair ``number`` of a population, with a label for every object."""
    return make_shapes(seed, number, size, inner=INNER, outer=OUTER)


def recipe(name: str, plan: Plan) -> Recipe:
    """The published terms: LNCC and the diffusion of the whole displacement, or the energy of LDDMM."""
    if name == LDDMM:
        operator = {"name": "lddmm", "alpha": 0.01, "gamma": 0.01, "beta": 2.0, "weight": OPERATOR_WEIGHT}
        losses = ({"name": "mse", "image_sigma": IMAGE_SIGMA}, operator)
    else:
        losses = ("lncc", "diffusion")
    network, changes = ("transmorph", {}) if name == BASE else ("transmorph-tvf", {"steps": plan.velocities})
    return Recipe(network, losses, plan.steps, architecture=changes, learning_rate=plan.learning_rate)


def train_and_measure(number: int, plan: Plan) -> tuple[Measured, View]:
    """One of ``NAMES``, on pairs it has not seen."""
    network = trained(recipe(NAMES[number], plan), Pairs(plan), plan.seed)
    pairs = held_out(plan)
    with torch.no_grad():
        predictions = [network(pair["moving"], pair["fixed"]) for pair in pairs]
    fields = [Mapping(p, (plan.size,) * 2).forward for p in predictions]
    images = [warped(pair["moving"], u) for pair, u in zip(pairs, fields)]
    general = judged(network, pairs, (1.0, 1.0))
    inverses = [inverse_errors(p) for p in predictions] if network.kind == "time_varying" else [{}]
    measured = Measured(
        general["lncc"],
        float(np.mean([(image - pair["fixed"]).square().mean() for image, pair in zip(images, pairs)])),
        general["dice"],
        general["folds_percent"] / 100,
        general["sdlogj"],
        {way: float(np.mean([errors[way] for errors in inverses])) for way in inverses[0]},
        {
            "lncc": general["lncc_before"],
            "dice": general["dice_before"],
            "mse": float(np.mean([(pair["moving"] - pair["fixed"]).square().mean() for pair in pairs])),
        },
    )
    first = pairs[0]
    scans = (t[0, 0].numpy() for t in (first["fixed"], first["moving"], images[0]))
    velocities = tuple(f[0].numpy() for f in predictions[0].fields) if inverses[0] else ()
    return measured, View(*scans, fields[0][0].numpy(), velocities)


def held_out(plan: Plan) -> list[Batch]:
    """Pairs of another population, with labels."""
    found = []
    for number in range(plan.pairs):
        shapes = drawn(plan.seed + TEST_SEED, number, plan.size)
        scans = {"moving": shapes.pair.moving.tensor, "fixed": shapes.pair.fixed.tensor}
        labels = {"moving_labels": shapes.moving_labels.tensor, "fixed_labels": shapes.fixed_labels.tensor}
        found.append(scans | {name: t.int() for name, t in labels.items()})
    return found


def inverse_errors(prediction: Prediction) -> dict[str, float]:
    """Mean |phi(phi^-1(x)) - x| in pixels of the scans, by the way the inverse is made.

    ``Id - u`` and the last one belong to the map of the midpoint rule, the other two to that of Euler's.
    """
    points = [
        f * per_component([prediction.unit_voxels / h for h in prediction.spacing_voxels], f) for f in prediction.fields
    ]
    middle, first_order = time_varying(points), euler(points)
    negated = [-v for v in points]
    ways = {
        NAIVE: (middle, -middle),
        SAME: (first_order, euler(negated)),
        REVERSED: (first_order, euler(negated[::-1])),
        MIDPOINT: (middle, time_varying(points, backward=True)),
    }
    return {way: missed(u, back, prediction.spacing_voxels) for way, (u, back) in ways.items()}


def euler(velocities: list[torch.Tensor]) -> torch.Tensor:
    """u <- u + v o (Id + u), once per velocity."""
    u = torch.zeros_like(velocities[0])
    for velocity in velocities:
        u = compose(velocity, u)
    return u


def missed(u: torch.Tensor, back: torch.Tensor, spacing_voxels: tuple[float, ...]) -> float:
    """Mean length of the composition's displacement, in voxels of the scans, where it stays in the picture."""
    misses = compose(u, back) * per_component(spacing_voxels, u)
    return float(misses.norm(dim=1, keepdim=True)[lands_inside(back)].mean())


def criteria(rows: dict[str, Measured]) -> tuple[Criterion, ...]:
    """The published behavior as numbers; margins are ours."""
    base, tvf, lddmm = rows[BASE], rows[TVF], rows[LDDMM]
    return (
        Criterion("LNCC, TM-TVF less the base", tvf.lncc - base.lncc, "", ">=", 0.0),
        Criterion("SDlogJ, TM-TVF over the base", tvf.sdlogj / base.sdlogj, "", "<=", 0.9),
        Criterion("LNCC, TVF_LDDMM less TM-TVF", lddmm.lncc - tvf.lncc, "", "<=", 0.0),
        Criterion("share of the squared difference removed, TVF_LDDMM", 1 - lddmm.mse / lddmm.before["mse"], "", ">=", 0.5),
        Criterion("share of folded pixels, TVF_LDDMM", lddmm.folds, "", "<=", 0.001),
        Criterion("inverse error of TM-TVF, reversed order over Id - u", tvf.inverse[REVERSED] / tvf.inverse[NAIVE], "", "<=", 0.8),
        Criterion("the same, midpoint over Euler", tvf.inverse[MIDPOINT] / tvf.inverse[REVERSED], "", "<=", 0.7),
    )  # fmt: skip


def plain(row: Measured) -> dict:
    """A row for ``result.json``."""
    values = {name: getattr(row, name) for name in ("lncc", "mse", "dice", "folds", "sdlogj")}
    found = {name: float(f"{value:.4g}") for name, value in values.items()}
    return found | {"inverse_pixels": {way: float(f"{value:.4g}") for way, value in row.inverse.items()}}


def draw_pairs(views: dict[str, View], path: Path) -> Path:
    """The first held-out pair and what every network makes of it."""
    figure, axes = canvas(2, 1 + len(views))
    first = views[BASE]
    picture(axes[0, 0], first.fixed, "fixed")
    picture(axes[1, 0], first.moving, "moving")
    for column, name in zip(axes.T[1:], (BASE, TVF, LDDMM)):
        view = views[name]
        picture(column[0], view.warped, f"{name}: warped")
        picture(column[1], 0.5 * view.warped)
        grid(column[1], np.indices(view.fixed.shape)[::-1] + view.u)
    return save(figure, path)


def draw_velocities(view: View, path: Path) -> Path:
    """How long the velocities of every time step are, in pixels per step, all on one scale."""
    figure, axes = canvas(1, len(view.velocities), 2.0, 2.2)
    lengths = [2 * np.linalg.norm(velocity, axis=0) for velocity in view.velocities]
    most = max(float(length.max()) for length in lengths)
    for panel, number, length in zip(axes[0], range(1, 1 + len(lengths)), lengths):
        scaled(figure, panel, length, f"|v_{number}| (pixels)", vmin=0.0, vmax=most)
    return save(figure, path)


def draw_inverse(rows: dict[str, Measured], path: Path) -> Path:
    """Inverse error by the way it is made, of both networks with velocities."""
    figure, axes = canvas(1, 1, 5.0, 3.0)
    for offset, name in enumerate((TVF, LDDMM)):
        errors = rows[name].inverse
        axes[0, 0].barh(np.arange(len(errors)) + 0.4 * offset, list(errors.values()), 0.35, label=name)
    axes[0, 0].set_yticks(np.arange(len(errors)) + 0.2, list(errors))
    axes[0, 0].set(xlabel="mean |phi o phi^-1 - Id| (pixels)")
    axes[0, 0].legend(fontsize=7)
    return save(figure, path)
