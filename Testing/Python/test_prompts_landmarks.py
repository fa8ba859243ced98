"""Landmark prompts: they arrive, nothing folds, nothing far away moves, the grid's orientation does not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import rotation

from DeepDiffRegLib.errors import InputError, ShapeError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import sample_points
from DeepDiffRegLib.geometry.vector_fields import invert, jacobian_determinant
from DeepDiffRegLib.prompts.base import balance, look_up
from DeepDiffRegLib.prompts.kernels import REACH, add_bumps, bump, lipschitz, solve_forces
from DeepDiffRegLib.prompts.landmarks import LandmarkPrompt, choose_sigma_mm
from DeepDiffRegLib.prompts.outliers import robust_trend


def zeros(geometry: Geometry) -> torch.Tensor:
    return torch.zeros((1, geometry.ndim, *geometry.shape))


def folds(displacement: torch.Tensor, geometry: Geometry) -> int:
    return int((jacobian_determinant(displacement, geometry.spacing_mm) <= 0).sum())


def trial(seed: int, size: tuple[int, ...]) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """8 landmarks at random, displaced by 5 voxels s.d. per axis."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(10, np.array(size) - 10, (8, len(size)))
    return Geometry.identity(size), points, points + generator.normal(0, 5, points.shape)


def one_shot(geometry: Geometry, points: np.ndarray, targets: np.ndarray, sigma_mm: float) -> torch.Tensor:
    """Radial basis interpolation in a single unlimited step: what the flow is there to avoid."""
    forces = solve_forces(points, targets - points, sigma_mm, 1e-3)
    return add_bumps(zeros(geometry), geometry.spacing_mm, points, forces, sigma_mm)


@pytest.mark.parametrize("size", [(96, 96), (48, 48, 48)])
def test_flow_reaches_random_targets_without_folds_where_one_shot_folds(size):
    folded_at_once = 0
    for seed in (0, 1, 2, 3):
        geometry, points, targets = trial(seed, size)
        folded_at_once += folds(one_shot(geometry, points, targets, 8.0), geometry) > 0
        prompt = LandmarkPrompt(points, targets, sigma_mm=8.0)
        displacement = prompt.warm_start(zeros(geometry), geometry)
        assert prompt.residuals_mm(displacement, geometry).max() < 0.05
        assert folds(displacement, geometry) == 0
        lookup = sample_points(displacement, geometry, points, padding="border")
        assert np.linalg.norm(points + lookup - targets, axis=1).max() < 0.05
    assert folded_at_once >= 1


def test_contradictory_targets_miss_but_do_not_fold():
    geometry = Geometry.identity((64, 64))
    points = np.array([[30.0, 32.0], [34.0, 32.0]])
    prompt = LandmarkPrompt(points, points[::-1], sigma_mm=8.0)
    displacement = prompt.warm_start(zeros(geometry), geometry)
    assert folds(displacement, geometry) == 0
    assert torch.isfinite(displacement).all()


@pytest.mark.parametrize("size", [(64, 64), (48, 40, 44)])
def test_nothing_moves_beyond_four_sigma(size):
    geometry = Geometry.identity(size)
    point = np.array(size) / 3.0
    prompt = LandmarkPrompt(point, point + 4.0, sigma_mm=3.0)
    displacement = prompt.warm_start(zeros(geometry), geometry)
    index = np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1)
    way = np.linalg.norm(np.full(len(size), 4.0))
    far = np.linalg.norm(index - point, axis=-1) > REACH * 3.0 + way
    assert far.any()
    assert displacement[0][:, torch.from_numpy(far)].abs().max() == 0
    assert prompt.residuals_mm(displacement, geometry)[0] < 0.05


