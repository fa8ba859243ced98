"""The one descent: its forces are derivatives of its energies, it stops when it should, and masks are obeyed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Choice, Config, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.descent import WINDOW, Descent, Level, term_force
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import identity_index
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.prompts.base import SCANS, ImageTerm
from DeepDiffRegLib.regularization import REGULARIZERS
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.similarity import SIMILARITIES
from DeepDiffRegLib.similarity.base import Similarity
from DeepDiffRegLib.transforms import TRANSFORMS

GRIDS = {2: Geometry.identity((18, 16), (2.0, 1.5)), 3: Geometry.identity((12, 14, 13), (2.0, 1.5, 1.8))}


def waves(geometry: Geometry, phase: float, dtype=torch.float32) -> torch.Tensor:
    """A smooth image in [0, 1] without symmetries."""
    index = identity_index(geometry.shape, dtype=dtype)
    inner = sum(torch.sin(0.45 * (k + 1) ** 0.5 * index[:, k : k + 1] + phase * (k + 1)) for k in range(geometry.ndim))
    return inner / (2 * geometry.ndim) + 0.5


def term_of(geometry: Geometry, dtype=torch.float32, name: str = SCANS, **options) -> ImageTerm:
    measure = options.pop("similarity", None) or SIMILARITIES.build("mse")
    return ImageTerm(name, waves(geometry, 0.0, dtype), waves(geometry, 0.35, dtype), geometry, measure, **options)


def level_of(geometry: Geometry, iterations: int = 30, terms=None, **options) -> Level:
    terms = [term_of(geometry)] if terms is None else terms
    return Level(geometry, terms, iterations, np.eye(geometry.ndim + 1), **options)


class Recorder(Progress):
    """Remembers every step; cancels when told to."""

    def __init__(self, cancel_after: int | None = None):
        super().__init__()
        self.steps, self.cancel_after = [], cancel_after

    def report(self, step) -> None:
        self.steps.append(step)
        if self.cancel_after is not None and len(self.steps) >= self.cancel_after:
            self.cancel()


def descent(levels, progress=None, model="diffeomorphic", **options) -> Descent:
    return Descent(
        TRANSFORMS.build(model), [lambda level=level: level for level in levels], progress or Progress(), **options
    )


# --- forces are derivatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("measure", ["mse", "ncc", "lncc"])
def test_pull_force_is_the_gradient_of_the_energy(measure, ndim):
    """Directional derivatives along random smooth fields, with an oblique affine behind the displacement (float64)."""
    geometry = GRIDS[ndim]
    term = term_of(geometry, torch.float64, similarity=SIMILARITIES.build(measure))
    world = np.eye(ndim + 1)
    world[:-1] += np.random.default_rng(0).normal(size=(ndim, ndim + 1)) * 0.02
    level = replace(level_of(geometry, terms=[term]), world=world)
    u = torch.rand(1, ndim, *geometry.shape, dtype=torch.float64) * 0.5
    _, force = term_force(term, u, level, "pull")
    for _ in range(3):
        along = torch.randn_like(u)
        h = 1e-6
        up, down = (term_force(term, u + s * h * along, level, "pull")[0] for s in (1, -1))
        assert float((force * along).sum()) == pytest.approx((up - down) / (2 * h), rel=2e-3, abs=1e-9)


def test_force_with_regularizers_and_second_term_is_the_gradient_of_the_reported_loss():
    """All that ``_energy`` adds up: scans, a weighted second term and two regularizers (float32 tolerance)."""
    geometry = GRIDS[3]
    second = replace(term_of(geometry, name="second", group="prompts"), moving=waves(geometry, 0.9))
    third = replace(term_of(geometry, name="third", group="third", weight=2.0), moving=waves(geometry, 0.6))
    penalties = [(0.3, REGULARIZERS.build("diffusion")), (0.1, REGULARIZERS.build("bending"))]
    level = level_of(geometry, terms=[term_of(geometry), second, third], regularizers=penalties)
    run = descent([level], model="bspline")
    run.model.enter(geometry, "cpu")
    factors: dict[str, float] = {}
    run.model._c = torch.randn_like(run.model._c) * 0.3
    _, forces = run._energy(level, factors)
    assert sorted(forces) == ["prompts", "scans", "third"]
    force = sum(forces.values())
    along = torch.randn_like(run.model._c)
    push = run.model._c

    def loss(step: float) -> float:
        run.model._c = push + step * along
        return sum(run._energy(level, factors)[0].values())

    slope = (loss(2e-3) - loss(-2e-3)) / 4e-3
    run.model._c = along
    moved = run.model.displacement()
    assert float((force.double() * moved.double()).sum()) == pytest.approx(slope, rel=2e-2)


def test_warped_force_is_the_derivative_of_a_composed_step():
    """E(phi o (Id + d)) falls as predicted for a small d, but for the error of central differences on a coarse wave."""
    geometry = GRIDS[3]
    run = descent([level_of(geometry)])
    run.model.enter(geometry, "cpu")
    _, forces = run._energy(level_of(geometry), {})
    assert list(forces) == [SCANS]
    force = forces[SCANS]
    d = torch.zeros_like(force)
    d[:, :, 3:-3, 3:-3, 3:-3] = -force[:, :, 3:-3, 3:-3, 3:-3] * (0.02 / float(force.abs().max()))
    level, term = level_of(geometry), term_of(geometry)
    change = term_force(term, d, level, "warped")[0] - term_force(term, torch.zeros_like(d), level, "warped")[0]
    assert change == pytest.approx(float((force * d).sum()), rel=0.15)


# --- how it ends -------------------------------------------------------------------------------------------------------


def test_all_planned_iterations():
    geometry = GRIDS[2]
    outcome = descent([level_of(geometry, 5), level_of(geometry.resized((36, 32)), 4)], tolerance=0.0).run()
    assert outcome.status is Status.MAX_STEPS
    assert [(e.level, e.iteration) for e in outcome.history] == [(0, i) for i in range(5)] + [(1, i) for i in range(4)]
    assert outcome.history[4].loss < outcome.history[0].loss
    assert all(e.loss == pytest.approx(sum(e.terms.values())) for e in outcome.history)


def test_tolerance_ends_a_level_early():
    geometry = GRIDS[2]
    outcome = descent([level_of(geometry, 2000)], tolerance=1e-3).run()
    losses = [entry.loss for entry in outcome.history]
    assert outcome.status is Status.CONVERGED and 2 * WINDOW <= len(losses) < 2000
    before, now = np.mean(losses[-2 * WINDOW : -WINDOW]), np.mean(losses[-WINDOW:])
    assert before - now < 1e-3 * WINDOW * abs(before)


def test_cancel_between_iterations_keeps_a_valid_map():
    geometry, progress = GRIDS[3], Recorder(cancel_after=3)
    outcome = descent([level_of(geometry, 50), level_of(geometry, 50)], progress).run()
    assert outcome.status is Status.CANCELLED and len(outcome.history) == 3 and "cancelled" in outcome.message
    u = outcome.transform.displacement(geometry)
    assert bool(u.isfinite().all()) and float(u.abs().max()) > 0.1


def test_cancel_before_the_first_iteration_is_the_identity():
    progress = Progress()
    progress.cancel()
    outcome = descent([level_of(GRIDS[2])], progress).run()
    assert outcome.status is Status.CANCELLED and outcome.history == []
    assert not outcome.transform.displacement(GRIDS[2]).any()


class Spoiled(Similarity):
    """Mean squares that becomes NaN (value and gradient) at its fourth look."""

    def __init__(self):
        self.looks, self.inner = 0, SIMILARITIES.build("mse")

    def value_and_gradient(self, fixed, warped, weight=None):
        self.looks += 1
        value, gradient = self.inner.value_and_gradient(fixed, warped, weight)
        return (value, gradient) if self.looks < 4 else (float("nan"), gradient * float("nan"))


@pytest.mark.parametrize("model", list(TRANSFORMS))
def test_a_loss_that_is_not_finite_ends_with_the_last_usable_map(model):
    geometry = GRIDS[2]
    outcome = descent([level_of(geometry, terms=[term_of(geometry, similarity=Spoiled())])], model=model).run()
    assert outcome.status is Status.DIVERGED and len(outcome.history) == 3
    u = outcome.transform.displacement(geometry)
    assert bool(u.isfinite().all()) and float(u.abs().max()) > 0


def test_a_force_that_is_not_finite_is_caught_too():
    """The value may still be finite when the gradient overflows; the map must stay usable."""

    class Overflowing(Spoiled):
        def value_and_gradient(self, fixed, warped, weight=None):
            value, gradient = self.inner.value_and_gradient(fixed, warped, weight)
            self.looks += 1
            return value, gradient if self.looks < 4 else gradient * float("inf")

    geometry = GRIDS[2]
    outcome = descent([level_of(geometry, terms=[term_of(geometry, similarity=Overflowing())])]).run()
    assert outcome.status is Status.DIVERGED
    assert bool(outcome.transform.displacement(geometry).isfinite().all())


def test_history_and_progress_move_forward_within_their_span():
    geometry, progress = GRIDS[2], Recorder()
    levels = [level_of(geometry, 6), level_of(geometry, 4)]
    descent(levels, progress, work=[1.0, 3.0], span=(0.2, 0.9), tolerance=0.0).run()
    fractions = [step.fraction for step in progress.steps]
    assert len(fractions) == 10 and (np.diff(fractions) > 0).all()
    assert fractions[0] > 0.2 and fractions[5] == pytest.approx(0.375) and fractions[-1] == pytest.approx(0.9)
    assert [step.iteration for step in progress.steps] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]


def test_a_second_term_is_balanced_against_the_scans():
    """Whatever its units, its largest smoothed force is ``weight`` times that of the scans in the first iteration."""
    geometry = GRIDS[3]

    class Loud(Spoiled):
        def value_and_gradient(self, fixed, warped, weight=None):
            value, gradient = self.inner.value_and_gradient(fixed, warped, weight)
            return 1e5 * value, 1e5 * gradient

    second = replace(term_of(geometry, name="second", similarity=Loud(), weight=0.5), moving=waves(geometry, 0.9))
    level = level_of(geometry, terms=[term_of(geometry), second])
    run, factors = descent([level]), {}
    run.model.enter(geometry, "cpu")
    run._energy(level, factors)
    zero = torch.zeros_like(run.model.displacement())
    largest = [
        float(run.model.smooth_force(term_force(t, zero, level, "warped")[1]).abs().max()) * factors[t.name]
        for t in level.terms
    ]
    assert largest[1] == pytest.approx(0.5 * largest[0], rel=1e-4)


# --- scans -------------------------------------------------------------------------------------------------------------


def tre_mm(transform, phantom) -> tuple[float, float]:
    labels = phantom.fixed_labels.numpy()
    points = phantom.pair.fixed.geometry.to_world(np.argwhere(labels > 0)[::23, ::-1])
    truth = phantom.truth(points)
    return tuple(float(np.linalg.norm(p - truth, axis=1).mean()) for p in (points, transform.map_points(points)))


NO_START = Start(initial="identity", transform="none")
SHORT = Schedule((2, 1), (50, 15), tolerance=0.0)


@pytest.mark.parametrize("measure", [name for name in SIMILARITIES if name != "dice"])
def test_every_similarity_registers_a_small_pair(measure):
    """The grids of the two scans are turned against each other by 27 degrees and one is flipped."""
    phantom = make_pair(1, (40, 36, 32), rotation_deg=0, translation_mm=0, scale=1.0, deformation_mm=10.0)
    config = Config(start=NO_START, similarity=Choice(measure), schedule=SHORT)
    before, after = tre_mm(RegistrationSession(phantom.pair, config).run(), phantom)
    assert after < 0.6 * before


@pytest.mark.parametrize("measure", [Choice("mi"), Choice("mind", {"distance_voxels": 1})])
def test_inverted_contrast_needs_measures_made_for_it(measure):
    phantom = make_pair(
        1, (64, 56, 52), rotation_deg=0, translation_mm=0, scale=1.0, deformation_mm=10.0, contrast="inverted"
    )
    config = Config(start=NO_START, similarity=measure, schedule=SHORT)
    before, after = tre_mm(RegistrationSession(phantom.pair, config).run(), phantom)
    assert after < 0.75 * before


def test_what_lies_outside_the_moving_mask_changes_nothing():
    """Garbage outside the mask: the same map. Without the mask it would differ."""
    phantom = make_pair(2, (32, 30, 28), rotation_deg=0, translation_mm=0, scale=1.0)
    moving = phantom.pair.moving
    inside = np.zeros(moving.geometry.shape, dtype=np.float32)
    inside[6:-6, 6:-6, 6:-6] = 1
    spoiled = moving.numpy().copy()
    noise = np.random.default_rng(0).uniform(0, float(spoiled.max()), spoiled.shape)
    outside = np.zeros_like(inside)
    outside[3:-3, 3:-3, 3:-3] = 1  # three more voxels: interpolation and differences read neighbors
    outside[[0, -1]] = outside[:, [0, -1]] = outside[:, :, [0, -1]] = (
        1  # or the scan would count as cut through anatomy
    )
    spoiled[outside == 0] = noise[outside == 0]
    mask = Image.from_array(inside, moving.geometry, "mask")
    config = Config(start=NO_START, schedule=Schedule((1,), (12,), tolerance=0.0))
    config = config.replace(preprocess=replace(config.preprocess, window=(0.0, 1000.0), crop=False))

    def run(scan: np.ndarray, prompts: Prompts) -> np.ndarray:
        pair = Pair(phantom.pair.fixed, Image.from_array(scan, moving.geometry), prompts)
        transform = RegistrationSession(pair, config).run()
        return transform.displacement(phantom.pair.fixed.geometry).numpy()

    masked = Prompts(moving_mask=mask)
    clean = run(moving.numpy(), masked)
    assert np.abs(clean).max() > 1.0
    np.testing.assert_allclose(run(spoiled, masked), clean, atol=1e-4)
    assert np.abs(run(spoiled, Prompts()) - run(moving.numpy(), Prompts())).max() > 0.1


def test_a_fixed_mask_leaves_the_rest_without_force():
    """Only the masked half moves (as far as the smoothing reaches)."""
    phantom = make_pair(2, (36, 30, 28), rotation_deg=0, translation_mm=0, scale=1.0, oblique=False)
    inside = np.zeros(phantom.pair.fixed.geometry.shape, dtype=np.float32)
    inside[..., :12] = 1
    prompts = Prompts(fixed_mask=Image.from_array(inside, phantom.pair.fixed.geometry, "mask"))
    pair = Pair(phantom.pair.fixed, phantom.pair.moving, prompts)
    config = Config(start=NO_START, schedule=Schedule((1,), (15,), tolerance=0.0))
    u = RegistrationSession(pair, config).run().displacement(phantom.pair.fixed.geometry)
    assert float(u[..., :12].abs().max()) > 1.0
    assert float(u[..., 28:].abs().max()) < 0.02
