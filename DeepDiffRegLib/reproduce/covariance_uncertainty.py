"""Diagonal or smoothed covariance of the velocity, and how sure a network is of its map (Dalca et al., MedIA 2019).

On disks and Cs, one VoxelMorph-diff per covariance and per precision (1 and 20) of the prior. As published: with the high
precision both covariances register alike, without folds; with the low one samples of the smoothed covariance are smoother; the
spread over samples falls with precision. Where the pictures say nothing it tends to the prior's bound: variance
1 / (precision * neighbors) of the diagonal covariance, and what a Gaussian filter's energy puts in the place of neighbors of the
smoothed one. As the width of that filter grows with precision, its spread falls by far less, and as it reaches over most of the
picture, flat places are judged for the diagonal covariance only. Sizes, steps and number of samples
(255 instead of 500) are ours, as are the limits that the publication shows in figures only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..data.c_shapes import CShapeRanges, CShapes
from ..geometry.grid import Geometry
from ..geometry.sampling import identity_index, per_component, sample
from ..geometry.vector_fields import jacobian_determinant
from ..methods.uncertainty import Uncertainty, uncertainty
from ..networks.base import Network, Prediction
from ..networks.posterior import Posterior, smoothing_for
from ..progress import Progress
from ..training.mapping import Mapping, warped
from ..training.streams import tensors
from .base import Criterion, Experiment, Outcome, tell
from .disk_to_c import ALL, Population, dice, recipe
from .figures import canvas, grid, picture, save, scaled
from .trained import Part, trained

LOW, HIGH = 1.0, 20.0
COVARIANCES = ("diagonal", "smoothed")
UNIT = (1.0, 1.0)
FRAMES = (0.0, 0.25, 0.5, 0.75, 1.0)
EDGE, REACH = 0.05, 4
"""A pixel is flat when gray values around it never differ by more than EDGE while the disk becomes a C, nor within REACH pixels."""
RIM = 3
"""Points of the velocity's grid at the border that are left out: there the network's convolutions see zeros beyond the picture."""
DICE_APART, FOLDS_PERCENT, FLAT_APART = 0.02, 0.01, 0.15
ROUGHER, LESS_SPREAD = 0.5, 0.5
TRAINING_SHARE = 0.8
DRAWN = 3
SHOWN_SHARE = 0.99
"""Share of the pixels that the color scale of the spread reaches; a few, where a map almost folds, are far beyond it."""


@dataclass(frozen=True)
class Plan:
    """How much is computed. sampled: held-out pairs whose posterior is sampled ``samples`` times."""

    size: int = 96
    steps: int = 2000
    batch: int = 8
    pairs: int = 100
    sampled: int = 5
    samples: int = 255
    learning_rate: float = 1e-3
    ranges: CShapeRanges = ALL
    seed: int = 2018


QUICK = Plan(48, 1400, 8, 30, 3, 50, 2e-3, CShapeRanges(turn_deg=(-30.0, 30.0)))
"""Smaller, and all Cs open to the right."""


@dataclass(frozen=True)
class Trained:
    """One network and what it was trained with."""

    covariance: str
    precision: float
    network: Network

    @property
    def smoothing_voxels(self) -> float:
        """S.d. of the covariance's filter on the velocity's grid."""
        return smoothing_for(self.precision, 2) if self.covariance == "smoothed" else 0.0

    def predicted(self, shapes: CShapes) -> Prediction:
        """From a disk to a C."""
        with torch.no_grad():
            return self.network(shapes.disks, shapes.cs)

    def draw(self, prediction: Prediction, number: int, seed: int) -> torch.Tensor:
        """One velocity; the same random numbers for every network."""
        posterior = Posterior(prediction.field, prediction.log_variance, self.smoothing_voxels)
        return posterior.draw(tensors(seed, number))


@dataclass(frozen=True)
class Measured:
    """Means over held-out pairs. folds_percent: of the mean map's pixels; samples_folds_percent: of the sampled maps'.

    roughness: squared step between neighbors over variance of samples minus mean map; 2 for white noise on the pixels. sd_pixels:
    of the displacement over samples. flat: predicted s.d. of the velocity over the prior's bound, median of flat places.
    """

    dice: float
    folds_percent: float
    samples_folds_percent: float
    roughness: float
    sd_pixels: float
    flat: float


class CovarianceUncertainty(Experiment):
    """Four networks at 96 x 96 pixels; quick: at 48 x 48."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train all four on the same batches, compare them on the same held-out pairs."""
        population = Population(plan.size, plan.batch, plan.ranges, plan.seed)
        held_out = population.held_out(plan.pairs).each()
        kinds = [(covariance, precision) for covariance in COVARIANCES for precision in (LOW, HIGH)]
        networks, found = {}, {}
        for number, kind in enumerate(kinds):
            covariance, precision = kind
            first = TRAINING_SHARE * number / len(kinds)
            tell(progress, f"training, {covariance}, precision {precision:g}", first)
            span = Part(progress, (first, first + TRAINING_SHARE / len(kinds)))
            chosen = recipe(plan.steps, precision, covariance, plan.learning_rate)
            network = trained(chosen, population.draw(), plan.seed, span)
            networks[kind] = Trained(covariance, precision, network)
        for number, kind in enumerate(kinds):
            tell(progress, f"samples, {kind[0]}, precision {kind[1]:g}", TRAINING_SHARE + 0.15 * number / len(kinds))
            found[kind] = measure(networks[kind], held_out, plan)
        tell(progress, "figures", 0.96)
        figures = (
            draw_samples(networks, held_out[0], plan, outdir / "samples.png"),
            draw_spread(networks, held_out[0], plan, outdir / "spread.png"),
        )
        rows = [{"covariance": c, "precision": p, **plain(found[c, p])} for c, p in kinds]
        return Outcome(criteria(found), figures, {"size": plan.size, "steps": plan.steps, "networks": rows})


