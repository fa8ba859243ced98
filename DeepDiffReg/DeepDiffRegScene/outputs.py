"""Result nodes on the fixed grid: warped scan, Jacobian, folded voxels; each made once and then updated in place."""

from __future__ import annotations

import numpy as np
import slicer

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import Scan

from .colors import FOLD_COLOR
from .convert import scan_to_volume
from .maps import copy_display
from .nodes import find, is_output, own, place_in_study
from .spaces import get_vtk_type, index_to_ras, voxels_of, vtk_matrix

__all__ = [
    "FOLD_COLOR",
    "find",
    "folded_segmentation",
    "is_output",
    "jacobian_volume",
    "place_in_study",
    "sigma_volume",
    "uncertainty_volume",
    "warped_volume",
]

FOLDED = "Folded voxels"
UNIT_ATTRIBUTE = "DeepDiffReg.Unit"
"""Attribute of a volume node: the unit of its voxels, empty for ratios."""


def warped_volume(scan: Scan, fixed, moving, node=None, scene=None):
    """The moving scan on the fixed grid as a volume node in the study of ``fixed``.

    node: one that an earlier call returned; it is updated. Raises InputError for a node of somebody else.
    """
    fresh = node is None
    node = own(node, "vtkMRMLScalarVolumeNode", f"{moving.GetName()} warped", "warped", scene)
    scan_to_volume(scan, "", node=node)
    if fresh:
        place_in_study(node, fixed)
        if moving.GetDisplayNode() is not None:
            copy_display(moving.GetDisplayNode(), node.GetDisplayNode())
    return node


def jacobian_volume(scan: Scan, fixed, node=None, scene=None):
    """The Jacobian determinant of fixed_to_moving as a volume node; arguments as ``warped_volume``."""
    if scan.kind != "intensity":
        raise InputError(f"jacobian_volume(): expected a scan of kind 'intensity', got {scan.kind!r}")
    fresh = node is None
    node = own(node, "vtkMRMLScalarVolumeNode", "Jacobian determinant", "jacobian", scene)
    scan_to_volume(scan, "", node=node)
    if fresh:
        place_in_study(node, fixed)
    return node


def sigma_volume(scan: Scan, like, node=None, scene=None):
    """A kernel width in mm as a volume node in the study of ``like``; arguments as ``warped_volume``."""
    fresh = node is None
    node = own(node, "vtkMRMLScalarVolumeNode", f"Kernel width on {like.GetName()} (mm)", "sigma", scene)
    scan_to_volume(scan, "", node=node)
    if fresh:
        place_in_study(node, like)
    return node


def uncertainty_volume(scan: Scan, title: str, unit: str, fixed, node=None, scene=None):
    """A map of how sure the network was as a volume node that knows its unit; other arguments as ``warped_volume``."""
    fresh = node is None
    name = f"{title} ({unit})" if unit else title
    node = own(node, "vtkMRMLScalarVolumeNode", name, scan.name, scene)
    node.SetAttribute(UNIT_ATTRIBUTE, unit)
    scan_to_volume(scan, "", node=node)
    if fresh:
        place_in_study(node, fixed)
    return node


def folded_segmentation(jacobian: Scan, fixed, node=None, scene=None):
    """A segmentation node with the one segment "Folded voxels": where the determinant is at most 0."""
    fresh = node is None
    node = own(node, "vtkMRMLSegmentationNode", FOLDED, "folds", scene)
    folded = (jacobian.array <= 0).astype(np.uint8)
    segmentation = node.GetSegmentation()
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment = segmentation.GetSegment(FOLDED)
    if segment is None:
        segment = slicer.vtkSegment()
        segment.SetName(FOLDED)
        segment.SetColor(*FOLD_COLOR)
        segment.AddRepresentation(name, oriented_image(folded, jacobian.geometry))
        segmentation.SetSourceRepresentationName(name)
        segmentation.AddSegment(segment, FOLDED)
    else:
        segment.GetRepresentation(name).DeepCopy(oriented_image(folded, jacobian.geometry))
        segment.GetRepresentation(name).Modified()
        segment.Modified()
        segmentation.Modified()
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    if fresh:
        place_in_study(node, fixed)
    return node


def oriented_image(labels: np.ndarray, geometry):
    """(Z, Y, X) whole numbers as the image type that segments hold, placed in RAS."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(geometry.size)
    image.AllocateScalars(get_vtk_type(labels), 1)
    voxels_of(image)[...] = labels
    image.SetImageToWorldMatrix(vtk_matrix(index_to_ras(geometry)))
    return image
