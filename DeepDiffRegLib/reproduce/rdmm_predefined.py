"""A soft region in stiff surroundings, said beforehand: the region deforms, its stiffness moves along, the rest stays.

Shapes of ``data.shapes``: the foreground with its inner objects is soft, everything around it stiff. RDMM is compared with
LDDMM, which takes the soft kernel everywhere (Shen et al., NeurIPS 2019, section 4).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Choice, Schedule
from ..data.pair import Prompts, Stiffness
from ..data.shapes import FOREGROUND, make_shapes
from ..progress import Progress
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, grid, outline, picture, save, scaled
from .shape_population import Registered, dice, settings

SIGMAS = (0.03, 0.06, 0.09, 0.3)
SOFT, STIFF = (0.2, 0.5, 0.3, 0.0), (0.0, 0.0, 0.0, 1.0)
BLUR = 0.02
ENERGY_WEIGHT = 1.0
SIMILARITY = Choice("mse")
SCHEDULE = Schedule((8, 4, 2), (40, 40, 40), tolerance=1e-5)
METHODS = ("lddmm", "rdmm")


@dataclass(frozen=True)
class Measured:
    """One pair with one method. outside_mm, inside_mm: mean |u| outside and inside the target region.

    sigma_dice: overlap of the target region with where sigma at t = 1 is below the mean of its two levels.
    """

    region_dice: float
    outside_mm: float
    inside_mm: float
    folds: int
    sigma_dice: float


class RDMMPredefined(Experiment):
    """40 pairs at 200 x 200 pixels; quick: 4 at 100 x 100."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        count, size = (4, 100) if quick else (40, 200)
        return self.judge(count, size, outdir, progress)

    def judge(self, count: int, size: int, outdir: Path, progress: Progress) -> Outcome:
        """Run ``count`` pairs of ``size`` x ``size`` pixels, draw the first, hold the means against the limits."""
        measure_one = partial(measure_pair, seed=self.seed, size=size)
        rows = each(measure_one, count, self.workers, "pair", progress, (0.0, 0.93))
        lddmm, rdmm = ([row[method] for row in rows] for method in METHODS)
        outside = [float(np.mean([m.outside_mm for m in found])) for found in (rdmm, lddmm)]
        criteria = (
            Criterion("mean Dice of the region, RDMM", mean(rdmm, "region_dice"), "", ">=", 0.95),
            Criterion("mean Dice of low sigma at t = 1 with the region", mean(rdmm, "sigma_dice"), "", ">=", 0.95),
            Criterion("mean |u| outside the region, RDMM over LDDMM", outside[0] / outside[1], "", "<=", 0.5),
            Criterion("folded pixels in all pairs, RDMM, strict", sum(m.folds for m in rdmm), "pixels", "<=", 0),
        )
        tell(progress, "figures", 0.95)
        shown = {method: register(method, 0, self.seed, size) for method in METHODS}
        figures = (draw_pair(shown, outdir / "pair.png"), draw_population(rows, outdir / "population.png"))
        names = Measured.__dataclass_fields__
        means = {method: {n: mean(found, n) for n in names} for method, found in zip(METHODS, (lddmm, rdmm))}
        pairs = [{method: asdict(row[method]) for method in METHODS} for row in rows]
        return Outcome(criteria, figures, {"pairs": count, "size": size, "means": means, "each": pairs})


def register(method: str, number: int, seed: int, size: int) -> Registered:
    """One pair with ``lddmm`` (soft everywhere) or ``rdmm`` (the region soft, the rest stiff)."""
    shapes = make_shapes(seed, number, size)
    options = {"sigmas": SIGMAS, "weights": SOFT, "energy_weight": ENERGY_WEIGHT, "map_factor": 1.0}
    prompts = Prompts()
    if method == "rdmm":
        options |= {"blur": BLUR, "tissues": {"soft": SOFT, "stiff": STIFF}, "background": "stiff"}
        prompts = Prompts(stiffness=Stiffness.from_masks([(shapes.region("moving"), "soft")]))
    return Registered.run(shapes, settings(Choice(method, options), SIMILARITY, SCHEDULE), prompts)


