"""Nodes of the scene to values of the library and back; RAS turns into LPS here and in ``spaces`` only.

A scan is described in world space: a linear parent transform goes into its grid. Where the result would be sheared, or the
parent is not linear, a private resampled copy is made. No function here changes the node it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type

from DeepDiffRegLib.errors import GeometryError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Scan

from .spaces import (
    from_world,
    geometry_from_ras,
    image_from,
    index_to_ras,
    local_index_to_ras,
    lps,
    matrix_lps,
    matrix_ras,
    numpy_matrix,
    ras,
    resliced,
    the_scene,
    to_world_matrix,
    transformed,
    voxels_of,
    vtk_matrix,
)  # fmt: skip

__all__ = [
    "SegmentRow", "as_geometry", "geometry_of", "label_scan_of", "lps", "mask_scan_of", "matrix_lps", "matrix_ras",
    "numpy_matrix", "points_of", "ras", "scan_of", "scan_to_volume", "segment_table", "vtk_matrix",
]  # fmt: skip


BINARY = "Binary labelmap"
"""Slicer's name of the representation that holds voxels."""


@dataclass(frozen=True)
class SegmentRow:
    """One label: ``value`` is what it has in the scan that ``label_scan_of`` makes."""

    segment_id: str
    name: str
    value: int
    color: tuple[float, float, float]


def geometry_of(volume) -> Geometry:
    """Grid of a volume in the world (LPS), linear parents included.

    Raises InputError without voxels or with fewer than 2 slices along an axis, GeometryError when the grid in the world
    is not orthogonal (sheared, or a parent that is not linear).
    """
    _check_volume(volume)
    world = to_world_matrix(volume)
    if world is None:
        raise GeometryError(f"geometry_of(): {volume.GetName()!r} lies under a transform that is not linear")
    return geometry_from_ras(volume.GetImageData().GetDimensions(), world @ local_index_to_ras(volume))


def scan_of(volume, kind: str | None = None) -> Scan:
    """A volume as Scan of ``kind`` ``intensity``, ``labels`` or ``mask`` (by default what the node's class says).

    The voxels are shared with the node, read-only and of its own type, where the grid need not change. Raises InputError
    for a node without voxels, with several components, or of one slice only.
    """
    kind = kind or ("labels" if volume is not None and volume.IsA("vtkMRMLLabelMapVolumeNode") else "intensity")
    try:
        geometry, image = geometry_of(volume), volume.GetImageData()
    except GeometryError:
        geometry = upright_grid(volume)
        chain = from_world(volume)
        image = resliced(volume.GetImageData(), local_index_to_ras(volume), chain, geometry, kind == "intensity")
    return Scan(_shared(voxels_of(image), kind), geometry, kind, volume.GetName() or "")


def segment_table(node, segment_ids=None) -> list[SegmentRow]:
    """What ``label_scan_of`` writes for each label.

    A segmentation's segments, all or those in ``segment_ids``, count from 1 in their order. A label map keeps its values:
    one row per value present, ``segment_id`` its decimal digits.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        ids = list(segmentation.GetSegmentIDs()) if segment_ids is None else [str(i) for i in segment_ids]
        missing = [i for i in ids if segmentation.GetSegment(i) is None]
        if missing or not ids:
            raise InputError(f"segments of {node.GetName()!r}: expected existing segments, got {missing or 'none'}")
        segments = [segmentation.GetSegment(i) for i in ids]
        return [SegmentRow(i, s.GetName(), n, tuple(s.GetColor())) for n, (i, s) in enumerate(zip(ids, segments), 1)]
    _check_volume(node)
    values = np.unique(voxels_of(node.GetImageData()))
    chosen = {int(v) for v in values if v > 0} & (
        {int(i) for i in segment_ids} if segment_ids is not None else set(values.astype(int))
    )
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
    return [_label_row(value, colors) for value in sorted(chosen)]


def _label_row(value: int, colors) -> SegmentRow:
    rgba = [1.0, 1.0, 0.0, 1.0]
    known = colors is not None and value < colors.GetNumberOfColors()
    if known:
        colors.GetColor(value, rgba)
    name = colors.GetColorName(value) if known else ""
    return SegmentRow(str(value), name or f"Label {value}", value, tuple(rgba[:3]))


def label_scan_of(node, segment_ids=None, reference=None) -> Scan:
    """Labels of a segmentation or label map in world space; values as in ``segment_table``.

    reference: Geometry, Scan or volume node whose grid is used; required for segmentations, a label map's own grid otherwise.
    Nearest neighbor; where segments overlap, the later one wins.
    """
    rows = segment_table(node, segment_ids)
    if node.IsA("vtkMRMLSegmentationNode"):
        return _segments(node, rows, reference, "labels")
    scan = scan_of(node, "labels") if reference is None else _label_map_on(node, as_geometry(reference))
    if segment_ids is None:
        return scan
    kept = np.where(np.isin(scan.array, [row.value for row in rows]), scan.array, 0)
    return Scan(kept, scan.geometry, "labels", scan.name)


def mask_scan_of(node, segment_ids=None, reference=None) -> Scan:
    """Where any of the labels is: a Scan of kind ``mask``, uint8 0 or 1; arguments as ``label_scan_of``."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return _segments(node, segment_table(node, segment_ids), reference, "mask")
    scan = label_scan_of(node, segment_ids, reference)
    return Scan((scan.array != 0).astype(np.uint8), scan.geometry, "mask", scan.name)


