"""Stand-ins of the segment selectors and of number widgets with MRML units."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets

from .ctk_sliders import ctkDoubleSpinBox, ctkRangeWidget, ctkSliderWidget
from .mrml_base import MRMLWidgetBase, Observations
from .mrml_selectors import qMRMLNodeComboBox
from .widget_tools import Signal, qt, stand_in, stored

SEGMENT_EVENTS = [
    "SegmentAdded",
    "SegmentRemoved",
    "SegmentModified",
    "SegmentsOrderModified",
    "ContainedRepresentationNamesModified",
]


def segment_ids(node) -> list[str]:
    """Segment IDs of a segmentation node, in order."""
    segmentation = node.GetSegmentation() if node is not None else None
    if segmentation is None:
        return []
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def observe_segments(observations: Observations, node, function) -> None:
    """Call ``function()`` when segments of ``node`` come, go or change."""
    import slicer

    if node is None:
        return
    segmentation = node.GetSegmentation()
    for name in SEGMENT_EVENTS[:4]:
        observations.add(segmentation, getattr(slicer.vtkSegmentation, name), lambda *_: function())
    observations.add(node, slicer.vtkMRMLSegmentationNode.SegmentationChangedEvent, lambda *_: function())


@stand_in
class qMRMLSegmentSelectorWidget(MRMLWidgetBase):
    """Chooses a segmentation and one (or, in multi-selection, several) of its segments."""

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    segmentSelectionChanged = Signal(list)
    locals().update(
        stored(
            noneEnabled=(bool, False, "_segments_changed"),
            editEnabled=(bool, False),
            noneDisplay=(str, "Select a segment", "_segments_changed"),
            selectNodeUponCreation=(bool, True),
            segmentationNodeSelectorVisible=(bool, True, "_show_parts"),
            multiSelection=(bool, False, "_segments_changed"),
            horizontalLayout=(bool, False),
        )
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._watch = Observations()
        self._ids, self._selected, self._filling = [], [], False
        self._node_box = qMRMLNodeComboBox()
        self._node_box.setNodeTypes(["vtkMRMLSegmentationNode"])
        self._node_box.setAddEnabled(False)
        self._node_box.setRemoveEnabled(False)
        self._node_box.setNoneEnabled(True)
        self._box = qt("QComboBox")()
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._node_box)
        column.addWidget(self._box)
        self._node_box.connect("currentNodeChanged(vtkMRMLNode*)", self._node_changed)
        self._box.currentIndexChanged.connect(self._row_changed)

    def _scene_refreshed(self):
        if "_node_box" in self.__dict__:
            self._node_box.setMRMLScene(self._scene)

    def segmentationNodeComboBox(self):
        """The inner node selector."""
        return self._node_box

    def currentNode(self):
        """The segmentation or None."""
        return self._node_box.currentNode()

    def setCurrentNode(self, node):
        """Choose a segmentation."""
        self._node_box.setCurrentNode(node)

    def setCurrentNodeID(self, identifier):
        """Choose a segmentation by ID."""
        self._node_box.setCurrentNodeID(identifier)

    def currentNodeID(self):
        """ID of the segmentation or an empty text."""
        return self._node_box.currentNodeID

    def currentSegmentID(self):
        """ID of the chosen segment or an empty text."""
        return self._selected[0] if self._selected else ""

    def selectedSegmentIDs(self):
        """IDs of the chosen segments."""
        return list(self._selected)

    def setCurrentSegmentID(self, identifier):
        """Choose one segment."""
        self._select([identifier] if identifier in self._ids else [])

    def setSelectedSegmentIDs(self, identifiers):
        """Choose several segments (only one is kept without multi-selection)."""
        wanted = [item for item in self._ids if item in identifiers]
        self._select(wanted if self.multiSelection else wanted[:1])

    def _node_changed(self, node):
        self._watch.clear()
        observe_segments(self._watch, node, lambda: self._alive() and self._segments_changed())
        self.currentNodeChanged.emit(node)
        self._segments_changed()

    def _segments_changed(self):
        if "_box" not in self.__dict__:
            return
        node = self.currentNode()
        self._ids = segment_ids(node)
        kept = [item for item in self._selected if item in self._ids]
        if not kept and not self.noneEnabled and not self.multiSelection:
            kept = self._ids[:1]
        self._filling = True
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        for identifier in self._ids:
            self._box.addItem(node.GetSegmentation().GetSegment(identifier).GetName())
        self._filling = False
        self._select(kept)

    def _select(self, identifiers):
        first = 1 if self.noneEnabled else 0
        self._filling = True
        self._box.setCurrentIndex(self._ids.index(identifiers[0]) + first if identifiers else first - 1)
        self._filling = False
        if identifiers == self._selected:
            return
        self._selected = list(identifiers)
        self.currentSegmentChanged.emit(self.currentSegmentID())
        self.segmentSelectionChanged.emit(self._selected)

    def _row_changed(self, row):
        if self._filling:
            return
        row -= 1 if self.noneEnabled else 0
        self._select([self._ids[row]] if 0 <= row < len(self._ids) else [])

    def _show_parts(self):
        self._node_box.setVisible(self.segmentationNodeSelectorVisible)


@stand_in
class qMRMLSegmentsTableView(MRMLWidgetBase):
    """Table of segments with selection."""

    selectionChanged = Signal(object, object)
    segmentsAddedOrRemoved = Signal()
    locals().update(
        stored(
            selectionMode=(int, 3),
            headerVisible=(bool, True),
            visibilityColumnVisible=(bool, True),
            colorColumnVisible=(bool, True),
            opacityColumnVisible=(bool, True),
            statusColumnVisible=(bool, False),
            layerColumnVisible=(bool, False),
            filterBarVisible=(bool, False),
            textFilter=(str, ""),
            readOnly=(bool, False),
            jumpToSelectedSegmentEnabled=(bool, False),
        )
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._watch, self._segmentation, self._ids = Observations(), None, []
        self._table = qt("QTableWidget")()
        self._table.setColumnCount(2)
        self._table.setHorizontalHeaderLabels(["Color", "Name"])
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        column = qt("QVBoxLayout")(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._table)
        self._table.itemSelectionChanged.connect(lambda: self.selectionChanged.emit(None, None))

    def setSegmentationNode(self, node):
        """Show the segments of ``node``."""
        self._watch.clear()
        self._segmentation = node
        observe_segments(self._watch, node, lambda: self._alive() and self._fill())
        self._fill()

    def segmentationNode(self):
        """The shown segmentation."""
        return self._segmentation

    def tableWidget(self):
        """The inner table."""
        return self._table

    def segmentCount(self):
        """Number of rows."""
        return len(self._ids)

    def displayedSegmentIDs(self):
        """IDs in order of the rows."""
        return list(self._ids)

    def selectedSegmentIDs(self):
        """IDs of the selected rows."""
        rows = sorted({index.row() for index in self._table.selectedIndexes()})
        return [self._ids[row] for row in rows]

    def setSelectedSegmentIDs(self, identifiers):
        """Select rows."""
        self._table.clearSelection()
        model = QtWidgets.QTableWidget.selectionModel(self._table)
        flags = QtCore.QItemSelectionModel.SelectionFlag
        for row, identifier in enumerate(self._ids):
            if identifier in identifiers:
                index = QtWidgets.QTableWidget.model(self._table).index(row, 0)
                model.select(index, flags.Select | flags.Rows)

    def clearSelection(self):
        """Select nothing."""
        self._table.clearSelection()

    def _fill(self):
        chosen = self.selectedSegmentIDs() if self._ids else []
        before = self._ids
        self._ids = segment_ids(self._segmentation)
        self._table.setRowCount(len(self._ids))
        for row, identifier in enumerate(self._ids):
            segment = self._segmentation.GetSegmentation().GetSegment(identifier)
            swatch = QtWidgets.QTableWidgetItem()
            swatch.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, swatch)
            self._table.setItem(row, 1, QtWidgets.QTableWidgetItem(segment.GetName()))
        self.setSelectedSegmentIDs(chosen)
        if before != self._ids:
            self.segmentsAddedOrRemoved.emit()


class _WithScene:
    """Mixin: keeps a scene for widgets that only take units from it."""

    def setMRMLScene(self, scene):
        """Kept; units are not reproduced."""
        self._mrml_scene = scene

    def mrmlScene(self):
        """The scene, or None."""
        return self.__dict__.get("_mrml_scene")


@stand_in
class qMRMLSliderWidget(_WithScene, ctkSliderWidget):
    """ctkSliderWidget that knows units."""

    locals().update(stored(quantity=(str, ""), unitAwareProperties=(int, 0)))


@stand_in
class qMRMLSpinBox(_WithScene, ctkDoubleSpinBox):
    """ctkDoubleSpinBox that knows units."""

    locals().update(stored(quantity=(str, ""), unitAwareProperties=(int, 0)))


@stand_in
class qMRMLRangeWidget(_WithScene, ctkRangeWidget):
    """ctkRangeWidget that knows units."""

    locals().update(stored(quantity=(str, ""), unitAwareProperties=(int, 0)))


@stand_in
class qMRMLTransformDisplayNodeWidget(MRMLWidgetBase):
    """The Transforms module's display panel; only the chosen node is kept."""

    def setMRMLTransformNode(self, node):
        """Choose the transform."""
        self._transform = node

    def mrmlTransformDisplayNode(self):
        """Display node of the transform, or None."""
        node = self.__dict__.get("_transform")
        return node.GetDisplayNode() if node is not None else None
