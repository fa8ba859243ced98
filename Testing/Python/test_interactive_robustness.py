"""Whatever a front end does, or stops doing, the worker answers, goes on or goes away; nothing is left behind."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest
from interactive_bed import FrontEnd, endless, phantom, prompts, quick, scans

from DeepDiffRegLib.interactive import messages, process
from DeepDiffRegLib.interactive.arrays import ArrayFolder
from DeepDiffRegLib.interactive.desk import JUDGE, MOST_IN_TRAY, MOST_WAITING, Desk, Tray
from DeepDiffRegLib.interactive.messages import Command, Event, PromptSet


@pytest.fixture(scope="module")
def made():
    return phantom(16)


class RawLine:
    """A worker started by hand and a bare connection to it, to send what no client would."""

    def __init__(self, folder):
        self.key = secrets.token_hex(32)
        self.arrays = ArrayFolder(folder, "c")
        settings = {"port": 0, "key": self.key, "folder": str(folder), "parent": process.os.getpid()}
        self.process = process.start(sys.executable, settings, folder / "worker.log")
        self.address = ("127.0.0.1", json.loads(self.process.stdout.readline())["port"])
        self.connection = self.connect()

    def connect(self, key: str | None = None):
        return Client(self.address, "AF_INET", authkey=bytes.fromhex(key or self.key))

    def send(self, command: Command) -> None:
        self.connection.send_bytes(messages.encode(command, self.arrays.put))

    def wait(self, *kinds: str) -> Event:
        """The next event of one of these kinds; the others are thrown away."""
        while self.connection.poll(60):
            event = messages.decode_event(self.connection.recv_bytes(), self.arrays.read)
            if event.kind in kinds:
                return event
        raise AssertionError(f"no {kinds}: {(self.arrays.path / 'worker.log').read_text()[-2000:]}")

    def close(self) -> None:
        self.connection.close()
        process.kill_tree(self.process)
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    line = RawLine(tmp_path_factory.mktemp("arrays"))
    line.wait("ready")
    yield line
    line.close()


def test_a_second_front_end_is_refused_and_the_first_one_goes_on(raw, made):
    second = raw.connect()
    event = messages.decode_event(second.recv_bytes(), None)
    assert event.kind == "refused" and "another front end" in event.data["message"]
    with pytest.raises((EOFError, ConnectionError)):
        second.recv_bytes()
    with pytest.raises((AuthenticationError, EOFError, ConnectionError)):
        raw.connect(secrets.token_hex(32))
    raw.send(Command("load", 1, dict(zip(("fixed", "moving"), scans(made)))))
    assert raw.wait("loaded").generation == 1


def test_garbage_is_answered_and_does_no_harm(raw, made):
    """300 damaged commands, then a good one is carried out by the same process."""
    chance = random.Random(5)
    good = messages.encode(Command("run", 2, {"config": quick(1), "prompts": PromptSet(), "initial": None}), None)
    for number in range(300):
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        if number % 3 == 0:
            del broken[chance.randrange(len(broken)) :]
        raw.connection.send_bytes(bytes(broken))
        if number % 50 == 0:
            raw.wait("error")
    for odd in (b"", b"[" * 50_000, b"\x00", b'{"name":"close","generation":0,"data":{"x":1}}'):
        raw.connection.send_bytes(odd)
    raw.send(Command("load", 301, dict(zip(("fixed", "moving"), scans(made)))))
    event = raw.wait("loaded")
    while event.generation != 301:
        event = raw.wait("loaded")
    raw.send(Command("run", 302, {"config": quick(1), "prompts": PromptSet(), "initial": None}))
    event = raw.wait("map")
    while event.generation != 302:
        event = raw.wait("map")
    assert process.alive(raw.process.pid) and raw.process.poll() is None


def test_arrays_that_are_missing_are_an_error_in_one_line(raw, made):
    data = messages.encode(Command("load", 400, dict(zip(("fixed", "moving"), scans(made)))), raw.arrays.put)
    raw.arrays.drop_all(messages.handles(data))
    raw.connection.send_bytes(data)
    error = raw.wait("error")
    assert error.generation == 400 and error.data["kind"] == "input" and "missing" in error.data["message"]


def test_a_message_that_is_too_long_closes_the_line_and_another_may_be_opened(raw, made):
    with pytest.raises((EOFError, ConnectionError)):
        raw.connection.send_bytes(b" " * (messages.LONGEST_MESSAGE + 1))
        while True:
            raw.connection.recv_bytes()
    raw.connection = raw.connect()
    assert raw.wait("ready").data["pid"] == raw.process.pid
    raw.send(Command("undo", 500, {"instead_of": []}))
    assert raw.wait("map", "error").generation == 500


def test_a_front_end_that_does_not_read_stops_nothing(raw, made):
    """Many commands without reading: files stay few, and once it reads again the worker answers."""
    raw.send(Command("load", 600, dict(zip(("fixed", "moving"), scans(made)))))
    raw.send(Command("run", 601, {"config": quick(1), "prompts": PromptSet(), "initial": None}))
    raw.wait("map")
    for generation in range(602, 682):
        raw.send(Command("undo", generation, {"instead_of": []}))
        time.sleep(0.01)
    raw.send(Command("save", 682, {"folder": str(raw.arrays.path / "saved"), "what": ["transform"]}))
    while not (raw.arrays.path / "saved" / "transform.h5").exists():
        time.sleep(0.05)
    assert len(list(raw.arrays.path.glob("w*.raw"))) <= 24
    while raw.connection.poll(0.3):  # read on, past events whose arrays were given up
        raw.connection.recv_bytes()
    raw.send(Command("cancel", 683, {}))
    assert raw.wait("cancelled").generation == 683


@pytest.mark.parametrize(
    "text", ["", "{}", "nonsense", '{"port": 0, "key": "00", "folder": ".", "parent": 1}', '{"port": "x"}']
)
def test_a_worker_that_is_started_wrongly_says_so_and_ends(text):
    run = subprocess.run(
        [sys.executable, "-m", process.MODULE], input=text + "\n", capture_output=True, text=True, timeout=60,
        env=process.worker_environment(),
    )  # fmt: skip
    assert run.returncode == 2 and run.stderr.startswith("worker: ") and run.stderr.count("\n") == 1


PARENT = """
import sys, time
from DeepDiffRegLib.interactive.client import WorkerClient
client = WorkerClient()
client.start()
while client.state != "ready":
    client.poll()
    time.sleep(0.01)
