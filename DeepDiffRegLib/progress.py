"""Progress and cancel: every long step reports to one of these and asks it whether to go on."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .transforms.model import Model


@dataclass(frozen=True)
class Step:
    """One report. ``fraction`` is of the whole run in [0, 1]; ``seconds_left`` is None until it can be estimated."""

    stage: str
    level: int = 0
    levels: int = 1
    iteration: int = 0
    iterations: int = 0
    loss: float | None = None
    fraction: float = 0.0
    seconds_left: float | None = None


class Progress:
    """Silent progress with a cancel switch; ``cancel()`` may be called from any thread or signal handler."""

    def __init__(self):
        self._cancel = threading.Event()
        self._started = time.monotonic()

    def report(self, step: Step) -> None:
        """Receive a step; subclasses show it. Called at most once per iteration."""

    def preview(self, model: Model, world: np.ndarray) -> None:
        """Offered the map after every iteration; subclasses may show it. It is still being worked on: copy at once.

        model: knows its displacement and grid. world: homogeneous matrix (mm, LPS) applied after it.
        """

    def restart(self) -> None:
        """A new run begins at fraction 0: the time left is estimated from here. A cancel that was asked for stays asked for."""
        self._started = time.monotonic()

    def cancel(self) -> None:
        self._cancel.set()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def seconds_left(self, fraction: float) -> float | None:
        """Linear estimate from the time since the run began; None before 2 % are done."""
        if fraction < 0.02:
            return None
        elapsed = time.monotonic() - self._started
        return elapsed * (1 - fraction) / fraction


class PrintProgress(Progress):
    """One line on standard error, rewritten in place on a terminal, one line per stage and level otherwise."""

    def __init__(self, stream=None):
        super().__init__()
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._shown = 0.0
        self._heading = None

    def report(self, step: Step) -> None:
        now, heading = time.monotonic(), (step.stage, step.level)
        if heading == self._heading and now - self._shown < (0.1 if self._in_place else 5.0):
            return
        self._heading, self._shown = heading, now
        text = f"[{step.fraction:4.0%}] {step.stage}"
        if step.levels > 1:
            text += f" level {step.level + 1}/{step.levels}"
        if step.iterations:
            text += f" iteration {step.iteration}/{step.iterations}"
        if step.loss is not None:
            text += f" loss {step.loss:.4f}"
        if step.seconds_left is not None:
            text += f" ({step.seconds_left:.0f} s left)"
        self._stream.write(f"\r\033[K{text}" if self._in_place else text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the rewritten line, so that what follows starts on its own."""
        if self._in_place and self._heading is not None:
            self._stream.write("\n")
            self._stream.flush()