def criteria(found: dict[tuple[str, float], Measured]) -> tuple[Criterion, ...]:
    """The published behavior as numbers; keys of ``found``: covariance and precision."""
    diagonal, smoothed = ({p: found[c, p] for p in (LOW, HIGH)} for c in COVARIANCES)
    high = diagonal[HIGH], smoothed[HIGH]
    flat = max((m.flat for m in diagonal.values()), key=lambda ratio: abs(ratio - 1))
    return (
        Criterion("precision 20: difference of Dice", abs(high[0].dice - high[1].dice), "", "<=", DICE_APART),
        Criterion(
            "precision 20: folds, more of both", max(m.folds_percent for m in high), "% of pixels", "<=", FOLDS_PERCENT
        ),
        Criterion(
            "precision 1: roughness of samples, smoothed over diagonal",
            smoothed[LOW].roughness / diagonal[LOW].roughness, "", "<=", ROUGHER,
        ),
        Criterion(
            "precision 1: folds of samples, smoothed less diagonal",
            smoothed[LOW].samples_folds_percent - diagonal[LOW].samples_folds_percent, "% of pixels", "<=", FOLDS_PERCENT,
        ),
        Criterion(
            "diagonal: s.d. at precision 20 over that at 1",
            diagonal[HIGH].sd_pixels / diagonal[LOW].sd_pixels, "", "<=", LESS_SPREAD,
        ),
        Criterion(
            "smoothed: s.d. at precision 20 over that at 1",
            smoothed[HIGH].sd_pixels / smoothed[LOW].sd_pixels, "", "<=", 1.0,
        ),
        Criterion(
            "diagonal: s.d. in flat places over (precision * neighbors)^-1/2, less 1, larger of both",
            abs(flat - 1), "", "<=", FLAT_APART,
        ),
    )  # fmt: skip


def plain(found: Measured) -> dict[str, float]:
    """A row for ``result.json``."""
    return {name: float(f"{value:.4g}") for name, value in vars(found).items()}


def measure(trained_one: Trained, held_out: list[CShapes], plan: Plan) -> Measured:
    """Mean maps of all pairs, samples of the first ones."""
    overlaps, folds, spreads, flats, samples = [], [], [], [], []
    for number, shapes in enumerate(held_out):
        prediction = trained_one.predicted(shapes)
        u = Mapping(prediction, tuple(shapes.disks.shape[2:])).forward
        overlaps.append(dice(warped(shapes.disks, u), shapes.c_labels))
        folds.append(folds_percent(u))
        flats.append(flat_ratio(trained_one, prediction, shapes))
        if number < plan.sampled:
            spreads.append(float(spread(trained_one, prediction, plan).displacement_sd_mm.mean()))
            samples.append(sampled(trained_one, prediction, u, plan))
    rough, folded = np.mean(samples, axis=0)
    return Measured(
        *(float(np.mean(v)) for v in (overlaps, folds)), float(folded), float(rough),
        float(np.mean(spreads)), float(np.median(np.concatenate(flats))),
    )  # fmt: skip


def folds_percent(u: torch.Tensor) -> float:
    """Share of pixels with a determinant of at most zero."""
    return 100 * float((jacobian_determinant(u, UNIT) <= 0).float().mean())


