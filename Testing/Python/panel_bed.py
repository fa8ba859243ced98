"""The shipped panel in the stand-in of Slicer, for tests: opened, driven, and closed without a trace.

Import the fixtures by name: ``from panel_bed import case, widget``.
"""

from __future__ import annotations

import os
import time
import unittest
from pathlib import Path

import psutil
import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MODULE = PROJECT_ROOT / "DeepDiffReg" / "DeepDiffReg.py"


def pieces(widget) -> list:
    """Everything in a panel that may observe nodes."""
    found, queue = [], [widget]
    while queue:
        piece = queue.pop()
        if any(piece is known for known in found) or isinstance(piece, (str, bytes, int, float, type)):
            continue
        if type(piece).__module__.partition(".")[0] not in (
            "DeepDiffReg",
            "DeepDiffRegPanel",
            "DeepDiffRegWork",
            "DeepDiffRegScene",
        ):
            if isinstance(piece, (list, tuple)):
                queue += piece
            elif isinstance(piece, dict):
                queue += piece.values()
            continue
        found.append(piece)
        queue += vars(piece).values()
    return found


def observations(widget) -> int:
    """How many observers the panel and its parts hold."""
    return sum(len(piece.Observations) for piece in pieces(widget) if hasattr(piece, "Observations"))


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    alive = psutil.Process(os.getpid()).children(recursive=True)
    return {child.pid for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE}


def settle(condition, seconds: float = 120.0) -> bool:
    """Let the application work until ``condition`` holds; whether it came to hold."""
    import slicer

    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.005)
    return condition()


@pytest.fixture
def widget(slicer_app):
    """The opened panel on an empty scene; when the test ends no process of it may be left."""
    before = children()
    slicer_app.load_module(MODULE)
    yield slicer_app.select_module("DeepDiffReg")
    slicer_app.modules.unload("DeepDiffReg")
    assert settle(lambda: children() <= before), "a worker process is left over"


@pytest.fixture
def case() -> unittest.TestCase:
    """Assertions in the words of Slicer's own tests."""
    return unittest.TestCase()
