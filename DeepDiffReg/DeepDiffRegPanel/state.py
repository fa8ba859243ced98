"""The typed state of the panel, kept in one parameter node: it survives saving, loading, closing and reloading."""

import enum
from typing import Annotated, Union

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTextNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Decimals, SingleStep, WithinRange, parameterNodeWrapper

AS_PRESET = ""
"""Value of method, transform and similarity that means: what the preset says."""
Structures = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007 - Slicer looks for typing.Union


class Quality(enum.Enum):
    """How far the run goes beyond what the preset says."""

    PRESET = "preset"
    DRAFT = "draft"
    THOROUGH = "thorough"

    def label(self):
        return {
            Quality.PRESET: _("as the preset"),
            Quality.DRAFT: _("draft: stop at half resolution"),
            Quality.THOROUGH: _("thorough: twice the iterations"),
        }[self]


class Direction(enum.Enum):
    """Which way a transform is applied."""

    MOVING_TO_FIXED = "moving_to_fixed"
    FIXED_TO_MOVING = "fixed_to_moving"

    def label(self):
        return {
            Direction.MOVING_TO_FIXED: _("moving to fixed"),
            Direction.FIXED_TO_MOVING: _("fixed to moving"),
        }[self]


class CompareMode(enum.Enum):
    """How fixed and warped scan are shown together."""

    OFF = "off"
    FADE = "fade"
    CHECKERBOARD = "checkerboard"
    BLINK = "blink"
    SIDE_BY_SIDE = "side_by_side"

    def label(self):
        return {
            CompareMode.OFF: _("leave the views alone"),
            CompareMode.FADE: _("fade"),
            CompareMode.CHECKERBOARD: _("checkerboard"),
            CompareMode.BLINK: _("blink"),
            CompareMode.SIDE_BY_SIDE: _("side by side, linked"),
        }[self]


class GridDirection(enum.Enum):
    """Which way grid and arrows are drawn; values are those of the layers."""

    RESAMPLING = "resampling"
    FORWARD = "forward"

    def label(self):
        return {
            GridDirection.RESAMPLING: _("pull-back: fixed looks up moving"),
            GridDirection.FORWARD: _("push-forward: moving goes to fixed"),
        }[self]


class UncertaintyOf(enum.Enum):
    """Which map of a network's uncertainty is shown; values are the names of the outputs."""

    DISPLACEMENT = "uncertainty"
    JACOBIAN = "jacobianUncertainty"
    PRIOR = "priorUncertainty"
    LABELS = "labelUncertainty"

    def label(self):
        return {
            UncertaintyOf.DISPLACEMENT: _("of the displacement (mm)"),
            UncertaintyOf.JACOBIAN: _("of the Jacobian"),
            UncertaintyOf.PRIOR: _("relative to the prior"),
            UncertaintyOf.LABELS: _("of the labels (entropy, nat)"),
        }[self]


class FeatureSide(enum.Enum):
    """Whose features are shown; values are those of the worker."""

    FIXED = "fixed"
    WARPED = "warped"

    def label(self):
        return {
            FeatureSide.FIXED: _("of the fixed scan"),
            FeatureSide.WARPED: _("of the moving scan, warped"),
        }[self]


class Clip(enum.Enum):
    """Where the layers are drawn."""

    EVERYWHERE = "everywhere"
    BODY = "body"
    SEGMENT = "segment"

    def label(self):
        return {
            Clip.EVERYWHERE: _("everywhere"),
            Clip.BODY: _("inside the body"),
            Clip.SEGMENT: _("inside a segment"),
        }[self]