def spread(trained_one: Trained, prediction: Prediction, plan: Plan) -> Uncertainty:
    """Maps of uncertainty on the velocity's grid; a pixel is a millimeter."""
    geometry = Geometry.identity((plan.size, plan.size))
    prior = trained_one.precision, trained_one.smoothing_voxels
    return uncertainty(prediction, geometry, plan.samples, plan.seed, *prior)


def sampled(trained_one: Trained, prediction: Prediction, mean: torch.Tensor, plan: Plan) -> tuple[float, float]:
    """Roughness and percent of folds of sampled maps."""
    shape, steps, squares, folded = tuple(mean.shape[2:]), 0.0, 0.0, []
    for number in range(plan.samples):
        u = Mapping(prediction, shape, trained_one.draw(prediction, number, plan.seed)).forward
        folded.append(folds_percent(u))
        rest = u - mean
        squares += float(rest.square().mean())
        steps += sum(float(rest.diff(dim=axis).square().mean()) for axis in (2, 3)) / 2
    return steps / squares, float(np.mean(folded))


def flat_ratio(trained_one: Trained, prediction: Prediction, shapes: CShapes) -> np.ndarray:
    """Predicted s.d. over the prior's bound at all points of the velocity's grid that are flat, without its rim.

    A smoothed covariance has no such places in small pictures: its filter reaches farther than they do.
    """
    posterior = Posterior(prediction.field, prediction.log_variance, trained_one.smoothing_voxels)
    ratio = posterior.relative_to_prior(trained_one.precision).sqrt()
    spacing = per_component(prediction.spacing_voxels, prediction.field)
    index = identity_index(tuple(ratio.shape[2:])) * spacing
    where = sample(flat(prediction, shapes.disks).float(), index, mode="nearest") > 0.5
    inner = (..., slice(RIM, -RIM), slice(RIM, -RIM))
    return ratio[inner][where[inner]].numpy()


def flat(prediction: Prediction, moving: torch.Tensor) -> torch.Tensor:
    """(1, 1, *shape) bool: pixels whose velocity changes no picture, because no edge passes by on the way to the warped one.

    The velocity at x moves those points whose path leads over x; they end, seen from x, in some frame M o exp(t v).
    """
    shape, mapping = tuple(moving.shape[2:]), Mapping(prediction, tuple(moving.shape[2:]))
    edge = torch.zeros((1, 1, *shape), dtype=torch.bool)
    for time in FRAMES:
        frame = warped(moving, mapping.at(time))
        edge |= F.max_pool2d(frame, 3, 1, 1) + F.max_pool2d(-frame, 3, 1, 1) > EDGE
    return F.max_pool2d(edge.float(), 2 * REACH + 1, 1, REACH) == 0


def draw_samples(networks: dict, shapes: CShapes, plan: Plan, path: Path) -> Path:
    """Per network the mean map and some sampled ones, each with the grid."""
    figure, axes = canvas(len(networks), 1 + DRAWN, 2.4, 2.6)
    for row, one in zip(axes, networks.values()):
        prediction = one.predicted(shapes)
        velocities = [None, *(one.draw(prediction, number, plan.seed) for number in range(DRAWN))]
        for panel, velocity, number in zip(row, velocities, range(1 + DRAWN)):
            u = Mapping(prediction, tuple(shapes.disks.shape[2:]), velocity).forward
            name = f"sample {number}" if number else f"{one.covariance}, precision {one.precision:g}: mean"
            picture(panel, warped(shapes.disks, u)[0, 0].numpy(), name)
            grid(panel, (identity_index(tuple(u.shape[2:])) + u)[0].numpy())
    return save(figure, path)


def draw_spread(networks: dict, shapes: CShapes, plan: Plan, path: Path) -> Path:
    """Per network the spread of the displacement, and the predicted s.d. of the velocity over the prior's bound."""
    figure, axes = canvas(2, len(networks), 3.0, 2.7)
    found = [(one, spread(one, one.predicted(shapes), plan)) for one in networks.values()]
    most = max(float(maps.displacement_sd_mm.quantile(SHOWN_SHARE)) for _, maps in found)
    for column, (one, maps) in zip(axes.T, found):
        name = f"{one.covariance}, precision {one.precision:g}"
        scaled(figure, column[0], maps.displacement_sd_mm[0, 0].numpy(), f"{name}: s.d. (pixels)", vmin=0.0, vmax=most)
        ratio = maps.relative_to_prior[0, 0].sqrt().numpy()
        scaled(figure, column[1], ratio, "s.d. of v over prior's bound", cmap="RdBu_r", vmin=0.0, vmax=2.0)
    return save(figure, path)