print(client.pid, client._link.arrays.path, flush=True)
{ending}
"""


def test_the_worker_goes_when_its_parent_is_gone():
    """The parent is killed, without a chance to say good-bye; process and folder vanish."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(ending="time.sleep(600)")], stdout=subprocess.PIPE, text=True,
        env=process.worker_environment(),
    )  # fmt: skip
    pid, folder = parent.stdout.readline().split()
    assert process.alive(int(pid))
    parent.kill()
    parent.wait(20)
    parent.stdout.close()
    until = time.monotonic() + 60
    while (process.alive(int(pid)) or process.Path(folder).exists()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not process.alive(int(pid)) and not process.Path(folder).exists()


def test_memory_that_runs_out_is_an_event_and_the_next_job_is_done(tmp_path, made, monkeypatch):
    """In this process, as memory cannot be made to run out at will: the solver fails, twice, then works."""
    from DeepDiffRegLib.interactive.jobs import Jobs
    from DeepDiffRegLib.methods.iterative import Iterative

    told, arrays, desk = [], ArrayFolder(tmp_path, "w"), Desk()
    jobs = Jobs(arrays, lambda kind, generation, data: told.append((kind, data)), desk, Tray(arrays))

    def do(name: str, **data) -> list[tuple[str, dict]]:
        told.clear()
        desk.submit(name, 1, messages.encode(Command(name, 1, data), arrays.put))
        job = desk.take()
        while job.name != name:
            desk.finish()
            job = desk.take()
        jobs.do(job)
        return list(told)

    do("load", fixed=scans(made)[0], moving=scans(made)[1])
    solve = Iterative.solve

    def failing(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(Iterative, "solve", failing)
    events = dict(do("run", config=quick(1), prompts=PromptSet(), initial=None))
    assert events["error"]["kind"] == "memory" and "map" not in events and "done" in events
    monkeypatch.setattr(Iterative, "solve", solve)
    assert "map" in dict(do("run", config=quick(1), prompts=PromptSet(), initial=None))
    monkeypatch.setattr("DeepDiffRegLib.interactive.jobs.map_of", failing)
    assert dict(do("undo", instead_of=[]))["error"]["kind"] == "memory"


def test_desk_drops_what_later_commands_make_pointless():
    desk = Desk()
    names = []
    for generation, name in enumerate(("run", "update", "update", "save", "update", "undo", "run")):
        names += [job.generation for job in desk.submit(name, generation)]
    assert names == [1, 2, 4, 0]
    assert [desk.take().name for _ in range(3)] == ["save", "undo", "run"]


def test_desk_stops_a_judging_for_everything_but_a_save():
    desk = Desk()
    desk.follow_up(JUDGE, 1)
    job = desk.take()
    desk.submit("save", 2)
    assert not job.stop.is_set()
    desk.submit("undo", 3)
    assert job.stop.is_set() and desk.finish() is False
    desk.follow_up(JUDGE, 3)
    assert desk.take().name == "save", "an undo waits, so judging would be pointless"


def test_desk_does_not_grow_without_limit():
    desk = Desk()
    dropped = [job for generation in range(MOST_WAITING + 10) for job in desk.submit("redo", generation)]
    assert [job.generation for job in dropped] == list(range(MOST_WAITING, MOST_WAITING + 10))


def test_a_cancel_is_answered_exactly_once_whenever_it_comes():
    desk = Desk()
    assert desk.cancel() == (True, [])
    desk.submit("run", 1)
    running = desk.take()
    desk.submit("update", 2)
    idle, dropped = desk.cancel()
    assert not idle and [job.generation for job in dropped] == [2] and running.stop.is_set()
    assert desk.finish() is True
    assert desk.cancel()[0] is True


def test_tray_keeps_the_newest_and_asks_for_previews_one_at_a_time(tmp_path):
    tray = Tray(ArrayFolder(tmp_path, "w"))
    assert tray.wants_preview
    tray.put("preview", b"0")
    assert tray.take(lambda: True) == b"0" and not tray.wants_preview
    tray.seen()
    assert tray.wants_preview
    for number in range(MOST_IN_TRAY + 5):
        tray.put("map", b"%d" % number)
    assert tray.take(lambda: True) == b"5"
    tray.clear()
    threading.Timer(0.05, tray.put, ("map", b"late")).start()
    assert tray.take(lambda: True) == b"late"


def test_200_random_actions_leave_a_worker_that_works(made):
    """Run, update, cancel, undo, redo, select, save, kill in any order and at any pace."""
    chance, front = random.Random(11), FrontEnd()
    front.start(made)
    kills = 0
    long = endless()
    long["prompts"] |= {"update_iterations": [100_000, 1], "far_iterations": [100_000, 1, 1]}

    def resume_last() -> None:
        shown = front.of("map")
        if shown:
            front.client.resume(shown[-1].data["map"], quick(1))

    def act(name: str) -> None:
        client = front.client
        if name == "run":
            client.run(chance.choice([quick(1), quick(2), long]), prompts(made, chance.randrange(3)))
        elif name == "update":
            client.update(prompts(made, chance.randrange(1, 4), chance.random()))
        elif name == "select":
            client.select(chance.randrange(4))
        elif name == "cancel":
            client.cancel(deadline_s=60)
        elif name == "resume":
            resume_last()
        elif name in ("undo", "redo"):
            getattr(client, name)()
        elif name == "frames":
            client.frames(chance.randrange(2, 5))

    actions = ["run", "update", "update", "cancel", "cancel", "undo", "redo", "select", "resume", "frames"]
    for number in range(200):
        if number in (60, 140):
            process.kill_tree(front.client._link._process)
            front.wait("crashed")
            kills += 1
            front.client.restart()
            front.client.load(*scans(made))
            resume_last()
        act(chance.choice(actions))
        for _ in range(chance.randrange(4)):
            front.events += front.client.poll()
            time.sleep(0.01)
    front.client.cancel(deadline_s=60)
    front.until("ready")
    assert kills == 2 and not [event.data for event in front.of("error") if event.data["kind"] == "internal"]
    assert len(front.of("crashed")) == kills
    history = front.of("history")[-1].data
    assert -1 <= history["current"] < max(1, len(history["steps"]))
    front.fresh(made)
    front.client.run(quick(1), prompts(made))
    assert np.isfinite(front.wait("map").data["map"].displacement).all()
    front.wait("judged")
    left = [path.name for path in front.client._link.arrays.path.glob("*.raw")]
    assert len(left) <= 2, left
    front.client.close()
