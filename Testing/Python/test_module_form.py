"""The shipped .ui file read as XML: what is bound can be bound, what the code names is there, what Qt 5 and 6 both read."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "DeepDiffReg"
FORM = ElementTree.parse(MODULE / "Resources" / "UI" / "DeepDiffReg.ui").getroot()
WIDGETS = list(FORM.iter("widget"))
SOURCES = [path for path in MODULE.rglob("*.py") if "__pycache__" not in path.parts]

BINDABLE = {
    "bool": {"QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton"},
    "int": {"QSpinBox", "QSlider", "ctkSliderWidget", "qMRMLSliderWidget"},
    "float": {"QDoubleSpinBox", "ctkSliderWidget", "qMRMLSliderWidget", "ctkDoubleSlider", "ctkDoubleSpinBox"},
    "str": {"QLineEdit", "QTextEdit", "QLabel"},
    "enum": {"QComboBox", "ctkComboBox"},
    "path": {"ctkPathLineEdit", "ctkDirectoryButton"},
    "node": {"qMRMLNodeComboBox"},
}
"""Which exact widget classes Slicer's parameter node wrapper connects to which kind of parameter."""

NEEDS_BOUNDS = {"ctkSliderWidget", "QSlider", "qMRMLSliderWidget", "ctkDoubleSlider"}
CONTAINERS = {"ctkCollapsibleButton", "ctkCollapsibleGroupBox", "qMRMLWidget"}


def property_of(widget: ElementTree.Element, name: str) -> str | None:
    """Text of a property, None when the widget has none of that name."""
    found = next((p for p in widget.findall("property") if p.get("name") == name), None)
    return None if found is None else " ".join(found[0].itertext())


def state_file() -> ast.Module:
    return ast.parse((MODULE / "DeepDiffRegPanel" / "state.py").read_text(encoding="utf-8"))


def parameters() -> dict[str, str]:
    """Name and annotation of every parameter of the panel's state."""
    classes = {node.name: node for node in state_file().body if isinstance(node, ast.ClassDef)}
    body = classes["DeepDiffRegState"].body
    return {node.target.id: ast.unparse(node.annotation) for node in body if isinstance(node, ast.AnnAssign)}


def resolved(annotation: str) -> str:
    """The annotation with the file's own short names (``Structures = Union[...]``) written out."""
    names = {
        node.targets[0].id: ast.unparse(node.value)
        for node in state_file().body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return names.get(annotation, annotation)


def kind(annotation: str) -> str:
    """Key of ``BINDABLE`` for an annotation."""
    if "vtkMRML" in annotation:
        return "node"
    base = re.sub(r"^Annotated\[([\w.]+),.*", r"\1", annotation)
    if base in ("bool", "int", "float", "str"):
        return base
    if base.endswith("Path"):
        return "path"
    enums = {
        n.name for n in state_file().body if isinstance(n, ast.ClassDef) and "enum.Enum" in map(ast.unparse, n.bases)
    }
    return "enum" if base in enums else f"none for {annotation}"


BOUND = {w.get("name"): w for w in WIDGETS if property_of(w, "SlicerParameterName") is not None}


@pytest.mark.parametrize("name", BOUND)
def test_bound_widget_is_supported(name):
    widget, known = BOUND[name], parameters()
    parameter = property_of(widget, "SlicerParameterName")
    assert parameter in known, f"{name}: the state has no parameter {parameter!r}"
    annotation = resolved(known[parameter])
    assert widget.get("class") in BINDABLE[kind(annotation)], f"{name} ({widget.get('class')}) shows {annotation}"
    stored = next(p for p in widget.findall("property") if p.get("name") == "SlicerParameterName")
    assert stored.get("stdset") == "0"
    if widget.get("class") in NEEDS_BOUNDS:
        assert "WithinRange" in annotation, f"{name}: a slider needs bounds"
    if widget.get("class") == "QPushButton":
        assert property_of(widget, "checkable") == "true", f"{name}: only a checkable button can be bound"
    if kind(annotation) == "enum":
        assert not widget.findall("item"), f"{name}: its items come from the parameter"
    if kind(annotation) == "node":
        types = set(re.findall(r"vtkMRML\w+", property_of(widget, "nodeTypes")))
        assert types <= set(re.findall(r"vtkMRML\w+", annotation)), f"{name} offers nodes that {parameter} cannot hold"


def test_a_parameter_is_bound_once():
    names = [property_of(widget, "SlicerParameterName") for widget in BOUND.values()]
    assert len(names) == len(set(names))


def test_every_parameter_is_used():
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "state.py")
    bound = {property_of(widget, "SlicerParameterName") for widget in BOUND.values()}
    assert not [name for name in parameters() if name not in bound and not re.search(rf"\b{name}\b", code)]


def test_names_are_unique():
    names = [element.get("name") for tag in ("widget", "layout") for element in FORM.iter(tag)]
    assert len(names) == len(set(names))


def test_code_names_only_widgets_that_exist():
    known = {widget.get("name") for widget in WIDGETS}
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or node.attr in known:
                continue
            if ast.unparse(node.value) in ("self.ui", "ui", "panel.ui", "self.panel.ui"):
                wrong.append(f"{path.name}:{node.lineno}: {node.attr}")
    assert not wrong


def test_custom_widgets_are_declared():
    declared = {c.findtext("class"): c for c in FORM.iter("customwidget")}
    used = {widget.get("class") for widget in WIDGETS if not widget.get("class").startswith("Q")}
    assert used == set(declared)
    for name, entry in declared.items():
        assert entry.findtext("extends") == "QWidget"
        assert entry.findtext("header") == f"{name}.h"
        assert (entry.findtext("container") == "1") == (name in CONTAINERS), name


def test_scene_reaches_every_widget_that_shows_nodes():
    connected = {
        c.findtext("receiver")
        for c in FORM.iter("connection")
        if c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    top = FORM.find("widget")
    assert top.get("class") == "qMRMLWidget"
    needing = {w.get("name") for w in WIDGETS if w is not top and w.get("class").startswith("qMRML")}
    assert needing == connected
    assert {c.findtext("sender") for c in FORM.iter("connection")} <= {widget.get("name") for widget in WIDGETS}


def test_form_reads_in_qt_5_and_6():
    for tag in ("enum", "set"):
        for element in FORM.iter(tag):
            assert all(part.count("::") == 1 for part in element.text.split("|")), (
                f"{element.text}: scoped as in Qt 6 only"
            )


def test_no_styling_of_its_own():
    assert not [w.get("name") for w in WIDGETS if property_of(w, "styleSheet") or property_of(w, "palette")]


def test_controls_explain_themselves():
    silent = [
        widget.get("name")
        for widget in WIDGETS
        if widget.get("class") in ("QPushButton", "QCheckBox", "qMRMLNodeComboBox", "ctkSliderWidget")
        and not property_of(widget, "toolTip")
    ]
    assert not silent
