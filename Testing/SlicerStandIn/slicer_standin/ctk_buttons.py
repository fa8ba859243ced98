"""Stand-ins of CTK's buttons, boxes and line edits."""

from __future__ import annotations

from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

from .widget_tools import Property, Signal, qt, stand_in, stored

HEADER_HEIGHT = 26


@stand_in
class ctkCollapsibleButton(qt("QWidget")):
    """A titled container whose content can be folded away."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    toggled = Signal(bool)
    locals().update(
        stored(
            text=(str, "", "update"),
            collapsedHeight=(int, 10),
            flat=(bool, False, "update"),
            checkable=(bool, True),
            contentsFrameShape=(int, 0),
        )
    )

    def __init__(self, text=None, parent=None):
        if isinstance(text, QtWidgets.QWidget):
            text, parent = None, text
        super().__init__(parent)
        self._collapsed = False
        self._folded = []
        self.setContentsMargins(0, HEADER_HEIGHT, 0, 0)
        self.setMinimumHeight(HEADER_HEIGHT)
        if text:
            self.setText(text)

    def _get_collapsed(self):
        return self._collapsed

    def setCollapsed(self, collapsed):
        """Hide or show the content."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            shown = [item for item in self.children() if isinstance(item, QtWidgets.QWidget) and not item.isHidden()]
            self._folded = shown
            for item in shown:
                item.setVisible(False)
            self.setMaximumHeight(HEADER_HEIGHT)
        else:
            self.setMaximumHeight(16777215)
            for item in self._folded:
                item.setVisible(True)
            self._folded = []
        self.updateGeometry()
        self.update()
        self.toggled.emit(not collapsed)
        self.contentsCollapsed.emit(collapsed)

    collapsed = Property(bool, _get_collapsed, setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, on: self.setCollapsed(not on))

    def click(self):
        """Fold or unfold as the user's click does."""
        self.setCollapsed(not self._collapsed)
        self.clicked.emit(not self._collapsed)

    toggle = click

    def childEvent(self, event):
        """Content that arrives while folded stays hidden."""
        # Only a complete child may be looked at: at ChildAdded its constructor still runs, and wrapping it then is fatal.
        if event.type() == QtCore.QEvent.Type.ChildPolished and self.__dict__.get("_collapsed"):
            child = event.child()
            if isinstance(child, QtWidgets.QWidget) and not any(child is known for known in self._folded):
                QtWidgets.QWidget.hide(child)
                self._folded.append(child)
        QtWidgets.QWidget.childEvent(self, event)

    def mousePressEvent(self, event):
        """A press on the title folds or unfolds."""
        if event.position().y() <= HEADER_HEIGHT:
            self.click()

    def paintEvent(self, event):
        """The title bar with its arrow."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), HEADER_HEIGHT - 2)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, 6, 12, 12)
        element = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            element.PE_IndicatorArrowRight if self._collapsed else element.PE_IndicatorArrowDown, arrow
        )
        painter.drawText(option.rect.adjusted(24, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text)


@stand_in
class ctkCollapsibleGroupBox(qt("QGroupBox")):
    """A group box that folds; its check box is the fold."""

    def __init__(self, *args):
        super().__init__(*args)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._fold)

    def _fold(self, shown):
        for item in QtCore.QObject.children(self):
            if isinstance(item, QtWidgets.QWidget):
                QtWidgets.QWidget.setVisible(item, shown)
        self.setMaximumHeight(16777215 if shown else HEADER_HEIGHT)

    def childEvent(self, event):
        """A widget that arrives while the box is folded stays hidden until it is opened."""
        if event.type() == QtCore.QEvent.Type.ChildPolished and not QtWidgets.QGroupBox.isChecked(self):
            child = event.child()
            if isinstance(child, QtWidgets.QWidget):
                QtWidgets.QWidget.hide(child)
        QtWidgets.QGroupBox.childEvent(self, event)

    collapsed = Property(
        bool, lambda self: not QtWidgets.QGroupBox.isChecked(self), lambda self, on: self.setChecked(not on)
    )

    def setCollapsed(self, collapsed):
        """Hide or show the content."""
        self.setChecked(not collapsed)


@stand_in
class ctkExpandButton(qt("QToolButton")):
    """A checkable arrow button."""

    locals().update(stored(orientation=(int, 1), mirrorOnExpand=(bool, False)))

    def __init__(self, *args):
        super().__init__(*args)
        self.setCheckable(True)


@stand_in
class ctkPushButton(qt("QPushButton")):
    """A push button with settable alignments; only the values are kept."""

    locals().update(stored(buttonTextAlignment=(int, 0x84), iconAlignment=(int, 0x81)))


@stand_in
class ctkCheckablePushButton(qt("QPushButton")):
    """A push button that contains a check box; ``checkState`` says what the box shows."""

    checkBoxToggled = Signal(bool)
    checkStateChanged = Signal(int)
    locals().update(
        stored(
            checkBoxControlsButton=(bool, True),
            checkBoxControlsButtonToggleState=(bool, True),
            checkBoxUserCheckable=(bool, True),
            indicatorAlignment=(int, 0x81),
            buttonTextAlignment=(int, 0x84),
        )
    )

    def __init__(self, *args):
        super().__init__(*args)
        self._check_state = QtCore.Qt.CheckState.Unchecked

    def _get_check_state(self):
        return self._check_state

    def setCheckState(self, state):
        """Tick or clear the box; makes the button checkable when the box controls it."""
        state = QtCore.Qt.CheckState(state)
        if state == self._check_state:
            return
        self._check_state = state
        ticked = state == QtCore.Qt.CheckState.Checked
        if self.checkBoxControlsButton:
            self.setCheckable(ticked)
            if self.checkBoxControlsButtonToggleState:
                self.setChecked(ticked)
        self.checkBoxToggled.emit(ticked)
        self.checkStateChanged.emit(state.value)

    checkState = Property(object, _get_check_state, setCheckState)


@stand_in
class ctkMenuButton(ctkPushButton):
    """A push button with room for a menu."""


@stand_in
class ctkCheckBox(qt("QCheckBox")):
    """A check box that may have icons."""

    locals().update(stored(indicatorIcon=(QtGui.QIcon, None), indicatorIconSize=(QtCore.QSize, None)))


@stand_in
class ctkComboBox(qt("QComboBox")):
    """A combo box with a text for "nothing chosen"."""

    locals().update(
        stored(
            defaultText=(str, "", "update"),
            defaultIcon=(QtGui.QIcon, None),
            forceDefault=(bool, False, "update"),
            elideMode=(int, 3),
            scrollWheelEffect=(int, 1),
        )
    )


@stand_in
class ctkMessageBox(qt("QMessageBox")):
    """A message box with a "don't show again" choice; ``exec_`` takes its answer from the test, it never pops up."""

    answers = None  # callable(box) -> int, set by install()
    locals().update(
        stored(dontShowAgain=(bool, False), dontShowAgainVisible=(bool, False), dontShowAgainSettingsKey=(str, ""))
    )

    def exec_(self, *_):
        """The prepared answer to this box."""
        return type(self).answers(self)


@stand_in
class ctkPathLineEdit(qt("QWidget")):
    """Line edit for a path with a browse button."""

    Dirs, Drives, Files, NoSymLinks, Readable, Writable, Executable, Hidden = (
        0x1,
        0x4,
        0x2,
        0x8,
        0x10,
        0x20,
        0x40,
        0x100,
    )
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    locals().update(
        stored(
            filters=(int, 0x7),
            nameFilters=(list, []),
            settingKey=(str, ""),
            label=(str, ""),
            showBrowseButton=(bool, True),
            showHistoryButton=(bool, True),
            options=(int, 0),
        )
    )

    def __init__(self, *args):
        parents = [item for item in args if isinstance(item, QtWidgets.QWidget)]
        super().__init__(*parents[:1])
        self._edit = qt("QLineEdit")()
        self._browse = qt("QToolButton")()
        self._browse.setText("...")
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit)
        row.addWidget(self._browse)
        self._edit.textChanged.connect(self.currentPathChanged.emit)

    def setCurrentPath(self, path):
        """Show that path."""
        self._edit.setText(str(path))

    currentPath = Property(str, lambda self: QtWidgets.QLineEdit.text(self._edit), setCurrentPath)

    def addCurrentPathToHistory(self):
        """Remember the path in the settings (not reproduced)."""


@stand_in
class ctkDirectoryButton(qt("QPushButton")):
    """Button that shows and chooses a folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)
    locals().update(stored(caption=(str, ""), displayAbsolutePath=(bool, True)))

    def __init__(self, *args):
        parents = [item for item in args if isinstance(item, QtWidgets.QWidget)]
        super().__init__(*parents[:1])
        self._directory = str(Path.cwd())
        self.setText(self._directory)

    def setDirectory(self, directory):
        """Show that folder."""
        if str(directory) != self._directory:
            self._directory = str(directory)
            self.setText(self._directory)
            self.directoryChanged.emit(self._directory)

    directory = Property(str, lambda self: self._directory, setDirectory)


@stand_in
class ctkColorPickerButton(qt("QPushButton")):
    """Button that shows and chooses a color."""

    colorChanged = Signal(QtGui.QColor)
    locals().update(stored(displayColorName=(bool, True), dialogOptions=(int, 0)))

    def __init__(self, *args):
        parents = [item for item in args if isinstance(item, QtWidgets.QWidget)]
        super().__init__(*parents[:1])
        self._color = QtGui.QColor("black")

    def setColor(self, color):
        """Show that color."""
        color = QtGui.QColor(color)
        if color != self._color:
            self._color = color
            self.colorChanged.emit(color)

    color = Property(QtGui.QColor, lambda self: self._color, setColor)


@stand_in
class ctkSearchBox(qt("QLineEdit")):
    """Line edit for a search text."""

    locals().update(stored(showSearchIcon=(bool, False)))


@stand_in
class ctkFittedTextBrowser(qt("QTextBrowser")):
    """Text browser that takes the height of its text."""

    locals().update(stored(collapsed=(bool, False), collapsible=(bool, True)))
