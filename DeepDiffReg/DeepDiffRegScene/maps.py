"""The map fixed_to_moving as transform nodes: a cubic grid from parent, then a matrix; updated in place.

A transform node from parent holds the resampling direction: put above the moving scan it shows the scan where the map
takes its values from. VTK extends the displacement of a grid's border without end, so the stored grid carries a margin in
which it fades to zero (``fields.margins_needed``); between voxels Slicer reads it with cubic, the library with linear
interpolation, so the two agree exactly at the voxels and to about curvature * spacing^2 / 8 in between.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import Map

from . import fields
from .nodes import OUTPUT_ATTRIBUTE, is_output, new_node, own, place_in_study, private_node, remove
from .spaces import (
    from_world,
    index_to_ras,
    local_index_to_ras,
    matrix_ras,
    the_scene,
    to_world_matrix,
    vtk_matrix,
)  # fmt: skip
from .transform_reading import MARGINS_ATTRIBUTE, after_matrix, follow, grid_spacing_mm, map_of, stored_grid

__all__ = [
    "OUTPUT_ATTRIBUTE", "MapNodes", "after_matrix", "follow", "grid_spacing_mm", "is_output", "map_of", "stored_grid",
]  # fmt: skip

INVERSE_ROLE = "DeepDiffReg.Inverse"
"""A preview's grid of this size is written in about 10 ms."""


class MapNodes:
    """The output transform, its explicit inverse, and a live preview of the moving scan; nodes appear when needed.

    transform, inverse: output nodes of an earlier run to go on with. like: volume whose study the nodes are placed in.
    """

    def __init__(self, transform=None, inverse=None, name: str = "DeepDiffReg transform", like=None, scene=None):
        self.name, self.like, self.scene = name, like, the_scene(scene)
        self.transform = None if transform is None else own(transform, "vtkMRMLTransformNode", name, "transform")
        self.inverse = None if inverse is None else own(inverse, "vtkMRMLTransformNode", name, "inverse")
        self._forward, self._backward = _Parts(), _Parts()
        self._preview = self._bridge = None

    @classmethod
    def of(cls, transform, like=None) -> MapNodes:
        """For the output transform of a scene that was opened again; its inverse is found by node reference."""
        inverse = transform.GetNodeReference(INVERSE_ROLE)
        return cls(transform, inverse, transform.GetName(), like, transform.GetScene())

    def update(self, map_: Map, live: bool = False):
        """Show a map fixed_to_moving; returns the transform node. In place: no node is added after the first call.

        live: for previews; read linearly, so that a view follows at once.
        """
        if self.transform is None:
            self.transform = self._new("transform", self.name)
        self._forward.show(self.transform, map_, live)
        return self.transform

    def update_inverse(self, map_: Map):
        """Keep the explicit moving_to_fixed map in a node of its own, referred to by the transform; returns that node."""
        if self.inverse is None:
            self.inverse = self._new("inverse", f"{self.name} (inverse)")
        self._backward.show(self.inverse, map_)
        if self.transform is not None:
            self.transform.SetNodeReferenceID(INVERSE_ROLE, self.inverse.GetID())
        return self.inverse

    def forget_inverse(self) -> None:
        """Take the inverse out of the scene when it no longer belongs to the transform."""
        if self.transform is not None:
            self.transform.SetNodeReferenceID(INVERSE_ROLE, None)
        remove(self.inverse)
        self.inverse, self._backward = None, _Parts()

    def map(self) -> Map:
        """The map that the transform node holds."""
        if self.transform is None:
            raise InputError("MapNodes: nothing has been registered yet")
        return map_of(self.transform)

    def preview(self, moving):
        """A volume node under the transform that shares the voxels of ``moving``: live, without resampling or copying.

        The moving node itself is not touched. Hidden in selectors, not saved; the same node at every call.
        """
        if self.transform is None:
            self.update(Map(np.eye(4)))
        if self._preview is None or self._preview.GetScene() is None:
            name = f"{moving.GetName()} (live)"
            self._preview = private_node("vtkMRMLScalarVolumeNode", name, "preview", self.scene)
            self._preview.CreateDefaultDisplayNodes()
        if self._preview.GetImageData() is not moving.GetImageData():
            self._preview.SetAndObserveImageData(moving.GetImageData())
        if moving.GetDisplayNode() is not None:
            copy_display(moving.GetDisplayNode(), self._preview.GetDisplayNode())
        linear = to_world_matrix(moving)
        matrix = local_index_to_ras(moving) if linear is None else linear @ local_index_to_ras(moving)
        self._preview.SetIJKToRASMatrix(vtk_matrix(matrix))
        above = self.transform if linear is not None else self._bridge_over(moving)
        self._preview.SetAndObserveTransformNodeID(above.GetID())
        return self._preview

    def end_preview(self) -> None:
        """Take the preview out of the scene."""
        remove(self._preview)
        remove(self._bridge)
        self._preview = self._bridge = None

    def _bridge_over(self, moving):
        """A hidden copy of the moving scan's own transforms, placed under the output transform."""
        if self._bridge is None or self._bridge.GetScene() is None:
            self._bridge = private_node("vtkMRMLTransformNode", f"{moving.GetName()} (place)", "preview", self.scene)
        self._bridge.SetAndObserveTransformFromParent(from_world(moving))
        self._bridge.SetAndObserveTransformNodeID(self.transform.GetID())
        return self._bridge

    def _new(self, role: str, name: str):
        node = new_node("vtkMRMLTransformNode", name, role, self.scene)
        place_in_study(node, self.like)
        return node


