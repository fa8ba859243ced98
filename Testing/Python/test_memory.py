"""Memory that was used and memory that is left."""

from __future__ import annotations

import subprocess
import sys

import pytest

from DeepDiffRegLib import memory

MEASURE = "from DeepDiffRegLib.memory import peak_memory_mb as p; a = p(); b = bytearray(b'1' * {n}); print(p() - a)"


def test_peak_grows_by_what_is_allocated():
    """60 MB filled in a fresh process raise its peak by at least 60 MB (twice that while the copy is made)."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE.format(n=60 * 2**20)], capture_output=True, text=True, check=True
    )
    assert 55 < float(run.stdout) < 200


def test_available_memory_is_plausible():
    assert 2**26 < memory.available_memory_bytes() < 2**45


def test_container_limits_count(tmp_path):
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory._container_free_bytes(tmp_path) == [3000]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_free_bytes(tmp_path) == []
    assert memory._container_free_bytes(tmp_path / "absent") == []


def test_a_tight_container_wins(tmp_path, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("containers with memory limits are a Linux matter")
    (tmp_path / "memory.max").write_text("5000")
    (tmp_path / "memory.current").write_text("1000")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory_bytes() == 4000
