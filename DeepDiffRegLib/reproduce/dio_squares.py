"""Squares that do not touch: intensities tell no solver where to go, learned features do (Jena et al., 2024).

Two equal squares, half of the pairs apart. A small U-Net whose coarsest level sees the whole picture is trained through a solver
with nothing but the overlap of the squares. The same solver on the intensities stays where it is when the squares are apart:
translations change nothing until they touch. Different from the paper: 64 x 64 pixels instead of 256 x 256, a U-Net with random
weights instead of one that has seen photographs, three resolutions from the first step on, translations instead of affine
maps, and some hundred steps of four pairs instead of 500 epochs of a thousand. Gradient descent is plain, as in the paper: an
optimizer that divides by the size of the gradient walks on flat ground.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config import Choice
from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid, resample
from ..geometry.sampling import identity_index, sample
from ..methods.features import feature_images
from ..methods.implicit import Layer, solve
from ..networks.base import FeatureNetwork
from ..progress import Progress
from ..qc.overlap import dice
from ..training.base import Batch
from ..training.mapping import warped
from ..training.streams import numbers
from .base import Criterion, Experiment, Outcome, tell
from .figures import canvas, outline, picture, save
from .trained import FeatureRecipe, Part, trained_features

TRAINING, HELD_OUT = 0, 1
"""Streams of random numbers: no held-out pair is drawn from that of the training."""
LEAST_DICE = 0.95
LEAST_OWN, LEAST_FUNNEL = 0.9, 0.9
"""Ours: the same solver on intensities works where squares overlap; translations from which the landscape leads home."""
STILL = 0.02
"""Largest Dice of squares that intensities leave apart."""
GAP = 2
"""Least distance of squares that are apart, pixels: what a step of the solver or an interpolation may bridge is no distance."""
BEYOND = 2
"""Pixels that the landscape goes on beyond what pairs may have."""
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
    steps: int = 3000
    batch: int = 4
    pairs: int = 100
    iterations: tuple[int, ...] = (20, 10, 8)
    levels: tuple[int, ...] = (8, 8, 16, 16, 32)
    learning_rate: float = 3e-3
    seed: int = 2018


QUICK = Plan(size=48, steps=700, pairs=40, iterations=(12, 8, 8))


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
        costs = landscapes(pair, network, plan)
        figures = (
            draw_landscape(pair, costs, outdir / "landscape.png"),
            draw_pairs([squares.held_out(True, n) for n in range(4)], network, found, outdir / "pairs.png"),
        )
        return Outcome(criteria(found, costs), figures, details(plan, network, found, costs))


def recipe(plan: Plan) -> FeatureRecipe:
    """A light U-Net with a receptive field as wide as the picture, trained with the overlap alone."""
    architecture = {"levels": plan.levels, "channels": 4}
    return FeatureRecipe(
        "unet", ("dice",), plan.steps, "light", architecture, plan.learning_rate, layer=layer(plan.iterations)
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


@dataclass(frozen=True)
class Costs:
    """Mean squared difference of one kind of image for every translation of the moving one.

    values: (Y, X) over ``offsets`` (pixels along either axis). true: (x, y) translation of the partner. apart: (Y, X) where the
    squares lie inside the picture and do not overlap. led: (Y, X) from where going downhill, neighbor by neighbor, ends beside the partner.
    """

    name: str
    offsets: np.ndarray
    values: np.ndarray
    true: np.ndarray
    apart: np.ndarray
    led: np.ndarray

    @property
    def flat(self) -> float:
        """How much the cost changes among translations without overlap, as a share of all it changes."""
        return float(np.ptp(self.values[self.apart]) / max(np.ptp(self.values), 1e-12))


def landscapes(pair: Batch, network: FeatureNetwork, plan: Plan) -> list[Costs]:
    """Of the intensities, then of the features from coarse to fine; all translations that a pair may have, and a little more."""
    own, other = compared(pair, network)[FEATURES]
    corners = [np.argwhere(pair[role][0, 0].numpy() > 0.5).min(0)[::-1] for role in ("moving", "fixed")]
    true, reach = corners[0] - corners[1], plan.size // 2 - plan.edge + BEYOND
    offsets = np.arange(-reach, reach + 1)
    sides = [(IMAGES, pair["fixed"], pair["moving"], 1)]
    for (fixed, grid), (moving, _) in zip(own.images, other.images):
        stride = round(grid.spacing_mm[0])
        sides.append((f"features, stride {stride}", fixed, moving, stride))
    grid = np.stack(np.meshgrid(offsets, offsets), -1)
    brought = corners[0] - grid  # where the moving square comes to lie
    apart = (np.abs(grid - true) >= plan.edge).any(-1)
    apart &= ((brought >= BEYOND) & (brought <= plan.size - plan.edge - BEYOND)).all(-1)
    found = []
    for name, fixed, moving, stride in sides:
        values = np.array([[cost(fixed, moving, (x / stride, y / stride)) for x in offsets] for y in offsets])
        found.append(Costs(name, offsets, values, true, apart, downhill(values, true + reach)))
    return found


def cost(fixed: torch.Tensor, moving: torch.Tensor, shift: tuple[float, float]) -> float:
    """Mean over channels and voxels of (M(x + shift) - F(x))^2, M continued by its border; shift: x, y in voxels."""
    index = identity_index(tuple(fixed.shape[2:])) + torch.tensor(shift, dtype=torch.float32).reshape(1, 2, 1, 1)
    return float((sample(moving, index, padding="border") - fixed).square().mean())


def downhill(values: np.ndarray, goal: np.ndarray, within: int = 2) -> np.ndarray:
    """(Y, X) whether going to the lowest of the eight neighbors, as long as one is lower, ends within pixels of ``goal`` (x, y)."""
    padded = np.pad(values, 1, constant_values=np.inf)
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    rows, columns = np.indices(values.shape)
    around = np.stack([padded[rows + 1 + y, columns + 1 + x] for y, x in steps])
    chosen = np.where(around.min(0) < values, around.argmin(0), steps.index((0, 0)))
    ways = np.array(steps)[chosen]
    flat = np.ravel_multi_index((rows + ways[..., 0], columns + ways[..., 1]), values.shape).ravel()
    ends = np.arange(flat.size)
    for _ in range(values.size):
        following = flat[ends]
        if np.array_equal(following, ends):
            break
        ends = following
    y, x = np.unravel_index(ends, values.shape)
    return (np.maximum(abs(x - goal[0]), abs(y - goal[1])) <= within).reshape(values.shape)


def criteria(found: dict[tuple[str, bool], list[Compared]], costs: list[Costs]) -> tuple[Criterion, ...]:
    """The published behavior as numbers; the limit of the funnel is ours."""
    still, coarse = costs[0], costs[1]
    return (
        Criterion("features: mean Dice of overlapping squares", mean(found[FEATURES, False]), "", ">=", LEAST_DICE),
        Criterion("features: mean Dice of squares apart", mean(found[FEATURES, True]), "", ">=", LEAST_DICE),
        Criterion("intensities: mean Dice of overlapping squares", mean(found[IMAGES, False]), "", ">=", LEAST_OWN),
        Criterion("intensities: largest Dice of squares apart", max(c.dice for c in found[IMAGES, True]), "", "<=", STILL),
        Criterion("intensities: change of the cost among translations without overlap", still.flat, "", "<=", 1e-6),
        Criterion("coarsest features: share of such translations that lead to the partner", coarse.led[coarse.apart].mean(), "", ">=", LEAST_FUNNEL),
    )  # fmt: skip


def mean(found: list[Compared]) -> float:
    """Of the Dice."""
    return float(np.mean([one.dice for one in found]))


def details(
    plan: Plan, network: FeatureNetwork, found: dict[tuple[str, bool], list[Compared]], costs: list[Costs]
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
        "led_to_the_partner": {c.name: float(c.led[c.apart].mean()) for c in costs},
        "change_without_overlap": {c.name: c.flat for c in costs},
    }  # fmt: skip


def draw_landscape(pair: Batch, costs: list[Costs], path: Path) -> Path:
    """Above the costs of all translations, below the same along x through the partner; the cross is the partner, the dot the start."""
    figure, axes = canvas(2, len(costs) + 1, 2.7, 2.6)
    both = torch.stack([pair["fixed"][0, 0], pair["moving"][0, 0], torch.zeros_like(pair["fixed"][0, 0])], -1)
    picture(axes[0, 0], both.numpy(), "fixed (red), moving (green)")
    axes[1, 0].set_axis_off()
    for top, below, one in zip(axes[0, 1:], axes[1, 1:], costs):
        first, last = one.offsets[0], one.offsets[-1]
        edges = (first - 0.5, last + 0.5, last + 0.5, first - 0.5)
        top.imshow(one.values, cmap="viridis", extent=edges, interpolation="nearest")
        top.plot(*one.true, "x", color="white")
        top.plot(0, 0, "o", color="tab:red", markersize=3)
        top.set_title(one.name, fontsize=9)
        below.plot(one.offsets, one.values[one.true[1] - first])
        below.axvline(one.true[0], color="gray", linewidth=0.7)
        below.set_xlabel("translation along x (pixels)", fontsize=8)
        for panel in (top, below):
            panel.tick_params(labelsize=7)
    return save(figure, path)


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
