"""Very large deformations without folds: disks become Cs, and Cs disks (Dalca et al., MedIA 2019, section on C-shapes).

A 2-D VoxelMorph-diff is trained on generated pairs and judged on 100 that it has not seen. Different from the publication,
which leaves size, opening and length of the training open: the light network, some thousand steps of batch 8 with a learning
rate falling from 1e-3 to 0; and the mean velocity is smoothed by a Gaussian and falls to 0 at the border, in training and after
it. Without the Gaussian its slopes break where space is squeezed most, and there some pixels fold; with the border at rest
the map takes the picture onto itself, so that each map can be read wherever the other one lands. Both are integrated on a grid
finer than the pixels: at half resolution, as published, a map and its inverse miss each other by pixels where they squeeze
(said in the details). Everything is judged on these two tables: overlap at pixels, folds (central differences) at pixels and at
all points of the fine grid, and there the composition of the two. Strict folds of the fine grid, in any corner of a cell, stand
in the details: a grid of a given fineness can be too coarse for an inverse that spreads a pixel over thirty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..data.c_shapes import CShapeRanges, CShapes
from ..geometry.sampling import identity_index, per_component, sample
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import compose, jacobian_determinant, strict_folds
from ..networks.base import Network, Prediction
from ..networks.voxelmorph import VoxelMorphDiff
from ..progress import Progress
from ..training.mapping import Mapping, warped
from ..transforms.integrate import integrate
from .base import Criterion, Experiment, Outcome, tell
from .disk_to_c import ALL, Population, dice, recipe
from .figures import canvas, grid, picture, save, scaled
from .trained import Part, trained

UNIT = (1.0, 1.0)
LEAST_DICE, MEAN_PIXELS, MOST_PIXELS = 0.95, 0.1, 0.5
SMOOTHING, RIM = 1 / 16, 1 / 8
"""S.d. of the Gaussian over the velocity, and how far from the border it has its full length again: shares of the side."""
PUBLISHED_SQUARINGS = 7
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHOWN = 4
TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class Plan:
    """How much is computed. fineness: grid points per pixel of the integration."""

    size: int = 128
    steps: int = 6000
    batch: int = 8
    pairs: int = 100
    precision: float = 20.0
    learning_rate: float = 1e-3
    fineness: int = 4
    ranges: CShapeRanges = ALL
    seed: int = 2018


QUICK = Plan(size=64, steps=1500, fineness=8, ranges=CShapeRanges(disk=(1 / 4, 1 / 3), turn_deg=(-30.0, 30.0)))
"""Smaller pictures; no small disks, and all Cs open to the right."""


class SmoothVelocity(VoxelMorphDiff):
    """VoxelMorph-diff whose mean velocity is smooth and at rest at the border of the picture."""

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        (velocity,), log_variance = super().predict(pair)
        size = np.array(velocity.shape[:1:-1])
        return (gaussian(velocity, SMOOTHING * size) * at_rest(tuple(velocity.shape[2:])),), log_variance


def at_rest(shape: tuple[int, ...]) -> torch.Tensor:
    """Factor (1, 1, *shape) that rises from 0 at the border to 1 at ``RIM`` as sin^2 does from 0 to pi/2."""
    factor = torch.ones((1, 1, *shape))
    for axis, n in enumerate(shape):
        share = torch.arange(n) / (n - 1)
        depth = torch.minimum(share, 1 - share).clamp(max=RIM) / RIM
        factor = factor * (torch.pi / 2 * depth).sin().square().reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return factor


@dataclass(frozen=True)
class Measured:
    """One pair, both maps. folds: pixels. fine_folds, strict_folds: points of the grid of integration, by central differences and
    in any corner of a cell.

    inverse_*: |phi o phi^-1 - Id| in pixels at all points of that grid, either map after the other. coarse_*: the same of the
    maps integrated at half resolution, at pixels.
    """

    dice: float
    dice_back: float
    folds: int
    fine_folds: int
    strict_folds: int
    inverse_mean: float
    inverse_max: float
    coarse_folds: int
    coarse_inverse_mean: float
    coarse_inverse_max: float


class CShape(Experiment):
    """128 x 128 pixels, 100 held-out pairs; quick: 64 x 64."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train, register held-out pairs in both directions, hold the numbers against the limits."""
        tell(progress, "training", 0.0)
        population = Population(plan.size, plan.batch, plan.ranges, plan.seed)
        chosen = recipe(plan.steps, plan.precision, learning_rate=plan.learning_rate)
        network = trained(
            replace(chosen, network=SmoothVelocity), population.draw(), plan.seed, Part(progress, (0.0, TRAINING_SHARE))
        )
        held_out = population.held_out(plan.pairs).each()
        found = []
        for number, shapes in enumerate(held_out):
            tell(progress, f"pair {number}/{plan.pairs}", TRAINING_SHARE + 0.18 * number / plan.pairs)
            found.append(measure(network, shapes, plan.fineness))
        tell(progress, "figures", 0.98)
        figures = (
            draw_morph(network, held_out[0], plan.fineness, outdir / "morph.png"),
            draw_pairs(network, held_out, plan.fineness, outdir / "pairs.png"),
        )
        return Outcome(criteria(found), figures, details(plan, network, found))


