"""Scans that differ from those of the training: features with a solver on top lose less than networks that predict the map (Jena et al., 2024).

A feature network, VoxelMorph-diff and VM-2 are trained on the very same pairs of invented people, with the same losses of images and
labels (those that predict a map add their own smoothness). Then they are shown scans with other voxels, fields of view and
contrasts; both scans of a pair have one contrast. The features see each scan alone, on a grid of its own with voxels as wide as
in the training (and, beside it, with its voxels as they are); the others see both on the grid of their training. Dice is of the
people's true structures at points, so that no voxel size helps or harms it. Different from the paper: people instead of data
sets of brains, 2-D, small networks, and the features' normalizations go by the mean and variance of the training. By those of each
scan, as in the paper and beside it with the very same weights, crops cost more and changes of contrast less; after a short
training they cost more altogether, after a long one no more. The others have no normalizations. What an optimization on the
scans themselves reaches, without any network, stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Choice, Config, Schedule
from ..geometry.grid import Geometry
from ..networks.base import FeatureNetwork
from ..networks.weights import CanonicalGrid
from ..progress import Progress
from ..session import RegistrationSession
from ..transforms.affine import AffineTransform
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, picture, save
from .people import (
    LOSSES,
    VIEW_MM,
    Look,
    Pairs,
    People,
    as_they_are,
    features_recipe,
    overlap,
    scanned,
    square,
    stored,
    whole,
)
from .trained import Part, Recipe, trained, trained_features

DIO, AS_IS, BY_SCAN = "DIO", "DIO, voxels as they are", "DIO, by scan"
DIFF, VM2, ITERATIVE, BEFORE = "VM-diff", "VM-2", "no network", "before"
DIRECT = {
    DIFF: ("voxelmorph-diff", {"name": "kl", "precision": 10.0, "weight": 0.05}),
    VM2: ("voxelmorph2", {"name": "diffusion", "weight": 0.05}),
}
"""Networks that predict the map, each with its smoothness."""
COMPOSED = Choice("diffeomorphic")
NONE = "as trained"
SHARE = 0.5
"""DIO may lose this share of what the direct networks lose."""


def inverted(values: np.ndarray) -> np.ndarray:
    """Dark is bright inside the body; air stays dark."""
    return np.clip(values / 0.05, 0.0, 1.0) * np.sqrt(np.clip(1.08 - values, 0.0, None))


def gamma(power: float) -> Look:
    """values ** power."""
    return lambda values: values**power


@dataclass(frozen=True)
class Shift:
    """grids: of the fixed and the moving scan. look: of both."""

    grids: tuple[Geometry, Geometry]
    look: Callable[[np.ndarray], np.ndarray] = as_they_are

    @property
    def judging(self) -> Geometry:
        """Points of 1 mm over what the fixed scan shows."""
        return square(1.0, tuple(self.grids[0].extent_mm))


SAME = (square(), square())
THICK = (square((1.0, 3.0)), square((1.0, 3.0)))
OTHER = (square((0.8, 1.6)), square((1.5, 1.0)))
CUT = (square(1.0, (VIEW_MM, 40.0)), square(1.0, (VIEW_MM, 50.0)))
"""Across one axis, so that air stays in view: each scan's own extremes set its range, and one without air would be of another contrast
than its partner. The moving scan shows more, as no method finds what is not there."""
SHIFTS = {
    NONE: Shift(SAME),
    "anisotropic": Shift(THICK),
    "other voxels": Shift(OTHER),
    "cropped": Shift(CUT),
    "gamma 0.5": Shift(SAME, gamma(0.5)),
    "gamma 2": Shift(SAME, gamma(2.0)),
    "inverted": Shift(SAME, inverted),
    "thick, gamma 0.5": Shift(THICK, gamma(0.5)),
}


@dataclass(frozen=True)
class Plan:
    """people: to train on. steps, iterations: of the features. direct_steps, learning_rate: of the others. pairs: to test."""

    people: int = 80
    steps: int = 1200
    direct_steps: int = 4000
    iterations: tuple[int, ...] = (30, 20, 10)
    pairs: int = 20
    shifts: tuple[str, ...] = tuple(SHIFTS)
    schedule: Schedule = field(default_factory=lambda: Schedule((4, 2, 1), (60, 40, 30), tolerance=1e-3))
    learning_rate: float = 2e-3
    seed: int = 2018


QUICK = Plan(people=40, steps=400, direct_steps=1000, iterations=(20, 15, 8), pairs=4)
Scores = dict[str, dict[str, float]]
"""Dice by shift and method."""


class DIODomainShift(Experiment):
    """Twenty pairs under every shift; quick: five, and short trainings."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        return self.judge(replace(QUICK if quick else Plan(), seed=self.seed), outdir, progress)

    def judge(self, plan: Plan, outdir: Path, progress: Progress) -> Outcome:
        """Train all networks on one population, then register the held-out pairs under every shift."""
        with tempfile.TemporaryDirectory() as folder:
            job = partial(train, plan=plan, folder=Path(folder), progress=progress if self.workers == 0 else None)
            made = each(job, 1 + len(DIRECT), self.workers, "networks trained", progress, (0.0, 0.7))
            job = partial(register, plan=plan, files={m: path for files in made for m, path in files.items()})
            found = each(job, plan.pairs, self.workers, "pairs", progress, (0.7, 0.97))
        tell(progress, "figures", 0.98)
        means = {s: {m: float(np.mean([f[s][m] for f in found])) for m in found[0][s]} for s in plan.shifts}
        figures = (draw_shifts(plan, outdir / "shifts.png"), draw_table(means, outdir / "dice.png"))
        return Outcome(criteria(means), figures, details(plan, means, found))


