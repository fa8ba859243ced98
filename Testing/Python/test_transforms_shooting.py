"""Shooting: right-hand sides against analytic derivatives, conservation, orders of convergence, exact derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from DeepDiffRegLib.transforms._shooting_metric import Constant, Regional
from DeepDiffRegLib.transforms._shooting_path import COURANT, MOST_STEPS, Path, Shooting, ShootingDiverged, trace_step
from DeepDiffRegLib.transforms._shooting_rhs import adjoint, along, coadjoint, difference, epdiff, gradient
from DeepDiffRegLib.transforms.integrate import integrate
from DeepDiffRegLib.transforms.kernels import MultiGaussian, Smoother

SHAPE, SPACING = (28, 32), (1.0, 1.25)
SIGMAS = (2.5, 5.0, 9.0)
FREE = ((False, False), (False, False))
DOUBLE = torch.float64


def momentum(shape=SHAPE, spacing=SPACING, speed=2.0, seed=0, dtype=DOUBLE) -> torch.Tensor:
    """Smooth random momentum, zero towards the borders, whose velocity under SIGMAS reaches about ``speed`` mm."""
    generator = torch.Generator().manual_seed(seed)
    d = len(shape)
    rough = torch.randn(d, *shape, generator=generator, dtype=DOUBLE)
    m = Smoother(MultiGaussian((2.0,), (1.0,)).symbol, shape, spacing, dtype=DOUBLE)(rough)
    for axis, n in enumerate(shape):
        m = m * torch.hann_window(n, False, dtype=DOUBLE).reshape(-1, *(1,) * (d - 1 - axis))
    v = Smoother(MultiGaussian(SIGMAS, (0.2, 0.3, 0.5)).symbol, shape, spacing, dtype=DOUBLE)(m)
    return (m * (speed / float(v.abs().max()))).to(dtype)


def weights(shape=SHAPE, dtype=DOUBLE) -> torch.Tensor:
    """Pre-weights that differ from place to place, 2-norm 1."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=DOUBLE) for n in shape), indexing="ij")
    h = torch.stack(
        (torch.exp(-20 * ((x - 0.45) ** 2 + (y - 0.5) ** 2)), 0.4 + 0 * x, 0.3 + torch.sin(math.pi * y) ** 2)
    )
    return (h / h.norm(dim=0)).to(dtype)


def constant(stationary=False, shape=SHAPE, spacing=SPACING, dtype=DOUBLE) -> Shooting:
    metric = Constant(MultiGaussian(SIGMAS, (0.2, 0.3, 0.5)), stationary)
    return Shooting(metric.on(shape, spacing, FREE, "cpu", dtype), spacing, stationary)


def regional(source=1.0, walls=FREE, dtype=DOUBLE, blur=1.5) -> Shooting:
    return Shooting(Regional(SIGMAS, blur, source).on(SHAPE, SPACING, walls, "cpu", dtype), SPACING)


def drift(path) -> float:
    """Largest relative change of <m, v>."""
    energies = [float((state[0] * v).sum()) for state, v in zip(path.states, path.velocities)]
    return max(abs(e / energies[0] - 1) for e in energies)


# --- right-hand sides --------------------------------------------------------------------------------------------------


def waves(n: int):
    """m, v and their exact EPDiff rate on n x n cell centers of [0, 2 pi]^2, by automatic differentiation of formulas."""
    h = 2 * math.pi / n
    axis = (torch.arange(n, dtype=DOUBLE) + 0.5) * h
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1).reshape(-1, 2)

    def m(p):
        return torch.stack((torch.cos(p[1]) * torch.sin(p[0]), torch.sin(p[0] + p[1])))

    def v(p):
        return torch.stack((torch.cos(p[0] - 2 * p[1]), torch.cos(p[0]) * torch.cos(p[1])))

    def rate(p):
        flux = torch.func.jacfwd(lambda q: m(q)[:, None] * v(q)[None])(p)
        return -torch.einsum("ijj->i", flux) - torch.func.jacfwd(v)(p).T @ m(p)

    grid = [torch.func.vmap(f)(points).T.reshape(2, n, n) for f in (m, v, rate)]
    return (*grid, h)


