"""The client's own states: before a worker is there, when it does not answer, when it is gone."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest
from interactive_bed import FrontEnd, endless, phantom, prompts, quick, scans

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive import process
from DeepDiffRegLib.interactive.client import WorkerClient


@pytest.fixture
def front():
    line = FrontEnd()
    yield line
    line.client.close()


def gone(pid: int, limit_s: float = 60.0) -> bool:
    """Whether a process disappears within the limit."""
    until = time.monotonic() + limit_s
    while process.alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not process.alive(pid)


def test_nothing_can_be_asked_of_a_worker_that_does_not_run(front):
    assert front.client.state == "stopped" and front.client.poll() == [] and front.client.pid is None
    with pytest.raises(InputError, match="not running"):
        front.client.run("default")
    front.client.cancel()
    front.client.close()
    front.client.close()
    assert front.client.state == "stopped"


def test_commands_given_while_it_starts_are_carried_out_in_order(front):
    front.client.start()
    front.client.start()
    assert front.client.state == "starting"
    front.client.load(*scans(phantom(16)))
    front.client.run(quick())
    front.wait("map")
    kinds = [event.kind for event in front.events]
    assert kinds.index("ready") < kinds.index("loaded") < kinds.index("map")


def test_closing_before_it_came_up_leaves_no_process_and_no_folder(tmp_path):
    for wait_s in (0.0, 0.05, 0.3):
        client = WorkerClient(folder=tmp_path)
        client.start()
        time.sleep(wait_s)
        link, pid = client._link, client.pid
        client.close()
        link._thread.join(20)
        assert client.state == "stopped" and not list(tmp_path.iterdir())
        assert pid is None or gone(pid)


def test_a_python_that_does_not_exist_is_a_crash_with_a_reason():
    front = FrontEnd(WorkerClient(python="/nowhere/python"))
    front.client.start()
    crashed = front.wait("crashed")
    assert "could not be reached" in crashed.data["detail"] and front.client.state == "crashed"
    front.client.close()


def test_a_python_without_the_library_is_a_crash_that_shows_its_log(tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError('no numpy here')")
    front = FrontEnd(WorkerClient(environment={**os.environ, "PYTHONPATH": str(tmp_path)}))
    front.client._environment["PYTHONPATH"] = str(tmp_path)
    original = process.worker_environment
    process.worker_environment = lambda environment: {
        **original(environment), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(process.PACKAGE_ROOT)])
    }  # fmt: skip
    try:
        front.client.start()
        assert "no numpy here" in front.wait("crashed").data["detail"]
    finally:
        process.worker_environment = original
        front.client.close()


def test_the_key_is_neither_in_the_arguments_nor_in_the_environment(front, monkeypatch):
    seen, start = [], process.start

    class Watched(process.subprocess.Popen):
        def __init__(self, arguments, **options):
            seen.append(" ".join([*arguments, *options["env"].keys(), *options["env"].values()]))
            super().__init__(arguments, **options)

    def watch(python, settings, *rest):
        seen.append(settings["key"])
        return start(python, settings, *rest)

    monkeypatch.setattr(process.subprocess, "Popen", Watched)
    monkeypatch.setattr(process, "start", watch)
    front.client.start()
    until = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    key, told = seen
    assert len(key) == 64 and process.MODULE in told and key not in told


def test_a_killed_worker_is_noticed_and_a_new_one_goes_on_from_the_last_map(front):
    made = phantom(24)
    front.start(made)
    front.client.run(quick())
    last = front.wait("map").data["map"]
    front.client.update(prompts(made))
    pid = front.client.pid
    process.kill_tree(front.client._link._process)
    crashed = front.wait("crashed")
    assert crashed.data["exit_code"] != 0 and front.client.state == "crashed" and not front.client.busy
    assert np.isfinite(last.displacement).all(), "the last map can still be read"
    with pytest.raises(InputError, match="not running"):
        front.client.undo()
    front.client.restart()
    front.client.load(*scans(made))
    front.client.resume(last, quick(), prompts(made, 1))
    back = front.wait("map").data
    np.testing.assert_array_equal(back["map"].displacement, last.displacement)
    assert gone(pid)
    front.client.update(prompts(made))
    assert front.wait("map").data["step"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be paused by a signal on Windows")
def test_a_worker_that_does_not_answer_a_cancel_is_killed_and_replaced(front):
    made = phantom(16)
    front.start(made)
    front.client.run(endless())
    front.wait("preview")
    pid = front.client.pid
    os.kill(pid, signal.SIGSTOP)
    front.client.cancel(deadline_s=0.1)
    assert front.wait("cancelled").data == {"kept": False, "restarted": True}
    assert gone(pid) and front.client.state in ("starting", "ready")
    front.wait("ready")
    assert front.client.pid != pid and front.client.state == "ready"


def test_a_cancel_before_anything_was_sent_is_answered(front):
    front.client.start()
    front.client.load(*scans(phantom(16)))
    front.client.cancel(deadline_s=60)
    assert front.client.state == "cancelling" and not front.client.busy
    assert front.wait("cancelled").data == {"kept": False, "restarted": False}
    front.wait("ready")
    front.client.run(quick())
    assert "load" in front.wait("error").data["message"]


def test_a_full_disk_is_an_error_and_closing_leaves_neither_process_nor_files(tmp_path, monkeypatch):
    front = FrontEnd(WorkerClient(folder=tmp_path)).start(phantom(16))
    front.client.run(quick())
    front.wait("map")

    def full(*_):
        raise InputError("cannot store a volume: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(front.client._link.arrays, "put", full)
        front.client.load(*scans(phantom(24)))
        error = front.wait("error").data
    assert error["kind"] == "input" and "No space left" in error["message"]
    front.client.undo()
    assert front.wait("map").data["steps"] == 1, "the worker and its history are still there"
    pid, link = front.client.pid, front.client._link
    front.client.close()
    link._thread.join(20)
    assert gone(pid) and not list(tmp_path.iterdir())
