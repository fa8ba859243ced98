"""The solver as a layer: its derivative in closed form, against interpolation written out, differences and re-solved optima."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Choice
from DeepDiffRegLib.errors import Cancelled, ConfigError, ShapeError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import Pyramid, strided
from DeepDiffRegLib.geometry.sampling import index_matrix, pull_gradient, warp
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.methods._feature_force import feature_force, force_vjp
from DeepDiffRegLib.methods._phantom import Comparison, Phantom
from DeepDiffRegLib.methods.implicit import Layer, differentiable, gmres, solve
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.regularization.diffusion import Diffusion
from DeepDiffRegLib.similarity.mean_squares import mean_squares
from DeepDiffRegLib.transforms import TRANSFORMS

RATE = 0.8
SHAPES = {2: ((7, 9), (10, 8)), 3: ((5, 6, 7), (7, 5, 6))}


def case(ndim: int, seed: int = 0, channels: int = 3):
    """Random features on two grids, a map that partly leaves the moving one, weights; double precision."""
    torch.manual_seed(seed)
    own, other = SHAPES[ndim]
    fixed, moving = torch.rand(1, channels, *own).double(), torch.rand(1, channels, *other).double()
    u = (torch.rand(1, ndim, *own).double() - 0.5) * 3
    matrix = np.eye(ndim, ndim + 1) * 1.1 + np.random.default_rng(seed).normal(0, 0.05, (ndim, ndim + 1))
    return fixed, moving, u, matrix, torch.rand(1, 1, *own).double()


def interpolated(moving, u, matrix):
    """Linear interpolation written out in operations that any torch differentiates twice; border and outside as the library's."""
    d, shape = u.shape[1], tuple(u.shape[2:])
    axes = torch.meshgrid(*[torch.arange(n, dtype=u.dtype) for n in shape], indexing="ij")[::-1]
    place = torch.stack(axes).flatten(1) + u[0].flatten(1)
    place = torch.as_tensor(matrix[:, :-1]) @ place + torch.as_tensor(matrix[:, -1:])
    sizes = torch.tensor(moving.shape[:1:-1], dtype=u.dtype)[:, None]
    inside = ((place >= -0.5) & (place < sizes - 0.5)).all(0)
    place = torch.minimum(place.clamp(min=0), sizes - 1)
    lower = place.detach().floor()
    fraction = place - lower
    total = 0.0
    for bits in product((0, 1), repeat=d):
        at = torch.minimum(lower + torch.tensor(bits)[:, None], sizes - 1).long()
        weight = torch.stack([f if bit else 1 - f for f, bit in zip(fraction, bits)]).prod(0)
        total = total + weight * moving[(0, slice(None), *reversed(at))]
    return (total * inside).reshape(1, moving.shape[1], *shape)