def test_epdiff_is_the_equation_and_fourth_order_accurate():
    """Away from the borders, where the mirrored continuation is not the formula's."""
    errors = []
    for n in (32, 64):
        m, v, expected, h = waves(n)
        inner = slice(n // 4, -n // 4)
        errors.append(float((coadjoint(m, v, (h, h)) - expected)[:, inner, inner].abs().max()))
    assert errors[1] < 1e-3
    assert math.log2(errors[0] / errors[1]) > 3.7


def test_adjoint_is_the_transpose_of_the_difference():
    a, b = torch.randn(2, 6, 7, 8, dtype=DOUBLE), torch.randn(2, 6, 7, 8, dtype=DOUBLE)
    for axis in (1, 2, 3):
        left, right = (difference(a, axis, 1.3) * b).sum(), (a * adjoint(b, axis, 1.3)).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_difference_of_a_line_and_at_mirrored_ends():
    line = torch.arange(9, dtype=DOUBLE) * 0.6
    slope = difference(line, 0, 0.3)
    torch.testing.assert_close(slope[2:-2], torch.full((5,), 2.0, dtype=DOUBLE))
    wave = torch.cos(math.pi * (torch.arange(40, dtype=DOUBLE) + 0.5) / 40)  # even about both faces
    exact = -math.pi / 40 * torch.sin(math.pi * (torch.arange(40, dtype=DOUBLE) + 0.5) / 40)
    torch.testing.assert_close(difference(wave, 0, 1.0), exact, rtol=0, atol=2e-7)


def test_the_semi_discrete_rate_does_not_change_the_energy():
    """<v, dm/dt> = 0 for any two fields, whatever they do at the borders; and the total flux is no loss of mass."""
    m, v = torch.randn(3, 7, 8, 9, dtype=DOUBLE), torch.randn(3, 7, 8, 9, dtype=DOUBLE)
    rate = coadjoint(m, v, (1.0, 1.2, 0.7))
    assert abs(float((rate * v).sum())) < 1e-12 * float(rate.norm() * v.norm())


def test_closed_form_derivatives():
    m, v, w = (torch.randn(2, 6, 5, dtype=DOUBLE, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda a, b: epdiff(a, b, (1.0, 1.3)), (m, v))
    assert torch.autograd.gradcheck(lambda h: gradient(h, (1.0, 1.3)), (m,))
    left, right = (coadjoint(m, v, (1.0, 1.3)) * w).sum(), (m * along(v, w, (1.0, 1.3))).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


# --- conservation ------------------------------------------------------------------------------------------------------


def test_energy_is_kept_with_the_source_term_only():
    """METHODS 4.4: drift of <m, v> below 1e-3; at least ten times worse without the source, and with its sign turned."""
    state = (momentum(speed=4.0), weights())
    kept = drift(regional().run(state, 10))
    assert kept < 1e-4
    assert drift(regional(source=0.0).run(state, 10)) > 10 * max(kept, 1e-4)
    assert drift(regional(source=-1.0).run(state, 10)) > 10 * max(kept, 1e-4)


def test_energy_in_single_precision_and_with_pinned_faces():
    state = (momentum(speed=4.0, dtype=torch.float32), weights(dtype=torch.float32))
    assert drift(regional(dtype=torch.float32).run(state, 10)) < 1e-4
    walls = ((True, True), (True, False))
    assert drift(regional(walls=walls).run((momentum(speed=4.0), weights()), 10)) < 1e-4
    assert drift(constant().run((momentum(speed=4.0),), 10)) < 1e-5


def test_constant_weights_are_lddmm():
    shares = torch.tensor((0.2, 0.3, 0.5), dtype=DOUBLE)
    h = shares.sqrt().reshape(3, 1, 1).expand(3, *SHAPE).contiguous()
    m = momentum(speed=3.0)
    one, other = constant(), regional()
    a, b = one.run((m,), 10), other.run((m, h), 10)
    torch.testing.assert_close(b.states[-1][0], a.states[-1][0], rtol=0, atol=1e-12 * float(m.abs().max()))
    torch.testing.assert_close(other.trace(b), one.trace(a), rtol=0, atol=1e-12)
    torch.testing.assert_close(b.states[-1][1], h, rtol=0, atol=1e-13)


# --- order of convergence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lddmm", "rdmm"])
def test_the_state_converges_with_fourth_order_in_time(name):
    shooting = constant() if name == "lddmm" else regional()
    state = (momentum(speed=2.0),) if name == "lddmm" else (momentum(speed=2.0), weights())
    ends = [shooting.run(state, n).states[-1][0] for n in (8, 16, 64)]
    errors = [float((end - ends[-1]).norm()) for end in ends[:-1]]
    assert math.log2(errors[0] / errors[1]) > 3.5


def test_following_voxels_is_fourth_order_where_interpolation_is_exact():
    """A linear velocity is interpolated exactly: the map is exp(-A), to h^4. Kinks of interpolation lower the order."""
    n = 33
    matrix = np.array([[0.3, -0.5], [0.4, -0.2]])
    axis = torch.arange(n, dtype=DOUBLE)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1])[None]
    center = (n - 1) / 2
    velocity = torch.einsum("ij,bjyx->biyx", torch.tensor(matrix), x - center)
    exact = torch.linalg.matrix_exp(-torch.tensor(matrix))
    inner = slice(12, -12)
    errors = []
    for steps in (2, 4):
        u = torch.zeros_like(x)
        for _ in range(steps):
            u = trace_step(x, u, [velocity] * 3, -1 / steps)
        expected = torch.einsum("ij,bjyx->biyx", exact, x - center) + center - x
        errors.append(float((u - expected)[..., inner, inner].abs().max()))
    assert math.log2(errors[0] / errors[1]) > 3.8


