"""Looking at two scans at once: fade, checkerboard, blink, and linked views side by side; no Qt."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import Scan

from .convert import geometry_of, scan_to_volume
from .nodes import private_node, remove
from .overlays import composite_of, composites
from .spaces import from_world, local_index_to_ras, resliced, the_scene, voxels_of

LAYOUTS = {2: 5310, 3: 5311}
"""Layout numbers of the module's own arrangements, by count of columns."""
BEFORE = "DeepDiffReg.LayoutBefore"
ROWS = (("Axial", "#F34A33"), ("Coronal", "#6EB04B"), ("Sagittal", "#EDD54C"))
COLUMNS = {"fixed": ("Fixed", 51), "warped": ("Warped", 51), "moving": ("Moving", 52)}
"""Title and view group: the fixed and the warped scan share a space and move together, the moving scan has its own."""


class Compare:
    """Two volumes over each other in some slice views; ``stop`` gives the views back as they were.

    fixed: below. other: above, such as the warped scan or the live preview. slice_names: layout names, all by default.
    """

    def __init__(self, fixed, other, slice_names=None, scene=None):
        if fixed is None or other is None:
            raise InputError("Compare: two volumes are needed")
        self.fixed, self.other, self.slice_names, self.scene = fixed, other, slice_names, the_scene(scene)
        self._before: dict[str, tuple] = {}
        self._board = None
        self._squares = 0

    def fade(self, share: float) -> None:
        """Mix: 0 shows the fixed scan only, 1 the other one only."""
        self._show(self.fixed, self.other, float(np.clip(share, 0, 1)))

    def blink(self) -> None:
        """Change from one scan to the other; called by a timer."""
        front = any(node.GetForegroundOpacity() > 0.5 for node in self._nodes() if self._is_pair(node))
        self._show(self.fixed, self.other, 0.0 if front else 1.0)

    def checkerboard(self, squares: int) -> None:
        """Squares of both scans in turn, ``squares`` along the longest edge of the fixed scan; gray by each one's window."""
        if squares < 1:
            raise InputError(f"checkerboard: at least 1 square is needed, got {squares}")
        self._squares = int(squares)
        scan = self._composed(self._squares)
        if self._board is None or self._board.GetScene() is None:
            self._board = private_node("vtkMRMLScalarVolumeNode", "Checkerboard", "checkerboard", self.scene)
        scan_to_volume(scan, "", node=self._board)
        display = self._board.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0, 255)
        display.SetInterpolate(False)
        self._show(self._board, None, 0.0)

    def update(self) -> None:
        """Compose the checkerboard anew after one of the scans has changed; the other modes follow by themselves."""
        if self._squares and self._board is not None:
            self.checkerboard(self._squares)

    def stop(self) -> None:
        """Show again what was shown before."""
        for node in self._nodes():
            if node.GetID() in self._before:
                self._restore(node, *self._before[node.GetID()])
        self._before.clear()
        remove(self._board)
        self._board, self._squares = None, 0

    def _nodes(self) -> list:
        return composites(self.scene, self.slice_names)

    def _is_pair(self, node) -> bool:
        return (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()) == (self.fixed.GetID(), self.other.GetID())

    def _show(self, back, front, opacity: float) -> None:
        for node in self._nodes():
            state = (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            self._before.setdefault(node.GetID(), state)
            modified = node.StartModify()
            node.SetBackgroundVolumeID(back.GetID())
            node.SetForegroundVolumeID(front.GetID() if front is not None else None)
            node.SetForegroundOpacity(opacity)
            node.EndModify(modified)

    def _restore(self, node, back: str | None, front: str | None, opacity: float) -> None:
        known = [i if i and self.scene.GetNodeByID(i) is not None else None for i in (back, front)]
        modified = node.StartModify()
        node.SetBackgroundVolumeID(known[0])
        node.SetForegroundVolumeID(known[1])
        node.SetForegroundOpacity(opacity)
        node.EndModify(modified)

    def _composed(self, squares: int) -> Scan:
        geometry = geometry_of(self.fixed)
        edge = geometry.extent_mm.max() / squares
        parts = [gray(volume, geometry) for volume in (self.fixed, self.other)]
        index = [
            np.floor((np.arange(n) + 0.5) * s / edge).astype(int) for n, s in zip(geometry.size, geometry.spacing_mm)
        ]
        odd = (index[2][:, None, None] + index[1][:, None] + index[0]) % 2 == 1
        return Scan(np.where(odd, parts[1], parts[0]), geometry, "intensity", "checkerboard")


def gray(volume, geometry) -> np.ndarray:
    """A volume on a grid as it looks in gray, by its window and level: (Z, Y, X) uint8."""
    image = volume.GetImageData()
    if volume.GetParentTransformNode() is not None or not geometry_of(volume).same_grid(geometry):
        image = resliced(image, local_index_to_ras(volume), from_world(volume), geometry)
    values = voxels_of(image).astype(np.float32)
    display = volume.GetDisplayNode()
    low, high = (
        (values.min(), values.max()) if display is None else (display.GetWindowLevelMin(), display.GetWindowLevelMax())
    )
    values -= np.float32(low)
    values *= np.float32(255 / max(float(high) - float(low), 1e-6))
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def side_by_side(fixed, warped, moving, scene=None) -> dict[str, list[str]]:
    """Columns fixed, warped (left out for None) and moving; rows axial, coronal, sagittal. Returns layout names per column.

    Fixed and warped views are linked; the moving scan's views are linked with each other only. ``back`` undoes the layout.
    """
    scene = the_scene(scene)
    volumes = {"fixed": fixed, "warped": warped, "moving": moving}
    columns = {name: volume for name, volume in volumes.items() if volume is not None}
    layout = layout_node(scene)
    number = LAYOUTS[len(columns)]
    text = layout_text(columns)
    if not layout.AddLayoutDescription(number, text):
        layout.SetLayoutDescription(number, text)
    names = {}
    for column, volume in columns.items():
        names[column] = [view_name(column, orientation) for orientation, _ in ROWS]
        for (orientation, _), name in zip(ROWS, names[column]):
            prepare_view(scene, name, orientation, COLUMNS[column][1], volume)
    if layout.GetViewArrangement() not in LAYOUTS.values():
        layout.SetAttribute(BEFORE, str(layout.GetViewArrangement()))
    layout.SetViewArrangement(number)
    return names


def back(scene=None) -> None:
    """Return to the layout that was there before ``side_by_side``; nothing when the user has chosen another meanwhile."""
    layout = layout_node(the_scene(scene))
    before = layout.GetAttribute(BEFORE)
    if before is not None and layout.GetViewArrangement() in LAYOUTS.values():
        layout.SetViewArrangement(int(before))
    layout.RemoveAttribute(BEFORE)


def layout_node(scene):
    """The scene's layout node."""
    node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    return node if node is not None else scene.AddNewNodeByClass("vtkMRMLLayoutNode")


def view_name(column: str, orientation: str) -> str:
    """Layout name of one view of the arrangement."""
    return f"DeepDiffReg{column.capitalize()}{orientation}"


def layout_text(columns) -> str:
    """The arrangement in Slicer's layout language."""
    rows = []
    for orientation, color in ROWS:
        items = []
        for column in columns:
            title, group = COLUMNS[column]
            values = {"orientation": orientation, "viewlabel": title[0], "viewcolor": color, "viewgroup": group}
            settings = "".join(f'<property name="{k}" action="default">{v}</property>' for k, v in values.items())
            tag = view_name(column, orientation)
            items.append(f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">{settings}</view></item>')
        rows.append(f'<item><layout type="horizontal">{"".join(items)}</layout></item>')
    return f'<layout type="vertical">{"".join(rows)}</layout>'


def prepare_view(scene, name: str, orientation: str, group: int, volume) -> None:
    """Make, or find, a slice view's nodes and let it show the middle of a volume, linked within its group."""
    node = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetName(name)
        node.SetLayoutName(name)
        if not node.HasSliceOrientationPreset(orientation):
            matrix = vtk.vtkMatrix3x3()
            getattr(slicer.vtkMRMLSliceNode, f"Get{orientation}SliceToRASMatrix")(matrix)
            node.AddSliceOrientationPreset(orientation, matrix)
        node.SetOrientation(orientation)
        node = scene.AddNode(node)
    node.SetViewGroup(group)
    composite = composite_of(node)
    if composite is None:
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        composite = scene.AddNode(composite)
    composite.SetBackgroundVolumeID(volume.GetID())
    composite.SetForegroundVolumeID(None)
    composite.SetLinkedControl(True)
    composite.SetHotLinkedControl(True)
    show_whole(node, volume)


def show_whole(slice_node, volume) -> None:
    """Center a slice node on a volume, with a field of view that holds it."""
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    axes = np.array([[slice_node.GetSliceToRAS().GetElement(i, j) for j in range(3)] for i in range(3)])
    extent = np.abs(axes.T) @ (high - low)
    width, height = (max(n, 1) for n in slice_node.GetDimensions()[:2])
    edge = max(extent[0] / width, extent[1] / height)
    slice_node.SetFieldOfView(edge * width, edge * height, slice_node.GetFieldOfView()[2])
    slice_node.JumpSliceByCentering(*((low + high) / 2))