def criteria(found: list[Measured]) -> tuple[Criterion, ...]:
    """The published behavior as numbers."""
    return (
        Criterion("mean Dice of warped disks and Cs", mean(found, "dice"), "", ">=", LEAST_DICE),
        Criterion("mean Dice of Cs under the inverse and disks", mean(found, "dice_back"), "", ">=", LEAST_DICE),
        Criterion("folds of all maps and inverses", sum(m.folds for m in found), "pixels", "<=", 0),
        Criterion("the same on the fine grid of integration", sum(m.fine_folds for m in found), "points", "<=", 0),
        Criterion("map o inverse: mean distance from Id", mean(found, "inverse_mean"), "pixels", "<=", MEAN_PIXELS),
        Criterion(
            "map o inverse: largest of all pairs", max(m.inverse_max for m in found), "pixels", "<=", MOST_PIXELS
        ),
    )


def mean(found: list[Measured], name: str) -> float:
    """Of one number over pairs."""
    return float(np.mean([getattr(one, name) for one in found]))


def details(plan: Plan, network: Network, found: list[Measured]) -> dict:
    """What is not judged: the worst pairs, and the maps integrated at half resolution."""
    return {
        "size": plan.size,
        "steps": plan.steps,
        "precision": plan.precision,
        "weights": sum(p.numel() for p in network.parameters()),
        "lowest_dice": min(m.dice for m in found),
        "lowest_dice_back": min(m.dice_back for m in found),
        "fine_grid": {
            "points_per_pixel": plan.fineness,
            "strict_folds": sum(m.strict_folds for m in found),
            "pairs_with_strict_folds": sum(m.strict_folds > 0 for m in found),
        },
        "half_resolution": {
            "folds_at_pixels": sum(m.coarse_folds for m in found),
            "inverse_mean_pixels": mean(found, "coarse_inverse_mean"),
            "inverse_max_pixels": max(m.coarse_inverse_max for m in found),
        },
    }