def written_out(fixed, moving, u, matrix, weight):
    """dE/du by differentiating E, itself differentiable."""
    difference = (interpolated(moving, u, matrix) - fixed).square().mean(1, keepdim=True)
    return torch.autograd.grad((difference * weight).sum() / weight.sum(), u, create_graph=True)[0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_force_and_its_products_are_exact(ndim):
    """Within 1e-10 of twice differentiated interpolation, for features of both scans and the map."""
    fixed, moving, u, matrix, weight = case(ndim)
    tracked = [t.clone().requires_grad_() for t in (fixed, moving, u)]
    expected = written_out(*tracked, matrix, weight)
    force = feature_force(*tracked, matrix, weight)
    assert torch.allclose(force, expected, rtol=1e-10, atol=1e-14)
    cotangent = torch.randn_like(expected)
    products = torch.autograd.grad(force, tracked, cotangent)
    for found, exact in zip(products, torch.autograd.grad(expected, tracked, cotangent)):
        assert float((found - exact).norm() / exact.norm()) < 1e-10


@pytest.mark.parametrize("ndim", [2, 3])
def test_products_agree_with_differences(ndim):
    fixed, moving, u, matrix, weight = case(ndim, seed=1)
    cotangent = torch.randn_like(u)
    exact = force_vjp(cotangent, fixed, moving, u, matrix, weight)
    values = (fixed, moving, u)
    for which in range(3):
        for entry in torch.randperm(values[which].numel())[:6].tolist():
            step, forces = 1e-6, []
            for sign in (-1, 1):
                shifted = [t.clone() for t in values]
                shifted[which].view(-1)[entry] += sign * step
                forces.append((feature_force(*shifted, matrix, weight) * cotangent).sum())
            assert float((forces[1] - forces[0]) / (2 * step)) == pytest.approx(
                float(exact[which].flatten()[entry]), abs=1e-9
            )


def test_force_is_the_solvers_own():
    """In single precision it is what the descent computes, through its compiled kernels."""
    fixed, moving, u, matrix, weight = case(3)
    fixed, moving, u, weight = (t.float() for t in (fixed, moving, u, weight))
    warped = warp(moving, u, matrix)
    residual = mean_squares(fixed, warped, weight)[1]
    expected = pull_gradient(moving, u, matrix, residual)
    assert torch.allclose(feature_force(fixed, moving, u, matrix, weight), expected, atol=1e-7)


def test_one_scan_alone_can_be_differentiated():
    fixed, moving, u, matrix, weight = case(2)
    fixed.requires_grad_()
    feature_force(fixed, moving, u, matrix, weight).square().sum().backward()
    assert fixed.grad is not None and moving.grad is None


def test_no_second_derivative_of_the_interpolation_is_asked_for(monkeypatch):
    """The layer trains where torch cannot differentiate the derivative of its interpolation."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, grid):
            ctx.save_for_backward(values, grid)
            return original(values, grid, mode="bilinear", padding_mode="border", align_corners=True)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            with torch.enable_grad():
                values, grid = (t.detach().requires_grad_() for t in ctx.saved_tensors)
                out = original(values, grid, mode="bilinear", padding_mode="border", align_corners=True)
            return torch.autograd.grad(out, (values, grid), g)

    original = torch.nn.functional.grid_sample
    monkeypatch.setattr(torch.nn.functional, "grid_sample", lambda v, g, **_: Once.apply(v, g))
    for name in ("displacement", "diffeomorphic", "svf", "affine"):
        fixed, moving = scans(features=2)
        weights = torch.ones(1, 2, 1, 1, requires_grad=True)
        layer = Layer(Choice(name), (4, 2), phantom_steps=2)
        found = solve(times(fixed, weights), times(moving, weights), layer)
        sum(s.displacement.square().sum() for s in found).backward()
        assert bool(weights.grad.isfinite().all()) and float(weights.grad.abs().max()) > 0


def scans(n: int = 32, features: int = 2, shift: float = 2.0, spacing: float = 1.0) -> tuple[Pyramid, Pyramid]:
    """Blobs seen in several channels, the moving ones ``shift`` mm farther in x, at half and full resolution."""
    ndim, found = 2, []
    for way in (0.0, shift):
        levels = []
        for stride in (2, 1):
            grid = strided(Geometry.identity((int(n / spacing),) * ndim, spacing), stride, (stride - 1) / 2)
            points = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1))
            values = []
            for channel in range(features):
                center = np.full(ndim, n / 2 + 2.0 * channel) + np.eye(ndim)[0] * way
                values.append(np.exp(-((points - center) ** 2).sum(-1) / (2 * (4.0 + channel) ** 2)))
            levels.append((torch.as_tensor(np.array(values), dtype=torch.float32)[None], grid))
        found.append(Pyramid(tuple(levels)))
    return found[0], found[1]


def times(pyramid: Pyramid, weights: torch.Tensor) -> Pyramid:
    return Pyramid(tuple((tensor * weights, grid) for tensor, grid in pyramid.images))


@pytest.mark.parametrize("name", ["displacement", "diffeomorphic", "svf", "affine", "rigid", "translation"])
def test_layer_finds_the_map(name):
    fixed, moving = scans()
    options = {"optimizer": "sgd", "learning_rate": 0.5} if name == "displacement" else {}
    coarse, fine = solve(fixed, moving, Layer(Choice(name, options), (60, 40), tolerance=1e-4))
    middle = (slice(None), slice(None), slice(14, 19), slice(14, 19))
    assert coarse.displacement.shape == (1, 2, 16, 16) and fine.geometry == fixed.images[-1][1]
    assert torch.allclose(fine.displacement[middle][0, 0].mean(), torch.tensor(2.0), atol=0.15)
    assert float(fine.displacement[middle][0, 1].abs().max()) < 0.3
    assert fine.history[-1].loss < 0.1 * coarse.history[0].loss
    if name == "diffeomorphic":
        assert float(jacobian_determinant(fine.displacement.detach(), (1.0, 1.0)).min()) > 0


def test_grids_may_differ():
    """A moving scan with smaller voxels, and all of its shift in the affine part: nothing is left to find."""
    (fixed, _), (_, moving) = scans(), scans(spacing=0.5)
    world = np.eye(3)
    world[0, 2] = 2.0
    _, found = solve(fixed, moving, Layer(Choice("displacement"), (8, 8)), world)
    assert found.displacement.shape == (1, 2, 32, 32) and found.history[0].loss < 1e-4
    assert float(found.displacement[..., 12:20, 12:20].abs().max()) < 0.3


class Kept:
    """A tensor that a backward pass will need."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_memory_does_not_grow_with_the_iterations():
    """Bytes that autograd keeps for the backward pass: equal for 3 and 60 iterations per scale, and few."""
    kept = {}
    for iterations in (3, 60):
        alive = weakref.WeakSet()
        fixed, moving = scans(features=4)
        weights = torch.ones(1, 4, 1, 1, requires_grad=True)
        pyramids = times(fixed, weights), times(moving, weights)

        def pack(tensor, alive=alive):
            kept = Kept(tensor)
            alive.add(kept)
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            solved = solve(*pyramids, Layer(iterations=(iterations,) * 2, tolerance=0.0))
        assert [len(s.history) for s in solved] == [iterations] * 2
        kept[iterations] = sum({t.data_ptr(): t.numel() * t.element_size() for t in (k.tensor for k in alive)}.values())
    voxels = 32 * 32 + 16 * 16
    assert kept[60] == kept[3] < 4 * voxels * (2 * 4 + 40)


def small_problem(name: str):
    """Smooth features of 7 x 8 voxels in double precision whose match lies well between the moving scan's voxels."""
    fixed_grid, moving_grid = (
        Geometry.identity((8, 7)),
        Geometry((12, 11), (1.0, 1.0), (-1.6, -1.5), np.eye(2).tolist()),
    )

    def waves(grid: Geometry, shift) -> torch.Tensor:
        points = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1)) - np.array(shift)
        ways = (((0.7, 0.3), 0.1), ((-0.3, 0.8), 0.7), ((0.5, -0.6), 1.9))
        return torch.as_tensor(np.array([np.sin(points @ np.array(k) + p) for k, p in ways]))[None]

    options = dict(zip(("sigma_gradient_voxels", "sigma_warp_voxels"), (0.0, 0.0) if name == "pull" else (1.0, 0.5)))
    model = TRANSFORMS.build("displacement", optimizer="sgd", **options)
    fixed, moving = waves(fixed_grid, (0.0, 0.0)), 1.1 * waves(moving_grid, (0.15, -0.1))
    return model, Comparison(fixed, moving, fixed_grid, moving_grid, np.eye(3), [(0.1, Diffusion())])


