"""The scene layer stays light: what runs inside Slicer never imports torch, Qt, SimpleITK or other heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "DeepDiffReg" / "DeepDiffRegScene"
FILES = sorted(FOLDER.glob("*.py"))
ALLOWED = {*sys.stdlib_module_names, "numpy", "slicer", "vtk", "DeepDiffRegLib"}
LIBRARY = {"errors", "geometry", "interactive"}
"""What the scene layer may use of the library."""


def imported(path: Path) -> set[str]:
    """Dotted names of the absolute imports of a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_slicer_vtk_numpy_and_values_of_the_library(path):
    for name in imported(path):
        head, *rest = name.split(".")
        assert head in ALLOWED, f"{path.name} imports {name}"
        assert head != "DeepDiffRegLib" or rest[0] in LIBRARY, f"{path.name} imports {name}"


def test_nothing_heavy_is_imported():
    pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
    modules = ", ".join(path.stem for path in FILES if path.stem != "__init__")
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); from DeepDiffRegScene import {modules}; "
        "heavy = {'torch', 'numba', 'SimpleITK', 'nibabel', 'h5py', 'scipy', 'PySide6', 'qt', 'ctk'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-500:]


def test_lps_begins_in_one_place():
    """The flip of signs is written in ``spaces`` only; everybody else calls it by name."""
    flips = [path.name for path in FILES if "-1.0, -1.0, 1.0" in path.read_text(encoding="utf-8")]
    assert flips == ["spaces.py"]
