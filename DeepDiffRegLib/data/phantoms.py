"""Generated scan pairs with a known answer: for the demonstration, the tests and the benchmarks.

The moving scan samples an anatomy ``a`` at its own voxels, moving(y) = a(y). The fixed scan samples the same function
through the true map, fixed(x) = a(phi(x)), so phi is exactly fixed_to_moving and no voxel was ever interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry.grid import Geometry
from .anatomy import ANATOMIES, LANDMARK_ORGANS, Anatomy, poles
from .image import Image
from .pair import Pair
from .points import Landmarks, Points

FIELD_OF_VIEW_MM = (200.0, 176.0, 168.0)
CENTER_MM = (14.0, -23.0, 41.0)
SLICE = -0.04
"""Height of the 2-D slice through the anatomy, as a fraction of the half field of view."""
_SLAB = 1 << 15


@dataclass(frozen=True)
class TrueMap:
    """phi(x) = A(x + u(x)), u a sum of Gaussian bumps: smooth, invertible, exact at any point.

    centers_mm, heights_mm: (K, d); sigma_mm: reach of a bump. matrix (d, d), offset_mm (d,): the affine part A.
    """

    centers_mm: np.ndarray
    heights_mm: np.ndarray
    sigma_mm: float
    matrix: np.ndarray
    offset_mm: np.ndarray

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Map (..., d) points in mm LPS from the fixed to the moving scan."""
        points = np.asarray(points_mm, dtype=np.float64)
        return (points + self.displacement(points)) @ self.matrix.T + self.offset_mm

    def displacement(self, points_mm: np.ndarray) -> np.ndarray:
        """u at (..., d) points, before the affine part."""
        return self._bumps(points_mm) @ self.heights_mm

    def jacobian(self, points_mm: np.ndarray) -> np.ndarray:
        """d phi / d x at (N, d) points, (N, d, d)."""
        points = np.asarray(points_mm, dtype=np.float64)
        away = (points[:, None] - self.centers_mm) * (-self._bumps(points) / self.sigma_mm**2)[..., None]
        inner = np.einsum("ki,nkj->nij", self.heights_mm, away) + np.eye(points.shape[1])
        return self.matrix @ inner

    def inverse(self, points_mm: np.ndarray) -> np.ndarray:
        """Map (N, d) points from the moving to the fixed scan, by Newton's method to rounding error."""
        goal = np.asarray(points_mm, dtype=np.float64)
        x = (goal - self.offset_mm) @ np.linalg.inv(self.matrix).T
        for _ in range(20):
            x = x - np.linalg.solve(self.jacobian(x), (self(x) - goal)[..., None])[..., 0]
        return x

    def _bumps(self, points_mm: np.ndarray) -> np.ndarray:
        # |p - c|^2 = |p|^2 - 2 p.c + |c|^2, about the centers' mean so that nothing large cancels.
        middle = self.centers_mm.mean(0)
        points, centers = np.asarray(points_mm, dtype=np.float64) - middle, self.centers_mm - middle
        gaps = np.square(points).sum(-1)[..., None] + np.square(centers).sum(-1) - 2 * points @ centers.T
        return np.exp(gaps / (-2 * self.sigma_mm**2))


@dataclass(frozen=True)
class PhantomPair:
    """A generated pair and everything known about it. ``truth`` maps fixed to moving points (mm LPS)."""

    pair: Pair
    fixed_labels: Image
    moving_labels: Image
    landmarks: Landmarks
    truth: TrueMap
    label_names: dict[int, str]


