"""The worker's side of the line: one front end at a time, one job at a time, and an end when the front end is gone.

Threads: *listen* accepts and refuses front ends, *read* takes commands, *write* sends events from a bounded tray, *watch*
looks whether the parent lives; jobs run in the main thread.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path

from .arrays import ArrayFolder
from .desk import WARM, Desk, Job, Tray
from .messages import LONGEST_MESSAGE, Event, MessageError, check_command, decode_command, encode, handles, head
from .process import alive

HOST = "127.0.0.1"
FIRST_CONTACT_S = 60.0
"""A worker that no front end has reached by then ends."""
MOST_UNREAD = 24
"""Array files that a front end may leave lying."""
WATCH_S = 0.5
FINISH_WRITING_S = 30.0


class Server:
    """port: 0 for any free one. key: hexadecimal secret. folder: of the array files. parent: process to live as long as."""

    def __init__(self, port: int, key: str, folder: str, parent: int):
        self._key, self._parent = bytes.fromhex(key), parent
        self.arrays = ArrayFolder(Path(folder), "w", MOST_UNREAD)
        self._listener = Listener((HOST, port), family="AF_INET", backlog=4)
        self.port = self._listener.address[1]
        self.desk, self.tray = Desk(), Tray(self.arrays)
        self._line: Connection | None = None
        self._greeting: bytes | None = None
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def open(self) -> None:
        """Accept front ends from here on."""
        for task in (self._listen, self._watch):
            threading.Thread(target=task, name=task.__name__.strip("_"), daemon=True).start()

    def tell(self, kind: str, generation: int, data: dict) -> None:
        """Put an event in the tray. Raises InputError when its arrays cannot be stored."""
        raw = encode(Event(kind, generation, data), self.arrays.put)
        if kind == "ready":
            self._greeting = raw
        self.tray.put(kind, raw)

    def serve(self) -> None:
        """Do jobs for ever; the process ends from another thread when the front end is gone."""
        from .jobs import Jobs

        jobs = Jobs(self.arrays, self.tell, self.desk, self.tray)
        jobs.greet()
        self.desk.follow_up(WARM, 0)
        while True:
            jobs.do(self.desk.take())

    def _listen(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:
                continue
            threading.Thread(target=self._meet, args=(line,), daemon=True).start()

    def _meet(self, line: Connection) -> None:
        """Check the key, then either serve this front end or tell it that there is one already."""
        try:
            deliver_challenge(line, self._key)
            answer_challenge(line, self._key)
        except (OSError, EOFError, AuthenticationError, AssertionError, ValueError):
            line.close()
            return
        with self._lock:
            first = self._line is None
            self._line = self._line or line
        if not first:
            self._refuse(line)
            return
        threading.Thread(target=self._write, args=(line,), name="write", daemon=True).start()
        self._read(line)

    @staticmethod
    def _refuse(line: Connection) -> None:
        text = {"message": "this worker serves another front end already; start one of your own"}
        with suppress(OSError):
            line.send_bytes(encode(Event("refused", 0, text), lambda *_: {}))
            line.close()

    def _read(self, line: Connection) -> None:
        while True:
            try:
                raw = line.recv_bytes(LONGEST_MESSAGE)
            except (EOFError, ConnectionError):
                self._leave()
            except OSError:  # longer than allowed: what follows on this line cannot be understood
                self._hang_up(line)
                return
            try:
                self._receive(raw)
            except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one must be heard
                self._complain(head(raw)[1], error)

    def _receive(self, raw: bytes) -> None:
        """Some commands act at once; the others wait for their turn, unopened: reading arrays may take long."""
        name, generation = check_command(raw)
        if name in self._at_once:
            self._at_once[name](decode_command(raw, self.arrays.read).generation)
        else:
            self._drop(self.desk.submit(name, generation, raw))

    @cached_property
    def _at_once(self) -> dict[str, Callable[[int], None]]:
        return {"cancel": self._cancel, "seen": lambda _: self.tray.seen(), "close": lambda _: self._leave()}

    def _cancel(self, generation: int) -> None:
        idle, dropped = self.desk.cancel()
        self._drop(dropped)
        if idle:
            self.tell("cancelled", generation, {"kept": False, "restarted": False})

    def _drop(self, dropped: list[Job]) -> None:
        """Commands that will not be carried out: their arrays go, and the front end hears that they are done."""
        for job in dropped:
            self.arrays.drop_all(handles(job.raw))
            self.tell("done", job.generation, {"command": job.name})

    def _complain(self, generation: int, error: Exception) -> None:
        message = " ".join(str(error).split()) or type(error).__name__
        self.tell("error", generation, {"kind": "input", "message": message, "detail": ""})

    def _hang_up(self, line: Connection) -> None:
        """Close a line that cannot be used any more; another front end may come, as at the beginning."""
        with self._lock:
            self._line, self._began = None, time.monotonic()
        line.close()
        self.tray.clear()
        if self._greeting is not None:
            self.tray.put("ready", self._greeting)

    def _write(self, line: Connection) -> None:
        while (raw := self.tray.take(lambda: self._line is line)) is not None:
            try:
                line.send_bytes(raw)
            except OSError:
                return  # the reading thread sees the same and decides

    def _watch(self) -> None:
        while True:
            time.sleep(WATCH_S)
            late = self._line is None and time.monotonic() - self._began > FIRST_CONTACT_S
            if late or not alive(self._parent):
                self._leave()

    def _leave(self) -> None:
        """End the process at once, whatever the job does; only files that are being written for the user are completed."""
        self.desk.wait_while_saving(FINISH_WRITING_S)
        self.arrays.remove()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(0)


def read_settings(stream) -> dict:
    """The one line on standard input. Raises MessageError when it is not what ``process.start`` sends."""
    wanted = {"port": int, "key": str, "folder": str, "parent": int}
    try:
        values = json.loads(stream.readline(LONGEST_MESSAGE))
        fits = set(values) == set(wanted) and all(type(values[key]) is kind for key, kind in wanted.items())
        bytes.fromhex(values["key"])
    except (ValueError, TypeError, KeyError) as error:
        raise MessageError("expected one line of JSON on standard input") from error
    if not fits or len(values["key"]) < 32 or not Path(values["folder"]).is_dir():
        raise MessageError(
            f"expected port, key (32 hexadecimal digits or more), folder and parent, got {sorted(values)}"
        )
    return values
