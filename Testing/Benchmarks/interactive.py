"""How quickly the worker of interactive front ends answers: ready, first visible change, settled, cancel, memory of the client.

A generated pair is registered once by the ``default`` preset through a real worker process; then landmarks are moved one after
the other, once while the worker rests and once while it judges the map before, and runs are cancelled at several moments.
Times are what a front end sees that polls every 10 ms. Run by ``run.py``; this file's own command line is one child.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import common

SIZE = (160, 192, 160)
QUICK_SIZE = (64, 72, 64)
UPDATES = 4
CANCEL_AFTER_S = (0.3, 0.9, 1.7, 2.9, 4.3)
POLL_S = 0.01
LIMIT_S = 600.0
GOALS = {"ready_s": 5.0, "first_change_s": 1.0, "settled_s": 5.0, "cancel_s": 0.5, "copies": 3.0}


def run(size: tuple[int, ...], threads: int) -> dict:
    """Measure in a fresh process; returns one row per question."""
    common.say(f"interactive: {' x '.join(map(str, size))}")
    command = [sys.executable, __file__, "--size", *map(str, size), "--threads", str(threads)]
    return {"size": list(size), "goals": GOALS, "rows": common.measure(command, threads).json()}


class FrontEnd:
    """A client that is polled as a window would, and when each event came."""

    def __init__(self):
        from DeepDiffRegLib.interactive.client import WorkerClient

        self.client = WorkerClient()
        self.seen: list[tuple[float, object]] = []

    def wait(self, kind: str, generation: int | None = None):
        """Time and event of the next one of a kind (and generation)."""
        until = time.perf_counter() + LIMIT_S
        while time.perf_counter() < until:
            for event in self.client.poll():
                now = time.perf_counter()
                if event.kind in ("error", "crashed"):
                    raise common.BenchmarkError(f"the worker said: {event.data}")
                self.seen.append((now, event))
            for number, (now, event) in enumerate(self.seen):
                if event.kind == kind and generation in (None, event.generation):
                    del self.seen[number]
                    return now, event
            time.sleep(POLL_S)
        raise common.BenchmarkError(f"no {kind} within {LIMIT_S} s")


def measured(size: tuple[int, ...], threads: int) -> dict:
    """Everything, in one worker's life."""
    pair, landmarks = _scans(size)
    config = _config(threads)
    before = _memory_mb()
    front, began = FrontEnd(), time.perf_counter()
    front.client.start()
    rows = {"ready_s": round(front.wait("ready")[0] - began, 3)}
    front.client.load(*pair)
    front.wait("loaded")
    began = time.perf_counter()
    generation = front.client.run(config)
    now, shown = front.wait("map", generation)
    rows["run_s"] = round(now - began, 2)
    now, judged = front.wait("judged", generation)
    rows["run_and_judged_s"] = round(now - began, 2)
    rows |= _updates(front, landmarks, shown.data["map"], "resting")
    rows |= _updates(front, landmarks, shown.data["map"], "judging")
    rows |= _cancels(front, landmarks, shown.data["map"], config)
    rows |= _copies(before, pair[0].array.nbytes, (shown, judged))
    front.client.close()
    return rows


def _updates(front: FrontEnd, landmarks, reached, when: str) -> dict:
    """Seconds to the first preview and to the new map, with the worker at rest or in the midst of judging."""
    first, settled, judged = [], [], []
    for number in range(UPDATES):
        began = time.perf_counter()
        generation = front.client.update(_moved(landmarks, reached, number))
        first.append(front.wait("preview", generation)[0] - began)
        settled.append(front.wait("map", generation)[0] - began)
        front.seen.clear()
        if when == "resting":
            judged.append(front.wait("judged", generation)[0] - began - settled[-1])
        else:
            time.sleep(0.2 + 0.3 * number)
    rows = {f"first_change_{when}_s": common.summary(first, 3), f"settled_{when}_s": common.summary(settled, 2)}
    return rows | ({"judged_after_s": common.summary(judged, 2)} if judged else {})


def _cancels(front: FrontEnd, landmarks, reached, config: dict) -> dict:
    """Seconds from a cancel to its answer, in runs and in updates. The longest counts; nothing is killed here."""
    waits = []
    for after_s in CANCEL_AFTER_S:
        for command in (lambda: front.client.run(config), lambda: front.client.update(_moved(landmarks, reached, 0))):
            command()
            until = time.perf_counter() + after_s
            while time.perf_counter() < until and front.client.busy:
                front.seen += [(0.0, event) for event in front.client.poll()]
                time.sleep(POLL_S)
            if not front.client.busy:
                continue  # it had ended by itself
            front.seen.clear()
            began = time.perf_counter()
            front.client.cancel(deadline_s=60)
            waits.append(front.wait("cancelled")[0] - began)
            front.seen.clear()
    return {"cancel_s": {**common.summary(waits, 3), "longest": round(max(waits), 3)}}


def _copies(before: dict, volume_bytes: int, held: tuple) -> dict:
    """Memory that this process gained, in copies of the fixed scan (single precision), while it holds what it was given.

    own: memory of the process. mapped: files that it looks at (every voxel is read here); the system can drop these.
    """
    total = 0.0
    for event in held:
        for value in event.data.values():
            for name in ("array", "displacement"):
                array = getattr(value, name, None)
                total += 0.0 if array is None else float(array[..., ::4, ::4].sum())
    now = _memory_mb()
    copies = {name: round((now[name] - before[name]) * 2**20 / volume_bytes, 2) for name in now}
    return {"copies": copies, "checksum": round(total, 3)}


def _memory_mb() -> dict:
    """Own and mapped memory of this process in MB; only where the kernel tells them apart."""
    status = Path("/proc/self/status")
    if not status.is_file():
        from DeepDiffRegLib.memory import peak_memory_mb

        return {"own": peak_memory_mb()}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    shared = int(lines["RssFile"].split()[0]) + int(lines["RssShmem"].split()[0])
    return {"own": int(lines["RssAnon"].split()[0]) / 2**10, "mapped": shared / 2**10}


def _scans(size: tuple[int, ...]):
    """A generated head pair without keeping torch's copies; landmarks as (name, fixed) rows."""
    from DeepDiffRegLib.data.phantoms import make_pair
    from DeepDiffRegLib.interactive.messages import Scan

    made = make_pair(2, size, spacing_mm=(1.0, 1.0, 1.0), anatomy="head", deformation_mm=6.0, noise=0.01)
    scans = tuple(Scan(image.numpy(), image.geometry) for image in (made.pair.fixed, made.pair.moving))
    return scans, list(zip(made.landmarks.fixed.names, made.landmarks.fixed.positions_mm))


def _config(threads: int) -> dict:
    from DeepDiffRegLib.config import load_preset

    return load_preset("default").replace(threads=threads).to_dict()


def _moved(landmarks, reached, number: int):
    """One landmark, asked to lie some millimetres from where the map takes it."""
    from DeepDiffRegLib.interactive.messages import LandmarkPair, PromptSet

    name, fixed = landmarks[number % len(landmarks)]
    index = [round(v) for v in reached.geometry.to_index(fixed)]
    u = reached.displacement[:, index[2], index[1], index[0]]
    moving = (reached.world @ [*(fixed + u), 1.0])[:3] + [3.0, -2.0, 2.0]
    return PromptSet((LandmarkPair(name, tuple(fixed), tuple(moving)),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, required=True)
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    print(json.dumps(measured(tuple(wanted.size), wanted.threads)))


if __name__ == "__main__":
    main()