def make_pair(
    seed: int = 0,
    size: Sequence[int] = (96, 80, 64),
    *,
    deformation_mm: float = 8.0,
    rotation_deg: float = 8.0,
    translation_mm: float = 6.0,
    scale: float = 1.03,
    contrast: str = "same",
    anatomy: str = "torso",
    ndim: int = 3,
    spacing_mm: Sequence[float] | None = None,
    noise: float = 0.015,
    oblique: bool = True,
) -> PhantomPair:
    """Invent a person and scan it twice, on grids that differ in size, spacing, origin and direction.

    seed: the person, the deformation and the noise. size: voxels x, y[, z] of the fixed scan (the moving one differs a
    little); the field of view stays the same unless ``spacing_mm`` is given. deformation_mm: largest displacement of the
    smooth part; rotation_deg, translation_mm (lengths), scale: the affine part. contrast: ``same`` or ``inverted`` (the
    moving scan's intensities are turned over inside the body). anatomy: ``torso`` or ``head``. noise: standard deviation
    relative to the intensity range. oblique: turn both grids; else they are axis-aligned. Raises InputError for an
    unknown choice and for a deformation so large that it would fold.
    """
    _check_choices(contrast, anatomy, ndim)
    rng = np.random.default_rng([seed, ndim])
    person = Anatomy.draw(anatomy, seed)
    size = tuple(size)[:ndim]
    view = np.array(FIELD_OF_VIEW_MM[:ndim]) if spacing_mm is None else np.array(size) * np.array(spacing_mm)[:ndim]
    truth = _true_map(rng, view, deformation_mm, rotation_deg, translation_mm, scale)
    fixed_grid = _grid(size, view, 11.0 if oblique else 0.0, flip=False)
    moving_size = tuple(int(v) for v in np.round(np.array(size) * [0.94, 1.06, 0.92][:ndim]))
    moving_grid = _grid(moving_size, view * 1.08, -16.0 if oblique else 0.0, flip=oblique)
    place = _placement(view)

    def fixed_place(points_mm: np.ndarray) -> np.ndarray:
        return place(truth(points_mm))

    fixed, fixed_labels = _scan(person, fixed_grid, fixed_place, rng, noise, False, "fixed")
    moving, moving_labels = _scan(person, moving_grid, place, rng, noise, contrast == "inverted", "moving")
    names = {organ.label: organ.name for organ in reversed(person.organs) if organ.label}
    landmarks = _landmarks(person, anatomy, view, truth, fixed_grid, moving_grid)
    return PhantomPair(Pair(fixed, moving), fixed_labels, moving_labels, landmarks, truth, dict(sorted(names.items())))


def make_other_organ(seed: int = 0, size: Sequence[int] = (96, 80, 64), *, ndim: int = 3) -> Image:
    """A head where a torso is expected: the wrong scan, to see whether the quality checks notice."""
    return make_pair(seed, size, anatomy="head", ndim=ndim, deformation_mm=0.0).pair.moving


def write_pair(phantom: PhantomPair, folder: str | Path) -> dict[str, Path]:
    """Write scans, label maps (NIfTI) and landmarks (.mrk.json) into ``folder``; return the paths by role."""
    from .io import write_image, write_points

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = {
        "fixed": phantom.pair.fixed,
        "moving": phantom.pair.moving,
        "fixed_labels": phantom.fixed_labels,
        "moving_labels": phantom.moving_labels,
    }
    paths = {role: folder / f"{role}.nii.gz" for role in images}
    for role, image in images.items():
        write_image(image, paths[role])
    for role, points in (("fixed", phantom.landmarks.fixed), ("moving", phantom.landmarks.moving)):
        paths[f"{role}_landmarks"] = folder / f"{role}_landmarks.mrk.json"
        write_points(points, paths[f"{role}_landmarks"])
    return paths


def _check_choices(contrast: str, anatomy: str, ndim: int) -> None:
    for name, value, known in (
        ("contrast", contrast, ("same", "inverted")),
        ("anatomy", anatomy, tuple(ANATOMIES)),
        ("ndim", ndim, (2, 3)),
    ):
        if value not in known:
            raise InputError(f"make_pair(): {name!r} must be one of {known}, got {value!r}")


