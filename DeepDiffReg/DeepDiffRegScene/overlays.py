"""A volume drawn over the slice views without taking the place of what they show."""

from __future__ import annotations

from .spaces import the_scene

FIRST_LAYER = 3
"""Background, foreground and label come before the additional layers."""


def slice_nodes(scene=None, names=None) -> list:
    """Slice nodes with these layout names, all by default."""
    scene = the_scene(scene)
    nodes = scene.GetNodesByClass("vtkMRMLSliceNode")
    nodes.UnRegister(None)
    found = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
    return [node for node in found if names is None or node.GetLayoutName() in names]


def composite_of(slice_node):
    """The composite node of a slice node: the one with the same layout name; None when the view has none yet."""
    nodes = slice_node.GetScene().GetNodesByClass("vtkMRMLSliceCompositeNode")
    nodes.UnRegister(None)
    for i in range(nodes.GetNumberOfItems()):
        if nodes.GetItemAsObject(i).GetLayoutName() == slice_node.GetLayoutName():
            return nodes.GetItemAsObject(i)
    return None


def composites(scene=None, names=None) -> list:
    """Composite nodes of the slice nodes with these layout names, all by default."""
    found = [composite_of(node) for node in slice_nodes(scene, names)]
    return [node for node in found if node is not None]


class Overlay:
    """One volume over some views, in an additional layer above the label layer.

    Slicer before 5.8 has no additional layers; there the foreground is used and given back.
    """

    def __init__(self, scene=None, names=None):
        self.scene, self.names = scene, names
        self._shown = None
        self._before: dict[str, tuple[str | None, float]] = {}

    def put(self, volume, opacity: float) -> None:
        """Show ``volume``; again with another opacity changes only that."""
        if self._shown is not None and self._shown != volume.GetID():
            self.take()
        self._shown = volume.GetID()
        for node in composites(self.scene, self.names):
            if not hasattr(node, "SetNthLayerVolumeID"):
                self._put_in_front(node, volume, opacity)
                continue
            layer = layer_of(node, volume.GetID())
            if layer is None:
                layer = FIRST_LAYER + node.GetNumberOfAdditionalLayers()
                node.SetNthLayerVolumeID(layer, volume.GetID())
            if node.GetNthLayerOpacity(layer) != opacity:
                node.SetNthLayerOpacity(layer, opacity)

    def take(self) -> None:
        """Take the volume away again."""
        for node in composites(self.scene, self.names):
            if hasattr(node, "SetNthLayerVolumeID"):
                layer = layer_of(node, self._shown)
                if layer is not None:
                    node.SetNthLayerVolumeID(layer, None)
            elif node.GetID() in self._before:
                identity, opacity = self._before[node.GetID()]
                node.SetForegroundVolumeID(identity)
                node.SetForegroundOpacity(opacity)
        self._before.clear()
        self._shown = None

    def _put_in_front(self, node, volume, opacity: float) -> None:
        if node.GetForegroundVolumeID() != volume.GetID():
            self._before.setdefault(node.GetID(), (node.GetForegroundVolumeID(), node.GetForegroundOpacity()))
            node.SetForegroundVolumeID(volume.GetID())
        node.SetForegroundOpacity(opacity)


def layer_of(composite, volume_id: str | None) -> int | None:
    """Index of the additional layer that holds a volume; the layers behind it move up when it is taken away."""
    count = composite.GetNumberOfAdditionalLayers() if volume_id else 0
    found = (n for n in range(FIRST_LAYER, FIRST_LAYER + count) if composite.GetNthLayerVolumeID(n) == volume_id)
    return next(found, None)
