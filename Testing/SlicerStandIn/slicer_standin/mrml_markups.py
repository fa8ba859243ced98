"""Stand-ins of the markups widgets: place mode goes through the real selection and interaction nodes."""

from __future__ import annotations

import slicer
from PySide6 import QtGui, QtWidgets

from .mrml_base import MRMLWidgetBase, Observations
from .mrml_selectors import qMRMLNodeComboBox
from .widget_tools import Property, Signal, qt, stand_in, stored


@stand_in
class qSlicerMarkupsPlaceWidget(MRMLWidgetBase):
    """Button that switches point placing on for one markups node."""

    activeMarkupsFiducialPlaceModeChanged = Signal(bool)
    activeMarkupsPlaceModeChanged = Signal(bool)
    locals().update(
        stored(
            buttonsVisible=(bool, True),
            deleteAllControlPointsOptionVisible=(bool, True),
            deleteAllMarkupsOptionVisible=(bool, True),
            unsetLastControlPointOptionVisible=(bool, False),
            unsetAllControlPointsOptionVisible=(bool, False),
            placeMultipleMarkups=(int, 0),
            defaultNodeColor=(QtGui.QColor, None),
        )
    )
    ShowPlaceMultipleMarkupsOption, HidePlaceMultipleMarkupsOption = 0, 1
    ForcePlaceSingleMarkup, ForcePlaceMultipleMarkups = 2, 3

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node, self._active, self._persistent = None, False, False
        self._interaction_watch = Observations()
        self._button = qt("QToolButton")()
        self._button.setCheckable(True)
        self._button.setText("Place")
        self._button.clicked.connect(self.setPlaceModeEnabled)
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._button)

    def _scene_refreshed(self):
        if "_interaction_watch" not in self.__dict__:
            return
        self._interaction_watch.clear()
        if self._scene is not None:
            interaction, selection = slicer.app.applicationLogic().GetInteractionNode(), self._selection()
            self._interaction_watch.add(
                interaction,
                slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent,
                lambda *_: self._alive() and self._follow(),
            )
            self._interaction_watch.add(
                selection,
                slicer.vtkMRMLSelectionNode.ActivePlaceNodeIDChangedEvent,
                lambda *_: self._alive() and self._follow(),
            )

    def _selection(self):
        return slicer.app.applicationLogic().GetSelectionNode()

    def currentNode(self):
        """The markups node or None."""
        return self._node

    def setCurrentNode(self, node):
        """Choose the markups node."""
        self._node = node
        self._follow()

    def interactionNode(self):
        """The interaction node."""
        return slicer.app.applicationLogic().GetInteractionNode()

    def _get_enabled(self):
        if self._node is None or self._scene is None:
            return False
        placing = self.interactionNode().GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place
        return placing and self._selection().GetActivePlaceNodeID() == self._node.GetID()

    def setPlaceModeEnabled(self, enabled):
        """Start or stop placing points of the current node."""
        interaction = self.interactionNode()
        if enabled and self._node is not None:
            slicer.modules.markups.logic().SetActiveList(self._node)
            persistent = self._persistent or self.placeMultipleMarkups == self.ForcePlaceMultipleMarkups
            interaction.SetPlaceModePersistence(1 if persistent else 0)
            interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)
        elif self._get_enabled():
            interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
        self._follow()

    placeModeEnabled = Property(bool, _get_enabled, setPlaceModeEnabled)

    def setPlaceModePersistency(self, persistent):
        """Stay in place mode after a point was placed."""
        self._persistent = bool(persistent)

    placeModePersistency = Property(bool, lambda self: self._persistent, setPlaceModePersistency)

    def placeButton(self):
        """The button."""
        return self._button

    def deleteLastPoint(self):
        """Remove the last control point."""
        if self._node is not None and self._node.GetNumberOfControlPoints():
            self._node.RemoveNthControlPoint(self._node.GetNumberOfControlPoints() - 1)

    def deleteAllPoints(self):
        """Remove every control point (the confirmation is not reproduced)."""
        if self._node is not None:
            self._node.RemoveAllControlPoints()

    def _follow(self):
        enabled = self._get_enabled()
        self._button.setChecked(enabled)
        if enabled != self._active:
            self._active = enabled
            self.activeMarkupsPlaceModeChanged.emit(enabled)
            self.activeMarkupsFiducialPlaceModeChanged.emit(enabled)