def test_vsvf_is_runge_kutta_and_scaling_and_squaring():
    """One velocity, sampled at h and h/2: equal to ``integrate.rk4``; squaring by its repeated interpolation."""
    found = []
    for n in (32, 64):
        axis = (torch.arange(n, dtype=DOUBLE) + 0.5) / n * math.pi
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        v = torch.stack((torch.sin(x) ** 2 * torch.sin(2 * y), -torch.sin(y) * torch.sin(x))) * 3.0
        spacing = (32 / n, 32 / n)
        path = Path(16, [(v,)], [v])
        shooting = Shooting(None, spacing, True)
        u = shooting.trace(path) * spacing[0]
        other = {
            name: integrate(-v[None] / spacing[0], name, k) * spacing[0]
            for name, k in (("rk4", 8), ("scaling_squaring", 7))
        }
        torch.testing.assert_close(u, other["rk4"], rtol=0, atol=1e-12)
        found.append(float((u - other["scaling_squaring"]).abs().max()))
        assert float(u.abs().max()) > 2.0
    assert found[0] < 0.05 and found[1] < found[0] / 2


def test_the_inverse_follows_the_same_velocities():
    """Every voxel followed back to time 0 and forward again comes home; only Runge-Kutta errors at kinks are left."""
    shooting = constant()
    path = shooting.run((momentum(speed=3.0),), 10)
    u = shooting.trace(path)
    assert float(u.abs().max()) > 1.5
    axis = [torch.arange(n, dtype=DOUBLE) for n in SHAPE]
    identity = torch.stack(torch.meshgrid(*axis, indexing="ij")[::-1])[None]
    scale = torch.tensor(SPACING, dtype=DOUBLE).reshape(1, 2, 1, 1)
    for k in range(0, path.steps, 2):
        u = trace_step(identity, u, [path.node(k + i)[None] / scale for i in range(3)], 2 / path.steps)
    assert float(u.abs().max()) < 2e-3
    assert float(shooting.trace_forward(path).abs().max()) > 1.5


