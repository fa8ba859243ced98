"""The session: run, steer, undo, judge; repeatable, cancellable, within its memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib import budget
from DeepDiffRegLib.config import Choice, Config, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import LabelPair, Pair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import ConfigError, InputError, OutOfMemoryError
from DeepDiffRegLib.pipeline import register
from DeepDiffRegLib.problem import working_voxels
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image

QUICK = Config(
    start=Start(transform="affine", schedule=Schedule((8, 4, 2), (30, 20, 10))), schedule=Schedule((2, 1), (40, 10))
)


@pytest.fixture(scope="module")
def phantom():
    return make_pair(1, (40, 36, 32), deformation_mm=8.0)


@pytest.fixture
def done(phantom):
    """A session that has run once."""
    session = RegistrationSession(phantom.pair, QUICK)
    session.run()
    return session


def error_mm(transform, phantom) -> float:
    points = phantom.pair.fixed.geometry.to_world(np.argwhere(phantom.fixed_labels.numpy() > 0)[::23, ::-1])
    return float(np.linalg.norm(transform.map_points(points) - phantom.truth(points), axis=1).mean())


def landmark_error_mm(transform, landmarks) -> float:
    moved = transform.map_points(landmarks.fixed.positions_mm)
    return float(np.linalg.norm(moved - landmarks.moving.positions_mm, axis=1).mean())


def dice(transform, phantom, label: int) -> float:
    warped = warp_image(phantom.moving_labels, transform, phantom.pair.fixed.geometry).numpy() == label
    fixed = phantom.fixed_labels.numpy() == label
    return float(2 * (warped & fixed).sum() / (warped.sum() + fixed.sum()))


class StopAt(Progress):
    """Cancels at the given report of a stage."""

    def __init__(self, stage: str, report: int):
        super().__init__()
        self.stage, self.left, self.fractions = stage, report, []

    def report(self, step) -> None:
        self.fractions.append(step.fraction)
        self.left -= step.stage == self.stage
        if self.left == 0:
            self.cancel()


def test_run_aligns_and_deforms(done, phantom):
    identity = AffineTransform.identity(3)
    assert error_mm(done._start, phantom) < 0.5 * error_mm(identity, phantom)
    assert error_mm(done.transform, phantom) < 0.6 * error_mm(done._start, phantom)


def test_nothing_before_the_first_run(phantom):
    session = RegistrationSession(phantom.pair, QUICK)
    with pytest.raises(InputError, match="run"):
        _ = session.transform
    with pytest.raises(InputError, match="run"):
        session.update(Prompts())
    assert not session.undo() and not session.redo()


def test_update_continues_from_the_current_map(done):
    """Its first loss, on the same level, is no worse than where the run ended."""
    done.config = done.config.replace(prompts=replace(done.config.prompts, update_factors=(1,), update_iterations=(5,)))
    ended = done.result().history[-1].loss
    before = len(done._history())
    done.update(Prompts())
    first = done._history()[before]
    assert first.iteration == 0 and first.loss <= ended + 0.01 * abs(ended)


def test_undo_and_redo_walk_through_the_maps(done, phantom):
    first = done.transform
    second = done.update(Prompts(landmarks=phantom.landmarks))
    assert second is not first and done.prompts.landmarks is phantom.landmarks
    assert done.undo() and done.transform is first and done.prompts.landmarks is None
    assert not done.undo()
    assert done.redo() and done.transform is second
    assert not done.redo()
    done.undo()
    third = done.update(Prompts())
    assert done.transform is third and not done.redo()


def test_landmarks_are_met(done, phantom):
    before = landmark_error_mm(done.transform, phantom.landmarks)
    after = landmark_error_mm(done.update(Prompts(landmarks=phantom.landmarks)), phantom.landmarks)
    assert after < min(1.0, before)


def test_landmarks_are_met_in_a_first_run(phantom):
    pair = Pair(phantom.pair.fixed, phantom.pair.moving, Prompts(landmarks=phantom.landmarks))
    transform = RegistrationSession(pair, QUICK).run()
    assert landmark_error_mm(transform, phantom.landmarks) < 1.0


def test_landmarks_steer_a_geodesic_without_the_scans(phantom):
    """Scans of no weight have no say: any moving scan gives the same map; without prompts there is nothing to do."""
    config = QUICK.replace(
        start=Start(initial="identity", transform="none"),
        transform=Choice("lddmm"),
        similarity=Choice("lncc", weight=0.0),
        schedule=Schedule((2,), (15,)),
    )
    prompts, noise = Prompts(landmarks=phantom.landmarks), torch.rand_like(phantom.pair.moving.tensor)
    other = replace(phantom.pair.moving, tensor=noise)
    maps = [
        RegistrationSession(Pair(phantom.pair.fixed, moving, prompts), config).run()
        for moving in (phantom.pair.moving, other)
    ]
    points = phantom.landmarks.fixed.positions_mm
    np.testing.assert_allclose(maps[0].map_points(points), maps[1].map_points(points), atol=1e-4)
    start = landmark_error_mm(AffineTransform(np.eye(3), np.zeros(3)), phantom.landmarks)
    assert landmark_error_mm(maps[0], phantom.landmarks) < 0.3 * start
    with pytest.raises(ConfigError, match="nothing would steer"):
        RegistrationSession(Pair(phantom.pair.fixed, phantom.pair.moving), config).run()


def test_no_iterations_leave_the_start_as_it_is(phantom):
    config = QUICK.replace(start=Start(initial="identity", transform="none"), schedule=Schedule((2,), (0,)))
    points = phantom.landmarks.fixed.positions_mm
    moved = RegistrationSession(phantom.pair, config).run().map_points(points)
    np.testing.assert_allclose(moved, points, atol=1e-5)


def test_earlier_maps_keep_only_their_parameters(phantom):
    config = QUICK.replace(transform=Choice("svf"), schedule=Schedule((2,), (10,)))
    session = RegistrationSession(phantom.pair, config)
    points = phantom.landmarks.fixed.positions_mm
    before = session.run().map_points(points)
    kept = set(vars(session._states[-1].solution.inner))
    session.update(Prompts(landmarks=phantom.landmarks))
    assert set(vars(session._states[0].solution.inner)) < kept
    session.undo()
    np.testing.assert_allclose(session.transform.map_points(points), before, atol=1e-6)


def test_label_pairs_raise_their_overlap(done, phantom):
    counts = np.bincount(phantom.fixed_labels.numpy().ravel())
    large = [label for label in phantom.label_names if counts[label] > 150]
    worst = min(large, key=lambda label: dice(done.transform, phantom, label))
    before = dice(done.transform, phantom, worst)
    prompts = Prompts(
        fixed_labels=phantom.fixed_labels, moving_labels=phantom.moving_labels, label_pairs=(LabelPair(worst, worst),)
    )
    assert dice(done.update(prompts), phantom, worst) > before + 0.1 * (1 - before)


def test_masks_of_an_update_are_used(done, phantom):
    grid = phantom.pair.fixed.geometry
    half = np.zeros(grid.shape, dtype=np.float32)
    half[..., : grid.size[0] // 2] = 1
    done.update(Prompts(fixed_mask=Image.from_array(half, grid, "mask")))
    assert done.problem.masks.fixed is not None
    done.update(Prompts())
    assert done.problem.masks.fixed is None


def test_result_fields(phantom):
    result = register(phantom.pair, QUICK)
    grid = phantom.pair.fixed.geometry
    assert result.status in (Status.CONVERGED, Status.MAX_STEPS)
    assert result.warped.geometry.same_grid(grid)
    points = grid.to_world(np.argwhere(phantom.fixed_labels.numpy() > 0)[::41, ::-1])
    there = result.transform.map_points(points)
    back = result.inverse.transform.map_points(there)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.2
    assert {entry.stage for entry in result.history} == {"start", "deformable"}
    assert {"prepare", "start", "deformable", "warp", "inverse", "quality"} <= set(result.timings_s)
    assert result.findings and result.peak_memory_mb > 50
    assert result.provenance["seed"] == 0 and set(result.provenance["inputs"]) == {"fixed", "moving"}
    assert isinstance(result.start, AffineTransform)
    assert Config.from_dict(result.config.to_dict()) == result.config


def test_a_given_start_is_continued(phantom, done):
    """An affine start skips the alignment; a whole map is taken over as it is."""
    start = done._start
    from_affine = RegistrationSession(phantom.pair, QUICK)
    torch.testing.assert_close(
        from_affine.run(start).displacement(phantom.pair.fixed.geometry),
        done.transform.displacement(phantom.pair.fixed.geometry),
        atol=1e-3,
        rtol=0,
    )
    assert {entry.stage for entry in from_affine._history()} == {"deformable"}
    one = QUICK.replace(schedule=Schedule((1,), (1,)))
    again = RegistrationSession(phantom.pair, one).run(done.transform)
    assert error_mm(again, phantom) < 1.1 * error_mm(done.transform, phantom)


def test_same_seed_same_map(phantom, done):
    other = RegistrationSession(phantom.pair, QUICK).run()
    grid = phantom.pair.fixed.geometry
    assert torch.equal(other.displacement(grid), done.transform.displacement(grid))


def test_inputs_are_not_changed(phantom, done):
    fresh = make_pair(1, (40, 36, 32), deformation_mm=8.0)
    assert torch.equal(fresh.pair.fixed.tensor, phantom.pair.fixed.tensor)
    assert torch.equal(fresh.pair.moving.tensor, phantom.pair.moving.tensor)


@pytest.mark.parametrize("stage, report", [("start", 3), ("deformable", 4)])
def test_a_cancelled_run_still_gives_a_valid_map(phantom, stage, report):
    progress = StopAt(stage, report)
    result = register(phantom.pair, QUICK, progress)
    assert result.status is Status.CANCELLED and "cancelled" in result.message
    assert bool(result.transform.displacement(phantom.pair.fixed.geometry).isfinite().all())


def test_cancelling_an_update_keeps_the_earlier_map_in_reach(phantom):
    progress = Progress()
    session = RegistrationSession(phantom.pair, QUICK, progress)
    first = session.run()
    session.progress = StopAt("deformable", 2)
    session.update(Prompts(landmarks=phantom.landmarks))
    assert session._state.solution.status is Status.CANCELLED
    assert bool(session.transform.displacement(phantom.pair.fixed.geometry).isfinite().all())
    assert session.undo() and session.transform is first


def test_progress_covers_the_whole_run_in_order(phantom):
    progress = StopAt("never", -1)
    RegistrationSession(phantom.pair, QUICK, progress).run()
    fractions = np.array(progress.fractions)
    assert fractions[0] >= 0 and fractions[-1] <= 1 + 1e-9
    assert (np.diff(fractions) >= -1e-12).all()


def test_a_tight_memory_limit_means_coarser_and_says_so(phantom, monkeypatch):
    pair = phantom.pair
    voxels = budget.Voxels(pair.fixed.geometry.voxels, pair.moving.geometry.voxels, working_voxels(pair))
    needed = budget.estimate_bytes(voxels, QUICK)
    monkeypatch.setattr(budget, "available_memory_bytes", lambda device=None: int(0.9 * needed))
    session = RegistrationSession(phantom.pair, QUICK)
    assert min(session.config.schedule.factors) > 1
    session.run()
    result = session.result()
    assert result.status is Status.OUT_OF_MEMORY_RECOVERED
    assert "times the finest spacing" in result.message


def test_half_precision_is_tried_before_coarser_levels(phantom, monkeypatch):
    """Descriptors in 16 bits need less memory, are chosen first, said, and change the map by far less than a voxel."""
    config = QUICK.replace(similarity=Choice("mind"))
    pair = phantom.pair
    voxels = budget.Voxels(pair.fixed.geometry.voxels, pair.moving.geometry.voxels, working_voxels(pair))
    full, half = (budget.estimate_bytes(voxels, config.replace(half_precision=h)) for h in (False, True))
    assert half < 0.75 * full
    monkeypatch.setattr(budget, "available_memory_bytes", lambda device=None: (half + full) // 2)
    session = RegistrationSession(pair, config)
    assert session.config.half_precision and session.config.schedule == config.schedule
    assert "half precision" in "; ".join(session.notes)
    points = pair.fixed.geometry.to_world(np.random.default_rng(0).uniform(8, 24, (200, 3)))
    mapped = session.run().map_points(points)
    monkeypatch.undo()
    expected = RegistrationSession(pair, config).run().map_points(points)
    assert np.linalg.norm(mapped - expected, axis=1).max() < 0.1 * min(pair.fixed.geometry.spacing_mm)


def test_scans_are_never_kept_in_half_precision(phantom, monkeypatch):
    voxels = budget.Voxels(10**6, 10**6, 10**6)
    needed = budget.estimate_bytes(voxels, QUICK)
    monkeypatch.setattr(budget, "available_memory_bytes", lambda device=None: int(0.9 * needed))
    assert not budget.plan(voxels, QUICK, torch.device("cpu")).config.half_precision


def test_too_little_memory_is_one_clear_line(phantom):
    with pytest.raises(OutOfMemoryError, match="not enough memory") as caught:
        RegistrationSession(phantom.pair, QUICK.replace(max_memory_gb=0.01))
    assert "\n" not in str(caught.value) and "--max-memory" in str(caught.value)


def test_running_out_of_memory_on_the_way_falls_back_once(phantom, monkeypatch):
    """The solver fails at full resolution and succeeds at half; failing twice is an error."""
    session = RegistrationSession(phantom.pair, QUICK)
    solve, calls = session.method.solve, []

    def failing(problem, config, *rest):
        calls.append(min(config.schedule.factors))
        if len(calls) == 1:
            raise MemoryError("no room")
        return solve(problem, config, *rest)

    monkeypatch.setattr(session.method, "solve", failing)
    session.run()
    assert calls == [1, 2] and session.result().status is Status.OUT_OF_MEMORY_RECOVERED

    def always(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(session.method, "solve", always)
    with pytest.raises(OutOfMemoryError):
        session.run()