@pytest.mark.parametrize("d", [2, 3])
def test_result_does_not_depend_on_grid_orientation(d):
    """The same landmarks on the same voxels under a rotated, flipped, shifted direction give the same field in grid axes."""
    size, spacing = ((40, 30), (1.0, 1.7)) if d == 2 else ((30, 24, 20), (1.0, 0.8, 2.0))
    direction = (rotation((12, -20, 35)) @ np.diag([1.0, -1.0, 1.0]))[:d, :d]
    if d == 2:
        direction = np.array([[0.8, 0.6], [0.6, -0.8]])
    plain = Geometry.identity(size, spacing)
    oblique = Geometry(size, spacing, (-31.0, 12.5, 7.25)[:d], direction.tolist())
    generator = np.random.default_rng(3)
    index = generator.uniform(6, np.array(size) - 6, (5, d))
    goal = index + generator.normal(0, 1.0, (5, d))
    fields = []
    for geometry in (plain, oblique):
        prompt = LandmarkPrompt(geometry.to_world(index), geometry.to_world(goal), sigma_mm=6.0)
        field = prompt.warm_start(zeros(geometry), geometry)
        world = sample_points(field, geometry, prompt.fixed_mm) @ geometry.rotation.T
        assert np.linalg.norm(prompt.fixed_mm + world - prompt.target_mm, axis=1).max() < 0.05
        fields.append(field)
    # Probing directions of the step limit are fixed in the world, so that steps may be cut a little differently.
    assert (fields[0] - fields[1]).abs().max() < 0.05


def test_fused_kernel_equals_torch():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn((1, 3, 14, 17, 19), generator=generator)
    spacing = (1.1, 0.8, 2.5)
    centers = np.random.default_rng(0).uniform(-5, 25, (6, 3))
    forces = np.random.default_rng(1).normal(0, 1, (6, 3))
    fused = add_bumps(u, spacing, centers, forces, 2.5)
    reference = add_bumps(u.double(), spacing, centers, forces, 2.5)
    assert (fused - reference).abs().max() < 1e-4
    assert (fused - u).abs().max() > 0.1
    in_place = u.clone()
    assert add_bumps(in_place, spacing, centers, forces, 2.5, out=in_place) is in_place
    assert torch.equal(in_place, fused)


@pytest.mark.parametrize("d", [2, 3])
def test_step_equals_its_formula(d, rng):
    geometry = Geometry.identity((9, 8, 7)[:d], (1.0, 2.0, 1.5)[:d])
    u = torch.from_numpy(rng.normal(size=(1, d, *geometry.shape)))
    centers, forces = rng.uniform(0, 8, (4, d)), rng.normal(size=(4, d))
    got = add_bumps(u, geometry.spacing_mm, centers, forces, 1.3)
    position = np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1) * np.array(geometry.spacing_mm)
    position = position + np.moveaxis(u[0].numpy(), 0, -1)
    distance = np.linalg.norm(position[..., None, :] - centers, axis=-1)
    expected = np.moveaxis(u[0].numpy(), 0, -1) + bump(distance, 1.3) @ forces
    np.testing.assert_allclose(np.moveaxis(got[0].numpy(), 0, -1), expected, atol=1e-12)


def test_bump_is_nearly_gaussian_and_bound_holds(rng):
    r = np.linspace(0, 6, 200)
    assert np.abs(bump(r, 1.0) - np.exp(-(r**2) / 2)).max() < 0.04
    centers, forces = rng.uniform(0, 20, (5, 3)), rng.normal(size=(5, 3))
    found = lipschitz(centers, forces, 3.0, np.eye(3))
    a, b = rng.uniform(-5, 25, (2, 4000, 3))
    b = a + 1e-4 * (b - a)
    step = [bump(np.linalg.norm(x[:, None] - centers, axis=2), 3.0) @ forces for x in (a, b)]
    quotient = np.linalg.norm(step[0] - step[1], axis=1) / np.linalg.norm(a - b, axis=1)
    assert quotient.max() < 1.15 * found
    single = lipschitz(np.zeros((1, 3)), np.array([[0.8 * 3.0, 0, 0]]), 3.0, np.eye(3))
    assert 0.45 < single < 0.52


