"""Keyboard shortcuts of the panel; they live while the module is the one in front."""

import qt
import slicer
from slicer.i18n import tr as _

KEYS = (
    ("placeButton", "Ctrl+Shift+P"),
    ("updateButton", "Ctrl+Shift+U"),
    ("undoButton", "Ctrl+Shift+Z"),
    ("redoButton", "Ctrl+Shift+Y"),
    ("compareStepsButton", "Ctrl+Shift+B"),
    ("rejectButton", "Esc"),
)
"""Button and keys. Slicer's own undo (Ctrl+Z) and segment editor keys stay free."""
ON_DEMAND = ("rejectButton",)
"""Keys that others may want too: switched on by ``enable`` only."""


class Shortcuts:
    """A click on a button by keys, also when the mouse is in a slice view."""

    def __init__(self, ui):
        self.ui = ui
        self._shortcuts = []
        self._off = set(ON_DEMAND)
        for name, keys in KEYS:
            button = getattr(ui, name)
            button.setToolTip(_("{text} ({keys})").format(text=button.toolTip, keys=keys))

    def connect(self):
        """Switch the keys on."""
        if self._shortcuts:
            return
        window = slicer.util.mainWindow()
        parent = window if window is not None else self.ui.runButton.window()
        for name, keys in KEYS:
            shortcut = qt.QShortcut(parent)
            shortcut.setKey(qt.QKeySequence(keys))
            shortcut.connect("activated()", getattr(self.ui, name).click)
            shortcut.setEnabled(name not in self._off)
            self._shortcuts.append(shortcut)

    def enable(self, name, on):
        """Let the keys of a button act or rest."""
        self._off = self._off - {name} if on else self._off | {name}
        for (button, _keys), shortcut in zip(KEYS, self._shortcuts):
            if button == name:
                shortcut.setEnabled(bool(on))

    def disconnect(self):
        """Switch the keys off."""
        for shortcut in self._shortcuts:
            shortcut.disconnect("activated()")
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []
