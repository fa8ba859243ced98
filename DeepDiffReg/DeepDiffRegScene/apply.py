"""A map applied to other nodes: new nodes in the other space, the originals untouched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DeepDiffRegLib.errors import InputError

from .convert import BINARY, as_geometry, segment_image
from .maps import INVERSE_ROLE, after_matrix, copy_display, follow
from .nodes import new_node, place_in_study
from .outputs import oriented_image
from .spaces import (
    from_world,
    index_to_ras,
    local_index_to_ras,
    resliced,
    the_scene,
    transformed,
    voxels_of,
    vtk_matrix,
)  # fmt: skip

SURFACE = "Closed surface"
POLISH = 3
"""Steps x - A^-1 (phi(x) - y), each about a tenth of the error of the one before."""
TRUSTED_MM = 0.1
"""Where VTK's inverse misses by more than this, the explicit inverse may do better."""
SUFFIX = {False: "in fixed space", True: "in moving space"}


def apply_to(nodes, transform, inverse: bool = False, reference=None, scene=None) -> list:
    """Warped copies of nodes, in the order given; they have no parent transform and stand beside ``reference``.

    nodes: volumes, label maps, segmentations, models, point-like markups. transform: output transform. inverse False:
    from the moving to the fixed space; True: the other way. reference: volume node on whose grid volumes and segments are
    resampled; their own grid by default, which may cut off what moves out of it. Raises InputError for other kinds of node.
    """
    unknown = [node for node in nodes if _maker(node) is None]
    if unknown:
        raise InputError(
            f"apply_to(): {unknown[0].GetName()!r} is a {unknown[0].GetClassName()}, which a map cannot be applied to"
        )
    out = []
    for node in nodes:
        made = _maker(node)(node, transform, inverse, reference, the_scene(scene))
        place_in_study(made, node if reference is None else reference)
        out.append(made)
    return out


def move_points(transform, points_ras: np.ndarray, to_moving: bool) -> np.ndarray:
    """(N, 3) RAS points to the moving (phi) or the fixed space (its inverse).

    The inverse starts with VTK's iteration, good to 0.01 mm; a few more steps bring it below 0.001 mm. Where it misses by
    over 0.1 mm, as in folds, the worker's explicit inverse is taken if it is closer.
    """
    if to_moving:
        return follow(transform, points_ras)
    found = follow(transform, points_ras, inverse=True)
    if not len(found):
        return found
    back = np.linalg.inv(after_matrix(transform)[:3, :3]).T
    miss = follow(transform, found) - points_ras
    for _ in range(POLISH):
        better = found - miss @ back
        remains = follow(transform, better) - points_ras
        closer = np.linalg.norm(remains, axis=1) < np.linalg.norm(miss, axis=1)
        found[closer], miss[closer] = better[closer], remains[closer]
    explicit = transform.GetNodeReference(INVERSE_ROLE)
    distance = np.linalg.norm(miss, axis=1)
    wrong = np.flatnonzero(~(distance <= TRUSTED_MM)) if explicit is not None else []
    if len(wrong):
        other = follow(explicit, points_ras[wrong])
        closer = ~(np.linalg.norm(follow(transform, other) - points_ras[wrong], axis=1) >= distance[wrong])
        found[wrong[closer]] = other[closer]
    return found


def resampling_chain(node, transform, inverse: bool) -> vtk.vtkGeneralTransform:
    """World points of the target space to the node's own RAS: the map, then the node's parent transforms."""
    chain = vtk.vtkGeneralTransform()
    chain.PostMultiply()
    explicit = transform.GetNodeReference(INVERSE_ROLE) if inverse else None
    between = vtk.vtkGeneralTransform()
    ends = (transform, None) if inverse and explicit is None else (None, explicit or transform)
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*ends, between)
    chain.Concatenate(between)
    chain.Concatenate(from_world(node))
    return chain


def _volume(node, transform, inverse, reference, scene):
    labels = node.IsA("vtkMRMLLabelMapVolumeNode")
    geometry = as_geometry(node if reference is None else reference)
    chain = resampling_chain(node, transform, inverse)
    outside = 0.0 if labels else min(0.0, node.GetImageData().GetScalarRange()[0])
    image = resliced(node.GetImageData(), local_index_to_ras(node), chain, geometry, not labels, outside)
    made = _new(node, inverse, scene)
    made.SetAndObserveImageData(image)
    made.SetIJKToRASMatrix(vtk_matrix(index_to_ras(geometry)))
    made.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        _copy_volume_display(node.GetDisplayNode(), made.GetDisplayNode())
    return made


