"""Deformation grids and arrows as layers: one line model per slice view that follows the view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from DeepDiffRegLib.errors import InputError

from . import colors, grids
from .layer import Layer
from .nodes import private_node, remove
from .overlays import slice_nodes
from .spaces import numpy_matrix

DIRECTIONS = ("resampling", "forward", "slicer")
PARTS = ("whole", "deformable")
LINE_WIDTH = 2


@dataclass(frozen=True)
class LineOptions:
    """direction: ``resampling``, ``forward``, or ``slicer`` for Slicer's own drawing of the forward direction (numeric
    inverse, not clipped, in 3-D views too). region: None, ``"body"`` or (segmentation, segment id). part: ``whole`` map or
    ``deformable`` only. in_3d: draw a grid in the 3-D views as well. maximum_mm: end of the color scale, None to fit it.
    """

    direction: str = "resampling"
    spacing_mm: float = 12.0
    region: object = None
    part: str = "deformable"
    in_3d: bool = False
    maximum_mm: float | None = None

    def __post_init__(self):
        if self.direction not in DIRECTIONS or self.part not in PARTS:
            raise InputError(
                f"grid layer: direction must be one of {', '.join(DIRECTIONS)} and part one of {', '.join(PARTS)}, "
                f"got {self.direction!r} and {self.part!r}"
            )
        if not self.spacing_mm > 0:
            raise InputError(f"grid layer: spacing_mm must be positive, got {self.spacing_mm}")


class LineLayer(Layer):
    """The layers ``grid`` and ``glyphs``."""

    Options = LineOptions

    def __init__(self, owner, name: str, text: str):
        super().__init__(owner, name, text)
        self.longest_mm = 1.0
        self._models: dict[str, object] = {}
        self._planes: dict[str, np.ndarray] = {}
        self._observed: list[tuple[object, int]] = []
        self._native = None
        self._bar = colors.ColorBar(owner.scene)

    @property
    def legend(self):
        """What the colors mean; None when hidden, or drawn by Slicer in its own colors."""
        if not self.visible or self.options.direction == "slicer":
            return None
        return colors.length_legend(self._title, self.longest_mm, folds=self.name == "grid")

    @property
    def _title(self) -> str:
        return "Grid moved (mm)" if self.name == "grid" else "Arrow length (mm)"

    def update(self) -> None:
        """Take the map, the options and the set of views as they are now."""
        if self.options.direction == "slicer":
            self._hide()
            self._show_native()
            return
        self._hide_native()
        self._observe()
        region = self.owner.region(self.options.region)
        move = grids.mover(self.owner.maps, self.options.direction, self.options.part)
        self.longest_mm = self.options.maximum_mm or colors.nice(
            grids.longest_mm(move, region.geometry, region.contains)
        )
        self._planes.clear()
        for node in slice_nodes(self.owner.scene, self.owner.slice_names):
            self._draw(node)
        self._draw_space()
        self._bar.show(
            "mm", colors.length_table(self.owner.scene), 0.0, self.longest_mm, self.owner.bar_place(self.name)
        )

    def remove(self) -> None:
        """Hide the layer and take its nodes out of the scene."""
        self.show(False)
        for model in self._models.values():
            remove(model)
        self._models.clear()
        self._bar.remove()
        if self._native is not None and self._native.GetScene() is not None:
            self.owner.scene.RemoveNode(self._native)
        self._native = None

    def _draw(self, slice_node) -> None:
        plane = numpy_matrix(slice_node.GetSliceToRAS())
        key = slice_node.GetID()
        drawn = self._planes.get(key)
        if drawn is not None and np.allclose(drawn, plane, atol=1e-6):
            return
        self._planes[key] = plane
        region, options = self.owner.region(self.options.region), self.options
        move = grids.mover(self.owner.maps, options.direction, options.part)
        if self.name == "glyphs":
            points = grids.plane_points(plane, region.geometry, options.spacing_mm, region.contains)
            poly = grids.arrow_model(points, move, self.longest_mm, plane)
        else:
            lines = grids.plane_lines(plane, region.geometry, options.spacing_mm, region.contains)
            poly = grids.line_model(lines, move, self.longest_mm, self._fold_test(region), plane)
        grids.put(self._model(key, slice_node), poly)

    def _draw_space(self) -> None:
        if not (self.options.in_3d and self.name == "grid"):
            if "3-D" in self._models:
                self._models["3-D"].GetDisplayNode().SetVisibility(False)
            return
        region = self.owner.region(self.options.region)
        move = grids.mover(self.owner.maps, self.options.direction, self.options.part)
        lines = grids.space_lines(region.geometry, self.options.spacing_mm, region.contains)
        grids.put(self._model("3-D", None), grids.line_model(lines, move, self.longest_mm, self._fold_test(region)))

    def _fold_test(self, region):
        return grids.fold_test(self.owner.maps, self.options.direction, min(region.geometry.spacing_mm) / 2)

    def _model(self, key: str, slice_node):
        """The model of one view; it is drawn there and nowhere else."""
        model = self._models.get(key)
        if model is None or model.GetScene() is None:
            name = f"{self.name} {slice_node.GetName() if slice_node is not None else key}"
            model = private_node("vtkMRMLModelNode", name, "layer", self.owner.scene)
            grids.put(model, vtk.vtkPolyData())
            model.CreateDefaultDisplayNodes()
            self._models[key] = model
        display = model.GetDisplayNode()
        modified = display.StartModify()
        if slice_node is not None:
            display.SetVisibility2D(True)
            display.SetVisibility3D(False)
            display.SetSliceDisplayModeToProjection()
            display.AddViewNodeID(slice_node.GetID()) if not display.GetNumberOfViewNodeIDs() else None
        display.SetVisibility(True)
        display.SetSliceIntersectionThickness(LINE_WIDTH)
        display.SetLineWidth(LINE_WIDTH)
        display.SetLighting(False)
        display.SetAndObserveColorNodeID(colors.rising_table(self.owner.scene).GetID())
        display.SetActiveScalarName(grids.SCALARS)
        display.SetScalarVisibility(True)
        display.SetScalarRangeFlag(display.UseManualScalarRange)
        display.SetScalarRange(0, grids.FOLDED)
        display.SetSaveWithScene(False)
        display.EndModify(modified)
        return model

    def _hide(self) -> None:
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []
        self._planes.clear()
        for model in self._models.values():
            if model.GetScene() is not None:
                model.GetDisplayNode().SetVisibility(False)
        self._bar.hide()
        self.owner.leave_bar(self.name)
        self._hide_native()

    def _observe(self) -> None:
        nodes = slice_nodes(self.owner.scene, self.owner.slice_names)
        known = [node for node, _ in self._observed]
        for node in nodes:
            if node not in known:
                self._observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_slice)))

    def _on_slice(self, slice_node, _event) -> None:
        if self.visible and self.owner.maps.transform is not None and self.owner.maps.transform.GetScene() is not None:
            self._draw(slice_node)

    def _show_native(self) -> None:
        transform = self.owner.maps.transform
        if self._native is None or self._native.GetScene() is None:
            self._native = self.owner.scene.AddNewNodeByClass("vtkMRMLTransformDisplayNode")
            self._native.SetSaveWithScene(False)
            transform.AddAndObserveDisplayNodeID(self._native.GetID())
        node = self._native
        modified = node.StartModify()
        modes = slicer.vtkMRMLTransformDisplayNode
        node.SetVisualizationMode(modes.VIS_MODE_GRID if self.name == "grid" else modes.VIS_MODE_GLYPH)
        node.SetGridSpacingMm(self.options.spacing_mm)
        node.SetGlyphSpacingMm(self.options.spacing_mm)
        node.SetGridResolutionMm(self.options.spacing_mm / grids.SAMPLES_PER_CELL)
        node.SetVisibility(True)
        node.SetVisibility2D(True)
        node.SetVisibility3D(self.options.in_3d)
        node.EndModify(modified)

    def _hide_native(self) -> None:
        if self._native is not None and self._native.GetScene() is not None:
            self._native.SetVisibility(False)
