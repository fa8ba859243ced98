"""The Slicer extension: every file reaches the package, the metadata are what the Extensions Index asks for.

Configure, build and install run with plain CMake against the stub of the Slicer package in Testing/SlicerStub.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DeepDiffReg"
LIBRARY = ROOT / "DeepDiffRegLib"
SCRIPTED_MODULES = "lib/Slicer-stub/qt-scripted-modules"
NOT_INSTALLED = {"Testing", "__pycache__"}

SCHEMA_FIELDS = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
"""Fields of the schema of catalog entries, version 1.0.1; no other is allowed, the first three are required."""

SLICERS_OWN = {"torch", "numpy", "SimpleITK", "vtk"}
"""What the set-up never installs with pip: torch comes through PyTorchUtils, the rest is part of Slicer."""


def files_below(folder: Path, pattern: str = "*") -> set[str]:
    """Relative names of the files that belong to a package."""
    found = (path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
    return {path.as_posix() for path in found if not NOT_INSTALLED.intersection(path.parts)}


def metadata() -> dict[str, str]:
    """``EXTENSION_*`` of the top CMakeLists.txt, each one string on one line as the index's own check reads them."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]+)"\)$', text, flags=re.MULTILINE))


def listed(variable: str) -> list[str]:
    """Files in one ``set(...)`` of the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    body = re.search(rf"set\({variable}\n(.*?)\)", text, flags=re.DOTALL).group(1)
    return body.replace("${MODULE_NAME}", "DeepDiffReg").split()


def run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def cmake() -> str:
    """The CMake program, or a skip with the reason."""
    program = shutil.which("cmake")
    if program is None:
        pytest.skip("needs CMake 3.20.6 or newer on the PATH (Debian: apt-get install cmake)")
    version = tuple(int(n) for n in re.search(r"(\d+)\.(\d+)\.(\d+)", run(program, "--version")).groups())
    if version < (3, 20, 6):
        pytest.skip(f"needs CMake 3.20.6 or newer, found {'.'.join(map(str, version))}")
    return program


def configure(program: str, source: Path, build: Path) -> subprocess.CompletedProcess:
    """Configure against the stub. Nothing is compiled, so no compiler is looked for."""
    stated = [f"-DCMAKE_{name}_COMPILER={Path(sys.executable).as_posix()}" for name in ("C", "CXX")]
    stated += [f"-DCMAKE_{name}_COMPILER_FORCED=ON" for name in ("C", "CXX")]
    stated += [f"-DCMAKE_{name}_COMPILER_ID_RUN=1" for name in ("C", "CXX")]
    slicer = (ROOT / "Testing" / "SlicerStub").as_posix()
    return subprocess.run(
        [program, "-S", str(source), "-B", str(build), f"-DSlicer_DIR={slicer}", "-DBUILD_TESTING=ON", *stated],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A configured and built tree."""
    program = cmake()
    folder = tmp_path_factory.mktemp("slicer") / "build"
    done = configure(program, ROOT, folder)
    assert done.returncode == 0, done.stderr
    run(program, "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="module")
def installed(build) -> Path:
    """The folder of scripted modules after ``cmake --install``."""
    prefix = build.parent / "prefix"
    run(cmake(), "--install", build, "--prefix", prefix)
    return prefix / SCRIPTED_MODULES


def in_installed(installed: Path, *arguments: str) -> str:
    """Run Python with the installed folder as the only place where the project is found."""
    return run(
        sys.executable,
        "-B",
        *arguments,
        cwd=installed.parent,
        environment={"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
    )


def test_module_lists_every_file():
    scripts = files_below(MODULE, "*.py")
    resources = {f"Resources/{name}" for name in files_below(MODULE / "Resources")}
    for variable, expected in (("MODULE_PYTHON_SCRIPTS", scripts), ("MODULE_PYTHON_RESOURCES", resources)):
        names = listed(variable)
        assert len(names) == len(set(names)), variable
        assert set(names) == expected, (
            f"{variable} of DeepDiffReg/CMakeLists.txt: add {sorted(expected - set(names))}, "
            f"remove {sorted(set(names) - expected)}"
        )


def test_every_file_is_installed(installed):
    expected = files_below(MODULE, "*.py") | {f"Resources/{name}" for name in files_below(MODULE / "Resources")}
    expected |= {f"DeepDiffRegLib/{name}" for name in files_below(LIBRARY) if name != "CMakeLists.txt"}
    expected |= {f"DeepDiffRegLib/presets/{path.name}" for path in (ROOT / "Resources" / "Presets").glob("*.json")}
    models = [path for path in (ROOT / "Resources" / "Models").glob("*") if path.suffix in (".safetensors", ".json")]
    models += (ROOT / "Resources" / "Models" / "recipes").glob("*.json")
    expected |= {f"DeepDiffRegLib/models/{path.relative_to(ROOT / 'Resources' / 'Models')}" for path in models}
    assert files_below(installed) == expected
    for name in ("DeepDiffReg.py", "Resources/UI/DeepDiffReg.ui", "Resources/Icons/DeepDiffReg.png"):
        assert (installed / name).read_bytes() == (MODULE / name).read_bytes()


def test_installed_library_finds_its_files(installed):
    code = (
        "import json, sys, DeepDiffRegLib; from DeepDiffRegLib import config; "
        "print(json.dumps([DeepDiffRegLib.__file__, str(config.preset_folder()), config.preset_names(), "
        "[config.load_preset(n).name for n in config.preset_names()], 'torch' in sys.modules]))"
    )
    library, presets, names, loaded, torch = json.loads(in_installed(installed, "-c", code))
    assert Path(library) == installed / "DeepDiffRegLib" / "__init__.py"
    assert Path(presets) == installed / "DeepDiffRegLib" / "presets"
    assert names == loaded == sorted(path.stem for path in (ROOT / "Resources" / "Presets").glob("*.json"))
    assert not torch


def test_installed_scene_layer_loads_and_stays_light(installed):
    if importlib.util.find_spec("slicer") is None:
        pytest.skip("needs the slicer-core package: pip install '.[slicer-tests]' on Python 3.11")
    names = sorted(name for name in listed("MODULE_PYTHON_SCRIPTS") if name.startswith("DeepDiffRegScene/"))
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    heavy = ("torch", "numba", "h5py", "nibabel", "jinja2", "SimpleITK", "matplotlib", "qt")
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {[*names, 'DeepDiffRegLib.interactive.client']}]; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert in_installed(installed, "-c", code).strip().splitlines()[-1] == "[]"


def test_the_test_inside_slicer_passes_as_far_as_it_goes_here(installed):
    folder = ROOT / "Testing" / "InSlicer"
    environment = {"PYTHONPATH": os.pathsep.join([str(installed), str(folder)])}
    output = run(
        sys.executable,
        "-B",
        "-m",
        "unittest",
        "DeepDiffRegInstalledTest",
        cwd=installed.parent,
        environment=environment,
    )
    assert "Ran 4 tests" in output
    assert "skipped=1" in output  # the one that asks the running Slicer for the module


def test_tests_are_registered(build):
    names = set(re.findall(r"Test +#\d+: (\w+)", run("ctest", "-N", cwd=build)))
    assert names == {"py_DeepDiffReg", "py_DeepDiffRegInstalledTest"}


def test_a_listed_file_that_is_missing_stops_configure(tmp_path):
    program = cmake()
    source = tmp_path / "source"
    source.mkdir()
    for name in ("CMakeLists.txt", "LICENSE.txt", "README.md"):
        shutil.copy(ROOT / name, source / name)
    for name in ("DeepDiffReg", "DeepDiffRegLib", "Resources/Presets", "Testing/InSlicer"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Testing" / "CMakeLists.txt", source / "Testing" / "CMakeLists.txt")
    (source / "DeepDiffReg" / "Resources" / "UI" / "DeepDiffReg.ui").unlink()
    done = configure(program, source, tmp_path / "build")
    assert done.returncode != 0
    assert "DeepDiffReg.ui' does not exist" in done.stderr


def test_names_agree():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\s*\(\s*([^\s)]+)", text).group(1) == "DeepDiffReg"
    assert [path.stem for path in ROOT.glob("*.json")] == ["DeepDiffReg"]
    assert "set(MODULE_NAME DeepDiffReg)" in (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    assert [path.name for path in MODULE.glob("*.py")] == ["DeepDiffReg.py"]  # each would be taken for a module
    assert not "DeepDiffReg".lower().startswith("slicer")


def test_metadata_are_complete():
    values = metadata()
    for name in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert values.get(name), f"EXTENSION_{name}"
        assert ";" not in values[name]  # a list would be cut
    sentences = re.findall(r"[.!?](?=\s|$)", values["DESCRIPTION"])
    assert 1 <= len(sentences) <= 2
    assert re.fullmatch(r"[^()]+ \([^()]+\)(, [^()]+ \([^()]+\))*", values["CONTRIBUTORS"])
    assert values["HOMEPAGE"].startswith("https://")


def test_pictures_of_the_catalog_exist():
    values = metadata()
    repository = re.search(r"github\.com/([^/]+/[^/]+)", values["HOMEPAGE"]).group(1)
    start = f"https://raw.githubusercontent.com/{repository}/main/"
    for address in [values["ICONURL"], *values["SCREENSHOTURLS"].split()]:
        assert address.startswith(start)
        assert address.endswith(".png")
        assert (ROOT / address.removeprefix(start)).is_file(), address


def test_icon_has_the_size_of_the_catalog():
    from PIL import Image

    icon = ROOT / "Resources" / "Icons" / "DeepDiffReg.png"
    with Image.open(icon) as picture:
        assert picture.size == (128, 128)
        assert picture.mode == "RGBA"
    for name in ("DeepDiffReg.png", "DeepDiffReg.svg"):
        assert (MODULE / "Resources" / "Icons" / name).read_bytes() == icon.with_name(name).read_bytes()


def test_index_entry():
    entry = json.loads((ROOT / "DeepDiffReg.json").read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry) <= set(SCHEMA_FIELDS)
    for name, value in entry.items():
        assert isinstance(value, SCHEMA_FIELDS[name]), name
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["tier"] in (1, 3, 5)
    values = metadata()
    assert entry["category"] == values["CATEGORY"] == "Registration"
    assert entry["build_dependencies"] == values["DEPENDS"].split() == ["PyTorch"]
    address = re.fullmatch(r"https://([^/]+/[^/]+/([^/]+))\.git", entry["scm_url"])
    assert address.group(2).startswith("Slicer")  # the repository's name does, the extension's does not
    assert values["HOMEPAGE"] == f"https://{address.group(1)}"
    assert (ROOT / "LICENSE.txt").is_file()


def test_requirements_follow_the_library():
    stored = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    stored = [line for line in stored if line and not line.startswith("#")]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)^\]", text, flags=re.M | re.S).group(1))
    assert stored == [line for line in needed if re.match(r"\w+", line).group() not in SLICERS_OWN]


def test_requirements_are_written_once():
    """The module reads ``Resources/requirements.txt``; torch, which is not in it, is the only other one."""
    texts = [
        f"{path.name}: {node.value}"
        for path in MODULE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.fullmatch(r"\w+>=[\d.]+", str(node.value))
    ]
    assert not texts