@dataclass(frozen=True)
class Flow:
    """exp(time v) of a predicted velocity, on a grid with ``fineness`` points per pixel of a picture of ``shape``."""

    prediction: Prediction
    shape: tuple[int, int]
    fineness: int

    def at(self, time: float) -> torch.Tensor:
        """Displacement in distances of the fine grid's points, (1, 2, ...); its first point is the first pixel."""
        spacing = per_component(self.prediction.spacing_voxels, self.prediction.field)
        fine = tuple((n - 1) * self.fineness + 1 for n in self.shape)
        index = identity_index(fine) / (self.fineness * spacing)
        velocity = sample(self.prediction.field, index, padding="border")
        velocity = velocity * (time * self.prediction.unit_voxels * self.fineness)
        return integrate(velocity)

    def in_pixels(self, fine: torch.Tensor) -> torch.Tensor:
        """The same at the pixels, in pixels."""
        return fine[..., :: self.fineness, :: self.fineness] / self.fineness

    def misses(self, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """|outer o inner - Id| in pixels on the fine grid, (1, ...)."""
        return compose(outer, inner).norm(dim=1) / self.fineness


def predicted(network: Network, shapes: CShapes) -> Prediction:
    """What the network says about the disk as moving and the C as fixed picture."""
    with torch.no_grad():
        return network(shapes.disks, shapes.cs)


def measure(network: Network, shapes: CShapes, fineness: int) -> Measured:
    """Both directions of one pair."""
    prediction = predicted(network, shapes)
    shape = tuple(shapes.disks.shape[2:])
    flow = Flow(prediction, shape, fineness)
    there, back = flow.at(1.0), flow.at(-1.0)
    forward, backward = flow.in_pixels(there), flow.in_pixels(back)
    misses = torch.cat([flow.misses(there, back), flow.misses(back, there)])
    coarse = Mapping(prediction, shape, steps=PUBLISHED_SQUARINGS)
    both = compose(coarse.forward, coarse.backward), compose(coarse.backward, coarse.forward)
    coarse_misses = torch.cat(both).norm(dim=1)
    return Measured(
        dice(warped(shapes.disks, forward), shapes.c_labels),
        dice(warped(shapes.cs, backward), shapes.disk_labels),
        folds(forward) + folds(backward),
        folds(there) + folds(back),
        strict_folds(there, UNIT) + strict_folds(back, UNIT),
        float(misses.mean()),
        float(misses.max()),
        folds(coarse.forward) + folds(coarse.backward),
        float(coarse_misses.mean()),
        float(coarse_misses.max()),
    )


def folds(u: torch.Tensor) -> int:
    """Points with a determinant of at most zero; u: in distances of these points."""
    return int((jacobian_determinant(u, UNIT) <= 0).sum())


def lines(u: torch.Tensor) -> np.ndarray:
    """phi (2, Y, X) of a displacement in pixels, for ``figures.grid``."""
    return (identity_index(tuple(u.shape[2:])) + u)[0].numpy()


def draw_morph(network: Network, shapes: CShapes, fineness: int, path: Path) -> Path:
    """The disk under exp(t v) and the C under exp(-t v), each with the grid."""
    flow = Flow(predicted(network, shapes), tuple(shapes.disks.shape[2:]), fineness)
    figure, axes = canvas(2, len(TIMES), 2.3, 2.5)
    for row, scan, sign, name in ((axes[0], shapes.disks, 1, "disk"), (axes[1], shapes.cs, -1, "C")):
        for panel, time in zip(row, TIMES):
            u = flow.in_pixels(flow.at(sign * time))
            picture(panel, warped(scan, u)[0, 0].numpy(), f"{name}, exp({sign * time + 0.0:g} v)")
            grid(panel, lines(u))
    return save(figure, path)


def draw_pairs(network: Network, held_out: list[CShapes], fineness: int, path: Path) -> Path:
    """Some pairs: both shapes, both registered, the determinant, and the grid under the map after its inverse."""
    shown = held_out[:SHOWN]
    figure, axes = canvas(len(shown), 7, 2.3, 2.4)
    for row, shapes in zip(axes, shown):
        flow = Flow(predicted(network, shapes), tuple(shapes.disks.shape[2:]), fineness)
        there, back = flow.at(1.0), flow.at(-1.0)
        forward, backward = flow.in_pixels(there), flow.in_pixels(back)
        picture(row[0], shapes.disks[0, 0].numpy(), "disk (moving)")
        picture(row[1], shapes.cs[0, 0].numpy(), "C (fixed)")
        picture(row[2], warped(shapes.disks, forward)[0, 0].numpy(), "disk, map")
        grid(row[2], lines(forward))
        picture(row[3], warped(shapes.cs, backward)[0, 0].numpy(), "C, inverse")
        grid(row[3], lines(backward))
        determinant = jacobian_determinant(forward, UNIT)[0, 0].clamp(min=1e-3).log2().numpy()
        scaled(figure, row[4], determinant, "log2 det J", cmap="RdBu_r", vmin=-4.0, vmax=4.0)
        both = compose(there, back)
        picture(row[5], shapes.disks[0, 0].numpy(), "map o inverse")
        grid(row[5], lines(flow.in_pixels(both)))
        scaled(figure, row[6], (both.norm(dim=1)[0] / fineness).numpy(), "its distance from Id (pixels)")
    return save(figure, path)