def _true_map(rng, view: np.ndarray, deformation_mm, rotation_deg, translation_mm, scale) -> TrueMap:
    d = len(view)
    center = np.array(CENTER_MM[:d])
    sigma = 0.16 * float(view.min())
    centers = center + rng.uniform(-0.36, 0.36, (14, d)) * view
    heights = rng.normal(size=(14, d))
    matrix = _rotation(rng.normal(size=3), rotation_deg, d) * scale
    shift = rng.normal(size=d)
    shift *= translation_mm / np.linalg.norm(shift)
    axes = [np.linspace(-0.5, 0.5, 25) * length for length in view]
    lattice = center + np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
    largest = np.linalg.norm(TrueMap(centers, heights, sigma, matrix, shift).displacement(lattice), axis=1).max()
    truth = TrueMap(centers, heights * (deformation_mm / largest), sigma, matrix, center + shift - matrix @ center)
    smallest = float((np.linalg.det(truth.jacobian(lattice)) / np.linalg.det(matrix)).min())
    if smallest < 0.1:
        raise InputError(
            f"make_pair(): 'deformation_mm' of {deformation_mm:g} would fold this anatomy; use a smaller one"
        )
    return truth


def _rotation(axis: np.ndarray, degrees: float, d: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    if d == 2:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _grid(size: tuple[int, ...], view: np.ndarray, degrees: float, flip: bool) -> Geometry:
    d = len(size)
    direction = _rotation(np.array([0.5, 0.3, 1.0]), degrees, d) @ np.diag([1.0, -1.0 if flip else 1.0, 1.0][:d])
    spacing = view / np.array(size)
    origin = np.array(CENTER_MM[:d]) - direction @ (spacing * (np.array(size) - 1) / 2)
    return Geometry(size, tuple(spacing), tuple(origin), direction.tolist())


def _placement(view: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From mm to the anatomy's own coordinates; a 2-D point lies in the plane ``SLICE``."""
    d = len(view)

    def place(points_mm: np.ndarray) -> np.ndarray:
        p = (points_mm - np.array(CENTER_MM[:d])) / (view / 2)
        return p if d == 3 else np.concatenate([p, np.full((len(p), 1), SLICE)], 1)

    return place


def _scan(person: Anatomy, grid: Geometry, place: Callable, rng, noise: float, inverted: bool, name: str):
    values, labels = _evaluate(person, grid, place)
    if inverted:
        body = np.clip(values / 0.05, 0, 1)
        values = body * np.sqrt(np.clip(1.08 - values, 0, None))
    for axis, (count, tilt) in enumerate(zip(grid.shape, rng.uniform(-0.07, 0.07, grid.ndim))):
        ramp = np.linspace(1 - tilt, 1 + tilt, count, dtype=np.float32)
        values *= ramp.reshape([-1 if i == axis else 1 for i in range(grid.ndim)])
    values += rng.standard_normal(values.shape, dtype=np.float32) * np.float32(noise)
    scan = Image.from_array(np.abs(values) * np.float32(1000), grid, path=name)
    return scan, Image.from_array(labels, grid, "labels", f"{name} labels")


def _evaluate(person: Anatomy, grid: Geometry, place: Callable) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.empty(grid.voxels, np.float32), np.empty(grid.voxels, np.uint8)
    for start in range(0, grid.voxels, _SLAB):
        flat = np.arange(start, min(start + _SLAB, grid.voxels))
        points = place(grid.to_world(np.stack(np.unravel_index(flat, grid.shape)[::-1], -1)))
        values[flat], labels[flat] = person.values_and_labels(points)
    return values.reshape(grid.shape), labels.reshape(grid.shape)


def _landmarks(person: Anatomy, anatomy: str, view: np.ndarray, truth: TrueMap, fixed: Geometry, moving: Geometry):
    d = len(view)
    names, positions = [], []
    for name in LANDMARK_ORGANS[anatomy]:
        organ = person.organ(name)
        if d == 3 or abs(organ.center[2] - SLICE) < 0.8 * organ.radii[2]:
            for part, place in poles(organ, flat=d == 2):
                names.append(f"{name} {part}")
                positions.append(np.array(CENTER_MM[:d]) + place[:d] * view / 2)
    at_moving = np.array(positions).reshape(-1, d)
    at_fixed = truth.inverse(at_moving)
    seen = fixed.contains(at_fixed) & moving.contains(at_moving)
    kept = tuple(name for name, inside in zip(names, seen) if inside)
    return Landmarks(Points(at_fixed[seen], kept), Points(at_moving[seen], kept))