@stand_in
class qSlicerSimpleMarkupsWidget(MRMLWidgetBase):
    """Node selector, place button and table of control points."""

    markupsNodeChanged = Signal()
    markupsFiducialNodeChanged = Signal()
    activeMarkupsPlaceModeChanged = Signal(bool)
    activeMarkupsFiducialPlaceModeChanged = Signal(bool)
    currentMarkupsControlPointSelectionChanged = Signal(int)
    updateFinished = Signal()
    locals().update(
        stored(
            enterPlaceModeOnNodeChange=(bool, True),
            jumpToSliceEnabled=(bool, False),
            nodeSelectorVisible=(bool, True, "_show_parts"),
            optionsVisible=(bool, True, "_show_parts"),
            defaultNodeColor=(QtGui.QColor, None),
            nodeColor=(QtGui.QColor, None),
            viewGroup=(int, -1),
            positionStatusColumnVisible=(bool, False),
        )
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._watch = Observations()
        self._selector, self._place = qMRMLNodeComboBox(), qSlicerMarkupsPlaceWidget()
        self._selector.setNodeTypes(["vtkMRMLMarkupsFiducialNode"])
        self._selector.setNoneEnabled(True)
        self._table = qt("QTableWidget")()
        self._table.setColumnCount(4)
        self._table.setHorizontalHeaderLabels(["Label", "R", "A", "S"])
        top = qt("QHBoxLayout")()
        top.addWidget(self._selector)
        top.addWidget(self._place)
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(top)
        column.addWidget(self._table)
        self._selector.connect("currentNodeChanged(vtkMRMLNode*)", self._node_changed)
        self._place.activeMarkupsPlaceModeChanged.connect(self.activeMarkupsPlaceModeChanged.emit)
        self._place.activeMarkupsPlaceModeChanged.connect(self.activeMarkupsFiducialPlaceModeChanged.emit)
        self._table.currentCellChanged.connect(
            lambda row, *_: self.currentMarkupsControlPointSelectionChanged.emit(row)
        )

    def _scene_refreshed(self):
        if "_selector" in self.__dict__:
            self._selector.setMRMLScene(self._scene)
            self._place.setMRMLScene(self._scene)

    def currentNode(self):
        """The markups node or None."""
        return self._selector.currentNode()

    def setCurrentNode(self, node):
        """Choose the markups node."""
        self._selector.setCurrentNode(node)

    def setNodeBaseName(self, name):
        """Name for nodes the user creates."""
        self._selector.setBaseName(name)

    nodeBaseName = Property(str, lambda self: self._selector.baseName, setNodeBaseName)

    def markupsPlaceWidget(self):
        """The place button's widget."""
        return self._place

    def markupsSelectorComboBox(self):
        """The inner node selector."""
        return self._selector

    def tableWidget(self):
        """The table of control points."""
        return self._table

    def interactionNode(self):
        """The interaction node."""
        return slicer.app.applicationLogic().GetInteractionNode()

    def highlightNthControlPoint(self, index):
        """Select a row."""
        if 0 <= index < QtWidgets.QTableWidget.rowCount(self._table):
            self._table.selectRow(index)

    def placeActive(self, place):
        """Start or stop placing."""
        self._place.setPlaceModeEnabled(place)

    def _node_changed(self, node):
        self._watch.clear()
        if node is not None:
            kinds = slicer.vtkMRMLMarkupsNode
            for event in (
                kinds.PointAddedEvent,
                kinds.PointModifiedEvent,
                kinds.PointRemovedEvent,
                kinds.PointPositionDefinedEvent,
            ):
                self._watch.add(node, event, lambda *_: self._alive() and self._fill())
        self._place.setCurrentNode(node)
        self._fill()
        self.markupsNodeChanged.emit()
        self.markupsFiducialNodeChanged.emit()

    def _fill(self):
        node = self.currentNode()
        count = node.GetNumberOfControlPoints() if node is not None else 0
        self._table.setRowCount(count)
        for row in range(count):
            texts = [node.GetNthControlPointLabel(row)]
            position = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(row, position)
            texts += [f"{value:.3f}" for value in position]
            for column, text in enumerate(texts):
                self._table.setItem(row, column, QtWidgets.QTableWidgetItem(text))
        self.updateFinished.emit()

    def _show_parts(self):
        self._selector.setVisible(self.nodeSelectorVisible)
        self._table.setVisible(self.optionsVisible)
