"""Squares that do not touch: intensities tell no solver where to go, learned features do (Jena et al., 2024).

Two equal squares, half of the pairs apart. A small U-Net whose coarsest level sees the whole picture is trained through a solver
with nothing but the overlap of the squares, blurred at every resolution by three of its voxels: overlap as such says nothing of
a map that misses. The same solver on the intensities stays where it is when the squares are apart:
translations change nothing until they touch. Different from the paper: that blur, 64 x 64 pixels instead of 256 x 256, a U-Net
with random weights instead of one that has seen photographs, three resolutions from the first step on, translations instead of
affine maps, and some hundred steps of four pairs instead of 500 epochs of a thousand. Gradient descent is plain, as in the
paper: an optimizer that divides by the size of the gradient walks on flat ground.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config import Choice
from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid, resample
from ..methods.features import feature_images
from ..methods.implicit import Layer, solve
from ..networks.base import FeatureNetwork
from ..progress import Progress
from ..qc.overlap import dice
from ..training.base import Batch
from ..training.mapping import warped
from ..training.streams import numbers
from ._squares_landscape import Costs, draw_landscape, of_features, of_intensities
from .base import Criterion, Experiment, Outcome, tell
from .figures import canvas, outline, picture, save
from .trained import FeatureRecipe, Part, trained_features

TRAINING, HELD_OUT = 0, 1
"""Streams of random numbers: no held-out pair is drawn from that of the training."""
LEAST_DICE = 0.95
LEAST_OWN, LEAST_FUNNEL = 0.9, 0.9
"""Ours: the same solver on intensities works where squares overlap; translations from which the landscape leads home."""
FUNNELS = 10
"""Held-out pairs of which the coarsest landscape is judged."""
STILL = 0.02
"""Largest Dice of squares that intensities leave apart."""
GAP = 2
"""Least distance of squares that are apart, pixels: what a step of the solver or an interpolation may bridge is no distance."""
BLUR_VOXELS = 3.0
"""Standard deviation of the Gaussian over the squares whose overlap is trained on, in voxels of each resolution."""
TRAINING_SHARE = 0.85
IMAGES, FEATURES = "intensities", "features"
HALVES = {False: "overlapping", True: "apart"}


@dataclass(frozen=True)
class Plan:
    """size: of pictures, edge: of squares, pixels. steps, batch: of the training. pairs: held out, of either half.

    iterations: of the solver, coarse to fine. levels: channels of the U-Net; the coarsest has size / 2^(levels - 1) voxels.
    """

    size: int = 64
    edge: int = 8
    steps: int = 800
    batch: int = 4
    pairs: int = 100
    iterations: tuple[int, ...] = (14, 8, 8)
    levels: tuple[int, ...] = (8, 8, 16, 16, 32)
    learning_rate: float = 3e-3
    seed: int = 2018


QUICK = Plan(size=48, steps=400, pairs=40, iterations=(12, 8, 8))


@dataclass(frozen=True)
class Squares:
    """Pairs of equal squares in the middle half of a picture: half of them overlap, half do not touch along an axis."""

    size: int
    edge: int
    seed: int

    def __call__(self, step: int, count: int) -> Batch:
        """``count`` pairs to train on."""
        rng = numbers(self.seed, TRAINING, step)
        return self._batch(self._corners(rng, bool(rng.integers(2))) for _ in range(count))

    def held_out(self, apart: bool, number: int) -> Batch:
        """One pair that no training sees."""
        return self._batch([self._corners(numbers(self.seed, HELD_OUT, int(apart), number), apart)])

    def _corners(self, rng: np.random.Generator, apart: bool) -> np.ndarray:
        """(2, 2) first voxels of the moving and the fixed square."""
        low, high = self.size // 4, 3 * self.size // 4 - self.edge
        reach = self.edge // 2
        while True:
            fixed = rng.integers(low, high + 1, 2)
            moving = rng.integers(low, high + 1, 2) if apart else fixed + rng.integers(-reach, reach + 1, 2)
            farthest = int(np.abs(moving - fixed).max())
            fits = farthest >= self.edge + GAP if apart else farthest <= reach
            if fits and (low <= moving).all() and (moving <= high).all():
                return np.stack([moving, fixed])

    def _batch(self, corners) -> Batch:
        pictures = [[self._drawn(corner) for corner in pair] for pair in corners]
        moving, fixed = (torch.from_numpy(np.stack(side))[:, None] for side in zip(*pictures))
        return {"moving": moving, "fixed": fixed, "moving_labels": moving.int(), "fixed_labels": fixed.int()}

    def _drawn(self, corner: np.ndarray) -> np.ndarray:
        values = np.zeros((self.size, self.size), np.float32)
        values[tuple(slice(int(c), int(c) + self.edge) for c in corner)] = 1.0
        return values


@dataclass(frozen=True)
class Compared:
    """A pair on what is compared. dice: after the map. moved: the moving picture (Y, X) through it."""

    dice: float
    moved: np.ndarray


class DIOSquares(Experiment):
    """64 x 64 pixels, 100 held-out pairs of either half; quick: 48 x 48 and 40."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train, solve held-out pairs on intensities and on features, look at the costs of all translations."""
        tell(progress, "training", 0.0)
        squares = Squares(plan.size, plan.edge, plan.seed)
        network = trained_features(
            recipe(plan), lambda step: squares(step, plan.batch), plan.seed, Part(progress, (0.0, TRAINING_SHARE))
        )
        found: dict[tuple[str, bool], list[Compared]] = {}
        for apart, half in HALVES.items():
            for number in range(plan.pairs):
                share = (int(apart) + number / plan.pairs) / 2
                tell(progress, f"pairs, {half} {number}/{plan.pairs}", TRAINING_SHARE + (0.95 - TRAINING_SHARE) * share)
                pair = squares.held_out(apart, number)
                for name, pyramids in compared(pair, network).items():
                    found.setdefault((name, apart), []).append(registered(pair, pyramids, plan))
        tell(progress, "landscape", 0.95)
        pair = squares.held_out(True, 0)
        features = compared(pair, network)[FEATURES]
        costs = [of_intensities(pair, plan.edge)]
        costs += [of_features(pair, plan.edge, features, number) for number in range(len(network.strides))]
        shares = [leading(squares.held_out(True, number), network, plan) for number in range(min(plan.pairs, FUNNELS))]
        figures = (
            draw_landscape(pair, costs, outdir / "landscape.png"),
            draw_pairs([squares.held_out(True, n) for n in range(4)], network, found, outdir / "pairs.png"),
        )
        return Outcome(criteria(found, costs[0], shares), figures, details(plan, network, found, costs, shares))


