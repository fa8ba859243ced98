"""Stand-ins of the node selectors: qMRMLNodeComboBox and its relatives, over a real scene."""

from __future__ import annotations

import vtk
from PySide6 import QtCore, QtWidgets

from .mrml_base import MRMLWidgetBase, Observations
from .widget_tools import Property, Signal, qt, stand_in, stored

ACTIONS = ("rename", "create", "delete")


class NodeFilter:
    """Mixin: which nodes of the scene a selector offers."""

    def _init_filter(self):
        self._attributes: dict[tuple[str, str], object] = {}

    def addAttribute(self, node_type, name, value=None):
        """Offer nodes of that type only if they have the attribute (with that value, if given)."""
        self._attributes[node_type, name] = value
        self._scene_refreshed()

    def removeAttribute(self, node_type, name):
        """Undo addAttribute."""
        self._attributes.pop((node_type, name), None)
        self._scene_refreshed()

    def _accepts(self, node) -> bool:
        if node is None or (node.GetHideFromEditors() and not self.showHidden):
            return False
        matching = [kind for kind in self.nodeTypes if node.IsA(kind)]
        if not matching or any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        if not self.showChildNodeTypes and node.GetClassName() not in self.nodeTypes:
            return False
        for (kind, name), value in self._attributes.items():
            if node.IsA(kind):
                found = node.GetAttribute(name)
                if found is None or (value is not None and found != str(value)):
                    return False
        return True

    def _offered(self) -> list:
        if self._scene is None:
            return []
        count = self._scene.GetNumberOfNodes()
        return [node for node in map(self._scene.GetNthNode, range(count)) if self._accepts(node)]


def filter_properties() -> dict:
    """Properties that every node selector has."""
    return stored(
        nodeTypes=(list, [], "_scene_refreshed"),
        showHidden=(bool, False, "_scene_refreshed"),
        showChildNodeTypes=(bool, True, "_scene_refreshed"),
        hideChildNodeTypes=(list, [], "_scene_refreshed"),
        baseName=(str, ""),
        interactionNodeSingletonTag=(str, ""),
    )


