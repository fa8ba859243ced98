"""vSVF, LDDMM and RDMM as models of the one descent: landmarks alone, line search, energies, finished maps, bad options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.descent import Descent, Level
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.prompts.landmarks import LandmarkPrompt
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms import TRANSFORMS
from DeepDiffRegLib.transforms._shooting_descent import LineSearch
from DeepDiffRegLib.transforms.displacement import DisplacementTransform

NAMES = ("vsvf", "lddmm", "rdmm")
GRID = Geometry((40, 36), (1.5, 1.5), (5.0, -8.0), ((0.8, -0.6), (0.6, 0.8)))


def smooth_force(geometry: Geometry, amplitude: float = 1.0) -> torch.Tensor:
    window = torch.ones(geometry.shape)
    for axis, n in enumerate(geometry.shape):
        window = window * torch.hann_window(n, False).reshape(-1, *(1,) * (geometry.ndim - 1 - axis))
    return amplitude * torch.stack([window * s for s in (1.0, -0.6, 0.4)[: geometry.ndim]])[None]


def pushed(name: str, geometry: Geometry = GRID, amplitude: float = 2.0, **options):
    """A model that has followed some steps towards a smooth displacement of ``amplitude`` voxels."""
    model = TRANSFORMS.build(name, **options)
    model.enter(geometry, "cpu")
    target = smooth_force(geometry, amplitude)
    for _ in range(6):
        model.step(model.displacement() - target)
    return model


# --- landmarks alone ---------------------------------------------------------------------------------------------------

SIGMA, SD, WEIGHT, SIZE = 5.0, 1.0, 1000.0, 56
FIXED = np.array([[22.0, 25.0], [33.0, 30.0], [27.0, 34.0]])
TARGET = FIXED + np.array([[5.0, 2.0], [-3.0, 4.0], [2.0, -3.0]])


def geodesic(ends_wanted: np.ndarray, others: np.ndarray):
    """The same problem for point momenta: Hamiltonian shooting (SciPy), minimized over the momenta at the landmarks.

    Returns where landmarks and other points end, and the energy 1/2 p . K p.
    """
    from scipy.integrate import solve_ivp
    from scipy.optimize import minimize

    n, d = FIXED.shape
    height = 1 / (2 * np.pi * SIGMA**2)

    def gaussian(a, b):
        gaps = a[:, None] - b[None]
        return height * np.exp(-(gaps**2).sum(-1) / (2 * SIGMA**2)), gaps

    def rates(_, y):
        q, p, x = y[: n * d].reshape(n, d), y[n * d : 2 * n * d].reshape(n, d), y[2 * n * d :].reshape(-1, d)
        k, gaps = gaussian(q, q)
        turning = ((p @ p.T) * k)[..., None] * gaps / SIGMA**2
        moved = gaussian(x, q)[0] @ p if len(x) else x
        return np.concatenate([(k @ p).ravel(), turning.sum(1).ravel(), moved.ravel()])

    def shoot(p, points):
        start = np.concatenate([FIXED.ravel(), p.ravel(), points.ravel()])
        end = solve_ivp(rates, (0, 1), start, rtol=1e-8, atol=1e-9).y[:, -1]
        return end[: n * d].reshape(n, d), end[2 * n * d :].reshape(-1, d)

    def kinetic(p):
        return 0.5 * float((p.reshape(n, d) * (gaussian(FIXED, FIXED)[0] @ p.reshape(n, d))).sum())

    def total(p):
        ends, _ = shoot(p.reshape(n, d), np.zeros((0, d)))
        misses = np.linalg.norm(ends - ends_wanted, axis=1) / SD
        return float(np.mean(np.sqrt(1 + misses**2) - 1)) + WEIGHT * kinetic(p) / SIZE**4

    best = minimize(total, np.zeros(n * d), method="BFGS", options={"gtol": 1e-6}).x
    return (*shoot(best.reshape(n, d), others), kinetic(best) / SIZE**4)


def test_landmarks_alone_give_the_geodesic_of_point_momenta():
    """LDDMM without any scan equals an independent particle solution: landmarks, points between them, energy."""
    geometry = Geometry.identity((SIZE, SIZE))
    model = TRANSFORMS.build(
        "lddmm", sigmas=(SIGMA,), weights=(1.0,), sigma_unit="mm", energy_weight=WEIGHT, map_factor=1.0, steps=10
    )
    landmarks = LandmarkPrompt(FIXED, TARGET, SD)
    level = Level(geometry, [], 50, np.eye(3))
    outcome = Descent(model, [lambda: level], Progress(), landmarks=landmarks, tolerance=0.0).run()
    others = np.array([[25.0, 28.0], [30.0, 26.0], [20.0, 32.0], [36.0, 36.0]])
    ends, moved, energy = geodesic(TARGET, others)
    assert np.linalg.norm(ends - FIXED, axis=1).min() > 2.0
    np.testing.assert_allclose(outcome.transform.map_points(FIXED), ends, atol=0.1)
    np.testing.assert_allclose(outcome.transform.map_points(others), moved, atol=0.1)
    assert outcome.transform.energy() == pytest.approx(energy, rel=0.03)
    losses = [e.loss for e in outcome.history]
    assert losses[-1] < 0.5 * losses[0]
    assert all(e.loss == pytest.approx(sum(e.terms.values())) for e in outcome.history)


def test_landmark_force_is_the_derivative_of_its_energy():
    prompt = LandmarkPrompt(
        GRID.to_world([[12.3, 14.1], [25.0, 20.7]]), GRID.to_world([[15.0, 12.0], [25.0, 20.7]]), 2.0
    )
    u = torch.randn(1, 2, *GRID.shape, dtype=torch.float64)
    value, force = prompt.value_and_force(u, GRID)
    assert value == pytest.approx(prompt.energy(u, GRID))
    way = torch.randn_like(u)
    ends = [prompt.energy(u + s * 1e-6 * way, GRID) for s in (1, -1)]
    assert float((force * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


# --- scans -------------------------------------------------------------------------------------------------------------


def discs(inner: float = 9.0):
    """A disc with a smaller one inside, and the same grown and moved; smooth edges."""
    n = 48
    geometry = Geometry.identity((n, n), 2.0)
    y, x = np.mgrid[:n, :n]

    def disc(cx, cy, r):
        return 1 / (1 + np.exp((np.hypot(x - cx, y - cy) - r) / 0.7))

    fixed = 0.6 * disc(25, 24, 13) + 0.4 * disc(26, 24, 6)
    moving = 0.6 * disc(23, 24, 10) + 0.4 * disc(22, 24, 4)
    return Pair(*(Image.from_array(a.astype(np.float32), geometry) for a in (fixed, moving)))


SHORT = Schedule((2, 1), (15, 10), tolerance=0.0)


def run(name: str, pair: Pair, schedule: Schedule = SHORT, **options):
    config = Config(
        start=Start(initial="identity", transform="none"),
        similarity=Choice("mse", weight=100.0),
        transform=Choice(name, options),
        schedule=schedule,
        preprocess=Preprocess(crop=False),
        threads=1,
    )
    session = RegistrationSession(pair, config)
    session.run()
    return session


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_energy_falls_and_the_map_is_a_diffeomorphism(name):
    session = run(name, discs(), omt=0.0, range=1.0) if name == "rdmm" else run(name, discs())
    solution = session._states[-1].solution
    first = [e for e in solution.history if e.level == 0]
    assert first[-1].loss < 0.2 * first[0].loss and "kinetic" in first[-1].terms
    flow, grid = solution.inner, session.pair.fixed.geometry
    u = flow.displacement(grid)
    assert float(u.abs().max()) > 4.0
    assert float(jacobian_determinant(u, grid.spacing_mm).min()) > 0
    inverse = flow.inverse()
    assert inverse.error.p99 < 0.2 and inverse.error.max < 0.6  # mm, voxels of 2 mm
    half = flow.at(0.5).displacement(grid)
    assert 0.3 < float(half.abs().max() / u.abs().max()) < 0.7
    assert flow.at(0.0).displacement(grid).abs().max() == 0
    assert flow.energy(1.0) == pytest.approx(flow.energy(0.0), rel=1e-3)
    assert solution.history[-1].terms["kinetic"] == pytest.approx(10 * flow.energy(), rel=0.2)


def test_at_is_the_flow_at_that_time():
    """Scaling the momentum by t gives the map, momentum and velocity at time t of the unscaled flow."""
    flow = pushed("lddmm", amplitude=2.0, steps=8).finish()
    half = flow.at(0.5)
    torch.testing.assert_close(half.momentum_at(1.0) * 2, flow.momentum_at(0.5), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(half.velocity(1.0) * 2, flow.velocity(0.5), rtol=1e-3, atol=1e-4)
    assert float(flow.velocity(0.0).abs().max()) > 0.5
    with pytest.raises(ConfigError, match="time"):
        flow.velocity(1.5)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_continues_from_the_finished_map(name):
    session = run(name, discs())
    before = session.transform
    fixed = Points(np.array([[50.0, 20.0]]), ("a",))
    moving = Points(before.map_points(fixed.positions_mm) + [[0.0, 3.0]], ("a",))
    miss = [float(np.linalg.norm(before.map_points(fixed.positions_mm) - moving.positions_mm))]
    session.update(Prompts(landmarks=Landmarks(fixed, moving)))
    miss.append(float(np.linalg.norm(session.transform.map_points(fixed.positions_mm) - moving.positions_mm)))
    assert miss[1] < 0.6 * miss[0]
    far = np.array([[10.0, 80.0]])
    assert np.linalg.norm(session.transform.map_points(far) - before.map_points(far)) < 0.3 * 3.0


def test_adam_descends_too():
    session = run("lddmm", discs(), optimizer="adam", learning_rate=0.5)
    history = session._states[-1].solution.history
    assert history[-1].terms["scans"] < 0.35 * history[0].terms["scans"]


def test_a_sobolev_metric_registers():
    session = run("lddmm", discs(), operator=[0.05, 1.5])
    history = session._states[-1].solution.history
    assert history[-1].terms["scans"] < 0.2 * history[0].terms["scans"]
    sigma = session._states[-1].solution.inner.sigma_mm()
    assert float(sigma.max()) == pytest.approx(2 * np.sqrt(1.5) * 0.05 * 96, rel=1e-5)


def test_free_weights_move_off_their_start_and_transport_penalty_pulls_to_the_widest():
    loose, strict = (
        run("rdmm", discs(), Schedule((2,), (24,), tolerance=0.0), omt=omt, range=0.0)._states[-1].solution.inner
        for omt in (0.0, 30.0)
    )
    sigma, bound = (float(t.sigma_mm(0.0).mean()) for t in (loose, strict))
    assert float(loose.sigma_mm(0.0).max() - loose.sigma_mm(0.0).min()) > 0.5
    assert bound > sigma + 0.5
    squares = loose.pre_weights.square().sum(1)
    torch.testing.assert_close(squares, torch.ones_like(squares), rtol=0, atol=1e-5)


# --- line search and divergence ----------------------------------------------------------------------------------------


def test_line_search_minimizes_a_badly_scaled_bowl():
    scale = torch.logspace(0, 3, 12, dtype=torch.float64)
    search = LineSearch([torch.ones(12, dtype=torch.float64)], lambda g: [0.5 * x for x in g], lambda d: 1e9)
    values = []
    for _ in range(200):
        x = search.at[0]
        value = float((scale * x.square()).sum() / 2 + (x**4).sum())
        if search.judge(value):
            values.append(value)
            search.told([scale * x + 4 * x**3])
        if search.stuck:
            break
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-8 * values[0]


def test_a_trial_that_was_never_judged_is_dropped_at_the_end():
    model = TRANSFORMS.build("lddmm")
    model.enter(GRID, "cpu")
    for loss in (3.0, 2.0):
        model.displacement()
        assert model.judge(loss)
        model.step(-smooth_force(GRID))
    kept = model.finish()
    model.enter(GRID, "cpu")
    torch.testing.assert_close(model.finish().momentum, kept.momentum)


def test_a_worse_trial_is_drawn_nearer():
    model = TRANSFORMS.build("lddmm")
    model.enter(GRID, "cpu")
    model.displacement()
    assert model.judge(3.0)
    model.step(-smooth_force(GRID))
    far = float(model.displacement().abs().max())
    assert not model.judge(50.0)
    assert 0.05 * far < float(model.displacement().abs().max()) < 0.6 * far


def test_a_diverging_flow_stops_with_the_last_good_state():
    model = pushed("lddmm", optimizer="adam", amplitude=1.0)
    good = model.displacement().clone()
    model.learning_rate = 1e5
    model.step(smooth_force(GRID))
    torch.testing.assert_close(model.displacement(), good)
    assert model.stuck and "diverged" in model.notes[-1] and "last good" in model.notes[-1]


def test_raised_time_steps_are_said_in_the_message():
    landmarks = LandmarkPrompt(GRID.to_world([[14.0, 18.0]]), GRID.to_world([[26.0, 18.0]]), 0.5)
    model = TRANSFORMS.build("lddmm", steps=2, energy_weight=0.1, map_factor=1.0)
    level = Level(GRID, [], 8, np.eye(3))
    outcome = Descent(model, [lambda: level], Progress(), landmarks=landmarks, tolerance=0.0).run()
    assert "time steps raised from 2" in outcome.message and outcome.status is not Status.DIVERGED
    assert bool(outcome.transform.displacement(GRID).isfinite().all())


# --- levels, pins, errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pinned_faces_do_not_move(name):
    model = TRANSFORMS.build(name)
    model.pinned = ((0, 0), (1, -1))
    model.enter(GRID, "cpu")
    for _ in range(3):
        model.step(torch.full((1, 2, *GRID.shape), -1.0))
    u = model.displacement()
    assert float(u.abs().max()) > 0.1
    for component, side in model.pinned:
        assert float(u.select(3 - component, side)[:, component].abs().max()) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_velocity_and_energy_survive_a_change_of_level(name):
    model = pushed(name)
    before = model.finish()
    model.enter(GRID.resized((80, 72)), "cpu")
    after = model.finish()
    assert after.energy() == pytest.approx(before.energy(), rel=0.1)
    points = GRID.to_world(np.random.default_rng(0).uniform(5, 30, (50, 2)))
    np.testing.assert_allclose(after.map_points(points), before.map_points(points), atol=0.15)


def test_to_itk_moves_points_alike():
    flow = pushed("lddmm").finish()
    points = GRID.to_world([[12.0, 15.5], [20.25, 9.0]])
    itk = flow.to_itk()
    np.testing.assert_allclose([itk.TransformPoint(p) for p in points.tolist()], flow.map_points(points), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigmas": (2.0,), "weights": (1.0,)}, "larger than the scan"),
        ({"sigmas": (900.0,), "weights": (1.0,), "sigma_unit": "mm"}, "larger than the scan"),
        ({"sigma_unit": "cm"}, "sigma_unit"),
        ({"optimizer": "newton"}, "lbfgs"),
        ({"weights": (1.0,)}, "one weight per sigma"),
        ({"steps": 1}, "steps"),
        ({"color": 3}, "does not take"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        TRANSFORMS.build("lddmm", **options).enter(GRID, "cpu")
    assert "\n" not in str(caught.value)


def test_only_shooting_maps_can_be_continued():
    other = DisplacementTransform(torch.zeros(1, 2, *GRID.shape), GRID)
    for name in NAMES:
        with pytest.raises(ConfigError, match="cannot continue"):
            TRANSFORMS.build(name).resume(other, GRID, "cpu")


def test_transform_checks_what_it_is_made_of():
    flow = pushed("lddmm").finish()
    with pytest.raises(ConfigError, match="Regional"):
        replace(flow, pre_weights=torch.ones(1, 2, *flow.geometry.shape))
