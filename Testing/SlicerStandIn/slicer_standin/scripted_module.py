"""The module ``slicer.ScriptedLoadableModule``: the four base classes of a scripted module."""

from __future__ import annotations

import importlib.util
import logging
import sys
import unittest
from pathlib import Path

import slicer

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


def _path_of(name: str) -> Path:
    return Path(slicer.util.modulePath(name))


class ScriptedLoadableModule:
    """Title, texts and icon of a module; attributes set on it go to the module object."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = []
        parent.helpText = ""
        parent.acknowledgementText = ""
        icon = Path(parent.path).parent / "Resources" / "Icons" / f"{self.moduleName}.png"
        if icon.is_file():
            import qt

            parent.icon = qt.QIcon(str(icon))

    def resourcePath(self, filename):
        """Path of a file in the module's Resources folder."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        """HTML link to a documentation page."""
        url = docPage or f"https://slicer.readthedocs.io/en/latest/user_guide/modules/{self.moduleName.lower()}.html"
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec=100, **kwargs):
        """Run the module's test class."""
        module = sys.modules[self.moduleName]
        getattr(module, f"{self.moduleName}Test")().runTest()


class ScriptedLoadableModuleWidget:
    """The panel of a module."""

    def __init__(self, parent=None):
        import qt

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.logic = None
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
            self.layout = self.parent.layout()
            self.setup()
            self.parent.show()
        else:
            self.parent = parent
            self.layout = parent.layout()
            slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        """Path of a file in the module's Resources folder."""
        return str(_path_of(self.moduleName).parent / "Resources" / filename)

    def setup(self):
        """Base part of the panel: the developer's reload buttons."""
        self.setupDeveloperSection()

    def setupDeveloperSection(self):
        """Reload buttons, if the settings ask for the developer mode."""
        if not self.developerMode:
            return
        import ctk
        import qt

        self.reloadCollapsibleButton = ctk.ctkCollapsibleButton()
        self.reloadCollapsibleButton.text = "Reload && Test"
        self.layout.addWidget(self.reloadCollapsibleButton)
        row = qt.QHBoxLayout(self.reloadCollapsibleButton)
        for text, slot in (("Reload", self.onReload), ("Reload and Test", self.onReloadAndTest)):
            button = qt.QPushButton(text)
            button.clicked.connect(slot)
            row.addWidget(button)

    def enter(self):
        """The module was opened."""

    def exit(self):
        """The module was left."""

    def cleanup(self):
        """The module goes away."""

    def onReload(self):
        """Load the module's file again and build the panel anew."""
        logging.debug("Reloading %s", self.moduleName)
        return slicer.util.reloadScriptedModule(self.moduleName)

    def onReloadAndTest(self, **kwargs):
        """Reload, then run the test class."""
        with slicer.util.tryWithErrorDisplay("Reload and Test failed."):
            self.onReload()
            getattr(slicer.modules, self.moduleName.lower()).instance.runTest(**kwargs)

    def _onModuleAboutToBeUnloaded(self, name):
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """Logic with a parameter node in the scene."""

    def __init__(self, parent=None):
        self.parent = parent
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        """The module's parameter node; made when there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                return node
        else:
            for node in self.getAllParameterNodes():
                return node
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self):
        """Every parameter node of this module."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        """A new node, not yet in the scene."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        """Show a message for a moment (here: log it)."""
        slicer.util.delayDisplay(message, 0)

    def clickAndDrag(self, widget, button="Left", start=(10, 10), end=(10, 40), steps=20, modifiers=()):
        """Synthetic mouse drag in a view."""
        slicer.util.clickAndDrag(widget, button, start, end, steps, modifiers)


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Self test of a module; ``runTest`` is written by the module."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.messageDelay = 0
        self.enableScreenshots = False
        self.screenshotScaleFactor = 1.0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        """Show a message for a moment (here: log it)."""
        slicer.util.delayDisplay(message, 0)

    def takeScreenshot(self, name, description="", type=-1):
        """Screenshots of self tests are not taken here."""

    def runTest(self):
        """Overridden by the module."""
        logging.warning("No test is defined in %s", self.__class__.__name__)


def import_module_file(name: str, path: Path):
    """Import a module's file under its name, its folder on sys.path, as the application does at start."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