def _label_map_on(node, geometry: Geometry) -> Scan:
    _check_volume(node)
    image = resliced(node.GetImageData(), local_index_to_ras(node), from_world(node), geometry, linear=False)
    return Scan(_shared(voxels_of(image), "labels"), geometry, "labels", node.GetName() or "")


def _segments(node, rows: list[SegmentRow], reference, kind: str) -> Scan:
    if reference is None:
        raise InputError(f"segments of {node.GetName()!r}: a reference volume is needed to say on which grid")
    geometry = as_geometry(reference)
    out = np.zeros(geometry.shape, np.uint8 if kind == "mask" else np.int32)
    segmentation = _with_label_maps(node, geometry)
    world_to_local = from_world(node)
    for row in rows:
        segment = segmentation.GetSegment(row.segment_id)
        image, matrix, _ = segment_image(segment)
        if image is not None:
            found = resliced(image, matrix, world_to_local, geometry, linear=False)
            out[voxels_of(found) == segment.GetLabelValue()] = 1 if kind == "mask" else row.value
    return Scan(out, geometry, kind, node.GetName() or "")


def _with_label_maps(node, geometry: Geometry):
    """The node's own segmentation, or a private copy turned into label maps on about this grid where it has surfaces only."""
    segmentation = node.GetSegmentation()
    if segmentation.ContainsRepresentation(BINARY):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    to_local = np.linalg.inv(to_world) if (to_world := to_world_matrix(node)) is not None else np.eye(4)
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(
        vtk_matrix(to_local @ index_to_ras(geometry)),
        [0, geometry.size[0] - 1, 0, geometry.size[1] - 1, 0, geometry.size[2] - 1],
    )
    copy.SetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(), text)
    if not copy.CreateRepresentation(BINARY):
        raise InputError(f"segments of {node.GetName()!r} cannot be turned into a label map")
    return copy


def segment_image(segment) -> tuple:
    """Voxels of a segment's label map (shared, extent from 0), their (4, 4) index-to-RAS matrix and grid; Nones when empty.

    Several segments may share the voxels: this one's have its label value.
    """
    source = segment.GetRepresentation(BINARY)
    if source is None or 0 in source.GetDimensions():
        return None, None, None
    image, matrix, start = vtk.vtkImageData(), vtk.vtkMatrix4x4(), np.eye(4)
    image.SetDimensions(source.GetDimensions())
    image.GetPointData().SetScalars(source.GetPointData().GetScalars())
    source.GetImageToWorldMatrix(matrix)
    start[:3, 3] = np.array(source.GetExtent())[::2]
    placed = numpy_matrix(matrix) @ start
    return image, placed, geometry_from_ras(image.GetDimensions(), placed)


