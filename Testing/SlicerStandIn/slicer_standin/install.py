"""Putting the stand-in in place and taking it away again."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sys
import traceback
import types

LIBRARIES = [
    "libEGL.so.1",
    "libGL.so.1",
    "libglib-2.0.so.0",
    "libfontconfig.so.1",
    "libxkbcommon.so.0",
    "libdbus-1.so.3",
]
DEBIAN_PACKAGES = "libegl1 libgl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libxkbcommon0 libdbus-1-3"
_instance: StandIn | None = None


def missing_requirement() -> str | None:
    """What is missing, as one sentence, or None."""
    for package, name in (("slicer", "slicer-core"), ("PySide6", "PySide6-Essentials"), ("vtk", "vtk")):
        if importlib.util.find_spec(package) is None:
            return f"needs the package {name}, which has no wheel for every Python and system: pip install '.[slicer-tests]'"
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"needs {library}: apt-get install {DEBIAN_PACKAGES}"
    return None


@dataclasses.dataclass
class Message:
    """A pop-up that was not shown."""

    kind: str
    text: str
    answer: object


@contextlib.contextmanager
def _quiet_vtk():
    import vtk

    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    yield
    vtk.vtkObject.SetGlobalWarningDisplay(before)


class StandIn:
    """Handle of one installation: application, scene, loaded modules, records of what happened."""

    def __init__(self):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        if sys.platform.startswith("linux") and "DISPLAY" not in os.environ:
            os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        import slicer

        self._original, self._original_util = dict(vars(slicer)), dict(vars(slicer.util))
        self._saved_modules: dict[str, object] = {}
        self._active = False
        self.messages: list[Message] = []
        self.answers: list = []
        self.errors: list[str] = []
        self.qt_warnings: list[str] = []
        self.pip_log: list = []
        self._build()

    # --- building, once per process
    def _build(self):
        import slicer
        from PySide6 import QtCore

        from . import application, ctk_module, qt_module, small_modules

        self.app = application.application()
        QtCore.qInstallMessageHandler(self._qt_message)
        self.qt = qt_module.build()
        self.ctk = ctk_module.build()
        self._slicer_names: dict[str, object] = {}
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        slicer.app = self.app
        with _quiet_vtk():  # the wheel has no color and terminology files
            self.application_logic = self._build_logics()
        self.app._application_logic = self.application_logic
        from . import modules

        with _quiet_vtk():
            self.modules = modules.Modules(self.application_logic, self.scene, self._color_logic)
        self.app._modules = self.modules
        slicer.modules = self.modules.space
        self._module_table = self._python_modules(small_modules)
        self._slicer_names |= self._widget_names()
        self._slicer_names |= {"mrmlScene": self.scene, "app": self.app, "modules": self.modules.space}
        self._apply()
        from .layout import qSlicerLayoutManager

        self.layout_manager = qSlicerLayoutManager(self.application_logic, self.scene)
        self.app._layout_manager = self.layout_manager
        self._slicer_names["qMRMLLayoutManager"] = qSlicerLayoutManager
        self.main_window = modules.qSlicerMainWindow(self)
        self.main_window.setCentralWidget(self.layout_manager.viewport())
        self.main_window.resize(1400, 900)

    def _build_logics(self):
        import slicer

        logic = slicer.vtkSlicerApplicationLogic()
        color = slicer.vtkSlicerColorLogic()
        color.SetMRMLApplicationLogic(logic)
        logic.SetMRMLScene(self.scene)
        logic.SetColorLogic(color)
        logic.SetTemporaryPath(self.app.temporaryPath)
        logic.SetHomeDirectory(self.app.slicerHome)
        color.SetMRMLScene(self.scene)
        color.AddDefaultColorNodes()
        self._color_logic = color
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetSingletonTag("default")
        self.scene.AddNode(crosshair)
        cache = slicer.vtkCacheManager()
        cache.SetRemoteCacheDirectory(self.app.temporaryPath)
        cache.SetMRMLScene(self.scene)
        self.scene.SetCacheManager(cache)
        remote, data = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
        remote.SetMRMLScene(self.scene)
        data.SetMRMLApplicationLogic(logic)
        data.SetMRMLScene(self.scene)
        data.SetAndObserveDataIOManager(remote.GetDataIOManager())
        remote.AddDataIOToScene()
        self._remote = (remote, data, cache)
        return logic

    def _widget_names(self) -> dict[str, object]:
        from . import application, layout, modules, mrml_base, mrml_markups, mrml_segments, mrml_selectors, views

        names: dict[str, object] = {}
        for source in (application, layout, modules, mrml_base, mrml_markups, mrml_segments, mrml_selectors, views):
            names |= {key: value for key, value in vars(source).items() if key.startswith(("qMRML", "qSlicer"))}
        names["qSlicerCoreApplication"] = application.qSlicerApplication
        return names

    def _python_modules(self, small_modules) -> dict[str, types.ModuleType]:
        from . import parameter_node, scripted_module

        self.i18n = small_modules.i18n()
        self.packaging = small_modules.packaging(self.pip_log)
        self.sample_data = small_modules.sample_data()
        self.pytorch_utils = small_modules.pytorch_utils(self.pip_log)
        return {
            "qt": self.qt,
            "ctk": self.ctk,
            "slicer.ScriptedLoadableModule": scripted_module,
            "slicer.parameterNodeWrapper": parameter_node,
            "slicer.i18n": self.i18n,
            "slicer.packaging": self.packaging,
            "SampleData": self.sample_data,
            "PyTorchUtils": self.pytorch_utils,
        }

    # --- in place or not
    def _apply(self):
        import slicer

        for name, module in self._module_table.items():
            if name not in self._saved_modules:
                self._saved_modules[name] = sys.modules.get(name)
            sys.modules[name] = module
            if name.startswith("slicer."):
                setattr(slicer, name.split(".")[1], module)
        for name, value in self._slicer_names.items():
            setattr(slicer, name, value)
        slicer.util._messageDisplay = self._message
        self.ctk.ctkMessageBox.answers = self._box_answer

    def activate(self) -> StandIn:
        """Put ``qt``, ``ctk`` and the additions to ``slicer`` in place."""
        if not self._active:
            import slicer

            if not self._saved_modules:
                self._original, self._original_util = dict(vars(slicer)), dict(vars(slicer.util))
            self._apply()
            self._hook, sys.excepthook = sys.excepthook, self._exception
            self._active = True
        return self

    def uninstall(self) -> None:
        """Leave ``sys.modules`` and ``slicer`` as they were; application, scene and views are kept for the next time."""
        import slicer

        if not self._active:
            return
        from . import qt_classes

        self.reset()
        qt_classes.release()
        sys.excepthook = self._hook
        for name, module in self._saved_modules.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        self._saved_modules.clear()
        for module, original in ((slicer, self._original), (slicer.util, self._original_util)):
            for name in set(vars(module)) - set(original):
                delattr(module, name)
            for name, value in original.items():
                setattr(module, name, value)
        self._active = False

    def reset(self) -> None:
        """Unload scripted modules, empty the scene, forget settings and records: the state a test starts from."""
        self.unload_modules()
        self.scene.Clear(0)
        self.restore_views()
        self.qt.QSettings().clear()
        for record in self._records():
            record.clear()
        self.sample_data.sources.clear()
        self.packaging.missing.clear()
        self.pytorch_utils.installed = True
        self.testing = True
        self.app._exit_code = None
        self.app.processEvents()

    def _records(self):
        return self.messages, self.answers, self.errors, self.qt_warnings, self.pip_log, self.i18n.seen

    def unload_modules(self) -> None:
        """Leave, clean up and forget every scripted module."""
        for name in self.modules.scripted():
            self.modules.unload(name)
        self.app.processEvents()

    def restore_views(self) -> None:
        """The four-up layout with default orientations and empty slice views."""
        import slicer

        from .views import SIZE

        self.main_window.hide()
        self.layout_manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for view in self.layout_manager.views():
            view.resize_view(*SIZE)
        for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
            widget = self.layout_manager.sliceWidget(name)
            widget.mrmlSliceNode().SetOrientation(orientation)
            composite = widget.mrmlSliceCompositeNode()
            composite.SetBackgroundVolumeID(None)
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
            composite.SetForegroundOpacity(0.0)

    # --- modules
    def load_module(self, path):
        """Load a scripted module from its .py file; returns the module object (no panel is built)."""
        return self.modules.load(path)

    def select_module(self, name):
        """Open a module: leaves the current one, builds the panel if needed, enters; returns the Python widget."""
        return self.modules.select(name)

    # --- records
    @property
    def testing(self) -> bool:
        """``slicer.app.testingEnabled()``: true means that message functions only log."""
        return self.app._testing

    @testing.setter
    def testing(self, on: bool):
        self.app._testing = bool(on)

    def _next_answer(self, otherwise):
        return self.answers.pop(0) if self.answers else otherwise

    def _message(
        self, level, text, testingReturnValue, mainWindowNeeded=False, parent=None, windowTitle=None, **kwargs
    ):
        """In place of slicer.util's function of that name: record the text, answer without a window."""
        import logging

        logging.getLogger("slicer").log(level, "%s", text)
        answer = testingReturnValue
        if not self.testing:
            box = self.qt.QMessageBox
            answer = self._next_answer(box.Ok)
            if isinstance(answer, bool):
                asked = kwargs.get("standardButtons", box.Ok)
                yes = next((item for item in (box.Yes, box.Retry, box.Ok) if asked & item), box.Ok)
                answer = yes if answer else box.Cancel
        self.messages.append(Message(logging.getLevelName(level).lower(), str(text), answer))
        return answer

    def _box_answer(self, box):
        answer = self._next_answer(self.qt.QMessageBox.Ok)
        self.messages.append(Message("box", box.text, answer))
        return answer

    def _qt_message(self, kind, context, text):
        if "propagateSizeHints" not in text:  # the off-screen platform says it for every window
            self.qt_warnings.append(text)
            sys.stderr.write(f"Qt: {text}\n")

    def _exception(self, kind, value, trace):
        self.errors.append("".join(traceback.format_exception(kind, value, trace)))
        self._hook(kind, value, trace)


def install() -> StandIn:
    """The stand-in, in place. Made at the first call; later calls activate the same one again."""
    global _instance
    if _instance is None:
        reason = missing_requirement()
        if reason is not None:
            raise RuntimeError(f"install(): {reason}")
        _instance = StandIn()
    return _instance.activate()
