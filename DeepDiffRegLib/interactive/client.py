"""The front end's side of the worker: give commands, poll for events. Nothing here waits, and torch is never imported.

client = WorkerClient()
client.start()
client.load(fixed, moving)
client.run("default", PromptSet())
while True:
    for event in client.poll():  # every 30 to 50 ms, from a timer
        ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ._link import Link
from .messages import (
    BESIDE,
    REPLACES,
    SAVED,
    Command,
    Event,
    Map,
    MessageError,
    PromptSet,
    Scan,
    decode_event,
    handles,
    head,
)

BREATH_S = 0.004
"""Time that ``poll`` gives to the sending thread while that has work."""
KILL_AFTER_S = 0.5
"""A cancel without answer ends the process this long after its deadline."""
CURVE_LENGTH = 20_000
USUALLY_SAVED = tuple(name for name in SAVED if name != "features")
OF_ONE_COMMAND = frozenset(
    {
        "loaded",
        "progress",
        "preview",
        "map",
        "judged",
        "sigma",
        "uncertainty",
        "frame",
        "features",
        "proposal",
        "suggestions",
    }
)
"""Events that mean nothing any more when their command has been replaced."""


class WorkerClient:
    """One worker process and what is known about it. To be used from one thread.

    python: interpreter with this library installed (``sys.executable`` when absent). folder: where temporary array files
    may lie. environment: of the worker, instead of this process's.

    Every command returns its generation, a number that its events carry. Commands given while the worker starts wait for
    it. A later command takes the place of earlier ones that it makes pointless (``messages.REPLACES``).
    """

    def __init__(
        self, python: str | None = None, folder: Path | None = None, environment: dict[str, str] | None = None
    ):
        self._python, self._folder, self._environment = python or sys.executable, folder, environment
        self._link: Link | None = None
        self.generation = 0
        self.devices: list[dict] = []
        self.curve: list[tuple[str, int, int, float]] = []
        self._forget()

    def _forget(self) -> None:
        self._ready = self._crashed = False
        self._live: dict[int, str] = {}
        self._replaced: set[int] = set()
        self._kill_at: float | None = None

    @property
    def state(self) -> str:
        """``stopped``, ``starting``, ``ready``, ``busy``, ``cancelling`` or ``crashed``."""
        if self._link is None:
            return "stopped"
        if self._crashed:
            return "crashed"
        if self._kill_at is not None:
            return "cancelling"
        if not self._ready:
            return "starting"
        return "busy" if self._live else "ready"

    @property
    def busy(self) -> bool:
        """Whether a command has not come to its end (judging a map does not count)."""
        return bool(self._live)

    @property
    def pid(self) -> int | None:
        """Process number of the worker; of its launcher where there is one."""
        return None if self._link is None else self._link.pid

    def start(self) -> None:
        """Start the worker; nothing happens when it runs. ``ready`` follows within seconds."""
        if self._link is None or self._crashed:
            self.restart()

    def restart(self) -> None:
        """End the worker, whatever it does, and start a new one. It knows nothing: load and resume again."""
        if self._link is not None:
            self._link.kill()
        self._forget()
        self._link = Link(self._python, self._folder, self._environment)

    def load(self, fixed: Scan, moving: Scan) -> int:
        """Give the pair; the worker sees by its content whether it has it already."""
        return self._give("load", fixed=fixed, moving=moving)

    def run(self, config: dict | str, prompts: PromptSet | None = None, initial: Map | None = None) -> int:
        """Align and deform. config: name of a preset or ``Config.to_dict``. initial: start from here, skip the alignment."""
        self.curve = []
        return self._give("run", config=config, prompts=prompts or PromptSet(), initial=initial)

    def update(self, prompts: PromptSet) -> int:
        """Replace the prompts and continue from the current map."""
        self.curve = []
        return self._give("update", prompts=prompts)

    def resume(self, map: Map, config: dict | str, prompts: PromptSet | None = None) -> int:
        """Make ``map`` the current one without solving, after a crash or when a scene was reopened."""
        return self._give("resume", map=map, config=config, prompts=prompts or PromptSet())

    def undo(self) -> int:
        """Back to the map before; while an update is on its way: only drop that."""
        updates = [generation for generation, name in self._live.items() if name == "update"]
        return self._give("undo", instead_of=updates)

    def redo(self) -> int:
        """Forward again."""
        return self._give("redo")

    def select(self, step: int) -> int:
        """Make the map of a step of the history the current one."""
        return self._give("select", step=int(step))

    def save(self, folder: str | Path, what: tuple[str, ...] = USUALLY_SAVED) -> int:
        """Write files of the current map; ``saved`` names them."""
        unknown = sorted(set(what) - set(SAVED))
        if unknown:
            raise InputError(f"save: what must be among {', '.join(SAVED)}, got {unknown[0]!r}")
        return self._give("save", folder=str(Path(folder).absolute()), what=list(what))

    def frames(self, count: int) -> int:
        """The current map at ``count`` times from 0 to 1, one ``frame`` event each; the map itself stays."""
        return self._give("frames", count=int(count))

    def features(self, side: str = "fixed", scale: int = -1, channel: int | None = None) -> int:
        """What a network saw, as volumes in one ``features`` event; the map stays.

        side: ``fixed``, ``moving`` or ``warped`` (the moving scan's through the map). scale: 0 for the coarsest resolution, -1 for
        the finest. channel: None for the strongest directions of all channels as red, green and blue.
        """
        channel = None if channel is None else int(channel)
        return self._give("features", side=str(side), scale=int(scale), channel=channel)

    def propose(self, points_mm: Iterable[Sequence[float]], side: str = "fixed", radius_mm: float | None = None) -> int:
        """The corresponding points of points clicked in a scan (``side``, LPS mm): one ``proposal`` event; the map stays.

        radius_mm: how far around the place that the current map names is searched; None lets the worker choose.
        """
        points = [[float(v) for v in point] for point in points_mm]
        return self._give("propose", points_mm=points, side=str(side), radius_mm=_optional(radius_mm))

    def suggest(self, count: int = 5, radius_mm: float | None = None) -> int:
        """Where landmarks would help the current map most: one ``suggestions`` event; the map stays."""
        return self._give("suggest", count=int(count), radius_mm=_optional(radius_mm))

    def cancel(self, deadline_s: float = 0.5) -> None:
        """Stop what runs and forget what waits; ``cancelled`` follows.

        A worker that has not answered ``KILL_AFTER_S`` after ``deadline_s`` is killed and restarted (``restarted`` is then
        true: load and resume again).
        """
        if self._link is None or self._crashed or self._kill_at is not None:
            return
        for command in self._link.withdraw(lambda command: command.name != "save"):
            self._live.pop(command.generation, None)
        self._kill_at = time.monotonic() + deadline_s + KILL_AFTER_S
        self._link.send(Command("cancel", self.generation), first=True)

    def close(self) -> None:
        """End the worker; may be called again, and before it came up. A result that is being written is completed."""
        if self._link is not None:
            self._link.close(patient="save" in self._live.values())
        self._link = None
        self._forget()

    def poll(self) -> list[Event]:
        """Everything that happened since the last call, in order; of previews only the newest. Never waits."""
        if self._link is None or self._crashed:
            return []
        self._link.breathe(BREATH_S)
        raw, wrong, dead = self._link.receive()
        events = [self._unsent(generation, why) for generation, why in wrong]
        for message in self._latest(raw):
            event = self._read(message)
            if event is not None:
                events.append(event)
        if dead:
            events.append(self._crash())
        elif self._kill_at is not None and time.monotonic() > self._kill_at and self._ready:
            self.restart()
            events.append(Event("cancelled", self.generation, {"kept": False, "restarted": True}))
        return events

    def _give(self, name: str, **data) -> int:
        if self._link is None or self._crashed:
            raise InputError(
                f"WorkerClient.{name}: the worker is not running ({self.state}); call start() or restart()"
            )
        self.generation += 1
        gone = {generation for generation, old in self._live.items() if old in REPLACES.get(name, ())}
        unsent = self._link.withdraw(lambda command: command.generation in gone)
        self._live = {generation: old for generation, old in self._live.items() if generation not in gone}
        self._replaced |= gone - {command.generation for command in unsent}
        self._live[self.generation] = name
        self._link.send(Command(name, self.generation, data))
        return self.generation

    def _latest(self, raw: list[bytes]) -> list[bytes]:
        """The messages without those that a newer one of the same kind makes old; their files are deleted."""
        last = {head(message)[0]: number for number, message in enumerate(raw)}
        kept = []
        for number, message in enumerate(raw):
            name = head(message)[0]
            if name == "preview" and last[name] != number:
                self._discard(message)
            else:
                kept.append(message)
        return kept

    def _discard(self, message: bytes) -> None:
        self._link.arrays.drop_all(handles(message))

    def _read(self, message: bytes) -> Event | None:
        name, generation = head(message)
        if name == "preview":
            self._link.send(Command("seen", generation), first=True)
        if name in OF_ONE_COMMAND and self._is_old(name, generation):
            self._discard(message)
            return None
        try:
            event = decode_event(message, self._link.arrays.view)
        except (MessageError, InputError, OSError) as error:
            return Event("error", generation, {"kind": "internal", "message": str(error), "detail": ""})
        return self._note(event)

    def _is_old(self, name: str, generation: int) -> bool:
        if name in ("judged", "sigma", "uncertainty"):
            return any(later > generation and old not in BESIDE for later, old in self._live.items())
        return generation in self._replaced

    def _note(self, event: Event) -> Event | None:
        """Keep the client's own state; returns the event when the front end should see it."""
        if event.kind == "ready":
            self._ready, self.devices = True, event.data["devices"]
        elif event.kind == "progress":
            points = event.data.pop("curve")
            self.curve = [*self.curve, *map(tuple, points)][-CURVE_LENGTH:]
        elif event.kind == "cancelled":
            self._kill_at = None
        elif event.kind == "done":
            self._live.pop(event.generation, None)
            self._replaced.discard(event.generation)
            return None
        return event

    def _unsent(self, generation: int, why: str) -> Event:
        self._live.pop(generation, None)
        return Event("error", generation, {"kind": "input", "message": why, "detail": ""})

    def _crash(self) -> Event:
        self._link.wait(0.01)
        data = {"exit_code": self._link.exit_code, "detail": self._link.log}
        self._link.kill()
        self._forget()
        self._crashed = True
        return Event("crashed", self.generation, data)


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)