def recipe(plan: Plan) -> FeatureRecipe:
    """A light U-Net with a receptive field as wide as the picture, trained with the overlap of the blurred squares alone."""
    overlap = {"name": "dice", "blur_voxels": BLUR_VOXELS}
    architecture = {"levels": plan.levels, "channels": 4}
    return FeatureRecipe(
        "unet", (overlap,), plan.steps, "light", architecture, plan.learning_rate, layer=layer(plan.iterations)
    )


def layer(iterations: tuple[int, ...]) -> Layer:
    """The solver of the training, of the test and of the intensities."""
    options = {"optimizer": "sgd", "learning_rate": 0.8, "decay_steps": 14}
    return Layer(Choice("translation", options), iterations)


def compared(pair: Batch, network: FeatureNetwork) -> dict[str, tuple[Pyramid, Pyramid]]:
    """Fixed and moving side by what is compared; intensities as they are, so that what does not touch does not meet by blurring."""
    grid = Geometry.identity(tuple(pair["fixed"].shape[:1:-1]))
    with torch.no_grad():
        features = tuple(feature_images(pair[role], grid, network) for role in ("fixed", "moving"))
    images = tuple(Pyramid(((pair[role], grid),) * len(network.strides)) for role in ("fixed", "moving"))
    return {IMAGES: images, FEATURES: features}


def blurred(pair: Batch, like: Pyramid) -> tuple[Pyramid, Pyramid]:
    """Intensities brought to the grids of the features, as an ordinary registration does."""
    grid = like.images[-1][1]
    return tuple(
        Pyramid(tuple((resample(pair[role], grid, own), own) for _, own in like.images)) for role in ("fixed", "moving")
    )


