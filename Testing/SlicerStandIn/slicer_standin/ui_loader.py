"""QUiLoader that makes this package's widgets, sets their properties and makes the connections of a ``.ui`` file.

Qt's loader knows neither the stand-ins' enumerations nor signals with MRML arguments; both are handled here.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import qt_classes

CUSTOM: dict[str, type] = {}  # class name in a .ui file -> stand-in class; filled by ctk_module and mrml_widgets


def make_loader() -> type:
    """The class to be known as ``qt.QUiLoader``."""

    class QUiLoader(QtUiTools.QUiLoader):
        def load(self, device, parent=None):
            """The top widget of the ``.ui`` file that ``device`` (an open QFile) holds."""
            text = bytes(device.readAll().data()).decode()
            tree = ElementTree.fromstring(text)
            connections = [_connection(item) for item in tree.iter("connection")]
            enumerations = _take_enumerations(tree)
            for item in tree.findall("connections"):
                tree.remove(item)
            buffer = QtCore.QBuffer()
            buffer.setData(ElementTree.tostring(tree))
            buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
            widget = super().load(buffer, parent)
            if widget is None:
                raise RuntimeError(f"QUiLoader.load(): {self.errorString()}")
            widget = qt_classes.adopt(widget)
            named = {widget.property("objectName"): widget}
            for child in QtCore.QObject.findChildren(widget, QtCore.QObject):
                named[child.property("objectName")] = qt_classes.adopt(child)
            for owner, name, value in enumerations:
                _set_enumeration(named[owner], name, value)
            for connection in connections:
                _connect(named, *connection)
            return widget

        def createWidget(self, class_name, parent=None, name=""):
            made = CUSTOM.get(class_name) or qt_classes.BASES.get(getattr(QtWidgets, class_name, None))
            if made is None:
                raise RuntimeError(f"QUiLoader: no stand-in for the widget class {class_name!r} (object {name!r})")
            widget = made(parent)
            widget.setObjectName(name)
            return widget

        def createLayout(self, class_name, parent=None, name=""):
            layout = qt_classes.BASES[getattr(QtWidgets, class_name)]()
            layout.setObjectName(name)
            if isinstance(parent, QtWidgets.QWidget) and QtWidgets.QWidget.layout(parent) is None:
                parent.setLayout(layout)
            return layout

    return QUiLoader


def _connection(item) -> tuple[str, str, str, str]:
    return tuple((item.findtext(tag) or "").strip() for tag in ("sender", "signal", "receiver", "slot"))


def _connect(named: dict, sender: str, signal: str, receiver: str, slot: str) -> None:
    for name in (sender, receiver):
        if name not in named:
            raise RuntimeError(f"QUiLoader: a connection names the object {name!r}, which the .ui file does not have")
    target = getattr(named[receiver], slot[: slot.index("(")], None)
    if target is None:
        raise RuntimeError(f"QUiLoader: {type(named[receiver]).__name__} {receiver!r} has no slot {slot!r}")
    named[sender].connect(signal, target)


def _take_enumerations(tree) -> list[tuple[str, str, str]]:
    """(object name, property, text) of enumerations and flags of custom classes; they are removed from ``tree``."""
    taken = []
    for widget in tree.iter("widget"):
        if widget.get("class") not in CUSTOM:
            continue
        for item in list(widget.findall("property")):
            value = item.find("enum") if item.find("enum") is not None else item.find("set")
            text = (value.text or "") if value is not None else ""
            if text.split("::")[0] == widget.get("class"):
                taken.append((widget.get("name"), item.get("name"), text))
                widget.remove(item)
    return taken


def _set_enumeration(widget, name: str, text: str) -> None:
    total = None
    for part in filter(None, text.split("|")):
        value = getattr(type(widget), part.split("::")[-1])
        total = value if total is None else total | value
    setattr(widget, name, total)