# --- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vsvf", "lddmm", "rdmm", "rdmm pinned"])
def test_gradient_of_the_whole_energy(name):
    """d/dstate of <W, Phi(1) - Id> + c/2 <m, v> along random directions, against central differences in float64."""
    walls = ((True, True), (True, False)) if name.endswith("pinned") else FREE
    shooting = regional(walls=walls) if name.startswith("rdmm") else constant(name == "vsvf")
    state = (momentum(speed=2.0), weights())[: 2 if name.startswith("rdmm") else 1]
    force = torch.randn(1, 2, *SHAPE, dtype=DOUBLE)

    def energy(at) -> float:
        path = shooting.run(at, 6)
        return float((shooting.trace(path) * force).sum() + 0.5 * 0.35 * (at[0] * path.velocities[0]).sum())

    path = shooting.run(state, 6)
    shooting.trace(path)
    found = shooting.pull_back(path, force, 0.35)
    for part in range(len(state)):
        along_part = [torch.randn_like(s) if i == part else torch.zeros_like(s) for i, s in enumerate(state)]
        ends = [energy(tuple(s + sign * 1e-6 * a for s, a in zip(state, along_part))) for sign in (1, -1)]
        slope = sum(float((g * a).sum()) for g, a in zip(found, along_part))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_gradient_in_three_dimensions():
    shape, spacing = (8, 10, 9), (1.0, 1.3, 0.9)
    walls = ((True, False), (False, False), (False, True))
    shooting = Shooting(Regional((2.0, 4.0), 1.0).on(shape, spacing, walls, "cpu", DOUBLE), spacing)
    m = torch.randn(3, *shape, dtype=DOUBLE)
    h = torch.rand(2, *shape, dtype=DOUBLE) + 0.5
    force = torch.randn(1, 3, *shape, dtype=DOUBLE)

    def energy(momenta) -> float:
        return float((shooting.trace(shooting.run((momenta, h), 4)) * force).sum())

    path = shooting.run((m, h), 4)
    shooting.trace(path)
    found, way = shooting.pull_back(path, force)[0], torch.randn_like(m)
    slope = (energy(m + 1e-6 * way) - energy(m - 1e-6 * way)) / 2e-6
    assert float((found * way).sum()) == pytest.approx(slope, rel=1e-5)


# --- steps and divergence ----------------------------------------------------------------------------------------------


def test_time_steps_are_raised_for_fast_flows():
    shooting = constant()
    slow, fast = (shooting.run((momentum(speed=s),), 4) for s in (1.0, 12.0))
    assert slow.steps == 4 and fast.steps * COURANT > 12 and fast.steps % 2 == 0
    for path in (slow, fast):
        assert max(shooting.courant(v) for v in path.velocities) <= COURANT * path.steps
        assert len(path.velocities) == len(path.states) == path.steps + 1


@pytest.mark.parametrize("spoil", [lambda m: m * 1e4, lambda m: m * float("nan"), lambda m: m * float("inf")])
def test_a_flow_that_is_too_fast_is_refused(spoil):
    with pytest.raises(ShootingDiverged, match=f"{MOST_STEPS * COURANT:.0f} at most"):
        constant().run((spoil(momentum()),), 10)


# --- fused kernels -----------------------------------------------------------------------------------------------------

BOX, BOX_SPACING = (9, 12, 11), (1.0, 1.4, 0.8)


@pytest.mark.parametrize("stationary", [False, True])
def test_fused_tracing_and_its_derivative_equal_torch(stationary):
    """With velocities that carry voxels across the border, where positions are clamped."""
    metric = Constant(MultiGaussian((1.0, 3.0), (0.5, 0.5)), stationary)
    m = torch.randn(3, *BOX, generator=torch.Generator().manual_seed(1)) * 6
    force = torch.randn(1, 3, *BOX)
    found = []
    for dtype in (torch.float32, DOUBLE):
        walls = ((False, False),) * 3
        shooting = Shooting(metric.on(BOX, BOX_SPACING, walls, "cpu", dtype), BOX_SPACING, stationary)
        path = shooting.run((m.to(dtype),), 6)
        u = shooting.trace(path)
        found.append((path.steps, u, shooting.trace_forward(path), shooting.pull_back(path, force.to(dtype), 0.1)[0]))
    (steps, *single), (same, *double) = found
    assert steps == same and float(double[0].abs().max()) > 1.0
    for a, b in zip(single, double):
        assert float((a.double() - b).norm()) < 2e-4 * float(b.norm())
