"""The history of a session: steps by number, maps taken over, other configurations, and judging that can be stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import DeepDiffRegLib.session as session_module
from DeepDiffRegLib import RegistrationSession, load_preset
from DeepDiffRegLib.config import Schedule
from DeepDiffRegLib.data.pair import LabelPair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import Cancelled, InputError
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status

FAST = load_preset("fast")
QUICK = FAST.replace(
    schedule=Schedule((2, 1), (4, 2)),
    start=replace(FAST.start, initial="centers", schedule=Schedule((2,), (5,))),
    prompts=replace(FAST.prompts, update_iterations=(3, 1), far_iterations=(3, 3, 1)),
)


@pytest.fixture(scope="module")
def phantom():
    return make_pair(1, (24, 24, 24), deformation_mm=6.0)


@pytest.fixture
def done(phantom):
    session = RegistrationSession(phantom.pair, QUICK)
    session.run()
    return session


def test_steps_are_chosen_by_number(done, phantom):
    maps = [done.transform, *(done.update(Prompts(landmarks=phantom.landmarks)) for _ in range(2))]
    assert [state.name for state in done.steps] == ["registration", "update", "update"] and done.step == 2
    for step in (0, 2, 1):
        assert done.select(step) is maps[step] and done.step == step and len(done.steps) == 3
    assert [state.solution.transform for state in done.steps] == maps
    for wrong in (-1, 3):
        with pytest.raises(InputError, match="between 0 and 2"):
            done.select(wrong)


def test_a_dropped_step_is_gone_and_those_undone_stay(done):
    first, second = done.transform, done.update(Prompts())
    done.update(Prompts())
    done.undo()
    assert done.drop() and done.transform is first and len(done.steps) == 2
    assert not done.drop() and second not in [state.solution.transform for state in done.steps]


def test_a_map_is_taken_over_as_it_is_and_goes_on(done, phantom):
    other = RegistrationSession(phantom.pair, QUICK)
    grid = phantom.pair.fixed.geometry
    given = other.resume(done.transform, Prompts(landmarks=phantom.landmarks))
    assert torch.equal(given.displacement(grid), done.transform.displacement(grid))
    assert other.steps[0].loss is None and other.prompts.landmarks is phantom.landmarks
    assert other.result().status is Status.CONVERGED
    after = other.update(Prompts(landmarks=phantom.landmarks))
    continued = done.update(Prompts(landmarks=phantom.landmarks))
    torch.testing.assert_close(after.displacement(grid), continued.displacement(grid), atol=1e-3, rtol=0)


def test_another_configuration_keeps_the_maps_and_what_was_prepared(done):
    first, problem = done.transform, done.problem
    done.configure(QUICK.replace(seed=3))
    assert done.problem is problem and done.transform is first
    done.run()
    assert [state.config.seed for state in done.steps] == [0, 3]
    assert done.result().config.seed == 3
    done.select(0)
    assert done.result().config.seed == 0
    done.configure(QUICK.replace(preprocess=replace(QUICK.preprocess, clip_percentiles=(5.0, 95.0))))
    assert done.problem is not problem


def test_prompts_that_do_not_fit_change_nothing(done, phantom):
    before = done.prompts
    with pytest.raises(InputError):
        done.run(prompts=Prompts(label_pairs=(LabelPair(1, 1),)))
    assert done.prompts is before and len(done.steps) == 1


def test_only_so_many_maps_are_kept_and_the_first_is_one_of_them(done, monkeypatch):
    monkeypatch.setattr(session_module, "MOST_STEPS", 3)
    first = done.transform
    for _ in range(5):
        done.resume(first)
    assert len(done.steps) == 3 and done.select(0) is first and done.steps[0].name == "registration"


@pytest.mark.parametrize("asked", [0, 1, 2, 5, 9])
def test_judging_stops_between_its_steps_and_can_be_repeated(done, asked):
    calls = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > asked

    with pytest.raises(Cancelled):
        done.result(stop)
    assert len(calls) == asked + 1
    assert done.result().findings


def test_the_map_is_offered_while_it_is_worked_on(phantom):
    """After every iteration, and first of all when the landmarks have been followed."""

    class Watch(Progress):
        def __init__(self):
            super().__init__()
            self.log = []

        def report(self, step):
            self.log.append("iteration")

        def preview(self, model, world):
            u = model.displacement()
            assert u.shape == (1, 3, *model.geometry.shape) and world.shape == (4, 4)
            self.log.append("preview")

    session = RegistrationSession(phantom.pair, QUICK)
    session.run()
    session.progress = watch = Watch()
    session.update(Prompts(landmarks=phantom.landmarks))
    assert watch.log == ["preview", *["iteration", "preview"] * watch.log.count("iteration")]
