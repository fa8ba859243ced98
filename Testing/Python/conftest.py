"""Shared fixtures: real scans when they are at hand, an oblique grid, seeds, and two threads for everybody."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ.setdefault(_name, "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.device import set_threads
from DeepDiffRegLib.geometry.grid import Geometry

PROJECT_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT_ROOT / "Testing" / "SlicerStandIn"))
from slicer_standin.fixtures import installed_stand_in, scene, slicer_app, slicer_app_without_check  # noqa: F401

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same random state."""
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """For networks so small that they lose time to threads that wait for each other."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: words to exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator per test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real scans: ``$DEEPDIFFREG_DATA``, else ``../shared/data`` beside the project."""
    folder = Path(os.environ.get("DEEPDIFFREG_DATA", PROJECT_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real scans: set DEEPDIFFREG_DATA to their folder (looked in {folder})")
    return folder


def rotation(degrees_xyz) -> np.ndarray:
    """(3, 3) rotation Rz @ Ry @ Rx."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees_xyz)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@pytest.fixture
def oblique_geometry() -> Geometry:
    """Anisotropic, rotated about all axes, second axis flipped, off the origin: 14 x 12 x 9 voxels."""
    direction = rotation((12.0, -20.0, 35.0)) @ np.diag([1.0, -1.0, 1.0])
    return Geometry((14, 12, 9), (1.1, 0.8, 2.5), (-31.0, 12.5, 7.25), direction.tolist())


@pytest.fixture
def oblique_geometry_2d() -> Geometry:
    """Anisotropic, rotated by 25 degrees, second axis flipped: 18 x 13 pixels."""
    angle = np.deg2rad(25.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Geometry((18, 13), (0.9, 1.7), (-4.0, 21.5), (turn @ np.diag([1.0, -1.0])).tolist())
