"""The layout manager: the real layout node and its XML descriptions decide which views there are and where."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import slicer
import vtk

from .views import qMRMLSliceWidget, qMRMLThreeDWidget, register_managers
from .widget_tools import Property, Signal, qt

GAP = 4


class qSlicerLayoutManager(qt("QObject")):
    """Views of the current layout; views of earlier layouts are kept, hidden."""

    layoutChanged = Signal(int)

    def __init__(self, application_logic, scene):
        super().__init__()
        register_managers()
        self._application_logic, self._scene = application_logic, scene
        self._slices: dict[str, qMRMLSliceWidget] = {}
        self._spaces: dict[str, qMRMLThreeDWidget] = {}
        self._viewport = qt("QWidget")()
        self._viewport.setObjectName("CentralWidgetLayoutFrame")
        self._column = qt("QVBoxLayout")(self._viewport)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._container = None
        application_logic.SetSliceLogics(vtk.vtkCollection())
        application_logic.SetViewLogics(vtk.vtkCollection())
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLScene(scene)
        self._node = self._layout_logic.GetLayoutNode()
        self._shown = None
        self._node.AddObserver("ModifiedEvent", lambda *_: self._follow())
        for event in (scene.EndCloseEvent, scene.EndImportEvent, scene.EndBatchProcessEvent):
            scene.AddObserver(event, lambda *_: self._follow())
        self._node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._follow()

    # --- what modules call
    def layoutLogic(self):
        """The layout logic; its GetLayoutNode() takes new descriptions."""
        return self._layout_logic

    def setLayout(self, layout):
        """Switch to a layout by its number."""
        self._node.SetViewArrangement(int(layout))

    layout = Property(int, lambda self: self._node.GetViewArrangement(), setLayout)

    def sliceViewNames(self):
        """Names of the slice views of this layout."""
        return [name for kind, name in self._placed() if kind == "vtkMRMLSliceNode"]

    def sliceWidget(self, name):
        """Slice widget by name, also one of an earlier layout; None if there never was one."""
        return self._slices.get(name)

    threeDViewCount = Property(int, lambda self: len([1 for kind, _ in self._placed() if kind == "vtkMRMLViewNode"]))
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: 0)

    def threeDWidget(self, which):
        """3-D widget by position or name."""
        if isinstance(which, str):
            return self._spaces.get(which)
        names = [name for kind, name in self._placed() if kind == "vtkMRMLViewNode"]
        return self._spaces[names[which]] if 0 <= which < len(names) else None

    def mrmlSliceLogics(self):
        """Collection of the slice logics."""
        return self._application_logic.GetSliceLogics()

    def mrmlViewLogics(self):
        """Collection of the 3-D view logics."""
        return self._application_logic.GetViewLogics()

    def resetSliceViews(self):
        """Fit every slice view to its background."""
        for name in self.sliceViewNames():
            self._slices[name].sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self):
        """Show everything in every 3-D view."""
        for widget in self._spaces.values():
            widget.threeDView().resetCamera()

    def viewport(self):
        """The widget in which the views are laid out."""
        return self._viewport

    def activeThreeDRenderer(self):
        """Renderer of the first 3-D view, or None."""
        widget = self.threeDWidget(0)
        return widget.threeDView().renderer() if widget else None

    # --- following the layout node
    def _description(self):
        text = self._node.GetLayoutDescription(self._node.GetViewArrangement())
        return ElementTree.fromstring(text) if text else None

    def _placed(self) -> list[tuple[str, str]]:
        root = self._description()
        found = [] if root is None else [(item.get("class"), item.get("singletontag")) for item in root.iter("view")]
        return [(kind, name) for kind, name in found if name and kind in ("vtkMRMLSliceNode", "vtkMRMLViewNode")]

    def _follow(self):
        if self._scene.IsClosing() or self._scene.IsBatchProcessing():
            return
        state = (self._node.GetViewArrangement(), self._node.GetLayoutDescription(self._node.GetViewArrangement()))
        if state == self._shown:
            return
        for kind, name in self._placed():
            self._make(kind, name)
        self._shown = state
        self._arrange()
        self.layoutChanged.emit(state[0])

    def _make(self, kind, name):
        known, maker = (
            (self._slices, qMRMLSliceWidget) if kind == "vtkMRMLSliceNode" else (self._spaces, qMRMLThreeDWidget)
        )
        if name in known:
            return
        node = self._scene.GetSingletonNode(name, kind)
        if node is None:
            raise RuntimeError(f"The layout names the view {name!r}, but there is no {kind} of that singleton tag")
        widget = maker()
        widget._start(self._application_logic, self._scene, node)
        known[name] = widget

    def _arrange(self):
        """Put the views of this layout into a new container; those of the old one that are not needed are hidden."""
        for widget in (*self._slices.values(), *self._spaces.values()):
            widget.hide()
            widget.setParent(None)
        old, self._container = self._container, qt("QWidget")()
        if old is not None:
            self._column.removeWidget(old)
            old.setParent(None)
            old.deleteLater()
        root = self._description()
        if root is not None:
            self._container.setLayout(self._box(root))
        self._column.addWidget(self._container)
        for kind, name in self._placed():
            (self._slices if kind == "vtkMRMLSliceNode" else self._spaces)[name].show()

    def _box(self, element):
        """A Qt layout of one <layout> element."""
        vertical = element.get("type", "horizontal") == "vertical"
        box = qt("QVBoxLayout")() if vertical else qt("QHBoxLayout")()
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(GAP)
        for item in element.findall("item"):
            for child in item:
                if child.tag == "layout":
                    box.addLayout(self._box(child))
                elif child.tag == "view" and self._widget(child) is not None:
                    box.addWidget(self._widget(child))
        return box

    def _widget(self, element):
        name = element.get("singletontag")
        return {"vtkMRMLSliceNode": self._slices, "vtkMRMLViewNode": self._spaces}.get(element.get("class"), {}).get(
            name
        )

    # --- pictures for tests
    def picture(self) -> np.ndarray:
        """All views of the layout in one picture, (rows, columns, 3) uint8."""
        return self._composed(self._description())

    def _composed(self, element) -> np.ndarray:
        if element.tag == "view":
            widget = self._widget(element)
            if widget is None:
                return np.zeros((1, 1, 3), np.uint8)
            return (widget.sliceView() if hasattr(widget, "sliceView") else widget.threeDView()).picture()
        axis = 0 if element.get("type", "horizontal") == "vertical" else 1
        parts = [
            self._composed(child)
            for item in element.findall("item")
            for child in item
            if child.tag in ("view", "layout")
        ]
        size = max(part.shape[1 - axis] for part in parts)
        padded = []
        for part in parts:
            space = [(0, 0), (0, 0), (0, 0)]
            space[1 - axis] = (0, size - part.shape[1 - axis])
            space[axis] = (0, GAP)
            padded.append(np.pad(part, space))
        whole = np.concatenate(padded, axis)
        return whole[: whole.shape[0] - GAP] if axis == 0 else whole[:, : whole.shape[1] - GAP]

    def views(self) -> list:
        """Every slice and 3-D view made so far."""
        slices, spaces = self._slices.values(), self._spaces.values()
        return [item.sliceView() for item in slices] + [item.threeDView() for item in spaces]

    def finalize(self):
        """Let go of every view."""
        for view in self.views():
            view.finalize()
