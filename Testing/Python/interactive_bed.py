"""A small pair and a front end without windows, for the tests of the worker."""

from __future__ import annotations

import time

import numpy as np

from DeepDiffRegLib.config import load_preset
from DeepDiffRegLib.data.phantoms import PhantomPair, make_pair
from DeepDiffRegLib.interactive.client import WorkerClient
from DeepDiffRegLib.interactive.messages import Event, LandmarkPair, Map, PromptSet, Scan

LIMIT_S = 60.0
"""Waiting longer than this for an event is an error of the test, not a measurement."""


def phantom(size: int = 32) -> PhantomPair:
    return make_pair(1, (size, size, size), deformation_mm=6.0)


def scans(made: PhantomPair) -> tuple[Scan, Scan]:
    return tuple(Scan(image.numpy(), image.geometry) for image in (made.pair.fixed, made.pair.moving))


def labels(made: PhantomPair) -> tuple[Scan, Scan]:
    both = (made.fixed_labels, made.moving_labels)
    return tuple(Scan(image.numpy(), image.geometry, "labels") for image in both)


def landmarks(made: PhantomPair, count: int = 2, off_mm: float = 0.0) -> tuple[LandmarkPair, ...]:
    rows = zip(made.landmarks.fixed.names, made.landmarks.fixed.positions_mm, made.landmarks.moving.positions_mm)
    return tuple(LandmarkPair(name, tuple(f), tuple(m + off_mm)) for name, f, m in list(rows)[:count])


def quick(iterations: int = 4, **changes) -> dict:
    """A configuration for tests: coarse levels, few iterations."""
    config = load_preset("fast").to_dict()
    config["name"] = "quick"
    config["schedule"] |= {"factors": [2, 1], "iterations": [iterations, iterations]}
    config["start"]["schedule"] |= {"factors": [2], "iterations": [4]}
    config["start"]["initial"] = "centers"
    config["prompts"] |= {"update_iterations": [4, 2], "far_iterations": [4, 4, 2]}
    return {**config, **changes}


def endless() -> dict:
    """A configuration that runs until it is cancelled."""
    config = quick(100_000)
    config["schedule"]["tolerance"] = 0.0
    return config


def mapped(map: Map, points_mm) -> np.ndarray:
    """phi at (N, 3) points, by the definition that ``Map`` states; for points well inside its grid."""
    points = np.asarray(points_mm, dtype=float)
    if map.displacement is not None:
        from scipy.ndimage import map_coordinates

        index = map.geometry.to_index(points)[:, ::-1].T
        points = points + np.stack([map_coordinates(u, index, order=1) for u in map.displacement], 1)
    return points @ map.world[:3, :3].T + map.world[:3, 3]


class FrontEnd:
    """Polls a client and remembers every event."""

    def __init__(self, client: WorkerClient | None = None):
        self.client = client or WorkerClient()
        self.events: list[Event] = []
        self._seen = 0

    def wait(self, *kinds: str, limit_s: float = LIMIT_S) -> Event:
        """The next event of one of these kinds after the last one waited for."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            for number in range(self._seen, len(self.events)):
                if self.events[number].kind in kinds:
                    self._seen = number + 1
                    return self.events[number]
            self._seen = len(self.events)
            self.events += self.client.poll()
            time.sleep(0.01)
        told = [(event.kind, event.generation) for event in self.events]
        log = self.client._link.log if self.client._link is not None else ""
        raise AssertionError(f"no {kinds} within {limit_s} s; {self.client.state}; {told[-20:]}; {log}")

    def until(self, state: str, limit_s: float = LIMIT_S) -> None:
        """Poll until the client is in this state."""
        until = time.monotonic() + limit_s
        while self.client.state != state:
            assert time.monotonic() < until, f"still {self.client.state}, not {state}"
            self.events += self.client.poll()
            time.sleep(0.01)

    def fresh(self, made: PhantomPair) -> None:
        """Forget the history: load another pair, then this one."""
        self.until("ready")
        for pair in (phantom(16), made):
            self.client.load(*scans(pair))
            self.wait("loaded")

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def start(self, made: PhantomPair | None = None) -> FrontEnd:
        """Start the worker, and load a pair when one is given."""
        self.client.start()
        self.wait("ready")
        if made is not None:
            self.client.load(*scans(made))
            self.wait("loaded")
        return self


def prompts(made: PhantomPair, count: int = 2, off_mm: float = 0.0) -> PromptSet:
    return PromptSet(landmarks(made, count, off_mm))