def test_update_keeps_satisfied_landmarks_and_the_rest_of_the_field(rng):
    geometry = Geometry.identity((48, 48, 40))
    points = np.array([[14.0, 14, 20], [34, 14, 20], [14, 34, 20]])
    targets = points + rng.normal(0, 1.5, points.shape)
    first = LandmarkPrompt(points, targets, sigma_mm=5.0)
    before = first.warm_start(zeros(geometry), geometry)
    new = np.array([34.0, 34, 20])
    both = LandmarkPrompt(np.vstack((points, new)), np.vstack((targets, new + [3.0, -2, 1])), sigma_mm=5.0, guard=True)
    after = both.warm_start(before, geometry, steps=5)
    assert both.residuals_mm(after, geometry).max() < 0.05
    assert folds(after, geometry) == 0
    changed = (after - before).norm(dim=1)[0]
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in geometry.shape], indexing="ij")[::-1], -1).float()
    far = (index - torch.tensor([34.0, 34, 20])).norm(dim=-1) > 3.5 * 5
    assert changed[far].max() < 0.1


@pytest.mark.parametrize("size", [(80, 80), (48, 48, 48)])
def test_wrong_click_is_named_and_does_not_wreck_the_field(size, rng):
    geometry = Geometry.identity(size, 2.0)
    points = rng.uniform(15, 2 * np.array(size) - 15, (10, len(size)))
    targets = points + np.array([2.0, -1.0, 1.5])[: len(size)] + rng.normal(0, 0.7, points.shape)
    wrong = targets.copy()
    wrong[4, 0] += 60.0
    clean = LandmarkPrompt(np.delete(points, 4, 0), np.delete(targets, 4, 0), sigma_mm=12.0)
    prompt = LandmarkPrompt(points, wrong, sigma_mm=12.0)
    assert prompt.suspects() == (4,)
    assert clean.suspects() == ()
    assert prompt.disagreement_mm()[4] > 50
    field, reference = (p.warm_start(zeros(geometry), geometry) for p in (prompt, clean))
    assert folds(field, geometry) == 0
    assert (field - reference).norm(dim=1).max() < 0.5
    assert np.delete(prompt.residuals_mm(field, geometry), 4).max() < 0.1
    pulled = prompt.pull(zeros(geometry), geometry, limit_mm=0.5)
    assert pulled.norm(dim=1).max() < 0.8


def test_one_real_local_correction_is_followed(rng):
    geometry = Geometry.identity((48, 48, 48), 2.0)
    points = np.array([[x, y, z] for x in (20.0, 70.0) for y in (20.0, 70.0) for z in (20.0, 70.0)])
    targets = points.copy()
    targets[3] += [8.0, 0, 4.0]
    prompt = LandmarkPrompt(points, targets)
    assert prompt.suspects() == ()
    field = prompt.warm_start(zeros(geometry), geometry)
    assert prompt.residuals_mm(field, geometry).max() < 0.1


@pytest.mark.parametrize("size", [(64, 64), (40, 40, 40)])
def test_pull_descends_in_limited_steps(size):
    geometry = Geometry.identity(size)
    points = np.array([[12.0] * len(size), [25.0] * len(size)])
    prompt = LandmarkPrompt(points, points + np.array([3.0, -2.0, 1.0])[: len(size)], sigma_mm=6.0)
    field, energies = zeros(geometry), []
    for _ in range(60):
        energies.append(prompt.energy(field, geometry))
        moved = prompt.pull(field, geometry, limit_mm=0.5)
        assert (moved - field).norm(dim=1).max() < 0.6
        field = moved
    assert all(b < a for a, b in zip(energies[:10], energies[1:11]))
    assert prompt.residuals_mm(field, geometry).max() < 0.05
    assert folds(field, geometry) == 0
    assert prompt.pull(field, geometry, 0.5, out=field) is field


