"""What the solver says while it works, as events; runs in the worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from ..progress import Progress, Step
from ..transforms.model import Model
from ._convert import preview_of
from .desk import Job, Tray

PROGRESS_EVERY_S = 0.1
PREVIEW_EVERY_S = 0.2
Tell = Callable[[str, int, dict], None]
"""Sends an event: kind, generation, data."""


class JobProgress(Progress):
    """Turns reports into events, rarely enough for any front end, and asks the job whether to stop."""

    def __init__(self, job: Job, tell: Tell, tray: Tray):
        super().__init__()
        self._job, self._send, self._tray = job, tell, tray
        self._curve: list[list] = []
        self._reported = self._previewed = -math.inf

    def cancelled(self) -> bool:
        return self._job.stop.is_set()

    def report(self, step: Step) -> None:
        if step.loss is not None and math.isfinite(step.loss):
            self._curve.append([step.stage, step.level, step.iteration, step.loss])
        last = step.iterations and step.iteration == step.iterations
        now = time.monotonic()
        if self._tray.room and (last or now - self._reported > PROGRESS_EVERY_S):
            self._reported = now
            self._tell(step)

    def preview(self, model: Model, world: np.ndarray) -> None:
        now = time.monotonic()
        if now - self._previewed > PREVIEW_EVERY_S and self._tray.wants_preview and not self.cancelled():
            self._previewed = now
            self._send("preview", self._job.generation, {"map": preview_of(model, world)})

    def _tell(self, step: Step) -> None:
        loss = step.loss if step.loss is not None and math.isfinite(step.loss) else None
        curve, self._curve = self._curve, []
        self._send(
            "progress",
            self._job.generation,
            {
                "stage": step.stage, "level": step.level, "levels": step.levels, "iteration": step.iteration,
                "iterations": step.iterations, "loss": loss, "fraction": step.fraction,
                "seconds_left": step.seconds_left, "curve": curve,
            },
        )  # fmt: skip
