"""What can be laid over the slice views to look at a map: grid, arrows, displacement, Jacobian, folds.

A layer makes its nodes when it is first shown, updates them in place, and takes them away with ``remove``. They are
hidden in selectors and not saved. Nothing that the views show otherwise is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from DeepDiffRegLib.errors import InputError

from .feature_layer import FeatureLayer
from .line_layer import LineLayer
from .maps import MapNodes
from .nodes import OUTPUT_ATTRIBUTE
from .regions import Region
from .spaces import the_scene
from .volume_layers import FoldLayer, JacobianLayer, MagnitudeLayer, SigmaLayer, UncertaintyLayer

__all__ = ["OUTPUT_ATTRIBUTE", "LAYERS", "LayerSet"]

COARSEST = 48
"""Voxels along an axis of the grid on which a map without a displacement is looked at."""


class LayerSet:
    """All layers of one registration: ``layers["grid"].show(True)``.

    maps: the nodes of the map. fixed: volume that says where layers end. slice_names: layout names of the views to draw
    in, all slice views by default.
    """

    def __init__(self, maps: MapNodes, fixed, scene=None, slice_names=None):
        self.maps, self.fixed, self.scene, self.slice_names = maps, fixed, the_scene(scene), slice_names
        self._regions: dict = {}
        self._bars: list[str | None] = []
        self._layers = {row.name: row.make(self, row.name, row.text) for row in LAYERS}

    def __getitem__(self, name: str):
        if name not in self._layers:
            raise InputError(f"LayerSet: unknown layer {name!r}; known: {', '.join(self._layers)}")
        return self._layers[name]

    def __iter__(self) -> Iterator:
        return iter(self._layers.values())

    def update(self) -> None:
        """Redraw what is visible; call it when the map or the layout of the views has changed."""
        for layer in self:
            if layer.visible:
                layer.update()

    def close(self) -> None:
        """Take every layer and its nodes away."""
        for layer in self:
            layer.remove()
        self._regions.clear()

    def region(self, region) -> Region:
        """Where to draw; computed once per choice (a segment that is edited later needs ``forget_regions``)."""
        key = region if region is None or isinstance(region, str) else (region[0].GetID(), region[1])
        if key not in self._regions:
            self._regions[key] = Region(self.fixed, region)
        return self._regions[key]

    def bar_place(self, name: str) -> int:
        """Where the color bar of a layer stands, counted from the right edge of the views: the first free place."""
        if name not in self._bars:
            free = self._bars.index(None) if None in self._bars else len(self._bars)
            self._bars[free : free + 1] = [name]
        return self._bars.index(name)

    def leave_bar(self, name: str) -> None:
        """The color bar of a layer is no longer shown."""
        self._bars = [None if held == name else held for held in self._bars]

    def forget_regions(self) -> None:
        """Read segments and the body anew at the next update."""
        self._regions.clear()

    def sampled(self):
        """The map with a displacement on some grid, also where it is only a matrix."""
        held = self.maps.map()
        if held.displacement is not None:
            return held
        fixed = self.region(None).geometry
        geometry = fixed.resized(tuple(min(n, COARSEST) for n in fixed.size))
        return replace(held, displacement=np.zeros((3, *geometry.shape), np.float32), geometry=geometry)


@dataclass(frozen=True)
class LayerRow:
    """A row of the table of layers."""

    name: str
    make: type
    text: str


LAYERS = (
    LayerRow("grid", LineLayer, "Deformation grid, in the resampling or the forward direction"),
    LayerRow("glyphs", LineLayer, "Arrows along the displacement"),
    LayerRow("magnitude", MagnitudeLayer, "How far each point moves, in mm"),
    LayerRow("jacobian", JacobianLayer, "Where the map shrinks, grows or folds"),
    LayerRow("folds", FoldLayer, "Voxels where the map is folded"),
    LayerRow("sigma", SigmaLayer, "Over how many mm tissue moves together: wide is stiff"),
    LayerRow("uncertainty", UncertaintyLayer, "How sure a probabilistic network was of its map"),
    LayerRow("features", FeatureLayer, "What a network saw in a scan: one channel, or all as colors"),
)
"""A new layer is a class with name, text, visible, options, legend, set, show, update and remove, and a row here."""
