"""Imports run one way, stay light, and the conventions live where the architecture page says they do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "DeepDiffRegLib"

LAYERS = (
    "geometry",
    "data",
    "preprocess",
    "similarity",
    "regularization",
    "transforms",
    "prompts",
    "networks",
    "descent",
    "problem",
    "affine",
    "methods",
    "warp",
    "qc",
    "export",
    "budget",
    "provenance",
    "session",
    "pipeline",
    "interactive",
    "training",
    "reproduce",
    "cli",
)
"""A part may import the parts above it. descent, problem, session and pipeline are files; the rest are folders."""

ROOT = {"errors", "checks", "registry", "progress", "config", "result", "device", "memory"}
"""Root modules that every part may import."""

SHARED = {
    "geometry": {"grid", "sampling", "smoothing", "vector_fields", "pyramid"},
    "data": {"image", "points", "pair", "atomic", "nifti", "anatomy"},
    "similarity": {"base"},
    "regularization": {"base"},
    "transforms": {
        "base",
        "model",
        "integrate",
        "kernels",
        "affine",
        "displacement",
        "composite",
        "shooting",
        "stiffness",
    },
    "networks": {"base", "blocks", "unet", "swin"},
    "methods": {"features", "shot"},
    "prompts": {"base", "kernels", "distance", "outliers"},
    "affine": {"moments"},
    "qc": {"base", "figures", "alignment"},
    "interactive": {"messages", "arrays", "process", "desk"},
    "training": {
        "feature_task",
        "contrastive_task",
        "homing",
        "teaching",
        "synthetic",
        "base",
        "mapping",
        "options",
        "devices",
        "streams",
        "field_losses",
        "kl",
        "history",
        "checkpoint",
        "config",
        "network_choice",
        "scans",
        "tasks",
        "loop",
        "dataset",
        "preparation",
        "augmentation",
        "surfaces",
        "validation",
    },
    "export": {"flow", "itk_transform", "nifti_warp", "report"},
    "reproduce": {"base", "disk_to_c", "figures", "people", "shape_networks", "shape_population", "trained"},
}
"""Modules of a folder that their siblings may import: values, bases and helpers, never one choice another choice."""

EXCEPTIONS = {
    ("similarity/mk_lncc.py", "similarity.lncc"): "multi-kernel LNCC is a weighted sum of LNCC at several window sizes",
    ("similarity/mind.py", "similarity.lncc"): "descriptors are compared with LNCC when asked for",
    ("similarity/mind.py", "similarity.mean_squares"): "descriptors are compared with MSE by default",
    ("prompts/checks.py", "prompts.labels"): "one entry asks every kind of prompt whether it fits the scans",
    ("prompts/checks.py", "prompts.masks"): "one entry asks every kind of prompt whether it fits the scans",
    ("prompts/suggestions.py", "prompts.proposals"): "a place is suggested with its proposal",
    (
        "interactive/server.py",
        "interactive.jobs",
    ): "the server hands commands on; imported late, as it brings torch along",
    ("networks/keras_layers.py", "networks.voxelmorph"): "the layers of the authors' files are those of their networks",
    ("methods/feedforward.py", "methods.iterative"): "a prediction is refined by the one solver",
    ("methods/dio.py", "methods.iterative"): "features are compared by the one solver",
    ("training/recipe.py", "training.run"): "a training without scans begins, resumes and ends as every other",
    ("data/phantoms.py", "data.io"): "write_pair stores a generated pair as files",
}
"""A choice that is built from another one by definition; everything else goes through a shared helper."""

FORBIDDEN = {"slicer", "qt", "ctk", "PySide6", "training"}
FILES = sorted(LIBRARY.rglob("*.py"))


def part_of(path: Path) -> str:
    """``similarity`` for similarity/lncc.py, ``session`` for session.py, ``""`` for the package itself."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return "" if parts[0] in ("__init__", "__main__") else parts[0]


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """Dotted name that an import statement refers to."""
    if node.level == 0:
        return node.module or ""
    package = ("DeepDiffRegLib", *path.relative_to(LIBRARY).parts[:-1])
    base = package[: len(package) - node.level + 1]
    return ".".join((*base, *((node.module or "").split(".") if node.module else ())))


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of everything a file imports, wherever in the file; imports for annotations only are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, path)
            deeper = [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
            found += [pair for pair in deeper if is_module(pair[0])] or [(module, node.lineno)]
    return found


def is_module(dotted: str) -> bool:
    """Whether ``dotted`` names a file or folder of the library."""
    place = LIBRARY.parent / Path(*dotted.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def breaches(path: Path) -> list[str]:
    """Every import of a file that goes down the list, sideways without leave, or into a forbidden package."""
    here, stem, wrong = part_of(path), path.stem, []
    for name, line in imports(path):
        head, *rest = name.split(".")
        where = f"{path.relative_to(LIBRARY.parent)}:{line} imports {name}"
        if head in FORBIDDEN:
            wrong.append(f"{where}: never in the library")
        if head != "DeepDiffRegLib" or not rest:
            continue
        there = rest[0]
        if there == here and len(rest) > 1:
            allowed = rest[1].startswith(("_", "io_")) or rest[1] in SHARED.get(here, set()) or stem == "__init__"
            allowed |= (path.relative_to(LIBRARY).as_posix(), ".".join(rest[:2])) in EXCEPTIONS
            if here != "cli" and path.name != "io.py" and not allowed:
                wrong.append(f"{where}: siblings do not import siblings")
        elif here in ROOT and there not in ROOT:
            wrong.append(f"{where}: root modules import root modules only")
        elif here in LAYERS and there in LAYERS and LAYERS.index(there) > LAYERS.index(here):
            wrong.append(f"{where}: {there} lies below {here}")
        elif here in LAYERS and there not in LAYERS and there not in ROOT and there != here:
            wrong.append(f"{where}: {there} is not a part of the library that may be imported")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_run_one_way(path):
    assert not breaches(path)


def test_every_part_has_its_place():
    parts = {part_of(path) for path in FILES} - {""}
    assert parts <= set(LAYERS) | ROOT, f"not in the list of layers: {sorted(parts - set(LAYERS) - ROOT)}"


def test_exceptions_are_still_needed():
    for file, name in EXCEPTIONS:
        assert f"DeepDiffRegLib.{name}" in {n for n, _ in imports(LIBRARY / file)}, f"{file} no longer imports {name}"


def test_a_breach_is_found():
    """The reader itself works: an upward import and a sideways one are both seen."""
    path = LIBRARY / "similarity" / "ncc.py"
    tree = "from ..pipeline import register\nfrom .lncc import LNCC\nimport slicer\n"
    original = Path.read_text
    try:
        Path.read_text = lambda self, **_: tree if self == path else original(self, **_)
        found = breaches(path)
    finally:
        Path.read_text = original
    assert len(found) == 3


def test_networks_import_torch_only():
    for path in (p for p in FILES if part_of(p) == "networks"):
        heads = {name.split(".")[0] for name, _ in imports(path) if not name.startswith("DeepDiffRegLib")}
        assert heads <= {*sys.stdlib_module_names, "torch", "numpy", "safetensors"}


def test_grid_sample_is_called_in_one_file_only():
    callers = [p.relative_to(LIBRARY) for p in FILES if re.search(r"\bgrid_sample\(", p.read_text(encoding="utf-8"))]
    assert callers == [Path("geometry/sampling.py")]


def test_no_forbidden_words_for_fields():
    words = re.compile(r"\b(DVF|DDF|flow_field|deformation_field_array)\b")
    assert not [p for p in FILES if words.search(p.read_text(encoding="utf-8"))]


def test_importing_the_package_is_light():
    """Under 0.2 s and without torch: the best of three fresh interpreters, as the machine may be busy."""
    best = float("inf")
    for _ in range(3):
        code = "import sys, DeepDiffRegLib; assert not {'torch', 'vtk', 'numpy', 'SimpleITK'} & set(sys.modules)"
        run = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=LIBRARY.parent
        )
        assert run.returncode == 0, run.stderr[-500:]
        line = next(row for row in run.stderr.splitlines() if row.endswith("| DeepDiffRegLib"))
        best = min(best, int(line.split("|")[1]) / 1e6)
    assert best < 0.2


def test_the_command_line_shows_help_without_torch():
    code = (
        "import sys; from DeepDiffRegLib.cli.main import main; code = main(['register', '--help']); "
        "assert code == 0 and not {'torch', 'vtk', 'SimpleITK'} & set(sys.modules), sorted(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=LIBRARY.parent)
    assert run.returncode == 0, run.stderr[-500:]
    assert "OUTDIR" in run.stdout
