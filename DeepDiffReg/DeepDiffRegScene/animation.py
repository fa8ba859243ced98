"""A map on its way, shown in nodes of its own: the result's transform stays as it is."""

from __future__ import annotations

from DeepDiffRegLib.interactive.messages import Map

from .maps import MapNodes
from .nodes import private_node, remove
from .spaces import the_scene


class Animation:
    """The moving scan and a transform at some time of the way; both hidden in selectors and not saved.

    maps: what layers can be drawn from. volume: the moving scan under that transform, sharing its voxels.
    """

    def __init__(self, moving, scene=None):
        self.moving, self.scene = moving, the_scene(scene)
        self.maps = self.volume = None

    def show(self, map_: Map) -> None:
        """Show this map; nodes are made at the first call and then updated in place."""
        if self.maps is None:
            node = private_node("vtkMRMLTransformNode", "DeepDiffReg on its way", "animation", self.scene)
            self.maps = MapNodes(node, scene=self.scene)
        self.maps.update(map_, live=True)
        self.volume = self.maps.preview(self.moving)

    def end(self) -> None:
        """Take the nodes out of the scene."""
        if self.maps is not None:
            self.maps.end_preview()
            remove(self.maps.transform)
        self.maps = self.volume = None
