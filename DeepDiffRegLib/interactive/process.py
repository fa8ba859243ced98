"""Start the worker process, see whether a process lives, end one with all its children. Windows, macOS and Linux."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MODULE = "DeepDiffRegLib.cli.worker"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
LARGEST_KEPT_BYTES = 1 << 31
"""Freed memory of up to this size is used again by the worker; ``memory.give_back`` returns it between the stages."""
_WINDOWS = sys.platform == "win32"


def start(python: str, settings: dict, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start a worker; ``settings`` (port, key, folder, parent) go over its standard input, so the key is not listed anywhere.

    log: file that takes what the process prints as errors. environment: instead of this process's. Raises OSError.
    """
    options = {"start_new_session": True}
    if _WINDOWS:
        options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=worker_environment(environment), cwd=log.parent, **options,
        )  # fmt: skip
    try:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
    except OSError:
        kill_tree(process)
        raise
    return process


def worker_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """The environment with this package on the search path and sleeping (not spinning) threads."""
    found = dict(os.environ if environment is None else environment)
    paths = [str(PACKAGE_ROOT), *filter(None, found.get("PYTHONPATH", "").split(os.pathsep))]
    found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    found.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux":
        # glibc would hand each volume back to the system and take a fresh one in every iteration: a tenth of an update.
        found.setdefault("MALLOC_MMAP_THRESHOLD_", str(LARGEST_KEPT_BYTES))
        found.setdefault("MALLOC_TRIM_THRESHOLD_", str(LARGEST_KEPT_BYTES))
    return found


def kill_tree(process: subprocess.Popen) -> None:
    """End the process and all its children at once; nothing happens when it has ended already. Does not wait."""
    if process.poll() is not None:
        return
    if _WINDOWS:
        subprocess.Popen(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)], creationflags=subprocess.CREATE_NO_WINDOW,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return
    # It leads a group of its own (start_new_session), in which a launcher's children are too.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process of this number exists."""
    if _WINDOWS:
        return _alive_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _alive_windows(pid: int) -> bool:
    import ctypes

    synchronize, timeout = 0x00100000, 0x00000102
    kernel = ctypes.windll.kernel32
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    handle = ctypes.c_void_p(handle)
    state = kernel.WaitForSingleObject(handle, 0)
    kernel.CloseHandle(handle)
    return state == timeout