@stand_in
class qMRMLNodeComboBox(NodeFilter, MRMLWidgetBase):
    """Chooses one node; follows the scene at once, except in batch processing, where it catches up at the end."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    locals().update(filter_properties())
    locals().update(
        stored(
            noneEnabled=(bool, False, "_scene_refreshed"),
            addEnabled=(bool, True, "_scene_refreshed"),
            removeEnabled=(bool, True, "_scene_refreshed"),
            editEnabled=(bool, False, "_scene_refreshed"),
            renameEnabled=(bool, False, "_scene_refreshed"),
            noneDisplay=(str, "None", "_scene_refreshed"),
            selectNodeUponCreation=(bool, True),
        )
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._init_filter()
        self._nodes: list = []
        self._current = None
        self._refreshing = False
        self._leaving = None
        self._node_names = Observations()
        self._box = qt("QComboBox")()
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.activated.connect(self._activated)

    # --- what a module calls
    def currentNode(self):
        """The chosen node or None."""
        return self._current

    def setCurrentNode(self, node):
        """Choose ``node`` (or its ID); a node that is not offered chooses None."""
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene else None
        self._choose(node if node in self._nodes else None)

    def setCurrentNodeID(self, identifier):
        """Choose the node with that ID."""
        self.setCurrentNode(identifier or None)

    def setCurrentNodeIndex(self, index):
        """Choose by position among the offered nodes."""
        self._choose(self._nodes[index] if 0 <= index < len(self._nodes) else None)

    currentNodeID = Property(str, lambda self: self._current.GetID() if self._current else "", setCurrentNodeID)

    def nodeCount(self):
        """Number of offered nodes."""
        return len(self._nodes)

    def nodes(self):
        """The offered nodes."""
        return list(self._nodes)

    def nodeFromIndex(self, index):
        """Offered node by position, or None."""
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def addNode(self, node_type=None):
        """Create a node as the user's "Create new" does; returns it."""
        node = self._scene.CreateNodeByClass(node_type or self.nodeTypes[0])
        node.UnRegister(None)
        tag = self.baseName or node.GetNodeTagName()
        node.SetName(self._scene.GenerateUniqueName(tag))
        for (kind, name), value in self._attributes.items():
            if node.IsA(kind):
                node.SetAttribute(name, "1" if value is None else str(value))
        node = self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        """Delete the chosen node as the user's "Delete current" does."""
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def comboBox(self):
        """The inner combo box."""
        return self._box

    @property
    def currentText(self):
        """Text shown."""
        return QtWidgets.QComboBox.currentText(self._box)

    # --- following the scene
    def _scene_node_added(self, node):
        if self._accepts(node):
            self._scene_refreshed()
            self.nodeAdded.emit(node)

    def _scene_node_leaving(self, node):
        if self._alive() and node in self._nodes:
            self.nodeAboutToBeRemoved.emit(node)

    def _scene_node_removed(self, node):
        if node in self._nodes:
            self._nodes = [item for item in self._nodes if item is not node]
            self._scene_refreshed()

    def _scene_refreshed(self):
        if "_box" not in self.__dict__ or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        self._nodes = self._offered()
        self._node_names.clear()
        for node in self._nodes:
            self._node_names.add(node, "ModifiedEvent", lambda caller, event: self._alive() and self._renamed(caller))
        keep = self._current if self._current in self._nodes else None
        if keep is None and not self.noneEnabled and self._nodes:
            keep = self._nodes[0]
        self._fill()
        self._choose(keep)

    def _renamed(self, node):
        if node in self._nodes:
            position = self._nodes.index(node) + (1 if self.noneEnabled else 0)
            if self._box.itemText(position) != node.GetName():
                self._box.setItemText(position, node.GetName())
                if node is self._current:
                    self.currentNodeRenamed.emit(node.GetName())

    def _fill(self):
        self._refreshing = True
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        self._box.addItems([node.GetName() or node.GetID() or "" for node in self._nodes])
        self._actions = []
        for action, wanted in zip(ACTIONS, (self.renameEnabled, self.addEnabled, self.removeEnabled)):
            if wanted and self.nodeTypes:
                self._actions.append(action)
                self._box.addItem(
                    {"rename": "Rename current...", "create": "Create new...", "delete": "Delete current"}[action]
                )
        self._refreshing = False

    def _choose(self, node):
        if node is None:
            row = 0 if self.noneEnabled else -1
        else:
            row = self._nodes.index(node) + (1 if self.noneEnabled else 0)
        self._refreshing = True
        self._box.setCurrentIndex(row)
        self._refreshing = False
        if node is self._current:
            return
        self._current = node
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _activated(self, row):
        first = 1 if self.noneEnabled else 0
        if row < first:
            self._choose(None)
        elif row < first + len(self._nodes):
            self._choose(self._nodes[row - first])
            self.nodeActivated.emit(self._current)
        else:
            {"create": self.addNode, "delete": self.removeCurrentNode, "rename": lambda: None}[
                self._actions[row - first - len(self._nodes)]
            ]()
            self._choose(self._current)