class _Parts:
    """The VTK objects in a transform node, kept so that the next map only writes numbers into them."""

    def __init__(self):
        self.matrix = self.grid = self.whole = self.frame = None

    def show(self, node, map_: Map, live: bool = False) -> None:
        if map_.displacement is None:
            linear = vtk.vtkTransform()
            linear.SetMatrix(vtk_matrix(matrix_ras(map_.world)))
            node.SetAndObserveTransformFromParent(linear)
            node.RemoveAttribute(MARGINS_ATTRIBUTE)
            self.whole = None
            return
        fresh = self.whole is None or node.GetTransformFromParent() is not self.whole
        if fresh:
            self._build()
        self.grid.SetInterpolationModeToLinear() if live else self.grid.SetInterpolationModeToCubic()
        self._write(map_)
        node.SetAttribute(MARGINS_ATTRIBUTE, " ".join(str(n) for pair in self.frame.margins for n in pair))
        if fresh:
            node.SetAndObserveTransformFromParent(self.whole)
        else:
            self.whole.Modified()

    def _build(self) -> None:
        self.matrix, self.grid, self.whole = (
            vtk.vtkTransform(),
            slicer.vtkOrientedGridTransform(),
            vtk.vtkGeneralTransform(),
        )
        self.whole.Concatenate(self.matrix)
        self.whole.Concatenate(self.grid)
        self.frame = None

    def _write(self, map_: Map) -> None:
        frame = fields.padded(map_.geometry, self._margins(map_))
        if self.frame is None or not self.frame.geometry.same_grid(frame.geometry):
            self.frame = frame
            image = vtk.vtkImageData()
            image.SetDimensions(self.frame.geometry.size)
            image.AllocateScalars(vtk.VTK_FLOAT, 3)
            place = index_to_ras(self.frame.geometry)
            image.SetSpacing(self.frame.geometry.spacing_mm)
            image.SetOrigin(place[:3, 3])
            rotation = np.eye(4)
            rotation[:3, :3] = place[:3, :3] / np.array(self.frame.geometry.spacing_mm)
            self.grid.SetGridDirectionMatrix(vtk_matrix(rotation))
            self.grid.SetDisplacementGridData(image)
        image = self.grid.GetDisplacementGrid()
        scalars = image.GetPointData().GetScalars()
        fields.fill(vtk_to_numpy(scalars).reshape(*self.frame.geometry.shape, 3), map_.displacement, self.frame)
        scalars.Modified()
        image.Modified()
        self.matrix.SetMatrix(vtk_matrix(matrix_ras(map_.world)))
        self.grid.Modified()

    def _margins(self, map_: Map) -> fields.Margins:
        """Margins for this map, never less than those at hand for the same grid: memory is not asked for anew each time."""
        needed = fields.margins_needed(map_.displacement, map_.geometry)
        if self.frame is None or not self.frame.own.same_grid(map_.geometry):
            return needed
        return tuple(tuple(map(max, have, need)) for have, need in zip(self.frame.margins, needed))


def copy_display(source, target) -> None:
    """Colors, window and level of one volume display to another."""
    modified = target.StartModify()
    target.SetAndObserveColorNodeID(source.GetColorNodeID())
    target.SetAutoWindowLevel(False)
    target.SetWindowLevel(source.GetWindow(), source.GetLevel())
    target.SetInterpolate(source.GetInterpolate())
    target.EndModify(modified)
