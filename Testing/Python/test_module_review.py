"""What a Slicer reviewer reads for in the sources of the module; nothing is imported or run.

The numbers are those of the ten checks in Resources/Docs/slicer.md.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from module_sources import (
    FILES,
    MAIN,
    MODULE,
    called,
    calls,
    imported,
    imports,
    name_of,
    outside_functions,
    tree,
    where,
)

AT_FILE_SCOPE = {*sys.stdlib_module_names, "slicer", "vtk", "qt", "ctk", "numpy"}
NEVER_IN_SLICER = {"torch", "numba", "h5py", "nibabel", "jinja2", "SimpleITK", "isal", "matplotlib"}
LIGHT_LIBRARY = {
    "errors",
    "registry",
    "config",
    "geometry.grid",
    "transforms",
    "similarity",
    "methods",
    "networks.files",
    "qc",
    "interactive.messages",
    "interactive.arrays",
    "interactive.process",
    "interactive.client",
}
"""Parts of the library that load without torch, so that the Slicer process may import them."""

PURE_CALLS = {
    "field",
    "auto",
    "frozenset",
    "tuple",
    "Path",
    "resolve",
    "getLogger",
    "namedtuple",
    "TypeVar",
    "compile",
    "property",
    "range",
    "array",
    "WithinRange",
    "Decimals",
    "SingleStep",
    "_",
}
"""Calls that only make a value: allowed in constants at file scope and in class bodies."""

DECLARATIONS = {"super", "__init__", "_", "translate", "format", "connect", "join", "dedent", "strip"}
"""Calls of the module's constructor, which runs at every start of Slicer."""

SET_UP = "DeepDiffRegWork/packages.py"
INSTALLERS = {"pip_install", "pip_uninstall", "pip_ensure", "installTorch", "check_call", "Popen", "system"}
BRIDGE = "DeepDiffRegScene/spaces.py"
"""Where the exchange of RAS and LPS is written down; others import its names."""
POP_UPS = {"QMessageBox", "exec_", "getOpenFileName", "getExistingDirectory", "messageBox", "infoDisplay"}


def is_path_of_a_checkout(node: ast.stmt) -> bool:
    """``if importlib.util.find_spec("DeepDiffRegLib") is None: sys.path.append(...)``, the one exception."""
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) in ("importlib.util.find_spec('DeepDiffRegLib') is None",)
        and len(node.body) == 1
        and ast.unparse(node.body[0]).startswith("sys.path.append(")
        and not node.orelse
    )


def rows_of_tables(path: Path) -> set[str]:
    """Frozen dataclasses of the file: a table at file scope may be made of them."""
    classes = [node for node in tree(path).body if isinstance(node, ast.ClassDef)]
    return {node.name for node in classes if "dataclass(frozen=True)" in map(ast.unparse, node.decorator_list)}


def klass(name: str) -> ast.ClassDef:
    return next(node for node in tree(MAIN).body if isinstance(node, ast.ClassDef) and node.name == name)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_1_imports_at_file_scope_are_light(path):
    found = [
        (node, name)
        for node in outside_functions(tree(path).body)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
    ]
    wrong = [
        where(path, node)
        for node, name in found
        if not name.startswith((".", "DeepDiffReg", "vtkmodules")) and name.partition(".")[0] not in AT_FILE_SCOPE
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_1_nothing_heavy_is_imported_in_slicers_process(path):
    wrong = []
    for node, name in imports(tree(path)):
        if name.partition(".")[0] in NEVER_IN_SLICER:
            wrong.append(where(path, node))
        if name.startswith("DeepDiffRegLib") and name.partition(".")[2] not in LIGHT_LIBRARY:
            wrong.append(where(path, node))
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_1_file_scope_declares_and_does_nothing(path):
    wrong, values = [], PURE_CALLS | rows_of_tables(path)
    for node in outside_functions(tree(path).body):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Pass):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign):
            if all(called(call) in values for call in calls(node)):
                continue
        elif path == MAIN and is_path_of_a_checkout(node):
            continue
        elif isinstance(node, ast.Expr) and path == MAIN and ast.unparse(node).startswith("sys.path.append("):
            continue  # the body of the statement above
        wrong.append(where(path, node))
    assert not wrong


def test_1_the_path_of_a_checkout_is_set_once():
    statements = [node for node in ast.walk(tree(MAIN)) if ast.unparse(node).startswith("sys.path.append(")]
    assert len([node for node in statements if isinstance(node, ast.Expr)]) == 1
    assert sum(is_path_of_a_checkout(node) for node in tree(MAIN).body) == 1