def _shared(array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "labels" and array.dtype.kind == "f":
        return np.rint(array).astype(np.int32)
    array = array.view()
    array.flags.writeable = False
    return array


def scan_to_volume(scan: Scan, name: str, scene=None, node=None):
    """A Scan as scalar volume node (label map node for labels and masks); ``node`` given: that node, updated in place."""
    labels = scan.kind != "intensity"
    if node is None:
        kind = "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode"
        node = the_scene(scene).AddNewNodeByClass(kind, the_scene(scene).GenerateUniqueName(name))
    image = node.GetImageData()
    array = scan.array if not labels or np.issubdtype(scan.array.dtype, np.integer) else scan.array.astype(np.int32)
    reuse = image is not None and image.GetDimensions() == scan.geometry.size
    if reuse and image.GetScalarType() == get_vtk_array_type(array.dtype):
        voxels_of(image)[...] = array
        image.GetPointData().GetScalars().Modified()
        image.Modified()
    else:
        node.SetAndObserveImageData(image_from(array))
    node.SetIJKToRASMatrix(vtk_matrix(index_to_ras(scan.geometry)))
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.Modified()
    return node


def points_of(markups, enabled_only: bool = False) -> tuple[list[str], np.ndarray]:
    """Labels and (N, 3) world positions (LPS) of the control points whose position is defined.

    enabled_only: leave out the points that are not selected.
    """
    labels, points = [], []
    for i in range(markups.GetNumberOfControlPoints()):
        defined = markups.GetNthControlPointPositionStatus(i) == markups.PositionDefined
        if defined and (markups.GetNthControlPointSelected(i) or not enabled_only):
            labels.append(markups.GetNthControlPointLabel(i))
            points.append(markups.GetNthControlPointPositionWorld(i))
    return labels, lps(np.array(points, dtype=float).reshape(-1, 3))


def as_geometry(reference) -> Geometry:
    """A Geometry, or the grid of the Scan or volume node given instead (an upright one where its own is sheared)."""
    if isinstance(reference, Geometry):
        return reference
    if isinstance(reference, Scan):
        return reference.geometry
    try:
        return geometry_of(reference)
    except GeometryError:
        return upright_grid(reference)


def _check_volume(volume) -> None:
    image = volume.GetImageData() if volume is not None else None
    if image is None or image.GetPointData().GetScalars() is None:
        name = volume.GetName() if volume is not None else "no node"
        raise InputError(f"scan: expected a volume with voxels, got {name!r}; load or choose a volume")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"scan: {volume.GetName()!r} has {image.GetNumberOfScalarComponents()} components per voxel; choose a gray-scale volume"
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(
            f"scan: {volume.GetName()!r} is a single slice ({'x'.join(map(str, image.GetDimensions()))} voxels); 3-D volumes are expected"
        )


def upright_grid(volume) -> Geometry:
    """An orthogonal world grid that holds a sheared or non-linearly placed volume at about its own resolution.

    Axes: the volume's own, made orthogonal (nearest rotation); bounds: where a lattice of its voxels lies in the world.
    """
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, to_world)
    size = np.array(volume.GetImageData().GetDimensions())
    lattice = np.stack(np.meshgrid(*(np.linspace(-0.5, n - 0.5, 9) for n in size), indexing="ij"), -1).reshape(-1, 3)
    matrix = local_index_to_ras(volume)
    corners = transformed(to_world, lattice @ matrix[:3, :3].T + matrix[:3, 3])
    axes = np.linalg.lstsq(np.c_[lattice, np.ones(len(lattice))], corners, rcond=None)[0][:3].T
    u, _, vt = np.linalg.svd(axes / np.linalg.norm(axes, axis=0))
    rotation = u @ vt
    spacing = np.linalg.norm(axes, axis=0)
    along = corners @ rotation
    low, high = along.min(0), along.max(0)
    count = np.maximum(np.ceil((high - low) / spacing - 1e-6), 2).astype(int)
    first = (low + high) / 2 - (count - 1) / 2 * spacing
    full = np.eye(4)
    full[:3, :3] = rotation * spacing
    full[:3, 3] = rotation @ first
    return geometry_from_ras(count, full)
