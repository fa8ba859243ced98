"""Versions, devices, threads, memory and folders of this installation."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

from .. import __version__
from ..config import preset_folder, preset_names
from ..networks import files
from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..progress import PrintProgress

PACKAGES = (
    "torch",
    "numpy",
    "SimpleITK",
    "nibabel",
    "vtk",
    "scipy",
    "numba",
    "h5py",
    "jinja2",
    "Pillow",
    "isal",
    "safetensors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def facts() -> dict:
    """Everything worth adding to a bug report, in plain JSON types."""
    import torch

    from ..device import available_devices
    from ..memory import available_memory_bytes

    return {
        "deepdiffreg": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": available_devices(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "available_memory_gb": round(available_memory_bytes() / 2**30, 1),
        "data_folder": os.environ.get("DEEPDIFFREG_DATA"),
        "preset_folder": str(preset_folder()),
        "presets": preset_names(),
        "model_folder": str(files.model_folder()),
        "models": files.model_names(),
    }


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Print the facts; returns the exit code."""
    values = facts()
    if arguments.json:
        print(json.dumps(values))
        return 0
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name.replace('_', ' '):<20} {'not set' if value is None else value}")
    return 0
