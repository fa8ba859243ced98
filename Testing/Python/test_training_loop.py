"""The training loop: it learns, continues exactly after a kill, keeps memory flat, and says what it changed."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time

import pytest
import torch
import training_bed as bed

from DeepDiffRegLib.device import set_threads
from DeepDiffRegLib.errors import ConfigError, InputError, OutOfMemoryError, RegistrationError
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.training.checkpoint import read_checkpoint
from DeepDiffRegLib.training.devices import LossModule
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.options import FitOptions

KILLS = 10


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def processes():
    """Processes that start fast: they are forked from one that has imported torch but runs no thread yet."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["training_bed", "lightning_fabric.strategies", "numba"])
    return context


def weights(network) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", ("voxelmorph-diff", "voxelmorph2"))
def test_training_learns_generated_pairs(name):
    task = bed.task_of(name, None if name == "voxelmorph-diff" else bed.NETWORKS.load(name).variant("light", ndim=2))
    before = task.validate()
    found = fit(task, bed.options(steps=80, validate_every=40, learning_rate=5e-3))
    losses = [entry["loss"] for entry in found.history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    assert found.status is Status.MAX_STEPS and found.steps == 80
    assert found.metrics["dice"] > before["dice"] + 0.03
    assert found.metrics["dice_before"] == pytest.approx(before["dice"], abs=0.02)
    assert not any(p.requires_grad for p in found.network.parameters()) and not found.network.training


def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(tmp_path, processes):
    whole = bed.train(str(tmp_path / "whole"))
    folder = tmp_path / "killed"
    moments = random.Random(5)
    for _ in range(KILLS):
        begun = processes.Event()
        process = processes.Process(target=bed.train, args=(str(folder), begun))
        process.start()
        assert begun.wait(60)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.join()
    state = read_checkpoint(folder)[1]
    assert 0 < state["step"] < 200
    found = bed.train(str(folder))
    assert same(weights(found.network), weights(whole.network))
    assert found.history == whole.history and found.step == whole.step
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(whole.history)
    ends = [read_checkpoint(f) for f in (folder, tmp_path / "whole")]
    assert same(ends[0][0], ends[1][0])
    assert not list(folder.glob(".writing-*"))


def test_memory_stays_flat_over_hundreds_of_steps(processes):
    answer = processes.Queue()
    process = processes.Process(target=bed.memory_of_steps, args=(answer,))
    process.start()
    first, last, _ = answer.get(timeout=120)
    process.join()
    assert last - first < 8


def test_parts_add_up_to_the_whole_batch():
    """The same noise is drawn for a pair whether the batch is worked on at once or in parts."""
    ends = []
    for parts in (1, 3):
        task = bed.task_of(validate=False)
        fit(task, bed.options(steps=5, accumulate=parts))
        ends.append(weights(task.network))
    assert all(torch.allclose(ends[0][k], ends[1][k], rtol=1e-3, atol=1e-5) for k in ends[0])


class Greedy(bed.PairTask):
    """Needs more memory than there is for more than ``pairs`` pairs of ``width`` columns."""

    pairs, width = 1, 32

    def loss(self, ask, batch, step):
        if len(batch["fixed"]) > self.pairs or batch["fixed"].shape[-1] > self.width:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().loss(ask, batch, step)


def greedy(**limits) -> Greedy:
    task = bed.task_of(validate=False)
    task.__class__ = Greedy
    for name, value in limits.items():
        setattr(task, name, value)
    return task


def test_too_little_memory_means_smaller_parts_then_patches():
    found = fit(greedy(), bed.options(steps=3))
    assert found.notes == (
        "step 0: too little memory, the batch of 4 is worked on in 2 parts",
        "step 0: too little memory, the batch of 4 is worked on in 4 parts",
    )
    assert found.steps == 3
    task = greedy(width=16)
    found = fit(task, bed.options(steps=2))
    assert found.notes[-2:] == (
        "step 0: too little memory, trained on patches of 32 x 16 voxels",
        "step 0: too little memory, trained on patches of 16 x 16 voxels",
    )
    assert task.patch == (16, 16)
    with pytest.raises(OutOfMemoryError, match="one pair needs more memory"):
        fit(greedy(width=4), bed.options(steps=2))


def test_other_errors_are_not_taken_for_memory():
    task = bed.task_of(validate=False)
    task.terms[0].loss.similarity = None
    with pytest.raises(AttributeError):
        fit(task, bed.options(steps=1))


class Stopping(Progress):
    def __init__(self, after: int):
        super().__init__()
        self.left = after

    def report(self, step):
        self.left -= 1
        if not self.left:
            self.cancel()


def test_cancelled_training_resumes_to_the_same_end(tmp_path):
    set_threads(1)
    whole = fit(bed.task_of(), bed.options(steps=40, validate_every=15))
    part = fit(bed.task_of(), bed.options(steps=40, validate_every=15), Stopping(23), tmp_path)
    assert part.status is Status.CANCELLED and part.steps == 23
    found = fit(bed.task_of(), bed.options(steps=40, validate_every=15), folder=tmp_path, resume=True)
    assert found.status is Status.MAX_STEPS and same(weights(found.network), weights(whole.network))
    assert found.history == whole.history


def test_training_stops_early_and_returns_the_best(monkeypatch):
    task, scores = bed.task_of(), iter((0.1, 0.5, 0.4, 0.3, 0.9))
    kept = []

    def validate():
        kept.append(weights(task.network))
        return {"score": next(scores)}

    task.validate = validate
    found = fit(task, bed.options(steps=50, validate_every=10, patience=2))
    assert (found.status, found.steps, found.step, found.metrics) == (Status.CONVERGED, 40, 20, {"score": 0.5})
    assert same(weights(found.network), kept[1])


def test_polynomial_decay_reaches_zero():
    options = FitOptions(steps=100, learning_rate=1e-3, decay="polynomial")
    assert options.rate(0) == 1e-3
    assert options.rate(50) == pytest.approx(1e-3 * 0.5**0.9)
    assert options.rate(99) < 2e-5


def test_half_precision_changes_the_network_alone():
    task = bed.task_of(validate=False)
    seen = []
    ask = LossModule(task, "bf16").ask
    batch = task.batch(0)
    half, whole = ask(batch["moving"], batch["fixed"]), LossModule(task, "32").ask(batch["moving"], batch["fixed"])
    assert half.field.dtype == half.log_variance.dtype == torch.float32
    assert not torch.equal(half.log_variance, whole.log_variance) or not torch.equal(half.field, whole.field)
    assert torch.allclose(half.log_variance, whole.log_variance, rtol=0.01)
    found = fit(task, bed.options(steps=30, precision="bf16"))
    seen = [entry["loss"] for entry in found.history]
    assert seen[-1] < seen[0]


def test_a_gradient_that_is_not_finite_is_reported_with_its_step():
    """A finite loss whose derivative is not: the square root of nothing."""

    class Rooted(bed.PairTask):
        def loss(self, ask, batch, step):
            value, parts = super().loss(ask, batch, step)
            return value + (0 * value if step < 2 else (0 * value).sqrt()), parts

    made = bed.task_of()
    task = Rooted(made.network, made.terms, made._draw, None, made.seed)
    with pytest.raises(RegistrationError, match="the gradient of step 2 is nan"):
        fit(task, bed.options(steps=4, clip=1.0))


def test_a_diverged_training_is_reported(tmp_path):
    task = bed.task_of(validate=False)
    with pytest.raises(RegistrationError, match=r"the loss of step \d+ is (nan|inf)"):
        fit(task, bed.options(learning_rate=1e6, clip=None))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decay": "linear"}, "decay must be one of"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"precision": "16"}, "precision must be one of"),
    ],
)
def test_wrong_options_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        FitOptions(**changes)


def test_resuming_needs_a_checkpoint_of_the_same_run(tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        fit(bed.task_of(), bed.options(), folder=tmp_path, resume=True)
    fit(bed.task_of(), bed.options(steps=4), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"was trained with learning_rate = 0\.002, not 0\.1"):
        fit(bed.task_of(), bed.options(steps=4, learning_rate=0.1), folder=tmp_path, resume=True)
    other = bed.TINY.replace(half=(8,))
    with pytest.raises(InputError, match="belongs to another network"):
        fit(bed.task_of(architecture=other), bed.options(steps=4), folder=tmp_path, resume=True)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a usable checkpoint"):
        fit(bed.task_of(), bed.options(steps=4), folder=tmp_path, resume=True)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(InputError, match=r"pip install 'DeepDiffReg\[training\]'"):
        fit(bed.task_of(), bed.options())


def test_history_reaches_tensorboard(tmp_path):
    fit(bed.task_of(), bed.options(steps=14, validate_every=14, tensorboard=True), folder=tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "mse", "kl", "learning_rate", "validation/dice"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [7, 14]
