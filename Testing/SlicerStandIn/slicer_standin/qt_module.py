"""The module ``qt``: PySide6's Core, Gui, Widgets, Network and Svg names, QObject classes with PythonQt's manners."""

from __future__ import annotations

import tempfile
import types
from pathlib import Path

from PySide6 import QtCore, QtGui, QtNetwork, QtSvg, QtWidgets

from . import qt_classes
from .ui_loader import make_loader

# PySide6's own helpers: PythonQt has other ones or none, so shipped code must not find them.
PYSIDE_ONLY = frozenset(
    [
        "Signal",
        "Slot",
        "Property",
        "ClassInfo",
        "QEnum",
        "QFlag",
        "QtMsgType",
        "SignalInstance",
        "qVersion_",
        "SIGNAL",
        "SLOT",
    ]
)
MODULES = (QtCore, QtGui, QtNetwork, QtSvg, QtWidgets)


def build() -> types.ModuleType:
    """A fresh module object; the generated classes themselves are made once per process."""
    module = types.ModuleType("qt", __doc__)
    for source in MODULES:
        for name in dir(source):
            if name.startswith("_") or name in PYSIDE_ONLY:
                continue
            setattr(module, name, _exposed(getattr(source, name)))
    module.QApplication.processEvents = module.QCoreApplication.processEvents = staticmethod(_process_events)
    module.QSettings = _memory_settings(module.QSettings)
    module.QUiLoader = make_loader()
    return module


def _exposed(item):
    """The generated class of a QObject class, anything else as it is."""
    if isinstance(item, type) and issubclass(item, QtCore.QObject):
        return qt_classes.BASES.get(item) or qt_classes.generate(item)
    return item


def _process_events(*_):
    """Handle what waits, deferred deletions too (Slicer's event loop handles those when it returns)."""
    QtCore.QEventLoop().processEvents()
    QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)


def _memory_settings(base: type) -> type:
    """QSettings whose default store is a file of this test run, never the settings of the user's Slicer."""
    if getattr(base, "store", None):
        return base
    folder = Path(tempfile.mkdtemp(prefix="slicer-standin-settings-"))

    class QSettings(base):
        store = str(folder / "Slicer.ini")

        def __init__(self, *args):
            super().__init__(*(args or (QSettings.store, QtCore.QSettings.Format.IniFormat)))

        def value(self, key, default=None):
            """PythonQt gives a stored value back with its type; an INI file alone would make it a string."""
            found = super().value(key, default)
            return {"true": True, "false": False}.get(found, found) if isinstance(found, str) else found

    return QSettings
