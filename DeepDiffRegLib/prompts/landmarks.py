"""Landmark pairs: a fold-free flow that carries them onto their partners, and a pull beside the scans' own steps.

Both compose on the left of the current map, u <- u + d o (Id + u), where d is a sum of compact bumps around the current
images of the landmarks. Each factor's Lipschitz constant stays at or below 1/2, so it is invertible, and so is their
composition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..checks import check_shape
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.vector_fields import jacobian_determinant
from .base import look_up, spread
from .kernels import add_bumps, lipschitz, solve_forces
from .outliers import disagreement, outliers

SINGLE_SIGMA_MM = 15.0
LARGEST_SIGMA_MM = 25.0
SPACING_FRACTION = 0.6
SMALLEST_SIGMA_VOXELS = 3.0
LONGEST_FORCE = 0.8
"""Longest coefficient of one step in sigma: a bump alone then has a Lipschitz constant of at most 0.51."""
LARGEST_LIPSCHITZ = 0.5
EXTRA_STEPS = 6
"""The flow takes at most this many times the planned steps, where landmarks that pass each other closely slow it down."""
STUCK_AFTER = 5
RIDGES = (0.01, 0.04, 0.16, 0.64)
"""Added to the diagonal of the landmarks' system: the first whose step is not much too steep is taken."""
MUCH_TOO_STEEP = 4.0
ACCURACY_VOXELS = 0.02
"""The flow ends when every followed landmark is this close (in the smallest spacing)."""


Unit = tuple[float, ...] | None
"""Length in mm of a displacement of 1 along x, y[, z]; None: it is in mm already."""


