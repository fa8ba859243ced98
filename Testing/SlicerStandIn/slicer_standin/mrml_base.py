"""What all MRML-aware stand-in widgets share: the scene, and calls back on its events."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtWidgets

from .widget_tools import Signal, qt, stand_in


class Observations:
    """VTK observers of one widget; dropped together, and alive only as long as the widget is."""

    def __init__(self):
        self._tags = []

    def add(self, source, event, function):
        """Call ``function(node)`` (node events) or ``function()`` when ``source`` sends ``event``."""
        if source is None:
            return
        self._tags.append((source, source.AddObserver(event, function)))

    def clear(self, source=None):
        """Remove all observers, or those of one source."""
        for item, tag in [entry for entry in self._tags if source is None or entry[0] is source]:
            item.RemoveObserver(tag)
        self._tags = [entry for entry in self._tags if source is not None and entry[0] is not source]


def node_callback(function):
    """An observer for scene events that carry a node."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def call(caller, event, node):
        function(node)

    return call


class SceneAware:
    """Mixin: ``setMRMLScene``, ``mrmlScene()`` and hooks ``_scene_node_added/_removed(node)``, ``_scene_refreshed()``."""

    def _watch_scene(self, scene):
        if scene is self.__dict__.get("_scene"):
            return False
        watch = self.__dict__.setdefault("_scene_observations", Observations())
        watch.clear()
        self._scene = scene
        if scene is not None:
            kinds = slicer.vtkMRMLScene
            watch.add(scene, kinds.NodeAddedEvent, node_callback(self._on_added))
            watch.add(scene, kinds.NodeAboutToBeRemovedEvent, node_callback(self._scene_node_leaving))
            watch.add(scene, kinds.NodeRemovedEvent, node_callback(self._on_removed))
            for event in (kinds.EndBatchProcessEvent, kinds.EndCloseEvent, kinds.EndImportEvent, kinds.EndRestoreEvent):
                watch.add(scene, event, lambda *_: self._alive() and self._scene_refreshed())
        return True

    def _alive(self) -> bool:
        """False when Qt has destroyed the widget: then its observers go too."""
        import shiboken6

        if shiboken6.isValid(self):
            return True
        self._scene_observations.clear()
        return False

    def _busy_scene(self) -> bool:
        return self._scene is None or self._scene.IsBatchProcessing()

    def _on_added(self, node):
        if self._alive() and not self._busy_scene():
            self._scene_node_added(node)

    def _on_removed(self, node):
        if self._alive():
            self._scene_node_removed(node)

    def _scene_node_added(self, node):
        pass

    def _scene_node_leaving(self, node):
        pass

    def _scene_node_removed(self, node):
        pass

    def _scene_refreshed(self):
        pass

    def mrmlScene(self):
        """The scene, or None."""
        return self.__dict__.get("_scene")


class MRMLWidgetBase(SceneAware, qt("QWidget")):
    """A QWidget with a scene and the signal mrmlSceneChanged."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        """Observe ``scene`` from now on (None for nothing)."""
        if self._watch_scene(scene):
            self._scene_refreshed()
            self.mrmlSceneChanged.emit(scene)


@stand_in
class qMRMLWidget(MRMLWidgetBase):
    """Container that hands its scene on to connected widgets."""


@stand_in
class qSlicerWidget(MRMLWidgetBase):
    """Container with a scene, base of module panels."""


def pass_scene_down(widget: QtWidgets.QWidget, scene) -> None:
    """Give ``scene`` to every descendant that takes one."""
    for child in widget.findChildren("QWidget"):
        if hasattr(child, "setMRMLScene"):
            child.setMRMLScene(scene)
