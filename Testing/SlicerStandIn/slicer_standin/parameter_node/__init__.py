"""The module ``slicer.parameterNodeWrapper``: typed access to a vtkMRMLScriptedModuleNode, written from its documentation."""

from __future__ import annotations

from .connectors import GuiConnector, createGui, parameterNodeGuiConnector
from .packs import parameterPack
from .serializers import Serializer, ValidatedSerializer, parameterNodeSerializer
from .validators import (
    Choice,
    Decimals,
    Default,
    Exclude,
    FloatRange,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    RangeBounds,
    SingleStep,
    Validator,
    WithinRange,
)
from .wrapper import parameterNodeWrapper

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "FloatRange",
    "GuiConnector",
    "IsInstance",
    "Maximum",
    "Minimum",
    "NotNone",
    "RangeBounds",
    "Serializer",
    "SingleStep",
    "ValidatedSerializer",
    "Validator",
    "WithinRange",
    "createGui",
    "parameterNodeGuiConnector",
    "parameterNodeSerializer",
    "parameterNodeWrapper",
    "parameterPack",
]
