"""Every text that a user sees can be translated: found as a literal, whole, with named places for values."""

from __future__ import annotations

import ast
import re

import pytest
from module_sources import FILES, called, calls, name_of, tree, where

SHOWN_BY_CALL = {
    "setText",
    "setToolTip",
    "setStatusTip",
    "setTitle",
    "setWindowTitle",
    "setPlaceholderText",
    "setHorizontalHeaderLabels",
    "showStatusMessage",
    "showStatus",
    "showMessage",
    "errorDisplay",
    "warningDisplay",
    "confirmOkCancelDisplay",
    "confirmYesNoDisplay",
    "tryWithErrorDisplay",
    "addTab",
    "addRow",
    "QLabel",
    "QPushButton",
    "QCheckBox",
    "QAction",
    "QGroupBox",
}
SHOWN_BY_NAME = {
    "text",
    "toolTip",
    "title",
    "windowTitle",
    "helpText",
    "acknowledgementText",
    "placeholderText",
    "statusTip",
}


def is_translation(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called(node) in ("_", "translate")


def is_translated_text(node: ast.AST) -> bool:
    """``_("...")`` or ``_("...").format(...)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        node = node.func.value
    return is_translation(node)


def words(node: ast.AST) -> list[str]:
    """Literal words that would be shown untranslated by this expression."""
    if is_translation(node):
        return []
    if isinstance(node, ast.Constant):
        found = re.findall(r"[A-Za-z]{3,}", node.value) if isinstance(node.value, str) else []
        return [word for word in found if word != "DeepDiffReg"]  # the name is the same in every language
    if isinstance(node, ast.JoinedStr | ast.List | ast.Tuple):
        return [word for value in getattr(node, "values", None) or getattr(node, "elts", []) for word in words(value)]
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    if isinstance(node, ast.IfExp):
        return words(node.body) + words(node.orelse)
    if isinstance(node, ast.Call) and called(node) in ("format", "join"):
        return words(node.func.value)
    return []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_shown_text_is_translated(path):
    wrong = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and called(node) in SHOWN_BY_CALL:
            wrong += [where(path, node) for part in node.args if words(part)]
        elif isinstance(node, ast.Assign):
            names = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
            if names & SHOWN_BY_NAME and words(node.value):
                wrong.append(where(path, node))
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sentences_are_translated_whole(path):
    wrong = []
    for node in ast.walk(tree(path)):
        if is_translation(node) and not all(
            isinstance(part, ast.Constant) and isinstance(part.value, str) for part in node.args
        ):
            wrong.append(where(path, node))  # an f-string or an expression cannot be looked up
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            if is_translated_text(node.left) or is_translated_text(node.right):
                wrong.append(where(path, node))
        elif isinstance(node, ast.JoinedStr):
            texts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            if any(is_translated_text(text) for text in texts) and words(node):
                wrong.append(where(path, node))
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_placeholders_are_named_and_filled(path):
    wrong = []
    for node in calls(tree(path)):
        if is_translation(node) and isinstance(node.args[-1], ast.Constant):
            names = re.findall(r"(?<!\{)\{(\w*)", node.args[-1].value)
            wrong += [where(path, node) for name in names if not name or name[0].isdigit()]
        elif called(node) == "format" and is_translated_text(node) and not any(k.arg is None for k in node.keywords):
            names = set(re.findall(r"(?<!\{)\{(\w+)", ast.unparse(node.func.value)))
            if names != {keyword.arg for keyword in node.keywords}:
                wrong.append(where(path, node))
    assert not wrong
