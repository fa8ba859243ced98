"""The background half of a client: one thread that starts a worker, connects, writes arrays to disk and sends.

One ``Link`` per worker process. The front end's thread only puts commands into a queue and takes messages that have
arrived.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path

from ..errors import DeepDiffRegError
from . import process
from .arrays import ArrayFolder
from .messages import LONGEST_MESSAGE, Command, encode

HOST = "127.0.0.1"
CLOSE_WITHIN_S = 3.0
SAVE_WITHIN_S = 60.0
LOG = "worker.log"
LOG_LINES = 15


class Link:
    """python: interpreter of the worker. parent: folder in which the folder for the arrays is made."""

    def __init__(self, python: str, parent: Path | None, environment: dict[str, str] | None):
        self._python, self._parent, self._environment = python, parent, environment
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._queue: deque[Command] = deque()
        self._changed = threading.Condition()
        self._at_work = self._closing = self._patient = False
        self._wrong: deque[tuple[int, str]] = deque()
        self.failure = ""
        self.arrays: ArrayFolder | None = None
        self._thread = threading.Thread(target=self._live, name="DeepDiffReg link", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def ended(self) -> bool:
        """Whether the worker could not be started or its process is gone."""
        return bool(self.failure) or (self._process is not None and self._process.poll() is not None)

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def log(self) -> str:
        """The last lines that the worker printed, or why it could not be started."""
        with suppress(OSError, AttributeError):
            lines = (self.arrays.path / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join([*lines[-LOG_LINES:], *filter(None, [self.failure])])
        return self.failure

    def send(self, command: Command, first: bool = False) -> None:
        """Queue a command; first: before everything that waits."""
        with self._changed:
            (self._queue.appendleft if first else self._queue.append)(command)
            self._changed.notify_all()

    def withdraw(self, unwanted) -> list[Command]:
        """Take commands that were not sent yet back out of the queue; unwanted: decides for each."""
        with self._changed:
            gone = [command for command in self._queue if unwanted(command)]
            self._queue = deque(command for command in self._queue if not unwanted(command))
        return gone

    def breathe(self, seconds: float) -> None:
        """Give the thread time while it has work: a busy interpreter (Qt's loop holds its lock) would starve it."""
        with self._changed:
            if self._queue or self._at_work or not (self.connected or self.failure):
                self._changed.wait(seconds)

    def receive(self) -> tuple[list[bytes], list[tuple[int, str]], bool]:
        """Messages that have arrived, commands that could not be sent (generation, why), and whether the line is dead."""
        raw: list[bytes] = []
        wrong = [self._wrong.popleft() for _ in range(len(self._wrong))]
        if self._connection is None:
            return raw, wrong, self.ended
        try:
            while self._connection.poll(0):
                raw.append(self._connection.recv_bytes(LONGEST_MESSAGE))
        except (OSError, EOFError):
            return raw, wrong, True
        return raw, wrong, False

    def kill(self) -> None:
        """End the process with all its children now; the folder goes too."""
        self._stop(patient=False)
        if self._process is not None:
            process.kill_tree(self._process)

    def close(self, patient: bool = False) -> None:
        """Let the worker end by itself (at once, or patient: after what it is writing); kill it when it does not."""
        if self.connected:
            self._stop(patient)
        else:
            self.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; whether it has."""
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def _stop(self, patient: bool) -> None:
        with self._changed:
            self._closing, self._patient = True, patient
            self._queue.clear()
            self._changed.notify_all()

    def _live(self) -> None:
        try:
            self._start()
            self._send_all()
        except (OSError, EOFError, ValueError, AuthenticationError) as error:
            if not self._closing:
                self.failure = f"the worker could not be reached: {type(error).__name__}: {error}"
        finally:
            self._end()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="deepdiffreg-", dir=self._parent))
        self.arrays = ArrayFolder(folder, "c")
        key = secrets.token_hex(32)
        settings = {"port": 0, "key": key, "folder": str(folder), "parent": os.getpid()}
        if self._closing:
            return
        self._process = process.start(self._python, settings, folder / LOG, self._environment)
        if self._closing:
            return
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("it ended while it started")
        port = int(json.loads(line)["port"])
        connection = Client((HOST, port), family="AF_INET", authkey=bytes.fromhex(key))
        with self._changed:
            self._connection = connection
            self._changed.notify_all()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._at_work = False
                self._changed.notify_all()
                while not self._queue and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                command = self._queue.popleft()
                self._at_work = True
            raw = self._encoded(command)
            if raw is not None:
                self._connection.send_bytes(raw)

    def _encoded(self, command: Command) -> bytes | None:
        stored: list[dict] = []

        def put(array, dtype):
            stored.append(self.arrays.put(array, dtype))
            return stored[-1]

        try:
            return encode(command, put)
        except (DeepDiffRegError, ValueError, TypeError) as error:
            self.arrays.drop_all(stored)
            self._wrong.append((command.generation, " ".join(str(error).split())))
            return None

    def _end(self) -> None:
        """After a close or a failure: the connection goes, then the process, then the folder."""
        with self._changed:
            self._at_work = False
            while not self._closing:
                self._changed.wait()
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
        elif self._process is not None:
            process.kill_tree(self._process)
        if self._process is not None:
            if not self.wait(SAVE_WITHIN_S if self._patient else CLOSE_WITHIN_S):
                process.kill_tree(self._process)
                self.wait(CLOSE_WITHIN_S)
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    stream.close()
        if self.arrays is not None:
            self.arrays.remove()
