"""What a network saw in a scan, over the slice views: one channel in gray, or all channels as colors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from DeepDiffRegLib.interactive.messages import Scan

from .colors import Legend
from .convert import scan_to_volume
from .layer import Layer
from .nodes import own, place_in_study, remove
from .overlays import Overlay
from .spaces import image_from, index_to_ras, voxels_of, vtk_matrix

SHARES = (1, 99)
"""Percentiles of a channel that become black and white."""


def feature_volume(images: list[Scan], name: str, like, node=None, scene=None):
    """One scan as a scalar volume node, red, green and blue (0 to 1) as a vector volume node, in the study of ``like``.

    node: one that an earlier call returned; it is updated, or removed where the other kind is needed. Raises InputError for a
    node of somebody else.
    """
    kind = "vtkMRMLVectorVolumeNode" if len(images) == 3 else "vtkMRMLScalarVolumeNode"
    if node is not None and node.GetClassName() != kind:
        remove(node)
        node = None
    fresh = node is None
    node = own(node, kind, name, "features", scene)
    node.SetName(name)
    if len(images) == 3:
        _fill(node, images)
    else:
        scan_to_volume(images[0], "", node=node)
        low, high = np.percentile(images[0].array[::2, ::2, ::2], SHARES)
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(float(low), float(max(high, low + 1e-6)))
    if fresh:
        place_in_study(node, like)
    return node


def _fill(node, images: list[Scan]) -> None:
    geometry, image = images[0].geometry, node.GetImageData()
    if image is None or image.GetDimensions() != geometry.size:
        image = image_from(np.zeros((*geometry.shape, 3), np.uint8))
    voxels = voxels_of(image)
    for color, scan in enumerate(images):
        for z in range(len(scan.array)):  # plane by plane: no copy of the volume as floating-point numbers
            voxels[z, ..., color] = scan.array[z] * np.float32(255)
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    if node.GetImageData() is not image:
        node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtk_matrix(index_to_ras(geometry)))
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.Modified()


class FeatureLayer(Layer):
    """Drawn from the worker's volume (``feature_volume``); without it nothing is drawn."""

    @dataclass(frozen=True)
    class Options:
        """volume: a volume node of ``feature_volume``, or None."""

        opacity: float = 0.6
        volume: object = None

    def __init__(self, owner, name: str, text: str):
        super().__init__(owner, name, text)
        self._overlay = Overlay(owner.scene, owner.slice_names)

    @property
    def _there(self) -> bool:
        return self.options.volume is not None and self.options.volume.GetScene() is not None

    @property
    def legend(self):
        """What is shown; None when hidden or without a volume."""
        if not (self.visible and self._there):
            return None
        volume = self.options.volume
        if volume.GetImageData().GetNumberOfScalarComponents() == 3:
            return Legend(f"{volume.GetName()}: equal colors are alike to the network", ())
        display = volume.GetDisplayNode()
        low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
        steps = np.linspace(0.0, 1.0, 5)
        return Legend(volume.GetName(), tuple((s, (s, s, s), f"{low + s * (high - low):.2g}") for s in steps.tolist()))

    def update(self) -> None:
        """Take the volume as it is now."""
        if self._there:
            self._overlay.put(self.options.volume, self.options.opacity)
        else:
            self._overlay.take()

    def _hide(self) -> None:
        self._overlay.take()

    def remove(self) -> None:
        """Hide the layer; the volume is the worker's result and stays."""
        self.show(False)
