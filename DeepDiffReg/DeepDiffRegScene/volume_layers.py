"""Layers that color what a map does at every voxel: displacement, Jacobian, kernel width, uncertainty, folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from DeepDiffRegLib.interactive.messages import Scan

from . import colors
from .convert import scan_to_volume
from .fields import determinants, whole_lengths_mm
from .layer import Layer
from .nodes import private_node, remove
from .outputs import UNIT_ATTRIBUTE, folded_segmentation
from .overlays import Overlay, slice_nodes
from .spaces import voxels_of


class VolumeLayer(Layer):
    """Base of the layers that are a volume with its own colors over the views."""

    def __init__(self, owner, name: str, text: str):
        super().__init__(owner, name, text)
        self._volume = self._shown = None
        self._overlay = Overlay(owner.scene, owner.slice_names)
        self._bar = colors.ColorBar(owner.scene)

    def update(self) -> None:
        """Take the map as it is now."""
        self._shown = self._make()
        self._color(self._shown)
        low, high = self._window()
        self._overlay.put(self._shown, self.options.opacity)
        self._bar.show(self.unit, self._colors(), max(low, 0.0), high, self.owner.bar_place(self.name))

    def _hide(self) -> None:
        self._overlay.take()
        self._bar.hide()
        self.owner.leave_bar(self.name)

    def _color(self, volume) -> None:
        display = volume.GetDisplayNode()
        modified = display.StartModify()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*self._window())
        display.SetAndObserveColorNodeID(self._colors().GetID())
        display.SetInterpolate(True)
        display.EndModify(modified)

    def remove(self) -> None:
        """Hide the layer and take its own volume out of the scene."""
        self.show(False)
        self._bar.remove()
        remove(self._volume)
        self._volume = self._shown = None

    def _own(self, scan: Scan):
        if self._volume is None or self._volume.GetScene() is None:
            self._volume = private_node("vtkMRMLScalarVolumeNode", self.title, "layer", self.owner.scene)
        return scan_to_volume(scan, "", node=self._volume)


class MagnitudeLayer(VolumeLayer):
    """How far the map moves each point, in mm."""

    title, unit = "Displacement (mm)", "mm"

    @dataclass(frozen=True)
    class Options:
        """maximum_mm: end of the color scale, None to fit it. part: ``whole`` or ``deformable`` (without the matrix)."""

        opacity: float = 0.6
        maximum_mm: float | None = None
        part: str = "deformable"

    _top = 1.0

    @property
    def legend(self):
        """What the colors mean; None when hidden."""
        return colors.length_legend(self.title, self._top, folds=False) if self.visible else None

    def _make(self):
        held = self.owner.sampled()
        world = held.world if self.options.part == "whole" else None
        lengths = whole_lengths_mm(held.displacement, held.geometry, world)
        self._top = self.options.maximum_mm or colors.nice(float(np.percentile(lengths[::2, ::2, ::2], 99)))
        return self._own(Scan(lengths, held.geometry, "intensity", self.title))

    def _window(self) -> tuple[float, float]:
        return 0.0, self._top

    def _colors(self):
        return colors.length_table(self.owner.scene)


class JacobianLayer(VolumeLayer):
    """The determinant of the map's derivative: 1 keeps the volume, below shrinks, above grows; at most 0 is folded."""

    title, unit = "Jacobian", "J"

    @dataclass(frozen=True)
    class Options:
        """span: colors run from 1/span to span. volume: the Jacobian volume node of the worker; None computes one here."""

        opacity: float = 0.6
        span: float = 4.0
        volume: object = None

    @property
    def legend(self):
        """What the colors mean; None when hidden."""
        return colors.jacobian_legend(self.options.span) if self.visible else None

    def _make(self):
        if self.options.volume is not None and self.options.volume.GetScene() is not None:
            return self.options.volume
        return self._own(jacobian_scan(self.owner))

    def _window(self) -> tuple[float, float]:
        return colors.jacobian_window(self.options.span)

    def _colors(self):
        return colors.jacobian_table(self.options.span, self.owner.scene)


