"""``slicer.modules``, the module manager and the main window with its module selector."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import slicer

from .mrml_base import MRMLWidgetBase
from .scripted_module import import_module_file
from .widget_tools import Property, Signal, qt, stand_in, stored

CORE_LOGICS = {
    "Annotations": "vtkSlicerAnnotationModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Reformat": "vtkSlicerReformatLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}


class qSlicerCoreModule:
    """A module of the application: a name and a logic."""

    def __init__(self, name, logic):
        self.name = self.title = name
        self.path = ""
        self._logic = logic

    def logic(self):
        """The module's logic."""
        return self._logic

    def widgetRepresentation(self):
        """None: panels of the application's own modules are not reproduced."""


class qSlicerScriptedLoadableModule:
    """A scripted module: the object that ScriptedLoadableModule's subclass fills."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, str(path)
        self.title, self.helpText, self.acknowledgementText = "", "", ""
        self.categories, self.dependencies, self.contributors = [], [], []
        self.icon, self.hidden, self.widgetRepresentationCreationEnabled = None, False, True
        self.instance = None
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        self._representation = None

    def logic(self):
        """The C++ logic; the Python one belongs to the widget or is made by hand."""
        return self._logic

    def widgetRepresentation(self):
        """The panel; built at the first call."""
        if self._representation is None:
            self._representation = self._create()
            self._representation.setup()
        return self._representation

    def createNewWidgetRepresentation(self):
        """A further panel."""
        representation = self._create()
        representation.setup()
        return representation

    def _create(self):
        representation = qSlicerScriptedLoadableModuleWidget()
        representation._module = self
        representation.setObjectName(f"{self.name}ModuleWidget")
        return representation


@stand_in
class qSlicerScriptedLoadableModuleWidget(MRMLWidgetBase):
    """The parent widget of a scripted module's panel."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._module, self._widget, self._entered = None, None, False
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.setMRMLScene(slicer.mrmlScene)

    isEntered = Property(bool, lambda self: self._entered)

    def self(self):
        """The Python widget object."""
        return self._widget

    def module(self):
        """The module object."""
        return self._module

    def setup(self):
        """Make the Python widget object and let it build the panel."""
        name = self._module.name
        self._widget = getattr(sys.modules[name], f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._widget)
        self._widget.setup()

    def reload(self):
        """Build the panel anew from the reloaded file."""
        self.setup()
        if self._entered:
            self._widget.enter()

    def enter(self):
        """The module becomes the current one."""
        self._entered = True
        self._widget.enter()

    def exit(self):
        """Another module becomes the current one."""
        self._entered = False
        self._widget.exit()


class qSlicerModuleManager(qt("QObject")):
    """Finds loaded modules by name."""

    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self, modules):
        super().__init__()
        self._modules = modules

    def module(self, name):
        """Module object or None."""
        return self._modules.get(name)

    def factoryManager(self):
        """Gives loadedModuleNames()."""
        names = list(self._modules)
        return types.SimpleNamespace(
            loadedModuleNames=lambda: names,
            registeredModuleNames=lambda: names,
            isLoaded=self._modules.__contains__,
            isRegistered=self._modules.__contains__,
        )

    def modulesNames(self):
        """Names of the loaded modules."""
        return list(self._modules)


class qSlicerModuleSelectorToolBar(qt("QToolBar")):
    """Switches between modules."""

    moduleSelected = Signal(str)
    _owner = None
    locals().update(stored(selectedModule=(str, "")))

    def selectModule(self, name):
        """Leave the current module, enter the named one; an empty name only leaves."""
        self._owner.select_module(name)