def registered(pair: Batch, pyramids: tuple[Pyramid, Pyramid], plan: Plan) -> Compared:
    """The moving square through the map of the finest scale."""
    with torch.no_grad():
        u = solve(*pyramids, layer(plan.iterations))[-1].displacement
        moved = warped(pair["moving"], u)[0, 0].numpy()
    return Compared(dice(moved > 0.5, pair["fixed"][0, 0].numpy() > 0.5), moved)


def leading(pair: Batch, network: FeatureNetwork, plan: Plan) -> float:
    """Share of the usual translations (see ``Costs``) from which the coarsest features lead to the partner."""
    return of_features(pair, plan.edge, compared(pair, network)[FEATURES], 0).leading


def criteria(found: dict[tuple[str, bool], list[Compared]], still: Costs, shares: list[float]) -> tuple[Criterion, ...]:
    """The published behavior as numbers; the limit of the funnel is ours. still: of the intensities; shares: of several pairs."""
    return (
        Criterion("features: mean Dice of overlapping squares", mean(found[FEATURES, False]), "", ">=", LEAST_DICE),
        Criterion("features: mean Dice of squares apart", mean(found[FEATURES, True]), "", ">=", LEAST_DICE),
        Criterion("intensities: mean Dice of overlapping squares", mean(found[IMAGES, False]), "", ">=", LEAST_OWN),
        Criterion("intensities: largest Dice of squares apart", max(c.dice for c in found[IMAGES, True]), "", "<=", STILL),
        Criterion("intensities: change of the cost among translations without overlap", still.flat, "", "<=", 1e-6),
        Criterion("coarsest features: share of such translations, between places of pairs, that lead to the partner", float(np.mean(shares)), "", ">=", LEAST_FUNNEL),
    )  # fmt: skip


def mean(found: list[Compared]) -> float:
    """Of the Dice."""
    return float(np.mean([one.dice for one in found]))


def details(
    plan: Plan,
    network: FeatureNetwork,
    found: dict[tuple[str, bool], list[Compared]],
    costs: list[Costs],
    shares: list[float],
) -> dict:
    """What is not judged."""
    squares, blurs = Squares(plan.size, plan.edge, plan.seed), []
    for number in range(min(plan.pairs, 20)):
        pair = squares.held_out(True, number)
        blurs.append(registered(pair, blurred(pair, compared(pair, network)[FEATURES][0]), plan))
    return {
        "size": plan.size, "edge": plan.edge, "steps": plan.steps, "batch": plan.batch,
        "weights": sum(p.numel() for p in network.parameters()),
        "lowest_dice": {f"{name}, {HALVES[apart]}": min(c.dice for c in rows) for (name, apart), rows in found.items()},
        "failed": {f"{name}, {HALVES[apart]}": sum(c.dice < 0.5 for c in rows) for (name, apart), rows in found.items()},
        "intensities_of_blurred_pictures_apart": mean(blurs),
        "led_to_the_partner_by_pair": shares,
        "led_to_the_partner": {c.name: c.leading for c in costs},
        "led_to_the_partner_from_anywhere_in_the_picture": {c.name: float(c.led[c.apart].mean()) for c in costs},
        "change_without_overlap": {c.name: c.flat for c in costs},
    }  # fmt: skip


def draw_pairs(
    pairs: list[Batch], network: FeatureNetwork, found: dict[tuple[str, bool], list[Compared]], path: Path
) -> Path:
    """Squares apart, moved by either, and the first channel of the fixed features from coarse to fine; outlined: the fixed square."""
    figure, axes = canvas(len(pairs), 4 + len(network.strides), 1.9, 2.0)
    for number, (row, pair) in enumerate(zip(axes, pairs)):
        goal = pair["fixed"][0, 0].numpy() > 0.5
        shown = {"moving": pair["moving"][0, 0].numpy(), "fixed": pair["fixed"][0, 0].numpy()}
        shown |= {f"by {name}": found[name, True][number].moved for name in (IMAGES, FEATURES)}
        for panel, (name, values) in zip(row, shown.items()):
            picture(panel, values, name)
            outline(panel, goal)
        for panel, (features, grid) in zip(row[4:], compared(pair, network)[FEATURES][0].images):
            stride = round(grid.spacing_mm[0])
            picture(panel, features[0, 0].numpy(), f"stride {stride}", cmap="viridis", vmin=None, vmax=None)
    return save(figure, path)