@parameterNodeWrapper
class DeepDiffRegState:
    """Names ending in Volume, Transform, Mask, Landmarks, Segmentation and Record are node references."""

    # Inputs
    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    initialTransform: vtkMRMLTransformNode
    fixedMask: Structures
    movingMask: Structures
    preset: str = "default"
    method: str = AS_PRESET
    modelFile: str = ""
    transformModel: str = AS_PRESET
    similarity: str = AS_PRESET
    device: str = "auto"
    quality: Quality = Quality.PRESET

    # Run
    livePreview: bool = True

    # Prompts
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    fixedSegmentation: Structures
    movingSegmentation: Structures
    labelPairs: list[tuple[str, str, float]]
    stiffness: dict[str, str]
    updateLive: bool = True
    assist: bool = False

    # Results
    outputTransform: vtkMRMLTransformNode
    inverseTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    jacobianVolume: vtkMRMLScalarVolumeNode
    foldsSegmentation: vtkMRMLSegmentationNode
    sigmaVolume: vtkMRMLScalarVolumeNode
    movingSigmaVolume: vtkMRMLScalarVolumeNode
    uncertaintyVolume: vtkMRMLScalarVolumeNode
    jacobianUncertaintyVolume: vtkMRMLScalarVolumeNode
    priorUncertaintyVolume: vtkMRMLScalarVolumeNode
    labelUncertaintyVolume: vtkMRMLScalarVolumeNode
    featuresVolume: vtkMRMLScalarVolumeNode
    runRecord: vtkMRMLTextNode
    showGrid: bool = False
    showGlyphs: bool = False
    showMagnitude: bool = False
    showJacobian: bool = False
    showFolds: bool = False
    showSigma: bool = False
    showUncertainty: bool = False
    uncertaintyOf: UncertaintyOf = UncertaintyOf.DISPLACEMENT
    showFeatures: bool = False
    featureSide: FeatureSide = FeatureSide.FIXED
    featureScale: int = -1
    featureChannel: int = -1
    layerSpacingMm: Annotated[float, WithinRange(2.0, 50.0), Decimals(0), SingleStep(1.0)] = 12.0
    layerOpacity: Annotated[float, WithinRange(0.0, 1.0), Decimals(2), SingleStep(0.05)] = 0.6
    gridDirection: GridDirection = GridDirection.RESAMPLING
    deformableOnly: bool = False
    clip: Clip = Clip.EVERYWHERE
    clipSegmentation: vtkMRMLSegmentationNode
    clipSegment: str = ""
    compareMode: CompareMode = CompareMode.OFF
    fade: Annotated[float, WithinRange(0.0, 1.0), Decimals(2), SingleStep(0.05)] = 0.5
    checkers: Annotated[int, WithinRange(2, 20)] = 6
    secondCursor: bool = False

    # Apply and export
    applyDirection: Direction = Direction.MOVING_TO_FIXED
    exportFolder: str = ""
    exportTransform: bool = True
    exportDisplacement: bool = False
    exportInverse: bool = True
    exportJacobian: bool = False
    exportFlow: bool = False
    exportFeatures: bool = False
    exportReport: bool = True


def configOf(state) -> dict:
    """The preset with the advanced choices applied, as the plain dictionary that the worker takes."""
    import dataclasses

    from DeepDiffRegLib.config import load_preset
    from DeepDiffRegLib.networks.files import with_model

    config = load_preset(state.preset)
    if state.modelFile:
        config = with_model(config, state.modelFile, state.method)
    changes = {"device": state.device or "auto", "schedule": _schedule(config.schedule, state.quality)}
    if state.method:
        changes["method"] = state.method
    if state.transformModel:
        config = config.moved_by(state.transformModel)
    if state.similarity:
        config = config.compared_by(state.similarity)
    return dataclasses.replace(config, **changes).to_dict()


def _schedule(schedule, quality):
    import dataclasses

    if quality is Quality.THOROUGH:
        return dataclasses.replace(schedule, iterations=tuple(2 * n for n in schedule.iterations))
    levels = [(f, n) for f, n in zip(schedule.factors, schedule.iterations) if f >= 2]
    if quality is Quality.DRAFT and levels:
        return dataclasses.replace(
            schedule, factors=tuple(f for f, _n in levels), iterations=tuple(n for _f, n in levels)
        )
    return schedule