def with_fixed(comparison: Comparison, fixed: torch.Tensor) -> Comparison:
    return replace(comparison, fixed=fixed)


def fixed_point(model, comparison: Comparison) -> torch.Tensor:
    """The map that a step of the solver leaves as it is."""
    u = torch.zeros(1, 2, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        step = Phantom(model, comparison.detached(), u, RATE)
        assert step.rate == RATE
        for _ in range(1500):
            after = step(u)
            if float((after - u).abs().max()) < 1e-12:
                return after
            u = after
    raise AssertionError("the small problem does not converge")


@pytest.mark.parametrize("name", ["pull", "smoothed"])
def test_implicit_derivative_is_that_of_solving_again(name):
    """``ift`` equals differences of optima; ``jfb`` points the same way, without any system to be solved."""
    model, comparison = small_problem(name)
    target = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    optimum = fixed_point(model, comparison)
    tracked = comparison.fixed.clone().requires_grad_()
    changed = with_fixed(comparison, tracked)
    gradients = {}
    for backward in ("ift", "jfb"):
        layer = Layer(backward=backward, rate=RATE, inverse_iterations=112, inverse_tolerance=1e-12)
        u = differentiable(model, changed, layer, optimum)
        (gradients[backward],) = torch.autograd.grad((u * target).sum(), tracked)
    for entry in (10, 61, 130):
        values = []
        for sign in (-1, 1):
            shifted = comparison.fixed.clone()
            shifted.view(-1)[entry] += sign * 1e-5
            other = with_fixed(comparison, shifted)
            values.append(float((fixed_point(model, other) * target).sum()))
        expected = (values[1] - values[0]) / 2e-5
        assert expected == pytest.approx(float(gradients["ift"].flatten()[entry]), rel=1e-4, abs=1e-7)
    cosine = torch.nn.functional.cosine_similarity(gradients["ift"].flatten(), gradients["jfb"].flatten(), dim=0)
    assert float(cosine) > 0.3


def test_more_phantom_steps_come_nearer_to_the_implicit_derivative():
    model, comparison = small_problem("pull")
    optimum = fixed_point(model, comparison)
    target = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    tracked = comparison.fixed.clone().requires_grad_()
    changed = with_fixed(comparison, tracked)

    def gradient(**options):
        u = differentiable(model, changed, Layer(rate=RATE, **options), optimum)
        return torch.autograd.grad((u * target).sum(), tracked)[0]

    exact = gradient(backward="ift", inverse_iterations=112, inverse_tolerance=1e-12)
    errors = [float((gradient(phantom_steps=n) - exact).norm() / exact.norm()) for n in (1, 10, 60)]
    assert errors[0] > errors[1] > errors[2]


def test_gmres_solves_what_is_not_symmetric():
    torch.manual_seed(0)
    matrix = torch.eye(12, dtype=torch.float64) + 0.4 * torch.randn(12, 12, dtype=torch.float64)
    wanted = torch.randn(3, 4, dtype=torch.float64)
    found = gmres(lambda x: (matrix @ x.flatten()).reshape(x.shape), wanted, 12, 1e-14)
    assert torch.allclose(found.flatten(), torch.linalg.solve(matrix, wanted.flatten()), rtol=1e-8)
    assert float(gmres(lambda x: x, torch.zeros(5), 3, 1e-6).abs().max()) == 0.0


def test_training_through_the_layer_learns_what_to_compare():
    """Features of which one channel misleads: a few steps on the distance from the true map give it less weight."""
    fixed, moving = scans(features=2)
    torch.manual_seed(0)
    noise = [(torch.rand_like(t[:, :1]), torch.rand_like(t[:, :1])) for t, _ in fixed.images]
    level = {
        id(p): [(torch.cat((t, n[side]), 1), g) for (t, g), n in zip(p.images, noise)]
        for side, p in enumerate((fixed, moving))
    }
    weights = torch.zeros(1, 3, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.2)
    truth = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1)
    errors = []
    for _ in range(6):
        scale = weights.exp()
        pair = [times(Pyramid(tuple(level[id(p)])), scale) for p in (fixed, moving)]
        u = solve(*pair, Layer(iterations=(20, 15)))[-1].displacement
        error = (u - truth)[:, :, 10:22, 10:22].square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    final = weights.exp().flatten().tolist()
    assert errors[-1] < 0.6 * errors[0]
    assert final[2] < 0.7 * min(final[:2])