@stand_in
class qSlicerMainWindow(qt("QMainWindow")):
    """Main window: module panel at the left, views in the middle, status bar."""

    def __init__(self, owner):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar()
        self._selector._owner = owner
        self._dock = qt("QDockWidget")()
        self._dock.setObjectName("PanelDockWidget")
        scroll = qt("QScrollArea")()
        scroll.setObjectName("ModulePanelScrollArea")
        scroll.setWidgetResizable(True)
        self._scroll = scroll
        self._dock.setWidget(scroll)
        from PySide6 import QtCore

        self.addDockWidget(QtCore.Qt.DockWidgetArea.LeftDockWidgetArea, self._dock)

    def moduleSelector(self):
        """The tool bar that switches modules."""
        return self._selector

    def showPanel(self, widget):
        """Put a module's panel in the scroll area."""
        old = self._scroll.takeWidget()
        if old is not None:
            old.setParent(None)
        if widget is not None:
            self._scroll.setWidget(widget)
            widget.show()

    def pythonConsole(self):
        """None: there is no console."""


class Modules:
    """Core logics and loaded scripted modules of one installation."""

    def __init__(self, application_logic, scene, color_logic):
        self.known: dict[str, object] = {}
        self.space = types.ModuleType("slicer.modules")
        self.manager = qSlicerModuleManager(self.known)
        self.current = ""
        self._logics = {"Colors": color_logic}
        for name, class_name in CORE_LOGICS.items():
            logic = self._logics.get(name) or getattr(slicer, class_name)()
            if name != "Colors":
                logic.SetMRMLApplicationLogic(application_logic)
            self._logics[name] = logic
            application_logic.SetModuleLogic(name, logic)
        volumes, units = self._logics["Volumes"], self._logics.get("Units")
        if units is not None:
            units.SetMRMLScene(scene)
        for name, logic in self._logics.items():
            if name not in ("Units", "Colors"):
                logic.SetMRMLScene(scene)
        assert volumes.GetMRMLScene() is scene
        for name, logic in self._logics.items():
            self._register(qSlicerCoreModule(name, logic))

    def _register(self, module):
        self.known[module.name] = module
        setattr(self.space, module.name.lower(), module)

    def load(self, path) -> qSlicerScriptedLoadableModule:
        """Load a scripted module from its .py file, as the application does at start; builds no panel yet."""
        path = Path(path).resolve()
        name = path.stem
        before = set(sys.modules), list(sys.path)
        imported = import_module_file(name, path)
        module = qSlicerScriptedLoadableModule(name, path)
        module._before = before
        self._register(module)
        module.instance = getattr(imported, name)(module)
        setattr(self.space, f"{name}Instance", module.instance)
        self.manager.moduleLoaded.emit(name)
        return module

    def unload(self, name: str) -> None:
        """Leave and clean up a scripted module, and forget it and its Python modules."""
        module = self.known.get(name)
        if not isinstance(module, qSlicerScriptedLoadableModule):
            return
        if self.current == name:
            self.select("")
        self.manager.moduleAboutToBeUnloaded.emit(name)
        if module._representation is not None:
            module._representation.setParent(None)
            module._representation.delete()
        del self.known[name]
        for attribute in (name.lower(), f"{name}Instance", f"{name}Widget"):
            if hasattr(self.space, attribute):
                delattr(self.space, attribute)
        folder = str(Path(module.path).parent)
        modules_before, path_before = module._before
        for key, value in list(sys.modules.items()):
            origin = getattr(value, "__file__", None) or ""
            if key not in modules_before and Path(folder) in Path(origin).parents:
                del sys.modules[key]
        if folder in sys.path and folder not in path_before:
            sys.path.remove(folder)

    def scripted(self) -> list[str]:
        """Names of the loaded scripted modules."""
        return [name for name, item in self.known.items() if isinstance(item, qSlicerScriptedLoadableModule)]

    def select(self, name: str):
        """Leave the current module and enter the named one; returns its Python widget."""
        if self.current in self.known:
            self.known[self.current].widgetRepresentation().exit()
        self.current = ""
        window = slicer.util.mainWindow()
        window.moduleSelector().setSelectedModule(name)
        if not name:
            window.showPanel(None)
            return None
        representation = self.known[name].widgetRepresentation()
        window.showPanel(representation)
        self.current = name
        representation.enter()
        window.moduleSelector().moduleSelected.emit(name)
        return representation.self()
