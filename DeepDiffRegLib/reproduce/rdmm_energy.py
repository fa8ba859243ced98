"""The energy of region-specific shooting is constant in time, and only with the whole source term.

<m, v> is the squared speed of a geodesic, so it must not change. The term that the moving weights add to the momentum's
equation is what keeps it; a factor c in front of it other than 1 shows as drift (Shen et al., NeurIPS 2019, theorem 2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.smoothing import gaussian
from ..progress import Progress
from ..transforms._shooting_path import ShootingDiverged
from ..transforms.shooting import Regional, ShootingTransform
from .base import Criterion, Experiment, Outcome, tell
from .figures import canvas, save, scaled

EXTENT_MM = 200.0
SIGMAS_MM = (10.0, 20.0, 40.0)
BLUR_MM = 6.0
ROUGHNESS_MM = 16.0
"""Standard deviation of the Gaussian that makes momentum and weights of noise."""
CONTRAST = 1.5
"""Standard deviation of the logarithm of the pre-weights."""
SPEED = 0.12
"""Largest initial velocity, as a share of the extent per unit time."""
FACTORS = (1.0, 0.5, 0.0, -1.0, 2.0)


class RDMMEnergy(Experiment):
    """Drift of <m, v> over unit time for smooth random momenta and weights, with and without the source term."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        size, steps, draws = (48, 20, 2) if quick else (96, 40, 5)
        curves: dict[float, list[np.ndarray]] = {factor: [] for factor in FACTORS}
        for number in range(draws):
            for i, factor in enumerate(FACTORS):
                tell(progress, f"draw {number + 1}, c = {factor:g}", (number + i / len(FACTORS)) / draws)
                flow = random_flow(np.random.default_rng([self.seed, number]), size, steps, factor)
                curves[factor].append(drift(flow))
                if number == 0 and factor == 1.0:
                    shown = flow
        worst = {factor: [float(np.abs(curve).max()) for curve in found] for factor, found in curves.items()}
        criteria = (
            Criterion("relative drift of <m, v>, worst draw", max(worst[1.0]), "", "<=", 1e-3),
            Criterion(
                "drift without the source term over drift with it, worst draw",
                min(without / kept for without, kept in zip(worst[0.0], worst[1.0])),
                "",
                ">=",
                10.0,
            ),
        )
        figures = (draw_curves(curves, worst, outdir / "drift.png"), draw_flow(shown, outdir / "flow.png"))
        table = {f"c={factor:g}": [_number(v) for v in values] for factor, values in worst.items()}
        return Outcome(criteria, figures, {"size": size, "time_steps": steps, "worst_drift_per_draw": table})


def _number(drifted: float) -> float | str:
    """For the record: JSON has no infinity."""
    return float(f"{drifted:.3g}") if np.isfinite(drifted) else "diverged"


def random_flow(rng: np.random.Generator, size: int, steps: int, factor: float) -> ShootingTransform:
    """A flow with smooth random momentum and pre-weights on ``size`` x ``size`` voxels; factor: c of the source term."""
    grid = Geometry.identity((size, size), EXTENT_MM / size)
    reach = ROUGHNESS_MM / grid.spacing_mm[0]
    momentum, logits = (smooth_noise(rng, channels, size, reach) for channels in (2, len(SIGMAS_MM)))
    h = torch.softmax(CONTRAST * logits, 1).sqrt()
    walls = ((True, True),) * 2
    metric = Regional(SIGMAS_MM, BLUR_MM, factor)
    first = metric.on(grid.shape, grid.spacing_mm, walls, h.device, h.dtype).velocity((momentum[0], h[0]))
    momentum = momentum * (SPEED * EXTENT_MM / float(first.norm(dim=0).max()))
    return ShootingTransform(momentum, grid, metric, walls, grid, steps, h)


def smooth_noise(rng: np.random.Generator, channels: int, size: int, sigma_voxels: float) -> torch.Tensor:
    """(1, channels, size, size) float64 with standard deviation 1; the same picture at every size."""
    coarse = torch.from_numpy(rng.normal(size=(1, channels, 24, 24)))
    noise = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    noise = gaussian(noise, sigma_voxels)
    return noise / noise.std()


def drift(flow: ShootingTransform) -> np.ndarray:
    """<m, v>(t) / <m, v>(0) - 1 at every stored time; infinite at the end of a flow that runs away, as c = -1 can."""
    try:
        energies = np.array([flow.energy(k / flow.path.steps) for k in range(flow.path.steps + 1)])
    except ShootingDiverged:
        return np.array([0.0, np.inf])
    return energies / energies[0] - 1


def draw_curves(curves: dict[float, list[np.ndarray]], worst: dict[float, list[float]], path: Path) -> Path:
    """Drift over time of the first draw, and the worst drift of every draw over c."""
    figure, ((over_time, over_factor),) = canvas(1, 2, 4.6, 3.4)
    for factor, found in curves.items():
        values = np.abs(found[0])
        over_time.semilogy(np.linspace(0, 1, len(values))[1:], np.maximum(values[1:], 1e-16), label=f"c = {factor:g}")
    over_time.set(xlabel="time", ylabel="|<m, v>(t) / <m, v>(0) - 1|", title="drift of the energy")
    over_time.axhline(1e-3, color="gray", linestyle=":")
    over_time.legend(fontsize=8)
    order = sorted(worst)
    for values in zip(*(worst[factor] for factor in order)):
        over_factor.semilogy(order, values, "o-", color="tab:blue", alpha=0.5)
    over_factor.axhline(1e-3, color="gray", linestyle=":")
    over_factor.set(xlabel="factor c of the source term", ylabel="largest drift", title="one line per draw")
    return save(figure, path)


def draw_flow(flow: ShootingTransform, path: Path) -> Path:
    """What was shot: initial speed, effective sigma at both ends."""
    figure, ((speed, before, after),) = canvas(1, 3, 3.4, 2.8)
    scaled(figure, speed, flow.velocity(0.0)[0].norm(dim=0).numpy(), "|v(0)| (mm per unit time)")
    sigmas = [flow.sigma_mm(time)[0, 0].numpy() for time in (0.0, 1.0)]
    limits = {"vmin": min(s.min() for s in sigmas), "vmax": max(s.max() for s in sigmas)}
    scaled(figure, before, sigmas[0], "sigma(x) at t = 0 (mm)", **limits)
    scaled(figure, after, sigmas[1], "sigma(x) at t = 1 (mm)", **limits)
    return save(figure, path)