def measure_pair(number: int, seed: int, size: int) -> dict[str, Measured]:
    """Both methods on pair ``number``."""
    return {method: measure(register(method, number, seed, size)) for method in METHODS}


def measure(found: Registered) -> Measured:
    """What the criteria need of one registration."""
    region = found.shapes.region("fixed").numpy() > 0
    length = found.length_mm
    return Measured(
        found.dice(FOREGROUND, *found.shapes.inner),
        float(length[~region].mean()),
        float(length[region].mean()),
        found.folds,
        dice(found.sigma_mm(1.0) < threshold_mm(), region),
    )


def threshold_mm() -> float:
    """Half way between the effective sigma of soft and stiff tissue, in mm."""
    from ..data.shapes import FIELD_OF_VIEW_MM

    levels = [float(np.sqrt(np.dot(shares, np.square(SIGMAS)))) for shares in (SOFT, STIFF)]
    return FIELD_OF_VIEW_MM * sum(levels) / 2


def mean(found: list[Measured], name: str) -> float:
    return float(np.mean([getattr(m, name) for m in found]))


def draw_pair(shown: dict[str, Registered], path: Path) -> Path:
    """Source, target, and per method: warped source with the grid, |u|, sigma at both ends, determinant."""
    figure, axes = canvas(3, 5)
    some = shown["rdmm"].shapes
    region = {role: some.region(role).numpy() > 0 for role in ("fixed", "moving")}
    picture(axes[0, 0], some.pair.moving.numpy(), "source, soft region outlined")
    outline(axes[0, 0], region["moving"])
    picture(axes[0, 1], some.pair.fixed.numpy(), "target")
    outline(axes[0, 1], region["fixed"])
    scaled(figure, axes[0, 2], shown["rdmm"].sigma_mm(0.0), "RDMM: sigma(x) at t = 0 (mm)")
    outline(axes[0, 2], region["moving"])
    scaled(figure, axes[0, 3], shown["rdmm"].sigma_mm(1.0), "RDMM: sigma(x) at t = 1 (mm)")
    outline(axes[0, 3], region["fixed"])
    axes[0, 4].set_axis_off()
    longest = max(found.length_mm.max() for found in shown.values())
    for row, (method, found) in zip(axes[1:], shown.items()):
        name = method.upper()
        picture(row[0], found.warped, f"{name}: warped source")
        outline(row[0], region["fixed"])
        picture(row[1], found.warped * 0.6, f"{name}: grid")
        grid(row[1], found.map_pixels[0].numpy())
        scaled(figure, row[2], found.length_mm, f"{name}: |u| (mm)", vmin=0.0, vmax=longest)
        outline(row[2], region["fixed"], "white")
        scaled(figure, row[3], found.determinant, f"{name}: det J", cmap="RdBu_r", vmin=0.0, vmax=2.0)
        picture(row[4], np.abs(found.warped - some.pair.fixed.numpy()), f"{name}: |warped - target|")
    return save(figure, path)


def draw_population(rows: list[dict[str, Measured]], path: Path) -> Path:
    """Mean |u| outside, LDDMM against RDMM, and the overlaps of every pair."""
    figure, (panels,) = canvas(1, 2, 4.0, 3.4)
    outside = np.array([[row[method].outside_mm for method in METHODS] for row in rows])
    panels[0].plot(outside[:, 0], outside[:, 1], "o", markersize=4)
    limit = outside.max() * 1.05
    panels[0].plot([0, limit], [0, limit / 2], color="gray", linestyle=":", label="half")
    panels[0].set(xlabel="LDDMM", ylabel="RDMM", title="mean |u| outside the region (mm)")
    panels[0].legend(fontsize=8)
    for label, values in (
        ("region, LDDMM", [row["lddmm"].region_dice for row in rows]),
        ("region, RDMM", [row["rdmm"].region_dice for row in rows]),
        ("sigma at t = 1, RDMM", [row["rdmm"].sigma_dice for row in rows]),
    ):
        panels[1].plot(range(len(rows)), values, "o-", markersize=3, linewidth=0.6, label=label)
    panels[1].axhline(0.95, color="gray", linestyle=":")
    panels[1].set(xlabel="pair", title="Dice with the target region")
    panels[1].legend(fontsize=8)
    return save(figure, path)
