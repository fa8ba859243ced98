"""Every model of the registry: identity at entry, downhill steps, level changes that keep the map, finished maps that
equal what was optimised, recovery of a known map; and the optimisers behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant, strict_folds
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms import TRANSFORMS
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.bspline import control_grid, evaluate, evaluate_adjoint
from DeepDiffRegLib.transforms.displacement import to_voxels
from DeepDiffRegLib.transforms.model import Adam, FieldAdam, Push, pin_faces

LINEAR = ("translation", "rigid", "similarity", "affine")
FIELDS = ("bspline", "displacement", "svf", "diffeomorphic")
GRIDS = {
    2: Geometry((20, 18), (2.0, 2.4), (5.0, -8.0), ((0.8, -0.6), (0.6, 0.8))),
    3: Geometry((16, 18, 20), (2.0, 2.4, 1.6), (5.0, -8.0, 2.0), ((0.8, -0.6, 0), (0.6, 0.8, 0), (0, 0, 1))),
}


def smooth_field(geometry: Geometry, amplitude: float = 1.0) -> torch.Tensor:
    """Half sines along every axis, zero at the faces, in voxels."""
    window = torch.ones(geometry.shape)
    for axis, n in enumerate(geometry.shape):
        shape = [-1 if a == axis else 1 for a in range(geometry.ndim)]
        window = window * torch.sin(torch.pi * (torch.arange(n) + 0.5) / n).reshape(shape)
    heights = torch.tensor([1.0, -0.7, 0.5][: geometry.ndim]).reshape(1, -1, *(1,) * geometry.ndim)
    return amplitude * heights * window[None, None]


def target_for(name: str, geometry: Geometry) -> torch.Tensor:
    """A displacement that the model can represent (or nearly)."""
    if name in LINEAR:
        return torch.full((1, geometry.ndim, *geometry.shape), 0.8)
    return smooth_field(geometry)


def moved_model(name: str, ndim: int, steps: int = 12):
    """A model after some steps towards ``target_for``; also the energies on the way."""
    geometry = GRIDS[ndim]
    model = TRANSFORMS.build(name)
    model.enter(geometry, "cpu")
    target, energies = target_for(name, geometry), []
    for _ in range(steps):
        difference = model.displacement() - target
        energies.append(float(difference.square().sum()) / 2)
        model.step(difference.clone())
    energies.append(float((model.displacement() - target).square().sum()) / 2)
    return model, energies


def mm(model) -> torch.Tensor:
    """u along the grid's axes in mm."""
    scale = torch.tensor(model.geometry.spacing_mm).reshape(1, -1, *(1,) * model.geometry.ndim)
    return model.displacement() * scale


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", list(TRANSFORMS))
class TestEveryModel:
    def test_starts_at_the_identity(self, name, ndim):
        model = TRANSFORMS.build(name)
        model.enter(GRIDS[ndim], "cpu")
        assert float(model.displacement().abs().max()) < 1e-5
        points = GRIDS[ndim].to_world(np.full((1, ndim), 7.3))
        np.testing.assert_allclose(model.finish().map_points(points), points, atol=1e-9)

    def test_steps_against_the_force_lower_the_energy(self, name, ndim):
        _, energies = moved_model(name, ndim)
        assert energies[1] < energies[0]
        assert energies[-1] < 0.6 * energies[0]

    def test_a_finer_level_keeps_the_map(self, name, ndim):
        """In mm, away from the faces, where linear interpolation between coarse voxels is the only difference."""
        model, _ = moved_model(name, ndim)
        coarse, before = model.geometry, model.finish()
        fine = coarse.resized(tuple(2 * n for n in coarse.size))
        model.enter(fine, "cpu")
        index = np.random.default_rng(0).uniform(2, np.array(coarse.size) - 3, (200, ndim))
        points = coarse.to_world(index)
        moved, largest = before.map_points(points), float(mm(model).abs().max())
        assert largest > 0.5
        np.testing.assert_allclose(model.finish().map_points(points), moved, atol=0.05 * largest)

    def test_the_finished_map_is_what_was_optimised(self, name, ndim):
        model, _ = moved_model(name, ndim)
        finished = to_voxels(model.finish().displacement(model.geometry), model.geometry)
        integrated = 0.02 if name == "svf" else 1e-4  # fewer squarings while optimising
        torch.testing.assert_close(finished, model.displacement(), atol=integrated, rtol=0)

    def test_a_finished_map_does_not_move_with_the_model(self, name, ndim):
        model, _ = moved_model(name, ndim, 3)
        finished = model.finish()
        points = model.geometry.to_world(np.full((1, ndim), 8.0))
        before = finished.map_points(points)
        model.step(torch.ones_like(model.displacement()))
        np.testing.assert_array_equal(finished.map_points(points), before)

    def test_continues_from_its_own_map(self, name, ndim):
        model, _ = moved_model(name, ndim)
        again = TRANSFORMS.build(name)
        again.resume(model.finish(), model.geometry, "cpu")
        again.enter(model.geometry, "cpu")
        torch.testing.assert_close(again.displacement(), model.displacement(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", FIELDS)
def test_pinned_faces_do_not_move(name):
    model = TRANSFORMS.build(name)
    model.pinned = ((0, 0), (1, -1), (2, 0))
    model.enter(GRIDS[3], "cpu")
    for _ in range(4):
        model.step(torch.ones_like(model.displacement()))
    u = model.displacement()
    assert float(u.abs().max()) > 0.1
    for component, side in model.pinned:
        slice_of_spline = 1e-3 if name == "bspline" else 1e-6  # its face is half a voxel further out
        assert float(u.select(4 - component, side).abs().max()) < slice_of_spline


@pytest.mark.parametrize("name", ["displacement", "svf", "diffeomorphic"])
def test_a_strong_prompt_does_not_slow_the_scans(name):
    """Far from a prompt a thousand times stronger than the scans, the map moves as it does without the prompt."""
    grid = Geometry.identity((40, 20, 20))
    scans = smooth_field(grid)
    prompt = torch.zeros_like(scans)
    prompt[..., 8:12, 8:12, 2:5] = 1e3
    alone, steered = TRANSFORMS.build(name), TRANSFORMS.build(name)
    for model, extra in ((alone, ()), (steered, (prompt,))):
        model.enter(grid, "cpu")
        for _ in range(3):
            model.step(scans.clone(), [Push("prompts", force.clone()) for force in extra])
    difference = (alone.displacement() - steered.displacement()).abs()
    assert float(difference[..., :6].max()) > 0.1
    assert float(difference[..., 30:].max()) < 1e-3


@pytest.mark.parametrize("name", FIELDS)
def test_steps_are_at_most_the_learning_rate(name):
    """One step under a wild force moves no voxel further than ``learning_rate`` voxels."""
    model = TRANSFORMS.build(name, learning_rate=0.3)
    model.enter(GRIDS[3], "cpu")
    model.step(torch.randn(1, 3, *GRIDS[3].shape) * 1e4)
    longest = float(torch.linalg.vector_norm(model.displacement(), dim=1).max())
    assert longest <= 0.3 * (np.sqrt(3) if name == "bspline" else 1) * 1.02


def test_linear_models_continue_only_from_matrices():
    field, _ = moved_model("displacement", 2, 2)
    for name in LINEAR:
        with pytest.raises(ConfigError, match="cannot continue"):
            TRANSFORMS.build(name).resume(field.finish(), GRIDS[2], "cpu")


@pytest.mark.parametrize("name", ["bspline", "displacement", "diffeomorphic"])
def test_field_models_continue_from_any_map(name):
    """The map of another model, within what a spline can follow."""
    other, _ = moved_model("svf", 3)
    model = TRANSFORMS.build(name)
    model.resume(other.finish(), GRIDS[3], "cpu")
    model.enter(GRIDS[3], "cpu")
    torch.testing.assert_close(model.displacement(), other.displacement(), atol=0.06, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_gradients_against_finite_differences(name, ndim):
    """E = sum of squares of (u - w): dE/dtheta from the moments of the force, for every generator, off the identity."""
    model, _ = moved_model(name, ndim, 4)
    wanted = torch.randn(1, ndim, *model.geometry.shape, dtype=torch.float64)

    def energy(theta: np.ndarray) -> float:
        generator = np.zeros((ndim + 1, ndim + 1))
        generator[:-1, -1] = theta[:ndim] @ model._shifts
        generator[:-1, :-1] = np.tensordot(theta[ndim:], model._linear, 1)
        move = torch.linalg.matrix_exp(torch.from_numpy(generator)).numpy()
        center = np.eye(ndim + 1)
        center[:-1, -1] = model._center
        phi = AffineTransform.from_homogeneous(center @ move @ np.linalg.inv(center) @ model._map.homogeneous)
        index = np.stack(np.indices(model.geometry.shape)[::-1], -1).reshape(-1, ndim)
        moved = model.geometry.to_index(phi.map_points(model.geometry.to_world(index))) - index
        return float(((moved - wanted[0].reshape(ndim, -1).T.numpy()) ** 2).sum() / 2)

    force = model.displacement().double() - wanted
    found = np.concatenate(model._moments(force))
    for k in range(len(found)):
        step = np.zeros(len(found))
        step[k] = 1e-5
        assert found[k] == pytest.approx((energy(step) - energy(-step)) / 2e-5, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("name, determinant", [("translation", 1.0), ("rigid", 1.0), ("similarity", None)])
def test_linear_models_stay_in_their_group(name, determinant):
    model = TRANSFORMS.build(name)
    model.enter(GRIDS[3], "cpu")
    for _ in range(10):
        model.step(torch.randn(1, 3, *GRIDS[3].shape))
    matrix = model.finish().matrix
    scale = np.linalg.det(matrix) ** (1 / 3)
    np.testing.assert_allclose(matrix.T @ matrix, scale**2 * np.eye(3), atol=1e-9)
    assert determinant is None or scale == pytest.approx(determinant, abs=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_bspline_adjoint_is_the_transpose(ndim):
    """<evaluate(c), f> = <c, adjoint(f)> for random c and f."""
    grid = GRIDS[ndim]
    control = control_grid(grid, (7.0,) * ndim)
    c = torch.randn(1, ndim, *control.shape, dtype=torch.float64)
    f = torch.randn(1, ndim, *grid.shape, dtype=torch.float64)
    left, right = (evaluate(c, control, grid) * f).sum(), (c * evaluate_adjoint(f, control, grid)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)


def test_adam_directions_are_bounded_and_noise_is_not_amplified():
    """Constant gradients give steps of 1 whatever their size; entries far below the largest hardly move."""
    adam = Adam(torch.zeros(3, dtype=torch.float64), epsilon=0.05)
    gradient = torch.tensor([1e6, -1e6, 1.0], dtype=torch.float64)
    for _ in range(5):
        direction = adam.direction(gradient)
    torch.testing.assert_close(direction[:2].abs(), torch.full((2,), 1 / 1.05, dtype=torch.float64))
    assert float(direction[2]) == pytest.approx(1e-6 / 0.05, rel=1e-3)
    scaled = Adam(torch.zeros(3, dtype=torch.float64), epsilon=0.05)
    for _ in range(5):
        other = scaled.direction(gradient * 1e-9)
    torch.testing.assert_close(other, direction, rtol=1e-6, atol=1e-12)


def test_field_adam_keeps_directions_and_fused_equals_torch():
    like = torch.zeros(1, 3, 5, 6, 7)
    fused, slow = FieldAdam(like, (0.9, 0.99), 0.2), FieldAdam(like.double(), (0.9, 0.99), 0.2)
    assert fused.fused and not slow.fused
    for step in range(3):
        gradient = torch.randn(1, 3, 5, 6, 7)
        (one, longest), (two, slow_longest) = fused.direction(gradient.clone()), slow.direction(gradient.double())
        torch.testing.assert_close(one.double(), two, atol=1e-5, rtol=1e-5)
        assert longest == pytest.approx(slow_longest, rel=1e-4)
        assert longest == pytest.approx(float(torch.linalg.vector_norm(two, dim=1).max()), rel=1e-4)
        if step == 0:
            cosine = torch.nn.functional.cosine_similarity(one, gradient)
            assert float(cosine.min()) > 0.9999


def test_pin_faces_touches_only_its_component_or_layer():
    field = torch.ones(1, 2, 4, 5)
    pin_faces(field, ((0, 0), (1, -1)))
    assert not field[..., 0].any() and not field[..., -1, :].any() and field[..., :-1, 1:].all()


def tre_mm(transform, phantom) -> tuple[float, float]:
    """Mean distance from the truth over the anatomy, before and after."""
    labels = phantom.fixed_labels.numpy()
    points = phantom.pair.fixed.geometry.to_world(np.argwhere(labels > 0)[::23, ::-1])
    truth = phantom.truth(points)
    found = transform.map_points(points)
    return tuple(float(np.linalg.norm(p - truth, axis=1).mean()) for p in (points, found))


RECOVERY = {
    "translation": ({"deformation_mm": 0.0, "scale": 1.0, "rotation_deg": 0.0}, 0.1),
    "rigid": ({"deformation_mm": 0.0, "scale": 1.0}, 0.1),
    "similarity": ({"deformation_mm": 0.0, "scale": 1.06}, 0.1),
    "affine": ({"deformation_mm": 0.0, "scale": 1.06}, 0.12),
    "bspline": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.75),
    "displacement": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
    "svf": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
    "diffeomorphic": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
    "vsvf": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
    "lddmm": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
    "rdmm": ({"rotation_deg": 0.0, "translation_mm": 0.0, "scale": 1.0}, 0.65),
}
"""Per model: what moves the phantom, and the share of the error that may be left."""


ITERATIONS = dict.fromkeys(("vsvf", "lddmm", "rdmm"), (14, 5))
"""Models with a line search need fewer."""


def solve(phantom, name: str, **options):
    config = Config(
        start=Start(initial="identity", transform="none"),
        transform=Choice(name, options),
        schedule=Schedule((2, 1), ITERATIONS.get(name, (60, 20)), tolerance=0.0),
        preprocess=Preprocess(crop=name not in LINEAR),
    )
    return RegistrationSession(phantom.pair, config).run()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_recovers_a_known_map(name, ndim):
    change, left = RECOVERY[name]
    phantom = make_pair(1, (40, 36, 32) if ndim == 3 else (72, 64), ndim=ndim, **change)
    before, after = tre_mm(solve(phantom, name), phantom)
    assert after < left * before


@pytest.mark.parametrize("name", ["svf", "diffeomorphic"])
def test_fold_free_on_a_violent_pair(name):
    """Two different persons, unregularised and with long steps: the map must stay a map."""
    one, two = make_pair(1, (32, 32, 32), oblique=False), make_pair(5, (32, 32, 32), oblique=False, anatomy="head")
    pair = type(one.pair)(one.pair.fixed, two.pair.moving)
    config = Config(
        start=Start(initial="centers", transform="none"),
        transform=Choice(name, {"learning_rate": 0.5}),
        schedule=Schedule((2, 1), (80, 60), tolerance=0.0),
    )
    transform = RegistrationSession(pair, config).run()
    grid = pair.fixed.geometry
    u = transform.displacement(grid)
    assert float(u.abs().max()) > 5.0
    assert float(jacobian_determinant(u, grid.spacing_mm, grid.rotation).min()) > 0
    assert strict_folds(u, grid.spacing_mm, grid.rotation) == 0
