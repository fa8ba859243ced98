"""``slicer.app``."""

from __future__ import annotations

import os
import tempfile
import types

import slicer
from PySide6 import QtCore, QtWidgets

from .io_manager import CoreIOManager
from .widget_tools import Property, Signal, qt

VERSION = (5, 12, 0)


class _Environment:
    """What QProcessEnvironment offers and slicer.util.startupEnvironment() uses."""

    def keys(self):
        return list(os.environ)

    def value(self, name, default=""):
        return os.environ.get(name, default)


class qSlicerApplication(qt("QApplication")):
    """The application object; exactly one per process."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)
    AA_EnableTesting = 1

    def __init__(self, arguments):
        super().__init__(arguments)
        QtCore.QCoreApplication.setApplicationName("Slicer")
        QtCore.QCoreApplication.setOrganizationName("SlicerStandIn")
        self._testing, self._paused = True, 0
        self._io = CoreIOManager(None)
        self._folder = tempfile.mkdtemp(prefix="slicer-standin-")
        self._exit_code = None

    # set by install()
    _layout_manager = _application_logic = _modules = None

    applicationVersion = Property(str, lambda self: ".".join(map(str, VERSION)))
    mainApplicationName = Property(str, lambda self: "Slicer")
    majorVersion = Property(int, lambda self: VERSION[0])
    minorVersion = Property(int, lambda self: VERSION[1])
    revision = Property(str, lambda self: "0")
    temporaryPath = Property(str, lambda self: self._folder)
    cachePath = Property(str, lambda self: self._folder)
    defaultTemporaryPath = Property(str, lambda self: self._folder)
    slicerHome = Property(str, lambda self: self._folder)
    slicerUserSettingsFilePath = Property(str, lambda self: self.userSettings().fileName())
    os = Property(str, lambda self: "linux" if os.name == "posix" else "win")
    arch = Property(str, lambda self: "amd64")

    def layoutManager(self):
        """The layout manager."""
        return self._layout_manager

    def applicationLogic(self):
        """The application logic: selection and interaction node, slice logics."""
        return self._application_logic

    def mrmlScene(self):
        """The scene."""
        return slicer.mrmlScene

    def moduleManager(self):
        """The module manager."""
        return self._modules.manager

    def coreIOManager(self):
        """Loads and saves."""
        return self._io

    ioManager = coreIOManager

    def testingEnabled(self):
        """Whether pop-ups must not appear; ``stand_in.testing = False`` makes them recorded questions instead."""
        return self._testing

    def testAttribute(self, attribute):
        """Only AA_EnableTesting is known."""
        return self._testing if attribute == self.AA_EnableTesting else False

    def commandOptions(self):
        """Command line options, all off."""
        return types.SimpleNamespace(testingEnabled=self._testing, noMainWindow=False, runPythonAndExit=False)

    def startupEnvironment(self):
        """The environment the application was started in."""
        return _Environment()

    def pauseRender(self):
        """Stop rendering until resumeRender()."""
        self._paused += 1
        self._application_logic.PauseRender()

    def resumeRender(self):
        """Undo pauseRender()."""
        self._paused -= 1
        self._application_logic.ResumeRender()

    def settings(self):
        """Settings in a temporary file."""
        import qt as module

        return module.QSettings()

    userSettings = revisionUserSettings = settings

    def mainWindow(self):
        """The main window."""
        return slicer.util.mainWindow()

    def pythonConsole(self):
        """None: there is no console."""

    def pythonManager(self):
        """None: there is no manager."""

    def exit(self, code=0):
        """Recorded, not done."""
        self._exit_code = code

    quit = exit

    def restart(self):
        """Recorded, not done."""
        self._exit_code = "restart"

    def openUrl(self, url):
        """Ignored."""


def application() -> qSlicerApplication:
    """The one application of this process."""
    existing = QtWidgets.QApplication.instance()
    if existing is None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        existing = qSlicerApplication(["Slicer"])
        existing.setQuitOnLastWindowClosed(False)
    elif not isinstance(existing, qSlicerApplication):
        raise RuntimeError(
            f"install(): a {type(existing).__name__} exists already; only one application per process is possible"
        )
    return existing