def test_1_constructor_of_the_module_only_declares():
    constructor = next(node for node in klass("DeepDiffReg").body if getattr(node, "name", "") == "__init__")
    assert not [where(MAIN, call) for call in calls(constructor) if called(call) not in DECLARATIONS]
    assert not list(imports(constructor))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_2_packages_are_installed_in_one_place(path):
    wrong = [where(path, call) for call in calls(tree(path)) if called(call) in INSTALLERS]
    wrong += [where(path, node) for node, name in imports(tree(path)) if name in ("subprocess", "pip", "PyTorchUtils")]
    if name_of(path) == SET_UP:
        assert any("installTorch" in line for line in wrong)
        assert not re.search(r"pip_(install|ensure)\([^)]*[\"']torch", path.read_text(encoding="utf-8"))
    else:
        assert not wrong


def test_2_only_the_set_up_section_installs():
    users = {name_of(p) for p in FILES for call in calls(tree(p)) if ast.unparse(call.func) == "packages.install"}
    assert len(users) == 1
    assert users.pop().startswith("DeepDiffRegPanel/")


def test_3_folders_of_the_module_are_packages():
    folders = {path.parent for path in FILES} - {MODULE, MODULE / "Testing"}
    assert all(folder.name.startswith("DeepDiffReg") and (folder / "__init__.py").is_file() for folder in folders)


def test_4_the_four_classes_are_there():
    bases = {
        "DeepDiffReg": "ScriptedLoadableModule",
        "DeepDiffRegWidget": "ScriptedLoadableModuleWidget",
        "DeepDiffRegLogic": "ScriptedLoadableModuleLogic",
        "DeepDiffRegTest": "ScriptedLoadableModuleTest",
    }
    for name, base in bases.items():
        assert base in [ast.unparse(node) for node in klass(name).bases]
        constructors = [node for node in klass(name).body if getattr(node, "name", "") == "__init__"]
        assert all(len(list(ast.walk(node))) < 250 for node in constructors)


def test_4_no_widgets_below_the_panel():
    wrong = []
    for path in FILES:
        if name_of(path).startswith(("DeepDiffRegScene/", "DeepDiffRegWork/")):
            wrong += [
                where(path, node) for node, name in imports(tree(path)) if name.partition(".")[0] in ("qt", "ctk")
            ]
            wrong += [where(path, node) for node, name in imports(tree(path)) if name.startswith("DeepDiffRegPanel")]
        if name_of(path).startswith("DeepDiffRegScene/"):
            wrong += [where(path, node) for node, name in imports(tree(path)) if name.startswith("DeepDiffRegWork")]
    logic = klass("DeepDiffRegLogic")
    wrong += [where(MAIN, n) for n in ast.walk(logic) if isinstance(n, ast.Name) and n.id in ("qt", "ctk")]
    wrong += [where(MAIN, n) for n in ast.walk(logic) if isinstance(n, ast.Attribute) and n.attr == "ui"]
    assert not wrong


def test_5_widget_follows_scene_and_reload():
    methods = {node.name for node in klass("DeepDiffRegWidget").body if isinstance(node, ast.FunctionDef)}
    assert {"setup", "cleanup", "enter", "exit", "onSceneStartClose", "onSceneEndClose"} <= methods
    cleanup = next(node for node in klass("DeepDiffRegWidget").body if getattr(node, "name", "") == "cleanup")
    assert any(called(call) == "removeObservers" for call in calls(cleanup))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_6_no_pop_ups_and_no_own_styling(path):
    assert not [where(path, c) for c in calls(tree(path)) if called(c) in POP_UPS | {"setStyleSheet"}]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_7_only_copies_are_hardened(path):
    wrong = [where(path, c) for c in calls(tree(path)) if "harden" in called(c).lower()]
    assert not wrong or name_of(path) == "DeepDiffRegScene/apply.py"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_8_left_and_right_are_exchanged_in_the_bridge_only(path):
    flips = re.findall(r"-1(?:\.0*)?\s*,\s*-1(?:\.0*)?\s*,\s*\+?1\b", path.read_text(encoding="utf-8"))
    assert not flips or name_of(path) == BRIDGE


def test_9_sample_data_have_checksums():
    for path in FILES:
        for call in calls(tree(path)):
            if called(call) == "registerCustomSampleDataSource":
                keywords = {keyword.arg: keyword.value for keyword in call.keywords}
                assert "checksums" in keywords, where(path, call)


def test_10_nothing_is_sent_and_removal_is_offered():
    text = {name_of(path): path.read_text(encoding="utf-8") for path in FILES}
    assert not [
        name for name, source in text.items() if re.search(r"\b(requests|urllib|http\.client|ftplib)\b", source)
    ]
    panel = "".join(source for name, source in text.items() if name.startswith("DeepDiffRegPanel/"))
    assert "removeDownloads" in panel
