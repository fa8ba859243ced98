"""The loop: steps, validation, checkpoints. Continued from a checkpoint it does bit for bit what it would have done."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, InputError, OutOfMemoryError, RegistrationError
from ..networks.base import Network
from ..progress import Progress, Step
from ..result import Status
from .base import Task
from .checkpoint import (
    clear,
    has_checkpoint,
    read_checkpoint,
    restore_moments,
    restore_weights,
    write_checkpoint,
)
from .devices import LossModule, is_memory_error, make_fabric
from .history import History
from .options import FitOptions
from .streams import torch_seed

STAGE = "training"
BEST = "best"
"""Folder with the checkpoint of the network that validated best."""
LAYERS = 3
"""Stream of random numbers that layers of the network draw from (drop path)."""


@dataclass(frozen=True)
class Fitted:
    """network: in evaluation mode, as validated best (without validation: as trained last). step: whose weights these are.

    metrics: of its validation. steps: done in all. history: see ``History``. notes: what was changed on the way, for people.
    """

    network: Network
    status: Status
    message: str
    step: int
    steps: int
    metrics: dict[str, float]
    history: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass
class _State:
    """Everything beside weights and moments that a run continues from; plain JSON values."""

    step: int = 0
    parts: int = 1
    patch: list[int] | None = None
    best_step: int = 0
    best_score: float | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_better: int = 0
    stopped: bool = False
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)
    window_steps: int = 0
    notes: list[str] = field(default_factory=list)


def fit(
    task: Task,
    options: FitOptions | None = None,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> Fitted:
    """Train ``task.network`` in place and return it.

    folder: for checkpoints, history and TensorBoard; None writes nothing. resume: continue the run in ``folder``, which must
    hold a checkpoint of the same network and options. A cancelled run keeps a checkpoint of where it was. Exact on the CPU with
    the same number of threads; cards add up in varying order. Raises ``InputError`` before any work, ``RegistrationError`` when
    the loss is no longer finite and ``OutOfMemoryError`` when even one small pair is too much.
    """
    folder = None if folder is None else Path(folder)
    if resume and folder is None:
        raise InputError("fit(): resume needs the folder of the run")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    run = _Run(task, options or FitOptions(), progress or Progress(), folder)
    run.begin(resume)
    try:
        return run.finish(run.advance())
    finally:
        run.history.close()


class _Run:
    def __init__(self, task: Task, options: FitOptions, progress: Progress, folder: Path | None):
        self.task, self.options, self.progress, self.folder = task, options, progress, folder
        self.fabric = make_fabric(options)
        self.fabric.launch()
        self.state = _State(parts=options.accumulate)
        self.network = task.network

    def begin(self, resume: bool) -> None:
        """Set up devices and files, from the checkpoint when resuming."""
        tensors = None
        if self.folder is not None:
            if self.fabric.is_global_zero:
                clear(self.folder)
            if resume:
                tensors = self._restore()
        parameters = list(self.network.requires_grad_(True).parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=self.options.learning_rate, amsgrad=self.options.amsgrad)
        self.network.train()
        module = LossModule(self.task, self.options.precision)
        self.module, self._stepper = self.fabric.setup(module, self.optimizer)
        if tensors is not None:
            restore_moments(self.optimizer, self.network, tensors)
        own = self.folder if self.fabric.is_global_zero else None
        self.history = History(own, self.state.step, self.options.tensorboard)

    def advance(self) -> Status:
        """Step until done, stopped early or cancelled."""
        started, before = time.monotonic(), self.state.seconds
        options, state = self.options, self.state
        self.progress.restart()
        first = state.step
        while state.step < options.steps and not state.stopped:
            if self._cancelled():
                self._save()
                return Status.CANCELLED
            self._step(state.step)
            state.step += 1
            state.seconds = before + time.monotonic() - started
            if state.step % options.log_every == 0 or state.step == options.steps:
                self._log()
            if options.validate_every and (state.step % options.validate_every == 0 or state.step == options.steps):
                self._validate()
            if state.step % options.checkpoint_every == 0:
                self._save()
            self._tell(first)
        if state.step % options.checkpoint_every or state.stopped:
            self._save()
        return Status.CONVERGED if state.stopped else Status.MAX_STEPS

    def finish(self, status: Status) -> Fitted:
        """The best network so far, and how it came about."""
        state, step = self.state, self.state.step
        if state.best_step and state.best_step != step:
            tensors = self._kept if self.folder is None else read_checkpoint(self.folder / BEST)[0]
            restore_weights(self.network, tensors, BEST)
            step = state.best_step
        self.network.requires_grad_(False).eval().to("cpu")
        message = {
            Status.CANCELLED: f"cancelled after step {state.step}; resume continues from there",
            Status.CONVERGED: f"stopped at step {state.step}: no better score since step {state.best_step}",
            Status.MAX_STEPS: f"all {state.step} steps done",
        }[status]
        return Fitted(
            self.network,
            status,
            message,
            step,
            state.step,
            dict(state.best_metrics),
            tuple(self.history.entries),
            tuple(state.notes),
            round(state.seconds, 1),
        )

    def _restore(self) -> dict[str, torch.Tensor]:
        tensors, state = read_checkpoint(self.folder)
        before, now = state.pop("options"), self.options.deciding()
        for name, value in now.items():
            if before.get(name) != value:
                raise ConfigError(
                    f"{self.folder}: was trained with {name} = {before.get(name)!r}, not {value!r}; keep it to resume, or start "
                    "again without --resume"
                )
        restore_weights(self.network, tensors, str(self.folder))
        self.state = _State(**state)
        if self.state.patch is not None:
            self.task.patch = tuple(self.state.patch)
        if self.state.best_step and not has_checkpoint(self.folder / BEST):
            raise InputError(f"{self.folder / BEST}: the best network is missing; start again without --resume")
        return tensors

    def _step(self, step: int) -> None:
        """One update of the weights; with too little memory in smaller parts."""
        rate = self.options.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        while True:
            try:
                sums = self._descend(step)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                failed = str(error).splitlines()[0]
            self._make_smaller(step, failed)
        if self.options.clip is not None:
            most = self.options.clip
            size = self.fabric.clip_gradients(self.module, self._stepper, max_norm=most, error_if_nonfinite=False)
            self._check_finite(size, step, "gradient")
        self._stepper.step()
        for name, value in sums.items():
            self.state.window[name] = self.state.window.get(name, 0.0) + value
        self.state.window_steps += 1

    def _descend(self, step: int) -> dict[str, float]:
        """Gradients of the mean loss over the step's pairs; returns that and its parts."""
        torch.manual_seed(torch_seed(self.options.seed, step, self.fabric.global_rank, LAYERS))
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.task.batch(step)
        count, world = len(batch["fixed"]), self.fabric.world_size
        if count % world:
            raise ConfigError(f"a batch of {count} pairs cannot be shared by {world} devices; make it a multiple")
        rows = torch.arange(count)
        chunks = rows[self.fabric.global_rank :: world].tensor_split(min(self.state.parts, count // world))
        sums: dict[str, torch.Tensor] = {}
        for number, chunk in enumerate(chunks):
            part = {key: t[chunk].to(self.fabric.device) for key, t in batch.items()} | {"row": chunk}
            share = len(chunk) * world / count
            with self.fabric.no_backward_sync(self.module, enabled=number + 1 < len(chunks) and world > 1):
                total, parts = self.module(part, step)
                self._check_finite(total, step, "loss")  # now: torch reads beyond a scan at positions that are NaN
                self.fabric.backward(total * share)
            for name, value in {"loss": total, **parts}.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        values = torch.stack([v.double() for v in sums.values()])
        if world > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        return dict(zip(sums, values.tolist()))

    @staticmethod
    def _check_finite(value: torch.Tensor, step: int, what: str) -> None:
        if not math.isfinite(found := float(value.detach())):
            raise RegistrationError(
                f"training: the {what} of step {step} is {found}; try a lower learning rate, clip the gradient, or precision '32'"
            )

    def _make_smaller(self, step: int, failed: str) -> None:
        """Half the pairs at a time, then half the patch; said in the notes. ``OutOfMemoryError`` when neither is left."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        batch, state = self.task.batch(step), self.state
        count = len(batch["fixed"]) // self.fabric.world_size
        if self.fabric.world_size > 1:
            raise OutOfMemoryError(f"training: {failed}; ask for more 'accumulate' parts or a smaller patch")
        if state.parts < count:
            state.parts = min(2 * state.parts, count)
            note = f"step {step}: too little memory, the batch of {count} is worked on in {state.parts} parts"
        elif self.task.shrink(tuple(batch["fixed"].shape[2:])):
            state.patch = list(self.task.patch)
            note = f"step {step}: too little memory, trained on patches of {' x '.join(map(str, state.patch[::-1]))} voxels"
        else:
            raise OutOfMemoryError(f"training: one pair needs more memory than there is ({failed}); use a coarser grid")
        state.notes.append(note)
        self.progress.report(Step(f"{STAGE}: {note}", fraction=step / self.options.steps))

    def _log(self) -> None:
        state = self.state
        means = {name: value / state.window_steps for name, value in state.window.items()}
        entry = {"step": state.step, **means, "learning_rate": self.options.rate(state.step - 1)}
        state.window, state.window_steps = {}, 0
        self.history.add(entry)

    def _validate(self) -> None:
        """Ask the task, keep the network when it is the best so far, and count the times it was not."""
        state = self.state
        self.network.eval()
        metrics = self.task.validate() if self.fabric.is_global_zero else None
        metrics = self.fabric.broadcast(metrics) if self.fabric.world_size > 1 else metrics
        self.network.train()
        if not metrics:
            return
        self.history.add({"step": state.step, "validation": metrics})
        score = metrics["score"]
        if state.best_score is None or score > state.best_score:
            state.best_score, state.best_step, state.best_metrics, state.without_better = score, state.step, metrics, 0
            self._keep()
        else:
            state.without_better += 1
            state.stopped = bool(self.options.patience) and state.without_better >= self.options.patience

    def _keep(self) -> None:
        if self.folder is None:
            from .checkpoint import WEIGHTS

            self._kept = {WEIGHTS + name: t.detach().cpu().clone() for name, t in self.network.state_dict().items()}
        elif self.fabric.is_global_zero:
            (self.folder / BEST).mkdir(exist_ok=True)
            write_checkpoint(self.folder / BEST, self.network, torch.optim.Adam(self.network.parameters()), {})

    def _save(self) -> None:
        if self.folder is not None and self.fabric.is_global_zero:
            state = {**asdict(self.state), "options": self.options.deciding()}
            write_checkpoint(self.folder, self.network, self.optimizer, state)

    def _cancelled(self) -> bool:
        """Whether to stop; one process decides for all."""
        asked = self.progress.cancelled()
        return self.fabric.broadcast(asked) if self.fabric.world_size > 1 else asked

    def _tell(self, first: int) -> None:
        options, state = self.options, self.state
        done = (state.step - first) / max(options.steps - first, 1)
        latest = next((e["loss"] for e in reversed(self.history.entries) if "loss" in e), None)
        self.progress.report(
            Step(
                STAGE,
                iteration=state.step,
                iterations=options.steps,
                loss=latest,
                fraction=state.step / options.steps,
                seconds_left=self.progress.seconds_left(done),
            )
        )