def train(number: int, plan: Plan, folder: Path, progress: Progress | None = None) -> dict[str, Path]:
    """One network as a file by method: the features, then those that predict a map.

    The cards name the grid of the training: the features are shown each scan with those voxels, the others both scans on that grid.
    """
    draw, span = Pairs(People(plan.people, plan.seed, square())), (0.7 * number / 3, 0.7 * (number + 1) / 3)
    part = Part(progress, span) if progress is not None else None
    grid = square()
    canonical = CanonicalGrid(grid.size, grid.spacing_mm, grid.direction)
    if number == 0:
        recipe = features_recipe(plan.steps, plan.iterations, statistics="training")
        network = trained_features(recipe, draw, plan.seed, part)
        (folder / "by-scan").mkdir()
        return {
            DIO: stored(network, recipe.network, folder, canonical),
            AS_IS: stored(network, recipe.network, folder),
            BY_SCAN: stored(by_scan(network), recipe.network, folder / "by-scan", canonical),
        }
    method, (network, smoothness) = list(DIRECT.items())[number - 1]
    recipe = Recipe(network, (*LOSSES, smoothness), plan.direct_steps, learning_rate=plan.learning_rate)
    return {method: stored(trained(recipe, draw, plan.seed, part), network, folder, canonical)}


def by_scan(network: FeatureNetwork) -> FeatureNetwork:
    """The same weights with normalizations that go by each scan."""
    twin = type(network)(network.architecture.replace(statistics="scan"))
    known = twin.state_dict()
    twin.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in known})
    return twin


def register(number: int, plan: Plan, files: dict[str, Path]) -> Scores:
    """One held-out pair under every shift, by every method."""
    fixed, moving = People(0, plan.seed, square()).tested(number + 1)[number]
    scores: Scores = {}
    for name in plan.shifts:
        shift = SHIFTS[name]
        pair, here = scanned(fixed, moving, shift.grids, shift.look), shift.judging
        maps = {m: RegistrationSession(pair, c).run() for m, c in configurations(plan, files).items()}
        maps[BEFORE] = AffineTransform.identity(2)
        scores[name] = {method: overlap(fixed, moving, found, here) for method, found in maps.items()}
    return scores


def configurations(plan: Plan, files: dict[str, Path]) -> dict[str, Config]:
    """How each method registers: features and scans by the solver, the others by their prediction alone."""
    none = Schedule((1,), (0,))
    found = {name: whole(COMPOSED, plan.schedule, files[name]) for name in (DIO, AS_IS, BY_SCAN)}
    found |= {name: whole(COMPOSED, none, files[name], "feedforward") for name in DIRECT}
    return found | {ITERATIVE: whole(COMPOSED, plan.schedule)}