class SigmaLayer(VolumeLayer):
    """How far tissue moves together: the width of the local kernel in mm; wide is stiff."""

    title, unit = "Kernel width (mm)", "mm"

    @dataclass(frozen=True)
    class Options:
        """volume: widths at t = 1, on the fixed scan. moving_volume: at t = 0, drawn in the views named in moving_views."""

        opacity: float = 0.6
        volume: object = None
        moving_volume: object = None
        moving_views: tuple[str, ...] = ()

    def __init__(self, owner, name: str, text: str):
        super().__init__(owner, name, text)
        self._moving = Overlay(owner.scene, ())
        self._top = 1.0

    @property
    def legend(self):
        """What the colors mean; None when hidden."""
        return colors.length_legend(self.title, self._top, folds=False) if self.visible else None

    def show(self, visible: bool) -> None:
        """Show or hide the layer."""
        if not visible:
            self._moving.take()
        super().show(visible)

    def update(self) -> None:
        """Take volumes and views as they are now."""
        moving, views = self.options.moving_volume, self.options.moving_views
        nodes = slice_nodes(self.owner.scene, self.owner.slice_names)
        wanted = [node.GetLayoutName() for node in nodes if node.GetLayoutName() not in views]
        if wanted != self._overlay.names:
            self._overlay.take()
            self._moving.take()
            self._overlay.names, self._moving.names = wanted, list(views)
        if self.options.volume is None or self.options.volume.GetScene() is None:
            return
        super().update()
        if moving is not None and moving.GetScene() is not None and views:
            self._color(moving)
            self._moving.put(moving, self.options.opacity)

    def _make(self):
        self._top = colors.nice(float(voxels_of(self.options.volume.GetImageData()).max()))
        return self.options.volume

    def _window(self) -> tuple[float, float]:
        return 0.0, self._top

    def _colors(self):
        return colors.length_table(self.owner.scene)


class UncertaintyLayer(VolumeLayer):
    """How sure a probabilistic network was of its map; drawn from the worker's volume, whose node says the unit."""

    @dataclass(frozen=True)
    class Options:
        """volume: one of the worker's maps of uncertainty; without it nothing is drawn. maximum: end of the colors, None fits."""

        opacity: float = 0.6
        volume: object = None
        maximum: float | None = None

    _top = 1.0

    @property
    def unit(self) -> str:
        """Of the volume that is chosen; ``ratio`` where it has none."""
        return (self.options.volume.GetAttribute(UNIT_ATTRIBUTE) if self._there else "") or "ratio"

    @property
    def legend(self):
        """What the colors mean; None when hidden or without a volume."""
        if not (self.visible and self._there):
            return None
        return colors.length_legend(f"Uncertainty ({self.unit})", self._top, folds=False)

    @property
    def _there(self) -> bool:
        return self.options.volume is not None and self.options.volume.GetScene() is not None

    def update(self) -> None:
        """Take the volume as it is now."""
        if self._there:
            super().update()
        else:
            self._hide()

    def _make(self):
        values = voxels_of(self.options.volume.GetImageData())
        self._top = self.options.maximum or colors.nice(float(np.percentile(values[::2, ::2, ::2], 99)), 1e-3)
        return self.options.volume

    def _window(self) -> tuple[float, float]:
        return 0.0, self._top

    def _colors(self):
        return colors.length_table(self.owner.scene)


class FoldLayer(Layer):
    """The voxels where the map turns space inside out, as a magenta segment in 2-D and 3-D views."""

    @dataclass(frozen=True)
    class Options:
        """volume: the segmentation node of the worker's result; None computes one here."""

        volume: object = None

    def __init__(self, owner, name: str, text: str):
        super().__init__(owner, name, text)
        self._segments = self._shown = None

    @property
    def legend(self):
        """What the color means; None when hidden."""
        return colors.Legend("Folded", ((0.0, colors.FOLD_COLOR, "Jacobian <= 0"),)) if self.visible else None

    def update(self) -> None:
        """Take the map as it is now."""
        given = self.options.volume
        if given is None or given.GetScene() is None:
            self._segments = folded_segmentation(jacobian_scan(self.owner), None, self._segments, self.owner.scene)
            self._segments.SetHideFromEditors(True)
            self._segments.SetSaveWithScene(False)
            given = self._segments
        if self._shown is not given:
            self._hide()
        self._shown = given
        given.GetDisplayNode().SetVisibility(True)
        given.GetDisplayNode().SetOpacity2DFill(1.0)

    def _hide(self) -> None:
        if self._shown is not None and self._shown.GetScene() is not None:
            self._shown.GetDisplayNode().SetVisibility(False)

    def remove(self) -> None:
        """Hide the layer and take its own segments out of the scene."""
        self.show(False)
        remove(self._segments)
        self._segments = self._shown = None


def jacobian_scan(owner) -> Scan:
    """Determinants of the whole map on its own grid."""
    held = owner.sampled()
    values = determinants(held.displacement, held.geometry, held.world)
    return Scan(values, held.geometry, "intensity", "Jacobian")
