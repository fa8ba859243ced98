"""Slice views: what they show during and after a run, where they jump, which of them show the moving scan."""

import slicer
from DeepDiffRegScene import compare


class Views:
    """Changes layers of the slice views and takes them back; layout changes go through ``compare``."""

    def __init__(self):
        self._before = None
        self._columns = None

    def showPair(self, background, foreground, opacity=0.5):
        """Fixed scan below, warped scan above, in all slice views that follow the main layout."""
        if self._columns is not None:
            return
        if self._before is None:
            self._before = [
                (node, node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
                for node in self._compositeNodes()
            ]
        slicer.util.setSliceViewerLayers(background=background, foreground=foreground, foregroundOpacity=opacity)

    def restore(self):
        """The layers from before ``showPair``."""
        for node, background, foreground, opacity in self._before or []:
            if node.GetScene() is None:
                continue
            for identity, setter in (
                (background, node.SetBackgroundVolumeID),
                (foreground, node.SetForegroundVolumeID),
            ):
                known = identity and slicer.mrmlScene.GetNodeByID(identity)
                setter(identity if known else None)
            node.SetForegroundOpacity(opacity)
        self._before = None

    def sideBySide(self, fixed, warped, moving):
        """Columns with the fixed and the undeformed moving scan, linked within a column."""
        if self._columns is None:
            self._columns = compare.side_by_side(fixed, warped, moving)
        return self._columns

    def back(self):
        """The layout from before ``sideBySide``."""
        if self._columns is not None:
            compare.back()
            self._columns = None

    def jump(self, ras):
        """All slice views show this point."""
        for node in self._sliceNodes():
            node.JumpSlice(*(float(v) for v in ras))

    def fixedSliceNodes(self):
        """Slice nodes that show the fixed space."""
        moving = set(self.movingViewNames())
        return [node for node in self._sliceNodes() if node.GetLayoutName() not in moving]

    def movingSliceNodes(self):
        """Slice nodes that show the undeformed moving scan; none outside the side-by-side layout."""
        moving = set(self.movingViewNames())
        return [node for node in self._sliceNodes() if node.GetLayoutName() in moving]

    def movingViewNames(self):
        """Layout names of the views with the undeformed moving scan."""
        return list(self._columns["moving"]) if self._columns else []

    def forget(self):
        """The scene is gone, and with it everything that could be restored."""
        self._before = self._columns = None

    def close(self):
        """Leave the views as they are, but in the user's layout."""
        self.back()
        self._before = None

    def _sliceNodes(self):
        return list(slicer.util.getNodesByClass("vtkMRMLSliceNode"))

    def _compositeNodes(self):
        return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
