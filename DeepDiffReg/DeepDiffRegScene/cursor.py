"""The second cursor: where the point under the mouse comes from in the undeformed moving scan."""

from __future__ import annotations

import numpy as np
import slicer

from .maps import follow
from .nodes import private_node, remove
from .overlays import slice_nodes
from .spaces import the_scene


class SecondCursor:
    """Follows the crosshair of the fixed views in the views of the moving scan.

    transform: output transform node. slice_names: layout names of the views that show the moving scan; they are moved to
    the corresponding point and show it as a marker. While the mouse is over one of them, nothing follows.
    """

    def __init__(self, transform, slice_names=(), scene=None):
        self.transform, self.slice_names, self.scene = transform, tuple(slice_names), the_scene(scene)
        self.moving_ras: tuple[float, float, float] | None = None
        self._crosshair = self._tag = self._marker = None

    def start(self) -> None:
        """Follow the scene's crosshair from now on."""
        if self._tag is not None:
            return
        self._crosshair = self.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if self._crosshair is not None:
            event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
            self._tag = self._crosshair.AddObserver(event, self._on_cursor)

    def stop(self) -> None:
        """Follow no longer, and take the marker away."""
        if self._tag is not None:
            self._crosshair.RemoveObserver(self._tag)
        self._crosshair = self._tag = None
        remove(self._marker)
        self._marker = None

    def move(self, ras) -> np.ndarray:
        """Show the partner of a RAS point of the fixed space; returns it, (3,) RAS."""
        there = follow(self.transform, ras)[0]
        self.moving_ras = tuple(there.tolist())
        views = slice_nodes(self.scene, self.slice_names) if self.slice_names else []
        for node in views:
            node.JumpSlice(*self.moving_ras)
        if views:
            self._mark(views)
        return there

    def _mark(self, views) -> None:
        if self._marker is None or self._marker.GetScene() is None:
            self._marker = private_node("vtkMRMLMarkupsFiducialNode", "Corresponding point", "cursor", self.scene)
            self._marker.CreateDefaultDisplayNodes()
            self._marker.SetLocked(True)
            self._marker.AddControlPointWorld(*self.moving_ras, "")
            display = self._marker.GetDisplayNode()
            display.SetGlyphTypeFromString("Cross2D")
            display.SetSelectedColor(1.0, 0.9, 0.2)
            display.SetPointLabelsVisibility(False)
            display.SetSaveWithScene(False)
            for node in views:
                display.AddViewNodeID(node.GetID())
            return
        self._marker.SetNthControlPointPositionWorld(0, *self.moving_ras)

    def _on_cursor(self, crosshair, _event) -> None:
        if self.transform is None or self.transform.GetScene() is None:
            return
        ras, xyz = [0.0] * 3, [0.0] * 3
        if not crosshair.GetCursorPositionRAS(ras):
            return
        view = crosshair.GetCursorPositionXYZ(xyz)
        if view is not None and view.GetLayoutName() in self.slice_names:
            return
        self.move(ras)