def _segmentation(node, transform, inverse, reference, scene):
    made = _new(node, inverse, scene)
    source = node.GetSegmentation().GetSourceRepresentationName()
    made.GetSegmentation().SetSourceRepresentationName(source)
    chain = resampling_chain(node, transform, inverse)
    for identity in node.GetSegmentation().GetSegmentIDs():
        old = node.GetSegmentation().GetSegment(identity)
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(old)
        if source == BINARY:
            geometry = as_geometry(reference) if reference is not None else None
            segment.AddRepresentation(BINARY, _warped_segment(old, chain, geometry))
            segment.SetLabelValue(1)
        else:
            surface = vtk.vtkPolyData()
            surface.DeepCopy(old.GetRepresentation(source))
            _move_poly_data(surface, lambda p: _points_through(node, transform, inverse, p))
            segment.AddRepresentation(source, surface)
        made.GetSegmentation().AddSegment(segment, identity)
    made.CreateDefaultDisplayNodes()
    return made


def _warped_segment(segment, chain, geometry):
    """One segment on the target grid, cut to its own bounding box."""
    image, matrix, own = segment_image(segment)
    if image is None:
        return slicer.vtkOrientedImageData()
    geometry = own if geometry is None else geometry
    mask = voxels_of(resliced(image, matrix, chain, geometry, linear=False)) == segment.GetLabelValue()
    if not mask.any():
        return slicer.vtkOrientedImageData()
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(span[0], span[-1] + 1) for span in spans)
    start, size = [s.start for s in box][::-1], [s.stop - s.start for s in box][::-1]
    return oriented_image(mask[box].astype(np.uint8), geometry.cropped(start, size))


def _model(node, transform, inverse, _reference, scene):
    made = _new(node, inverse, scene)
    mesh = node.GetMesh().NewInstance()
    mesh.DeepCopy(node.GetMesh())
    _move_poly_data(mesh, lambda points: _points_through(node, transform, inverse, points))
    made.SetAndObserveMesh(mesh)
    made.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        made.GetDisplayNode().CopyContent(node.GetDisplayNode())
    return made


def _markups(node, transform, inverse, _reference, scene):
    made = _new(node, inverse, scene)
    made.CopyContent(node)
    made.SetAndObserveTransformNodeID(None)
    points = vtk.vtkPoints()
    node.GetControlPointPositionsWorld(points)
    if points.GetNumberOfPoints():
        moved = move_points(transform, vtk_to_numpy(points.GetData()).astype(float), to_moving=inverse)
        target = vtk.vtkPoints()
        target.SetData(numpy_to_vtk(moved, deep=True))
        _set_positions(made, target)
    made.CreateDefaultDisplayNodes()
    return made


def _set_positions(markups, points) -> None:
    """All at once where every position is defined; otherwise one by one, so that undefined ones stay so."""
    count = range(markups.GetNumberOfControlPoints())
    defined = [i for i in count if markups.GetNthControlPointPositionStatus(i) == markups.PositionDefined]
    if len(defined) == len(count):
        markups.SetControlPointPositionsWorld(points)
        return
    for i in defined:
        markups.SetNthControlPointPositionWorld(i, *points.GetPoint(i))


MAKERS: tuple[tuple[str, Callable], ...] = (
    ("vtkMRMLScalarVolumeNode", _volume),
    ("vtkMRMLSegmentationNode", _segmentation),
    ("vtkMRMLModelNode", _model),
    ("vtkMRMLMarkupsPlaneNode", None),
    ("vtkMRMLMarkupsROINode", None),
    ("vtkMRMLMarkupsNode", _markups),
)
"""Class and what makes its warped copy; None for boxes and planes, which a bent space has no equals of."""


def _new(node, inverse: bool, scene):
    return new_node(node.GetClassName(), f"{node.GetName()} {SUFFIX[inverse]}", "applied", scene)


def _copy_volume_display(source, target) -> None:
    target.CopyContent(source) if source.IsA("vtkMRMLLabelMapVolumeDisplayNode") else copy_display(source, target)


def _points_through(node, transform, inverse: bool, points: np.ndarray) -> np.ndarray:
    """Points of a node's own RAS, through its parents and the map, to the world."""
    chain = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, chain)
    return move_points(transform, transformed(chain, points), to_moving=inverse)


def _move_poly_data(mesh, move: Callable[[np.ndarray], np.ndarray]) -> None:
    """New points for a mesh, in one bulk call; normals are computed anew where there were some."""
    points = mesh.GetPoints()
    if points is None or points.GetNumberOfPoints() == 0:
        return
    moved = move(vtk_to_numpy(points.GetData()).astype(float))
    kept = vtk.vtkPoints()
    kept.SetData(numpy_to_vtk(moved.astype(np.float32), deep=True))
    mesh.SetPoints(kept)
    if mesh.IsA("vtkPolyData") and mesh.GetPointData().GetNormals() is not None:
        normals = vtk.vtkPolyDataNormals()
        normals.SetInputData(mesh)
        normals.SplittingOff()
        normals.Update()
        mesh.ShallowCopy(normals.GetOutput())


def _maker(node) -> Callable | None:
    return next((maker for kind, maker in MAKERS if node.IsA(kind)), None)
