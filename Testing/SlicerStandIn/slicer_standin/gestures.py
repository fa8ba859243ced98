"""What a user does: mouse on a control point, crosshair, clicks, keys, waiting for events."""

from __future__ import annotations

import time

import slicer
from PySide6 import QtCore, QtGui, QtTest, QtWidgets


def drag_control_point(node, index: int, to_ras, steps: int = 3) -> None:
    """Move a control point to ``to_ras`` (world) as a drag does: start event, moves, end event."""
    start = [0.0, 0.0, 0.0]
    node.GetNthControlPointPositionWorld(index, start)
    display = node.GetDisplayNode()
    if display is not None:
        display.SetActiveControlPoint(index)
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointStartInteractionEvent)
    for step in range(1, steps + 1):
        part = step / steps
        node.SetNthControlPointPositionWorld(index, [a + part * (b - a) for a, b in zip(start, to_ras)])
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def place_control_point(ras) -> int:
    """Place a point of the active list at ``ras`` as a click in place mode does. Returns its index.

    Leaves the place mode unless it is persistent. Raises RuntimeError when no place mode is on.
    """
    logic = slicer.app.applicationLogic()
    interaction, selection = logic.GetInteractionNode(), logic.GetSelectionNode()
    if interaction.GetCurrentInteractionMode() != slicer.vtkMRMLInteractionNode.Place:
        raise RuntimeError("place_control_point(): the application is not in place mode")
    node = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID() or "")
    if node is None:
        raise RuntimeError("place_control_point(): no markups node is active")
    index = node.AddControlPointWorld(*ras)
    if not interaction.GetPlaceModePersistence():
        interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
    return index


def move_crosshair(ras) -> None:
    """The mouse is over that point of a view (None: over none)."""
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if ras is None:
        node.SetCursorPositionInvalid()
    else:
        node.SetCursorPositionRAS(list(ras))


def press(keys: str, target=None) -> bool:
    """Activate the enabled shortcut with that key sequence below ``target`` (the main window); whether there is one."""
    target = target if target is not None else slicer.util.mainWindow()
    wanted = QtGui.QKeySequence(keys)
    holders = QtCore.QObject.findChildren(target, QtGui.QShortcut) + QtCore.QObject.findChildren(target, QtGui.QAction)
    for holder in holders:
        key = QtGui.QShortcut.key(holder) if isinstance(holder, QtGui.QShortcut) else QtGui.QAction.shortcut(holder)
        if key == wanted and holder.property("enabled"):
            holder.activated.emit() if isinstance(holder, QtGui.QShortcut) else holder.trigger()
            return True
    return False


def click(button) -> None:
    """A mouse click in the middle of a widget; nothing happens when it is disabled, as for a user."""
    size = QtWidgets.QWidget.size(button)
    middle = QtCore.QPoint(size.width() // 2, size.height() // 2)
    QtTest.QTest.mouseClick(button, QtCore.Qt.MouseButton.LeftButton, QtCore.Qt.KeyboardModifier.NoModifier, middle)


def wait_until(condition, seconds: float = 120.0) -> bool:
    """Run the event loop until ``condition()`` is true; False when ``seconds`` are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def drag_in_view(widget, start_ras, end_ras, steps: int = 6) -> None:
    """Real mouse events on a slice widget: hover over ``start_ras``, press, move to ``end_ras``, release.

    What lies there (a control point, say) is picked by the view's displayable managers as in the application.
    """
    view = widget.sliceView()
    view.forceRender()
    start, end = ([round(value) for value in view.convertRASToXYZ(ras)[:2]] for ras in (start_ras, end_ras))
    slicer.util.clickAndDrag(widget, button="None", start=start, end=start, steps=1)
    slicer.util.clickAndDrag(widget, start=start, end=end, steps=steps)


def click_in_view(widget, ras) -> None:
    """A real left click on a slice widget; in place mode it places a control point."""
    view = widget.sliceView()
    view.forceRender()
    position = [round(value) for value in view.convertRASToXYZ(ras)[:2]]
    slicer.util.clickAndDrag(widget, button="None", start=position, end=position, steps=1)
    slicer.util.clickAndDrag(widget, start=position, end=position, steps=1)