def test_wrong_choices_are_refused():
    fixed, moving = scans()
    for options, says in (
        ({"backward": "itf"}, "did you mean 'ift'"),
        ({"phantom_steps": 0}, "positive"),
        ({"backward": "ift", "phantom_steps": 2}, "one phantom step"),
        ({"transform": Choice("lddmm")}, "lddmm"),
        ({"regularization": (Choice("folding"),)}, "quadratic"),
    ):
        with pytest.raises(ConfigError, match=says):
            Layer(**options)
    with pytest.raises(ShapeError, match="as many"):
        solve(fixed, moving, Layer(iterations=(3,)))
    with pytest.raises(ShapeError, match="equal channels"):
        solve(fixed, scans(features=3)[1], Layer(iterations=(3, 3)))
    with pytest.raises(ConfigError, match="did you mean 'sgd'"):
        TRANSFORMS.build("displacement", optimizer="sdg")
    stopped = Progress()
    stopped.cancel()
    with pytest.raises(Cancelled):
        solve(fixed, moving, Layer(iterations=(3, 3)), progress=stopped)


def test_matrix_of_the_grids_is_used():
    """The force on a map between scans of other voxels is the derivative of the compared energy."""
    fixed, moving, u, _, weight = case(2)
    matrix = index_matrix(Geometry.identity((9, 7)), Geometry((8, 10), (1.2, 0.7), (0.1, 0.2), np.eye(2).tolist()))
    tracked = u.clone().requires_grad_()
    expected = written_out(fixed, moving, tracked, matrix, weight).detach()
    assert torch.allclose(feature_force(fixed, moving, u, matrix, weight), expected, rtol=1e-10, atol=1e-14)