def test_inverse_of_the_flow_brings_everything_back():
    geometry, points, targets = trial(2, (48, 48, 48))
    displacement = LandmarkPrompt(points, targets, sigma_mm=8.0).warm_start(zeros(geometry), geometry)
    inversion = invert(displacement)
    assert inversion.p99 < 0.01
    back = sample_points(inversion.displacement, geometry, targets, padding="border")
    assert np.linalg.norm(targets + back - points, axis=1).max() < 0.3


def test_energy_is_pseudo_huber():
    geometry = Geometry.identity((20, 20))
    prompt = LandmarkPrompt([[5.0, 5], [9, 9]], [[8.0, 9], [9, 9]], sd_mm=2.0)
    assert prompt.energy(zeros(geometry), geometry) == pytest.approx((np.sqrt(1 + 2.5**2) - 1) / 2)


def test_sigma_follows_the_spacing_of_landmarks():
    grid = np.array([[x, y, 0.0] for x in (0, 20, 40) for y in (0, 20, 40)])
    assert choose_sigma_mm(grid, (1.0, 1.0, 1.0)) == pytest.approx(12.0)
    assert choose_sigma_mm(grid, (1.0, 1.0, 5.0)) == pytest.approx(15.0)
    assert choose_sigma_mm(grid[:1], (1.0, 1.0, 1.0)) == 15.0
    assert choose_sigma_mm(10 * grid, (1.0, 1.0, 1.0)) == 25.0
    assert choose_sigma_mm(grid / 100, (1.0, 1.0, 1.0)) == 3.0
    coarse = Geometry.identity((10, 10, 10), 4.0)
    assert LandmarkPrompt(grid, grid, sigma_mm=5.0).sigma_on(coarse).tolist() == [12.0] * len(grid)


def test_trend_survives_wrong_points(rng):
    points = rng.uniform(-50, 50, (16, 3))
    matrix, shift = 0.1 * rng.normal(size=(3, 3)), rng.normal(size=3)
    exact = points @ matrix.T + shift
    spoiled = exact.copy()
    spoiled[[2, 11]] += 40
    np.testing.assert_allclose(robust_trend(points, spoiled), exact, atol=1e-6)


def test_look_up_is_exact_for_linear_fields_and_clamps(oblique_geometry):
    index = np.moveaxis(np.indices(oblique_geometry.shape)[::-1], 0, -1).astype(float)
    values = torch.from_numpy(np.moveaxis(index @ np.array([[1.0, 2], [0.5, -1], [3, 0]]), -1, 0))[None]
    at = np.array([[0.0, 0, 0], [13, 11, 8], [3.25, 7.5, 2.125], [-4, 20, 2.5]])
    clamped = np.clip(at, 0, np.array(oblique_geometry.size) - 1)
    np.testing.assert_allclose(look_up(values, at), clamped @ np.array([[1.0, 2], [0.5, -1], [3, 0]]), atol=1e-12)


def test_balance():
    assert balance(4.0, 2.0, 0.5) == 0.25
    assert balance(0.0, 2.0, 0.7) == 0.7
    with pytest.raises(InputError):
        balance(float("nan"), 1.0, 1.0)


def test_bad_prompts_are_refused():
    with pytest.raises(InputError, match="fixed_mm and target_mm"):
        LandmarkPrompt(np.zeros((3, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="finite"):
        LandmarkPrompt(np.full((2, 3), np.nan), np.zeros((2, 3)))
    with pytest.raises(InputError, match="positive"):
        LandmarkPrompt(np.zeros((2, 3)), np.zeros((2, 3)), sd_mm=0.0)
    with pytest.raises(ShapeError):
        LandmarkPrompt(np.zeros((2, 3)), np.zeros((2, 3))).warm_start(
            torch.zeros(1, 3, 4, 4, 4), Geometry.identity((5, 4, 4))
        )
