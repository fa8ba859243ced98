"""DeepDiffRegLib: deformable registration of medical scans, interactive and verifiable.

The public names load on first use, so that importing the package costs nothing and does not import torch.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "config",
    "Geometry": "geometry.grid",
    "Image": "data.image",
    "LabelPair": "data.pair",
    "Landmarks": "data.points",
    "Pair": "data.pair",
    "Points": "data.points",
    "Prompts": "data.pair",
    "RegistrationSession": "session",
    "Result": "result",
    "load_preset": "config",
    "read_image": "data.io",
    "read_landmarks": "data.io",
    "read_points": "data.io",
    "register": "pipeline",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
