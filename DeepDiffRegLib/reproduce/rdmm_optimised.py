"""Stiffness found together with the map: as accurate as one kernel everywhere, with small Gaussians only where needed.

vSVF, LDDMM and RDMM with free pre-weights register the same shapes; a transport penalty draws the weights to the widest
Gaussian, so that small ones stay where objects must change shape: at their edges (Shen et al., NeurIPS 2019, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..config import Choice, Schedule
from ..data.shapes import FIELD_OF_VIEW_MM, make_shapes
from ..progress import Progress
from .base import Criterion, Experiment, Outcome, each, tell
from .figures import canvas, grid, picture, save, scaled
from .shape_population import Registered, settings

SIGMAS, WEIGHTS = (0.02, 0.04, 0.06, 0.08), (0.1, 0.3, 0.3, 0.3)
BLUR = 0.02
ENERGY_WEIGHT = 0.1
OMT, RANGE = 0.1, 10.0
OMT_WEIGHTS = (0.0, 0.02, 0.1, 0.5, 2.5)
SIMILARITY = Choice("mse")
SCHEDULE = Schedule((8, 4, 2), (40, 40, 80), tolerance=1e-5)
METHODS = ("vsvf", "lddmm", "rdmm")
EDGE_MM = 3.0


@dataclass(frozen=True)
class Measured:
    """One pair with one method. object_dice: mean over all objects.

    near_mm, far_mm: mean drop of sigma(x) at t = 0 below the widest Gaussian, within ``EDGE_MM`` of an edge of the source and
    elsewhere.
    """

    object_dice: float
    folds: int
    near_mm: float
    far_mm: float
    sigma_mm: float


class RDMMOptimised(Experiment):
    """12 pairs at 200 x 200 pixels with three methods; quick: 2 at 100 x 100."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        count, size = (2, 100) if quick else (12, 200)
        return self.judge(count, size, outdir, progress)

    def judge(self, count: int, size: int, outdir: Path, progress: Progress) -> Outcome:
        """Run ``count`` pairs of ``size`` x ``size`` pixels and the ablation on the first; hold the means against the limits."""
        share = count * len(METHODS) / (count * len(METHODS) + len(OMT_WEIGHTS) + 1)
        one = partial(measure_pair, seed=self.seed, size=size)
        rows = each(one, count, self.workers, "pair", progress, (0.0, 0.95 * share))
        ablated = partial(ablation, seed=self.seed, size=size)
        sweep = each(ablated, len(OMT_WEIGHTS), self.workers, "OMT weight", progress, (0.95 * share, 0.95))
        accuracy = {method: float(np.mean([row[method].object_dice for row in rows])) for method in METHODS}
        drops = [float(np.mean([getattr(row["rdmm"], name) for row in rows])) for name in ("near_mm", "far_mm")]
        sigmas = [measured.sigma_mm for measured, _, _ in sweep]
        criteria = (
            *(Criterion(f"mean Dice of objects, {m}", accuracy[m], "", ">=", 0.95) for m in METHODS),
            Criterion("largest difference of these", max(accuracy.values()) - min(accuracy.values()), "", "<=", 0.02),
            Criterion(
                f"drop of sigma within {EDGE_MM:g} mm of edges over elsewhere", drops[0] / drops[1], "", ">=", 1.5
            ),
            Criterion("least rise of mean sigma with the next OMT weight", min(np.diff(sigmas)), "mm", ">=", 0.0),
            Criterion("folded pixels, vSVF and LDDMM, strict", count_folds(rows, METHODS[:2]), "pixels", "<=", 0),
        )
        tell(progress, "figures", 0.97)
        figures = (
            draw_pair({m: register(m, 0, self.seed, size) for m in METHODS}, outdir / "pair.png"),
            draw_ablation(sweep, outdir / "omt.png"),
        )
        details = {
            "pairs": count,
            "size": size,
            "object_dice": accuracy,
            "object_dice_each": [{m: row[m].object_dice for m in METHODS} for row in rows],
            "folded_pixels": {m: count_folds(rows, (m,)) for m in METHODS},
            "sigma_drop_mm": dict(zip(("near_edges", "elsewhere"), drops)),
            "omt": {f"{w:g}": {"mean_sigma_mm": s} for w, s in zip(OMT_WEIGHTS, sigmas)},
        }
        return Outcome(criteria, figures, details)