def lost(means: Scores, method: str) -> dict[str, float]:
    """How much Dice a method loses under each shift."""
    return {name: means[NONE][method] - scores[method] for name, scores in means.items() if name != NONE}


def criteria(means: Scores) -> tuple[Criterion, ...]:
    """Means over the shifts, against each of the direct networks."""
    losses = {method: float(np.mean(list(lost(means, method).values()))) for method in (DIO, *DIRECT)}
    start = means[NONE][BEFORE]
    return (
        *(Criterion(f"mean loss of Dice, DIO less {SHARE:g} times {name}", losses[DIO] - SHARE * losses[name], "", "<=", 0.0) for name in DIRECT),
        *(Criterion(f"Dice as trained, {name} less none", means[NONE][name] - start, "", ">=", 0.1) for name in (DIO, *DIRECT)),
    )  # fmt: skip


def details(plan: Plan, means: Scores, found: list[Scores]) -> dict:
    """Every shift by itself, those where DIO loses more included."""
    worse = [
        f"{name}: DIO loses {lost(means, DIO)[name]:.3f}, {method} {lost(means, method)[name]:.3f}"
        for method in DIRECT
        for name in lost(means, DIO)
        if lost(means, DIO)[name] > max(SHARE * lost(means, method)[name], 0.0)
    ]
    return {
        "people": plan.people, "steps": plan.steps, "direct_steps": plan.direct_steps, "pairs": plan.pairs,
        "dice": {name: {m: float(f"{v:.4g}") for m, v in scores.items()} for name, scores in means.items()},
        "lost": {m: {name: float(f"{v:.4g}") for name, v in lost(means, m).items()} for m in (DIO, AS_IS, BY_SCAN, *DIRECT, ITERATIVE)},
        "pairs_where_dio_is_best": {
            name: sum(max((DIO, *DIRECT), key=scores[name].get) == DIO for scores in found) for name in means
        },
        "shifts_where_dio_loses_more_than_half": worse,
    }  # fmt: skip


def draw_shifts(plan: Plan, path: Path) -> Path:
    """The first pair under every shift."""
    figure, axes = canvas(2, len(plan.shifts), 2.0, 2.1)
    fixed, moving = People(0, plan.seed, square()).tested(1)[0]
    for column, name in zip(axes.T, plan.shifts):
        shift = SHIFTS[name]
        for panel, person, grid, title in zip(column, (fixed, moving), shift.grids, (name, "")):
            scan = person.scan(grid, shift.look)
            width, height = grid.extent_mm / 2
            picture(panel, scan.image.numpy(), title, extent=(-width, width, height, -height))
            panel.set(xlim=(-VIEW_MM / 2, VIEW_MM / 2), ylim=(VIEW_MM / 2, -VIEW_MM / 2))
    return save(figure, path)


def draw_table(means: Scores, path: Path) -> Path:
    """Dice and its loss, by shift and method."""
    figure, axes = canvas(1, 2, 6.2, 3.8)
    methods = [BEFORE, ITERATIVE, *DIRECT, BY_SCAN, AS_IS, DIO]
    dice = np.array([[means[name][m] for m in methods] for name in means])
    losses = dice[:1] - dice[1:]
    losses = np.vstack([losses[:, 1:], losses[:, 1:].mean(0)])
    table(axes[0, 0], dice, methods, list(means), "mean Dice", "viridis", (0.4, 1.0))
    rows = [*list(means)[1:], "mean"]
    table(axes[0, 1], losses, methods[1:], rows, "Dice lost by the shift", "magma_r", (0.0, 0.4))
    return save(figure, path)


def table(panel, values: np.ndarray, columns: list[str], rows: list[str], title: str, cmap: str, limits) -> None:
    """Numbers on colors."""
    shown = panel.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    panel.set_xticks(range(len(columns)), [name.replace(", ", ",\n") for name in columns], fontsize=8)
    panel.set_yticks(range(len(rows)), rows, fontsize=8)
    panel.set_title(title, fontsize=9)
    for (row, column), value in np.ndenumerate(values):
        color = "black" if np.mean(shown.cmap(shown.norm(value))[:3]) > 0.5 else "white"
        panel.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=color)