@stand_in
class qMRMLCheckableNodeComboBox(NodeFilter, MRMLWidgetBase):
    """Chooses any number of nodes."""

    checkedNodesChanged = Signal()
    locals().update(filter_properties())
    locals().update(stored(noneEnabled=(bool, False), addEnabled=(bool, False), removeEnabled=(bool, False)))

    def __init__(self, parent=None):
        super().__init__(parent)
        self._init_filter()
        self._nodes, self._checked = [], []
        self._box = qt("QListWidget")()
        self._box.setMaximumHeight(70)
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._filling = False
        self._box.itemChanged.connect(self._clicked)

    def nodeCount(self):
        """Number of offered nodes."""
        return len(self._nodes)

    def nodeFromIndex(self, index):
        """Offered node by position, or None."""
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def checkedNodes(self):
        """The ticked nodes, in scene order."""
        return [node for node in self._nodes if node in self._checked]

    def uncheckedNodes(self):
        """The other nodes."""
        return [node for node in self._nodes if node not in self._checked]

    def allChecked(self):
        """Whether every offered node is ticked."""
        return bool(self._nodes) and not self.uncheckedNodes()

    def noneChecked(self):
        """Whether no node is ticked."""
        return not self.checkedNodes()

    def checkState(self, node):
        """2 (ticked) or 0."""
        return 2 if node in self._checked else 0

    def setCheckState(self, node, state):
        """Tick (2) or clear (0) one node."""
        ticked = getattr(state, "value", state) == 2
        if ticked == (node in self._checked):
            return
        self._checked = [item for item in self._checked if item is not node] + ([node] if ticked else [])
        self._fill()
        self.checkedNodesChanged.emit()

    def _scene_node_added(self, node):
        if self._accepts(node):
            self._scene_refreshed()

    def _scene_node_removed(self, node):
        self._scene_refreshed()

    def _scene_refreshed(self):
        if "_box" not in self.__dict__ or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        before = list(self._checked)
        self._nodes = self._offered()
        self._checked = [node for node in self._checked if node in self._nodes]
        self._fill()
        if before != self._checked:
            self.checkedNodesChanged.emit()

    def _fill(self):
        self._filling = True
        self._box.clear()
        for node in self._nodes:
            item = QtWidgets.QListWidgetItem(node.GetName() or "")
            item.setFlags(item.flags() | QtCore.Qt.ItemFlag.ItemIsUserCheckable)
            ticked = node in self._checked
            item.setCheckState(QtCore.Qt.CheckState.Checked if ticked else QtCore.Qt.CheckState.Unchecked)
            self._box.addItem(item)
        self._filling = False

    def _clicked(self, item):
        if not self._filling:
            node = self._nodes[self._box.row(item)]
            state = item.checkState()
            QtCore.QTimer.singleShot(0, lambda: self.setCheckState(node, state))


@stand_in
class qMRMLSubjectHierarchyComboBox(MRMLWidgetBase):
    """Chooses one item of the subject hierarchy."""

    currentItemChanged = Signal(int)
    currentItemModified = Signal(int)
    locals().update(
        stored(
            noneEnabled=(bool, False, "_scene_refreshed"),
            noneDisplay=(str, "None", "_scene_refreshed"),
            defaultText=(str, ""),
        )
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box, self._items, self._types, self._levels = qt("QComboBox")(), [], [], []
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.currentIndexChanged.connect(
            lambda _: self._filling or self.currentItemChanged.emit(self.currentItem())
        )
        self._filling = False

    def setNodeTypes(self, types):
        """Offer only items of these node classes."""
        self._types = list(types)
        self._scene_refreshed()

    nodeTypes = Property(list, lambda self: list(self._types), setNodeTypes)

    def setLevelFilter(self, levels):
        """Offer only items of these levels (``Study``, ``Patient`` ...)."""
        self._levels = list(levels)
        self._scene_refreshed()

    levelFilter = Property(list, lambda self: list(self._levels), setLevelFilter)

    def currentItem(self):
        """Item ID, 0 for none."""
        index = QtWidgets.QComboBox.currentIndex(self._box) - (1 if self.noneEnabled else 0)
        return self._items[index] if 0 <= index < len(self._items) else 0

    def setCurrentItem(self, item):
        """Choose by item ID."""
        first = 1 if self.noneEnabled else 0
        self._box.setCurrentIndex(self._items.index(item) + first if item in self._items else first - 1)

    def clearSelection(self):
        """Choose nothing."""
        self.setCurrentItem(0)

    def _scene_node_added(self, node):
        self._scene_refreshed()

    def _scene_node_removed(self, node):
        self._scene_refreshed()

    def _scene_refreshed(self):
        if "_box" not in self.__dict__ or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        chosen = self.currentItem()
        self._filling = True
        self._items = []
        self._box.clear()
        hierarchy = self._scene.GetSubjectHierarchyNode() if self._scene else None
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        if hierarchy is not None:
            identifiers = vtk.vtkIdList()
            hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), identifiers, True)
            for index in range(identifiers.GetNumberOfIds()):
                item = identifiers.GetId(index)
                node = hierarchy.GetItemDataNode(item)
                if self._types and not any(node is not None and node.IsA(kind) for kind in self._types):
                    continue
                if self._levels and hierarchy.GetItemLevel(item) not in self._levels:
                    continue
                self._items.append(item)
                self._box.addItem(hierarchy.GetItemName(item))
        self.setCurrentItem(chosen)
        self._filling = False
        if self.currentItem() != chosen:
            self.currentItemChanged.emit(self.currentItem())