def choose_sigma_mm(points_mm: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """Reach of the landmarks: 0.6 of the median distance to the nearest neighbor, 15 mm for a single one.

    points_mm: (N, d). spacing_mm: of the grid the field lives on; at least 3 of its largest voxel edge (a narrower bump is
    not resolved there), and at most 25 mm unless the voxels ask for more.
    """
    points = np.atleast_2d(np.asarray(points_mm, dtype=float))
    wanted = SINGLE_SIGMA_MM
    if len(points) > 1:
        wanted = min(SPACING_FRACTION * float(np.median(nearest_distances(points))), LARGEST_SIGMA_MM)
    return max(wanted, SMALLEST_SIGMA_VOXELS * max(spacing_mm))


def nearest_distances(points_mm: np.ndarray) -> np.ndarray:
    """(N,) distance of each of (N, d) points to its nearest other one (inf for a single point)."""
    distance = np.linalg.norm(points_mm[:, None] - points_mm[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return distance.min(1)


def pseudo_huber(t: np.ndarray) -> np.ndarray:
    """sqrt(1 + t^2) - 1: quadratic for small t, linear for large."""
    return np.sqrt(1 + np.square(t)) - 1


def _stuck(progress: list[float], planned: int) -> bool:
    """Whether the summed misses fell by less than 5 % over the last steps, after the planned ones."""
    return len(progress) > planned + STUCK_AFTER and progress[-1] > 0.95 * progress[-1 - STUCK_AFTER]


@dataclass(frozen=True)
class LandmarkPrompt:
    """Points of the fixed scan and where the displacement has to carry them.

    fixed_mm: (N, d), LPS. target_mm: (N, d), LPS, A^-1 of the moving landmarks for a map A(x + u(x)). sd_mm: how far a
    click may be off, one number or (N,). sigma_mm: reach, one number or (N,) (None: ``choose_sigma_mm`` on each
    grid).
    follow_suspects: whether the flow also follows landmarks that contradict the others (``suspects``).
    guard: surround landmarks that have to move by points at 3 sigma that must not.
    """

    fixed_mm: np.ndarray
    target_mm: np.ndarray
    sd_mm: float | np.ndarray = 1.0
    sigma_mm: float | None = None
    follow_suspects: bool = False
    guard: bool = False

    def __post_init__(self):
        for name in ("fixed_mm", "target_mm"):
            object.__setattr__(self, name, np.atleast_2d(np.asarray(getattr(self, name), dtype=np.float64)))
        if self.fixed_mm.shape != self.target_mm.shape or self.fixed_mm.shape[1] not in (2, 3):
            raise InputError(
                f"LandmarkPrompt: fixed_mm and target_mm must both be (N, 2) or (N, 3), got {self.fixed_mm.shape} and {self.target_mm.shape}"
            )
        if not (np.isfinite(self.fixed_mm).all() and np.isfinite(self.target_mm).all()):
            raise InputError("LandmarkPrompt: positions must be finite")
        sd = np.broadcast_to(np.asarray(self.sd_mm, dtype=np.float64), (len(self),))
        if not (sd > 0).all() or not (self.sigma_mm is None or np.all(np.asarray(self.sigma_mm) > 0)):
            raise InputError("LandmarkPrompt: sd_mm and sigma_mm must be positive")
        object.__setattr__(self, "sd_mm", sd)

    def __len__(self) -> int:
        return len(self.fixed_mm)

    def sigma_on(self, geometry: Geometry) -> np.ndarray:
        """(N,) reach in mm on this grid: the chosen one, widened where its voxels are too coarse for it."""
        if self.sigma_mm is None:
            return np.full(len(self), choose_sigma_mm(self.fixed_mm, geometry.spacing_mm))
        chosen = np.broadcast_to(np.asarray(self.sigma_mm, dtype=float), (len(self),))
        return np.maximum(chosen, SMALLEST_SIGMA_VOXELS * max(geometry.spacing_mm))

    def residuals_mm(self, displacement: torch.Tensor, geometry: Geometry, unit_mm: Unit = None) -> np.ndarray:
        """(N,) distances |p + u(p) - target|.

        displacement: (1, d, *shape) along the grid's axes, edge-clamped beyond it, interpolated in double precision; in mm, or
        in units of ``unit_mm`` along x, y[, z].
        """
        return np.linalg.norm(self._misses(displacement, geometry, unit_mm)[1], axis=1)

    def energy(self, displacement: torch.Tensor, geometry: Geometry, unit_mm: Unit = None) -> float:
        """mean_i rho(|r_i| / sd_i) with the pseudo-Huber rho; arguments as in ``residuals_mm``."""
        return float(pseudo_huber(self.residuals_mm(displacement, geometry, unit_mm) / self.sd_mm).mean())

    def value_and_force(
        self, displacement: torch.Tensor, geometry: Geometry, at_one_sd: bool = False
    ) -> tuple[float, torch.Tensor]:
        """``energy`` and its exact derivative dE/du per mm, (1, d, *shape): a linear splat at each landmark.

        For models whose kernel turns a point force into a smooth one. at_one_sd: the force as if every landmark missed by one
        standard deviation (in the direction it does), which says how strong the term is where it matters.
        """
        index = geometry.to_index(self.fixed_mm)
        _, misses = self._misses(displacement, geometry)
        lengths = np.linalg.norm(misses, axis=1)
        value = float(pseudo_huber(lengths / self.sd_mm).mean())
        if at_one_sd:
            away = np.where(lengths[:, None] > 0, misses, np.eye(self.fixed_mm.shape[1])[0])
            misses = away * (self.sd_mm / np.linalg.norm(away, axis=1))[:, None]
            lengths = self.sd_mm
        slopes = misses / (len(self) * self.sd_mm**2 * np.sqrt(1 + np.square(lengths / self.sd_mm)))[:, None]
        return value, spread(slopes, index, displacement)

    def disagreement_mm(self) -> np.ndarray:
        """(N,) how far each displacement is from what its neighbors predict (leave-one-out, robust affine trend removed)."""
        return disagreement(self.fixed_mm, self.target_mm - self.fixed_mm)

    def suspects(self) -> tuple[int, ...]:
        """Rows of landmarks that contradict the others so strongly that a wrong click is likely; needs at least 4."""
        return tuple(np.flatnonzero(self._outliers()).tolist())

    def warm_start(
        self, displacement: torch.Tensor, geometry: Geometry, steps: int = 10, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Carry the landmarks onto their targets by ``steps`` (or more) composed small deformations.

        displacement: start u, (1, d, *shape) mm along the grid's axes. Returns the new u; voxels whose image stays farther
        than 4 sigma from every landmark keep theirs exactly. More steps are taken for long ways and to correct what
        interpolation leaves; where the targets ask for a fold, the field stays whole and the landmarks miss. out: where to
        write (another tensor than ``displacement``).
        """
        current = self._start(displacement, geometry, out)
        self._flow(current, geometry, steps)
        folds = _folds(current, geometry)
        allowed = _folds(displacement, geometry) if folds else 0
        if folds > allowed:
            self._flow(current.copy_(displacement), geometry, steps, most_folds=allowed)
        return current

    def pull(
        self, displacement: torch.Tensor, geometry: Geometry, limit_mm: float, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One robust kernel step toward the targets, to be composed beside each step of the scans.

        Each landmark asks for r / sqrt(1 + (r/sd)^2), at most sd long; the longest of them is cut to ``limit_mm``.
        Returns the new u; out may be ``displacement`` itself.
        """
        current = self._start(displacement, geometry, out)
        positions, misses = self._misses(current, geometry)
        weight = 1 / np.sqrt(1 + (np.linalg.norm(misses, axis=1) / self.sd_mm) ** 2)
        wanted = -misses * (weight * self._followed())[:, None]
        wanted *= min(1.0, limit_mm / max(float(np.linalg.norm(wanted, axis=1).max()), 1e-12))
        _add_step(current, geometry, positions, wanted, self.sigma_on(geometry))
        return current

    def _start(self, displacement: torch.Tensor, geometry: Geometry, out: torch.Tensor | None) -> torch.Tensor:
        check_shape("LandmarkPrompt", "displacement", displacement, (1, self.fixed_mm.shape[1], *geometry.shape))
        if out is displacement:
            return out
        return (
            displacement.detach().clone(memory_format=torch.contiguous_format)
            if out is None
            else out.copy_(displacement)
        )

    def _outliers(self) -> np.ndarray:
        return outliers(self.fixed_mm, self.target_mm - self.fixed_mm, self.sd_mm, nearest_distances(self.fixed_mm))

    def _followed(self) -> np.ndarray:
        return np.ones(len(self), dtype=bool) if self.follow_suspects else ~self._outliers()

    def _misses(
        self, displacement: torch.Tensor, geometry: Geometry, unit_mm: Unit = None
    ) -> tuple[np.ndarray, np.ndarray]:
        targets = geometry.to_index(self.target_mm) * np.array(geometry.spacing_mm)
        return self._images(displacement, geometry, self.fixed_mm, targets, unit_mm)

    @staticmethod
    def _images(
        displacement, geometry: Geometry, points_mm: np.ndarray, targets=None, unit_mm: Unit = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Current images of LPS points, along the grid's axes from its first voxel, and image - target."""
        index = geometry.to_index(points_mm)
        images = index * np.array(geometry.spacing_mm) + look_up(displacement, index) * np.array(unit_mm or 1.0)
        return images, images - (images if targets is None else targets)

    def _flow(self, current: torch.Tensor, geometry: Geometry, steps: int, most_folds: int | None = None) -> None:
        """The landmark flow in place; ``most_folds`` ends it before the first step that folds more voxels."""
        sigma, followed = self.sigma_on(geometry), self._followed()
        accuracy = ACCURACY_VOXELS * min(geometry.spacing_mm)
        guards = self._guards(current, geometry, float(sigma.max()), followed, accuracy)
        held = self._images(current, geometry, guards)[0]
        ways = np.linalg.norm(self._misses(current, geometry)[1], axis=1)[followed]
        planned = max(steps, int(np.ceil(2 * (ways / (LONGEST_FORCE * sigma[followed])).max(initial=0.0))))
        reaches = np.concatenate((sigma[followed], np.full(len(guards), sigma.max())))
        before = None if most_folds is None else torch.empty_like(current)
        progress: list[float] = []
        for step in range(EXTRA_STEPS * planned):
            positions, misses = self._misses(current, geometry)
            distances = np.linalg.norm(misses[followed], axis=1)
            progress.append(distances.sum())
            if distances.max(initial=0.0) < accuracy or _stuck(progress, planned):
                break
            guard_positions, guard_misses = self._images(current, geometry, guards, held)
            at = np.concatenate((positions[followed], guard_positions))
            wanted = -np.concatenate((misses[followed], guard_misses)) / max(planned - step, 1)
            if before is not None:
                before.copy_(current)
            _add_step(current, geometry, at, wanted, reaches)
            if before is not None and _folds(current, geometry) > most_folds:
                current.copy_(before)
                break

    def _guards(self, current, geometry: Geometry, sigma: float, followed, accuracy: float) -> np.ndarray:
        """(M, d) LPS points on shells of 3 sigma around the landmarks that move, none near another landmark or guard."""
        d = geometry.ndim
        if not self.guard:
            return np.zeros((0, d))
        moves = followed & (self.residuals_mm(current, geometry) > accuracy)
        signs = np.array(list(np.ndindex(*(3,) * d)), dtype=float) - 1
        shell = signs[np.abs(signs).sum(1) > 0]
        shell = 3 * sigma * shell / np.linalg.norm(shell, axis=1, keepdims=True)
        kept: list[np.ndarray] = []
        for point in (self.fixed_mm[moves][:, None] + shell[None]).reshape(-1, d):
            others = np.concatenate((self.fixed_mm, self.target_mm, np.array(kept).reshape(-1, d)))
            if geometry.contains(point) and np.linalg.norm(others - point, axis=1).min() > 1.5 * sigma:
                kept.append(point)
        return np.array(kept).reshape(-1, d)


def _add_step(current: torch.Tensor, geometry: Geometry, at: np.ndarray, wanted: np.ndarray, sigma: np.ndarray) -> None:
    """Compose one deformation that moves ``at`` by ``wanted``, or by less where that would be too steep.

    Stiffer systems give up what close neighbors contradict each other about and keep the rest; then the step is
    shortened as a whole until its Lipschitz constant is small enough.
    """
    if not wanted.any():
        return
    for ridge in RIDGES:
        forces = solve_forces(at, wanted, sigma, ridge)
        steepness = max(
            (np.linalg.norm(forces, axis=1) / (LONGEST_FORCE * sigma)).max(),
            lipschitz(at, forces, sigma, geometry.rotation.T) / LARGEST_LIPSCHITZ,
        )
        if steepness <= MUCH_TOO_STEEP:
            break
    add_bumps(current, geometry.spacing_mm, at, forces / max(steepness, 1.0), sigma, out=current)


def _folds(displacement: torch.Tensor, geometry: Geometry) -> int:
    if min(geometry.size) < 2:
        return 0
    return int((jacobian_determinant(displacement, geometry.spacing_mm) <= 0).sum())