def register(method: str, number: int, seed: int, size: int, omt: float = OMT) -> Registered:
    """One pair with ``vsvf``, ``lddmm`` or ``rdmm`` (free weights)."""
    options = {"sigmas": SIGMAS, "weights": WEIGHTS, "energy_weight": ENERGY_WEIGHT, "map_factor": 1.0}
    if method == "rdmm":
        options |= {"blur": BLUR, "omt": omt, "range": RANGE}
    return Registered.run(make_shapes(seed, number, size), settings(Choice(method, options), SIMILARITY, SCHEDULE))


def measure_pair(number: int, seed: int, size: int) -> dict[str, Measured]:
    """All methods on pair ``number``."""
    return {method: measure(register(method, number, seed, size)) for method in METHODS}


def ablation(number: int, seed: int, size: int) -> tuple[Measured, np.ndarray, np.ndarray]:
    """RDMM on the first pair with OMT weight ``number``: what was measured, sigma(x) at t = 0, the warped source."""
    found = register("rdmm", 0, seed, size, OMT_WEIGHTS[number])
    return measure(found), found.sigma_mm(0.0), found.warped


def measure(found: Registered) -> Measured:
    """What the criteria need of one registration."""
    sigma = found.sigma_mm(0.0)
    drop = max(SIGMAS) * FIELD_OF_VIEW_MM - sigma
    near = near_edges(found.shapes.moving_labels.numpy())
    accuracy = float(np.mean([found.dice(label) for label in found.shapes.objects]))
    return Measured(accuracy, found.folds, float(drop[near].mean()), float(drop[~near].mean()), float(sigma.mean()))


def near_edges(labels: np.ndarray) -> np.ndarray:
    """Pixels within ``EDGE_MM`` of a border between two labels."""
    from scipy.ndimage import distance_transform_edt

    inner = np.ones(labels.shape, bool)
    inner[1:] &= labels[1:] == labels[:-1]
    inner[:-1] &= labels[1:] == labels[:-1]
    inner[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inner[:, :-1] &= labels[:, 1:] == labels[:, :-1]
    pixel = FIELD_OF_VIEW_MM / labels.shape[0]
    return distance_transform_edt(inner, sampling=pixel) <= max(EDGE_MM, pixel)


def count_folds(rows: list[dict[str, Measured]], methods: tuple[str, ...]) -> int:
    return sum(row[method].folds for row in rows for method in methods)


def draw_pair(shown: dict[str, Registered], path: Path) -> Path:
    """Source and target, then per method the warped source, grid, determinant, and sigma at both ends."""
    figure, axes = canvas(len(shown), 6)
    for row, (method, found) in zip(axes, shown.items()):
        picture(row[0], found.shapes.pair.moving.numpy(), "source")
        picture(row[1], found.warped, f"{method}: warped")
        grid(row[1], found.map_pixels[0].numpy())
        picture(row[2], found.shapes.pair.fixed.numpy(), "target")
        scaled(figure, row[3], found.determinant, f"{method}: det J", cmap="RdBu_r", vmin=0.0, vmax=2.0)
        if method == "rdmm":
            scaled(figure, row[4], found.sigma_mm(0.0), "sigma(x) at t = 0 (mm)")
            scaled(figure, row[5], found.sigma_mm(1.0), "sigma(x) at t = 1 (mm)")
        else:
            scaled(figure, row[4], found.length_mm, "|u| (mm)")
            row[5].set_axis_off()
    return save(figure, path)


def draw_ablation(sweep: list[tuple[Measured, np.ndarray, np.ndarray]], path: Path) -> Path:
    """sigma(x) at t = 0 and the warped source for every OMT weight."""
    figure, axes = canvas(2, len(sweep))
    limits = {"vmin": min(SIGMAS) * FIELD_OF_VIEW_MM, "vmax": max(SIGMAS) * FIELD_OF_VIEW_MM}
    for column, weight, (measured, sigma, warped) in zip(axes.T, OMT_WEIGHTS, sweep):
        scaled(figure, column[0], sigma, f"OMT {weight:g}: sigma(x), mean {measured.sigma_mm:.1f} mm", **limits)
        picture(column[1], warped, f"object Dice {measured.object_dice:.3f}")
    return save(figure, path)
