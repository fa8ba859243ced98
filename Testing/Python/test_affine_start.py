"""First guesses and the affine start: exact on analytic bodies, right on phantoms, in 2-D and 3-D and across modalities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.affine.gradient import align
from DeepDiffRegLib.affine.moments import guesses, moments
from DeepDiffRegLib.config import Choice, Config, Schedule, Start, load_preset
from DeepDiffRegLib.data.pair import Pair
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.descent import term_force
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.problem import REACH_MM, Problem, corners_mm, parallel_grid
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession

RADII_MM = {2: (40.0, 22.0), 3: (42.0, 30.0, 20.0)}
GRID = {
    2: Geometry((60, 56), (2.5, 2.5), (10.0, -30.0), ((0.8, 0.6), (-0.6, 0.8))),
    3: Geometry((56, 52, 48), (2.5, 2.5, 2.8), (10.0, -30.0, 5.0), ((0.8, 0.6, 0), (-0.6, 0.8, 0), (0, 0, 1))),
}


def turn(degrees: float, ndim: int) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(ndim)
    matrix[:2, :2] = [[c, -s], [s, c]]
    return matrix


def ellipsoid(geometry: Geometry, center_mm: np.ndarray, axes: np.ndarray) -> torch.Tensor:
    """Smooth-edged solid whose half axes RADII_MM lie along the columns of ``axes``."""
    points = geometry.to_world(np.stack(np.indices(geometry.shape)[::-1], -1)) - center_mm
    radius = np.linalg.norm((points @ axes) / np.array(RADII_MM[geometry.ndim]), axis=-1)
    return torch.from_numpy(np.clip((1 - radius) * 8, 0, 1).astype(np.float32))[None, None]


def error_mm(transform, phantom) -> float:
    """Mean distance from the truth over the anatomy."""
    points = phantom.pair.fixed.geometry.to_world(np.argwhere(phantom.fixed_labels.numpy() > 0)[::17, ::-1])
    return float(np.linalg.norm(transform.map_points(points) - phantom.truth(points), axis=1).mean())


def aligned(pair: Pair, start: Start):
    config = Config(start=start)
    return align(Problem.prepare(pair, config, torch.device("cpu")), config, Progress())


@pytest.mark.parametrize("ndim", [2, 3])
def test_moments_of_an_ellipsoid(ndim):
    geometry = GRID[ndim]
    center, axes = geometry.center_mm + 3.0, turn(33.0, ndim)
    found, found_axes = moments(ellipsoid(geometry, center, axes), geometry)
    np.testing.assert_allclose(found, center, atol=0.1)
    np.testing.assert_allclose(np.abs((axes * found_axes).sum(0)), 1, atol=1e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_guess_from_moments_is_the_motion(ndim):
    """Turned by 27 degrees about z and shifted by (15, -12[, 15]) mm: one of the candidates is exactly that."""
    geometry, rotation = GRID[ndim], turn(27.0, ndim)
    center, axes, shift = geometry.center_mm, turn(10.0, ndim), np.array([15.0, -12.0, 15.0])[:ndim]
    fixed, moving = ellipsoid(geometry, center, axes), ellipsoid(geometry, center + shift, rotation @ axes)
    candidates = guesses("moments", fixed, geometry, moving, geometry)
    np.testing.assert_allclose(candidates[0].map_points(center[None])[0], center + shift, atol=0.2)
    points = center + np.random.default_rng(0).uniform(-25, 25, (20, ndim))
    truth = (points - center) @ rotation.T + center + shift
    errors = [np.linalg.norm(c.map_points(points) - truth, axis=1).max() for c in candidates]
    assert min(errors) < 1.0


def test_named_guesses():
    fixed, moving = GRID[3], GRID[3].cropped((10, 4, 2), (30, 40, 36))
    scan = ellipsoid(fixed, fixed.center_mm, np.eye(3))
    (identity,) = guesses("identity", scan, fixed, scan, fixed)
    np.testing.assert_array_equal(identity.homogeneous, np.eye(4))
    (centers,) = guesses("centers", scan, fixed, scan, moving)
    np.testing.assert_allclose(centers.map_points(fixed.center_mm[None])[0], moving.center_mm)


def test_equal_guesses_are_tried_once():
    """Same grid, same body: identity, centers and centers of mass are one candidate."""
    scan = ellipsoid(GRID[3], GRID[3].center_mm, np.eye(3))
    assert len(guesses("auto", scan, GRID[3], scan, GRID[3])) == 1


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("model, scale", [("rigid", 1.0), ("similarity", 1.08), ("affine", 1.08)])
def test_recovers_a_known_matrix(model, scale, ndim):
    phantom = make_pair(
        2, (40, 36, 34) if ndim == 3 else (72, 64), ndim=ndim, deformation_mm=0.0, scale=scale, rotation_deg=14.0,
        translation_mm=18.0,
    )  # fmt: skip
    found = aligned(phantom.pair, Start(transform=model, schedule=Schedule((4, 2, 1), (60, 50, 30))))
    assert found.status in (Status.CONVERGED, Status.MAX_STEPS)
    assert error_mm(found.transform, phantom) < 0.5 * min(phantom.pair.fixed.geometry.spacing_mm)


@pytest.mark.parametrize("seed", [1, 3])
def test_mutual_information_aligns_inverted_contrast(seed):
    phantom = make_pair(seed, (48, 40, 36), contrast="inverted", deformation_mm=0.0)
    found = aligned(phantom.pair, Start(similarity=Choice("mi")))
    assert error_mm(found.transform, phantom) < min(phantom.pair.fixed.geometry.spacing_mm)


def test_the_multimodal_preset_registers_inverted_contrast():
    """Start by mutual information, then self-similarity: better than the start alone."""
    phantom = make_pair(3, (48, 40, 36), contrast="inverted")
    session = RegistrationSession(phantom.pair, load_preset("multimodal"))
    transform = session.run()
    assert error_mm(session._start, phantom) < 4.0
    assert error_mm(transform, phantom) < 0.9 * error_mm(session._start, phantom)


def test_without_alignment_the_best_guess_is_taken():
    phantom = make_pair(2, (40, 36, 34), deformation_mm=0.0, rotation_deg=0.0, translation_mm=30.0, scale=1.0)
    found = aligned(phantom.pair, Start(initial="auto", transform="none"))
    assert found.history == [] and error_mm(found.transform, phantom) < 12.0


def test_cancelled_start_is_reported():
    phantom = make_pair(2, (24, 24, 24))
    config, progress = Config(), Progress()
    progress.cancel()
    found = align(Problem.prepare(phantom.pair, config, torch.device("cpu")), config, progress)
    assert found.status is Status.CANCELLED and np.isfinite(found.transform.homogeneous).all()


@pytest.mark.parametrize("wrong", [{"initial": "center"}, {"transform": "rigd"}])
def test_unknown_names_suggest_the_nearest(wrong):
    with pytest.raises(ConfigError, match="did you mean"):
        aligned(make_pair(0, (16, 16, 16)).pair, Start(**wrong))


def test_parallel_grid_covers_the_scan_along_the_turned_axes(oblique_geometry):
    fixed = GRID[3]
    world = np.eye(4)
    world[:3, :3] = 1.3 * turn(20.0, 3)
    grid = parallel_grid(oblique_geometry, fixed, world)
    np.testing.assert_allclose(grid.rotation, turn(20.0, 3) @ fixed.rotation, atol=1e-9)
    assert grid.spacing_mm == fixed.spacing_mm
    center = world[:3, :3] @ fixed.center_mm
    near = replace(
        oblique_geometry, origin_mm=tuple(np.array(oblique_geometry.origin_mm) + center - oblique_geometry.center_mm)
    )
    grid, corners = parallel_grid(near, fixed, world), corners_mm(near)
    assert grid.contains(corners - 1e-9 * (corners - corners.mean(0))).all()


def test_parallel_grid_ends_where_the_map_cannot_reach():
    """A scan much larger than the fixed grid: descriptors only around the place where the start puts that grid."""
    fixed = GRID[3]
    large = Geometry.identity((400, 400, 400), 2.0)
    world = np.eye(4)
    world[:3, 3] = 300.0
    grid, reached = parallel_grid(large, fixed, world), corners_mm(fixed) + 300.0
    assert grid.contains(reached).all()
    np.testing.assert_allclose(
        grid.extent_mm, np.ptp(reached @ grid.rotation, axis=0) + 2 * REACH_MM, atol=max(fixed.spacing_mm)
    )


def test_descriptors_do_not_depend_on_the_moving_grid():
    """The same anatomy on another, flipped and turned grid gives the same self-similarity loss (nearly)."""
    losses = []
    for oblique in (False, True):
        phantom = make_pair(
            1, (48, 44, 40), oblique=oblique, rotation_deg=0, translation_mm=0, scale=1, deformation_mm=0, noise=0
        )
        config = Config(start=Start(initial="identity", transform="none"), similarity=Choice("mind"))
        problem = Problem.prepare(phantom.pair, config, torch.device("cpu"))
        level = problem.level(phantom.pair.fixed.geometry, 1.0, 1, np.eye(4), config.similarity)
        zero = torch.zeros(1, 3, *level.geometry.shape)
        losses.append(term_force(level.terms[0], zero, level, "warped")[0])
    assert losses[1] < 2.5 * losses[0]
