"""What every benchmark shares: child processes measured from outside, repeats, medians, and who ran it where.

This file imports the standard library alone. On Linux a child starts with the peak memory of the program that forked it, so the
program that measures must be smaller than anything it measures: all real work happens in children.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PACKAGES = ("torch", "numpy", "numba", "SimpleITK", "scipy")
PEER_PACKAGES = ("picsl_greedy", "antspyx", "SimpleITK")


class BenchmarkError(Exception):
    """Something is missing or a measured program failed; the message is one line that says what to do."""


@dataclass(frozen=True)
class Child:
    """One finished process: wall and CPU seconds (its children included), largest resident memory, standard output."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str

    def json(self) -> dict:
        """The JSON object in the last line of the output."""
        return json.loads(self.output.strip().splitlines()[-1])


def measure(command: list[str], threads: int, environment: dict[str, str] | None = None) -> Child:
    """Run a program to its end and measure it from outside. Raises ``BenchmarkError`` when it fails.

    The output goes through a file: a pipe could fill up while nobody reads it.
    """
    variables = {**child_environment(threads), **(environment or {})}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=variables, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            shown = " ".join(Path(part).name for part in command[:3])
            raise BenchmarkError(f"{shown} ... ended with exit code {process.returncode}: {said[-1]}")
    megabyte = 2**20 if sys.platform == "darwin" else 2**10
    return Child(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / megabyte, text)


def child_environment(threads: int) -> dict[str, str]:
    """This process's variables with ``threads`` for every library; threads that wait sleep, as in our command."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}


def repeat(call: Callable[[], object], most: int = 9, budget_s: float = 6.0, warm_up: int = 1) -> list[float]:
    """Seconds of each call after ``warm_up`` unmeasured ones: ``most`` calls, fewer when ``budget_s`` is used up, at least 1."""
    for _ in range(warm_up):
        call()
    seconds: list[float] = []
    while len(seconds) < most and (not seconds or sum(seconds) < budget_s):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def summary(values: list[float], digits: int = 4) -> dict:
    """Median, quartiles (the interquartile range) and number of measurements."""
    low, high = values[0], values[0]
    if len(values) > 1:
        quartiles = statistics.quantiles(values, n=4, method="inclusive")
        low, high = quartiles[0], quartiles[2]
    return {
        "median": round(statistics.median(values), digits),
        "iqr": [round(low, digits), round(high, digits)],
        "n": len(values),
    }


def about(threads: int) -> dict:
    """Commit, versions, machine, threads and date: what a number is worth nothing without."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": None if load is None else round(load, 2),
    }


def write_result(kind: str, content: dict, folder: Path = RESULTS) -> Path:
    """Write ``<date>-<kind>.json``; a later run of the same day replaces it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['about']['date'][:10]}-{kind}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def latest_result(kind: str, folder: Path = RESULTS) -> dict | None:
    """The newest result of a kind; None when there is none."""
    paths = sorted(folder.glob(f"????-??-??-{kind}.json"))
    return json.loads(paths[-1].read_text(encoding="utf-8")) if paths else None


def say(text: str) -> None:
    """One line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "DeepDiffRegLib", "Resources/Presets")
        return git("rev-parse", "--short=10", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"


def _cpu_name() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_mb(device: str) -> float:
    """Largest memory so far: of the card, or of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
