"""What waits and what runs in the worker (``Desk``), and what waits to be sent (``Tray``)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .arrays import ArrayFolder
from .messages import AHEAD, BESIDE, REPLACES, handles

MOST_WAITING = 64
"""Commands that may wait; more are dropped as if cancelled: no front end that waits for answers gets here."""
MOST_IN_TRAY = 256
JUDGE = "judge"
"""Name of the job that follows every new map; any command that changes the map makes it pointless."""
WARM = "warm"
"""Name of the job that loads compiled code while nobody waits."""
YIELDING = frozenset({JUDGE, WARM})
LASTING = frozenset({"save"})
"""Commands that neither a cancel nor a judging in progress gives way to."""


@dataclass
class Job:
    """A command that waits or runs, still as bytes; ``stop`` is set when it should come to an end.

    cancelled: because the user said so, who waits for an answer.
    """

    name: str
    generation: int
    raw: bytes
    stop: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False


class Desk:
    """Jobs in order. Safe to use from several threads."""

    def __init__(self):
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None

    def submit(self, name: str, generation: int, raw: bytes = b"") -> list[Job]:
        """Add a job; returns those that are dropped for it. One that runs and is pointless now is told to stop."""
        gone = REPLACES.get(name, frozenset())
        if name not in BESIDE:
            gone = gone | YIELDING
        with self._changed:
            dropped = [job for job in self._waiting if job.name in gone]
            if len(self._waiting) - len(dropped) >= MOST_WAITING:
                dropped.append(Job(name, generation, raw))
            self._waiting = deque(job for job in self._waiting if job.name not in gone)
            if not dropped or dropped[-1].generation != generation or dropped[-1].name != name:
                self._line_up(Job(name, generation, raw))
            if self._running is not None and self._running.name in gone:
                self._running.stop.set()
            self._changed.notify_all()
        return [job for job in dropped if job.name not in YIELDING]

    def _line_up(self, job: Job) -> None:
        """Behind all that waits; one that somebody waits for before the judging, which begins anew after it."""
        if job.name not in AHEAD:
            self._waiting.append(job)
            return
        judging = [other for other in self._waiting if other.name == JUDGE]
        if self._running is not None and self._running.name == JUDGE and not self._running.stop.is_set():
            self._running.stop.set()
            judging.append(Job(JUDGE, self._running.generation, b""))
        self._waiting = deque([*(other for other in self._waiting if other.name != JUDGE), job, *judging])

    def follow_up(self, name: str, generation: int) -> None:
        """Do a yielding job next when nothing waits that would make it pointless; only what somebody waits for comes before it."""
        with self._changed:
            if all(job.name in BESIDE for job in self._waiting):
                ahead = [job for job in self._waiting if job.name in AHEAD]
                others = [job for job in self._waiting if job.name not in AHEAD]
                self._waiting = deque([*ahead, Job(name, generation, b""), *others])
                self._changed.notify_all()

    def cancel(self) -> tuple[bool, list[Job]]:
        """Stop what runs and drop what waits; returns whether nothing ran that will answer, and what was dropped."""
        with self._changed:
            dropped = [job for job in self._waiting if job.name not in LASTING]
            self._waiting = deque(job for job in self._waiting if job.name in LASTING)
            running = self._running
            answers = running is not None and running.name not in (*YIELDING, *LASTING)
            if running is not None and running.name not in LASTING:
                running.cancelled = answers
                running.stop.set()
        return not answers, [job for job in dropped if job.name not in YIELDING]

    def take(self) -> Job:
        """Wait for the next job; it counts as running until ``finish``."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            self._running = self._waiting.popleft()
            return self._running

    def finish(self) -> bool:
        """The running job has ended; whether a cancel was asked for that has to be answered now."""
        with self._changed:
            job, self._running = self._running, None
            self._changed.notify_all()
        return job.cancelled

    def wait_while_saving(self, seconds: float) -> None:
        """Wait until no save runs, at most this long."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._running is not None and self._running.name in LASTING and time.monotonic() < until:
                self._changed.wait(0.1)


class Tray:
    """Events to send. A front end that does not read makes nobody wait: previews pause, old progress gives way to new.

    The front end says that it has seen a preview before the next one is made (``wants_preview``).
    """

    def __init__(self, arrays: ArrayFolder):
        self._arrays = arrays
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._unseen = False

    def put(self, kind: str, raw: bytes) -> None:
        """Add an encoded event; the oldest one goes when the tray is full."""
        gone = []
        with self._changed:
            if kind == "preview":
                self._unseen = True
            self._waiting.append((kind, raw))
            while len(self._waiting) > MOST_IN_TRAY:
                gone.append(self._waiting.popleft()[1])
            self._changed.notify_all()
        for message in gone:
            self._arrays.drop_all(handles(message))

    def take(self, wanted: Callable[[], bool]) -> bytes | None:
        """Wait for the next message; None as soon as nobody wants it any more."""
        with self._changed:
            while not self._waiting and wanted():
                self._changed.wait()
            return self._waiting.popleft()[1] if wanted() else None

    def clear(self) -> None:
        """Throw away what was meant for a front end that is gone."""
        with self._changed:
            gone, self._unseen = [raw for _, raw in self._waiting], False
            self._waiting.clear()
            self._changed.notify_all()
        for message in gone:
            self._arrays.drop_all(handles(message))

    @property
    def room(self) -> bool:
        """Whether nothing waits, so that frequent events may be added."""
        return not self._waiting

    @property
    def wants_preview(self) -> bool:
        """Whether the last preview has been seen and nothing waits."""
        return not (self._unseen or self._waiting)

    def seen(self) -> None:
        """The front end has taken the last preview."""
        self._unseen = False
