"""How many integration steps a network's velocity needs (Dalca et al., MedIA 2019, Fig. 10).

The published VoxelMorph-diff sees a brain and a smoothly warped copy of it. Its velocity is then integrated by scaling and squaring
with T squarings, by Euler quadrature and by Runge-Kutta 4 with 2^T steps each. Limits: folds gone by T = 3, an inverse error
(exp(v) o exp(-v)) of at most half a voxel for 99 % from T = 5 on, and no other integrator that is as good and faster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config import Config
from ..data.image import Image
from ..data.pair import Pair
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.pyramid import resample
from ..geometry.sampling import index_matrix, per_component, warp
from ..geometry.smoothing import gaussian
from ..geometry.vector_fields import compose, jacobian_determinant, lands_inside
from ..methods.feedforward import told
from ..networks.weights import Model
from ..problem import Problem
from ..progress import Progress
from ..transforms.integrate import INTEGRATORS
from ._published import brain, published_model
from .base import Criterion, Experiment, Outcome, tell
from .figures import canvas, picture, save, scaled

PEAK_VOXELS = 14.0
"""Longest vector of the warp that is to be found."""
KNOTS_VOXELS, BLUR_VOXELS = 16.0, 8.0
"""Distance of its random vectors, and the Gaussian over them."""
MOST, SETTLED, FOLD_FREE = 8, 5, 3
"""Largest T; T from which the inverse error counts; T by which folds must be gone."""
INVERSE_LIMIT = 0.5
QUICK_VOXELS = 48
"""Velocity voxels per axis with --quick: a block in the middle."""
NAMES = {"scaling_squaring": "scaling and squaring", "quadrature": "quadrature", "rk4": "Runge-Kutta 4"}
REPEATS, LONG_S = 9, 0.5
COST = {"quadrature": 1.0, "rk4": 10.0}
"""Of a step, relative to a squaring; for the progress bar."""
STRESS = 3.0
"""The velocity is also integrated this many times stronger, for a figure: what more difficult pairs would ask."""


@dataclass(frozen=True)
class Case:
    """velocity: (1, d, *shape) in voxels of ``own``. scans: fixed and moving; ``grid``: where they are compared (within the fixed)."""

    velocity: torch.Tensor
    own: Geometry
    fixed: Image
    moving: Image
    grid: Geometry

    def middle(self, voxels: int) -> Case:
        """The same around the middle of the velocity's grid, at most ``voxels`` per axis."""
        size = tuple(min(n, voxels) for n in self.own.size)
        first = tuple((n - m) // 2 for n, m in zip(self.own.size, size))
        own = self.own.cropped(first, size)
        corners = self.grid.to_index(own.to_world(np.array([[0] * own.ndim, [n - 1 for n in size]])))
        low, high = np.ceil(corners.min(0)).astype(int), np.floor(corners.max(0)).astype(int)
        window = (slice(None), slice(None), *(slice(a, a + n) for a, n in zip(first[::-1], size[::-1])))
        grid = self.grid.cropped(tuple(int(v) for v in low), tuple(int(v) for v in high - low + 1))
        return replace(self, velocity=self.velocity[window].contiguous(), own=own, grid=grid)

    @property
    def target(self) -> torch.Tensor:
        """The fixed scan where it is compared."""
        return resample(self.fixed.tensor, self.fixed.geometry, self.grid, blur=False)

    def scaled(self, u: torch.Tensor) -> torch.Tensor:
        """A displacement in voxels of the scans' grid, still on the velocity's."""
        return u * per_component(np.array(self.own.spacing_mm) / np.array(self.grid.spacing_mm), u)

    def full(self, u: torch.Tensor) -> torch.Tensor:
        """A displacement on the scans' grid."""
        return resample(self.scaled(u), self.own, self.grid, blur=False)

    def moved(self, full: torch.Tensor) -> torch.Tensor:
        """The moving scan through a displacement on the scans' grid."""
        return warp(self.moving.tensor, full, index_matrix(self.grid, self.moving.geometry))


@dataclass(frozen=True)
class Row:
    """One way to integrate; errors in voxels of the scans. apart: |u - that of the finest Runge-Kutta|, mean."""

    integrator: str
    squarings: int
    seconds: float
    mse: float
    folds: int
    inverse_mean: float
    inverse_p99: float
    apart: float

    @property
    def good(self) -> bool:
        """Free of folds, with an inverse as asked for."""
        return self.folds == 0 and self.inverse_p99 <= INVERSE_LIMIT


class IntegrationSteps(Experiment):
    """Time, similarity, folds and inverse error over T. model: file of the network, by default the authors' among the data."""

    def __init__(self, seed: int | None = None, workers: int = 0, model: str | None = None):
        super().__init__(seed, workers)
        self.model = model

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        tell(progress, "network", 0.0)
        case = predicted_case(published_model(self.model), brain(), np.random.default_rng(self.seed))
        return self.judge(case.middle(QUICK_VOXELS) if quick else case, MOST, outdir, progress)

    def judge(self, case: Case, most: int, outdir: Path, progress: Progress) -> Outcome:
        """All integrators with T = 0 .. ``most`` on one case."""
        finest = INTEGRATORS.load("rk4")(case.velocity, 2 ** min(most, 5))
        rows, work = [], [(name, t) for name in NAMES for t in range(most + 1)]
        cost = np.cumsum([0.0, *((1 + t if name == "scaling_squaring" else COST[name] * 2**t) for name, t in work)])
        for (name, t), done in zip(work, cost):
            tell(progress, f"{NAMES[name]}, T = {t}", 0.1 + 0.85 * done / cost[-1])
            rows.append(measure(case, name, t, finest))
        stress = replace(case, velocity=STRESS * case.velocity)
        hard = [folds_of(stress, t) for t in range(most + 1)]
        before = float((case.target - case.moved(torch.zeros_like(case.full(finest)))).square().mean())
        figures = (draw_curves(rows, hard, before, outdir / "steps.png"), draw_views(case, outdir / "maps.png"))
        details = {
            "mse_before": before, "velocity_voxels": list(case.own.size), "folds_of_stronger_velocity": hard,
            "strength_of_that": STRESS, "rows": [plain(row) for row in rows],
        }  # fmt: skip
        return Outcome(criteria(rows), figures, details)


def predicted_case(model: Model, scan: Image, rng: np.random.Generator) -> Case:
    """The scan as moving one, its warped copy as fixed one, and the velocity that the network sees between them."""
    fixed = Image(warp(scan.tensor, smooth_warp(scan.geometry, rng), identity_matrix(scan.geometry)), scan.geometry)
    problem = Problem.prepare(Pair(fixed, scan), Config(), torch.device("cpu"))
    _, belief = told(problem, model, np.eye(scan.ndim + 1))
    if belief is None:
        raise InputError(f"integration-steps needs a network that predicts a velocity, not {model.card.network!r}")
    prediction, own = belief.prediction, belief.geometry
    velocity = prediction.field * (prediction.unit_voxels / per_component(prediction.spacing_voxels, prediction.field))
    return Case(velocity, own, Image(problem.fixed, scan.geometry), Image(problem.moving, scan.geometry), belief.grid)


def smooth_warp(geometry: Geometry, rng: np.random.Generator) -> torch.Tensor:
    """A random displacement in voxels, free of folds, whose longest vector has ``PEAK_VOXELS``."""
    knots = geometry.coarsened(KNOTS_VOXELS, 2)
    drawn = torch.from_numpy(rng.normal(size=(1, geometry.ndim, *knots.shape)).astype(np.float32))
    u = gaussian(resample(drawn, knots, geometry), BLUR_VOXELS)
    return u * (PEAK_VOXELS / float(u.norm(dim=1).max()))


def identity_matrix(geometry: Geometry) -> np.ndarray:
    """``index_matrix`` of a grid and itself."""
    return index_matrix(geometry, geometry)


def measure(case: Case, name: str, squarings: int, finest: torch.Tensor) -> Row:
    """Integrate the velocity and its negative, and compare."""
    integrate, steps = INTEGRATORS.load(name), squarings if name == "scaling_squaring" else 2**squarings
    u, seconds = timed(lambda: integrate(case.velocity, steps))
    back = integrate(-case.velocity, steps)
    misses = case.scaled(compose(u, back)).norm(dim=1, keepdim=True)[lands_inside(back)].numpy()
    mse = float((case.moved(case.full(u)) - case.target).square().mean())
    apart = float(case.scaled(u - finest).norm(dim=1).mean())
    p99 = float(np.percentile(misses, 99))
    return Row(name, squarings, seconds, mse, folds(case, u), float(misses.mean()), p99, apart)


def timed(work) -> tuple[torch.Tensor, float]:
    """Result and shortest duration of a few repetitions (fewer, when it takes long)."""
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < LONG_S:
        started = time.perf_counter()
        result = work()
        spent.append(time.perf_counter() - started)
    return result, min(spent)


def folds(case: Case, u: torch.Tensor) -> int:
    """Voxels of the scans' grid, without its rim, where the displacement is folded."""
    determinants = jacobian_determinant(case.full(u), (1.0,) * u.shape[1])
    return int((determinants[(..., *(slice(1, -1),) * u.shape[1])] <= 0).sum())


def folds_of(case: Case, squarings: int) -> int:
    """The same of a case's velocity, by scaling and squaring."""
    return folds(case, INTEGRATORS.load("scaling_squaring")(case.velocity, squarings))


def criteria(rows: list[Row]) -> tuple[Criterion, ...]:
    """The published behavior as numbers."""
    own = [row for row in rows if row.integrator == "scaling_squaring"]
    counts = [row.folds for row in own]
    late = min(SETTLED, own[-1].squarings)
    best, others = cheapest(own), [cheapest([r for r in rows if r.integrator == n]) for n in list(NAMES)[1:]]
    return (
        Criterion("largest rise of folds with T", max(b - a for a, b in zip(counts, counts[1:])), "voxels", "<=", 0),
        Criterion(f"folds at T = {FOLD_FREE}", counts[min(FOLD_FREE, len(counts) - 1)], "voxels", "<=", 0),
        Criterion(
            f"inverse error, 99 %, worst of T >= {late}", max(r.inverse_p99 for r in own[late:]), "voxels", "<=", INVERSE_LIMIT
        ),
        Criterion(
            "time of the fastest other integrator that is as good, over that of scaling and squaring",
            min(row.seconds for row in others) / best.seconds, "", ">=", 1.0,
        ),
    )  # fmt: skip


def cheapest(rows: list[Row]) -> Row:
    """The fastest that is ``good``; the one with most steps when none is."""
    return min((row for row in rows if row.good), key=lambda row: row.seconds, default=rows[-1])


def plain(row: Row) -> dict:
    """A row for ``result.json``."""
    numbers = {"seconds": row.seconds, "mse": row.mse, "inverse_mean": row.inverse_mean, "inverse_p99": row.inverse_p99}
    rounded = {name: float(f"{value:.4g}") for name, value in {**numbers, "apart": row.apart}.items()}
    return {"integrator": row.integrator, "T": row.squarings, "folds": row.folds, **rounded}


def draw_curves(rows: list[Row], hard: list[int], before: float, path: Path) -> Path:
    """Time, similarity, folds and inverse error over T, a line per integrator."""
    figure, panels = canvas(2, 2, 4.4, 3.2)
    (seconds, mse), (counts, inverse) = panels
    for name, color in zip(NAMES, ("tab:blue", "tab:orange", "tab:green")):
        own = [row for row in rows if row.integrator == name]
        t = [row.squarings for row in own]
        style = {"marker": "o", "markersize": 4, "color": color, "label": NAMES[name]}
        seconds.semilogy(t, [row.seconds for row in own], **style)
        mse.plot(t, [row.mse for row in own], **style)
        counts.plot(t, [row.folds for row in own], **style)
        inverse.semilogy(t, [row.inverse_p99 for row in own], **style)
        inverse.semilogy(t, [row.inverse_mean for row in own], linestyle=":", color=color)
    counts.plot(range(len(hard)), hard, "x--", color="gray", label=f"velocity times {STRESS:g}")
    counts.set_yscale("symlog")
    inverse.axhline(INVERSE_LIMIT, color="gray", linewidth=0.8)
    mse.set_title(f"similarity (before: {before:.2g})", fontsize=9)
    seconds.set(ylabel="seconds", title="time of one integration")
    mse.set(ylabel="mean squared difference")
    counts.set(ylabel="voxels", title="folds")
    inverse.set(ylabel="voxels", title="inverse error: 99 % (dotted: mean)")
    for axes in panels.ravel():
        axes.set_xlabel("T (2^T steps)")
        axes.title.set_fontsize(9)
    seconds.legend(fontsize=7)
    counts.legend(fontsize=7)
    return save(figure, path)


def draw_views(case: Case, path: Path) -> Path:
    """A slice of both scans, of the registered one, and where T = 0 and T = 7 miss each other's inverse."""
    integrate = INTEGRATORS.load("scaling_squaring")
    u = {t: integrate(case.velocity, t) for t in (0, 7)}
    misses = {t: case.scaled(compose(u[t], integrate(-case.velocity, t))).norm(dim=1)[0] for t in u}
    figure, axes = canvas(1, 5, 2.8, 2.8)
    still = torch.zeros_like(case.full(u[0]))
    for panel, values, title in (
        (axes[0, 0], case.target, "fixed"),
        (axes[0, 1], case.moved(still), "moving"),
        (axes[0, 2], case.moved(case.full(u[7])), "registered, T = 7"),
    ):
        picture(panel, middle(values[0, 0].numpy()), title)
    for panel, t in zip(axes[0, 3:], u):
        scaled(
            figure, panel, middle(misses[t].numpy()), f"inverse error (voxels), T = {t}", vmin=0.0, vmax=INVERSE_LIMIT
        )
    return save(figure, path)


def middle(values: np.ndarray) -> np.ndarray:
    """The middle slice of a volume; a picture as it is."""
    return values if values.ndim == 2 else values[len(values) // 2]
