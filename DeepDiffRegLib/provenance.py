"""What it takes to repeat or question a result: versions, hashes of what came in, machine, seed."""

from __future__ import annotations

import hashlib
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from . import __version__
from .config import Config
from .data.image import Image
from .data.pair import Pair
from .networks.files import model_path

PACKAGES = ("torch", "numpy", "numba", "SimpleITK", "nibabel", "scipy")


def versions() -> dict[str, str]:
    """Of this library, Python and the packages that touch the numbers."""
    found = {"DeepDiffReg": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in PACKAGES}


def provenance(pair: Pair, config: Config, device: torch.device, threads: int) -> dict:
    """Plain JSON values."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "threads": threads,
        "seed": config.seed,
        "inputs": {role: describe(image) for role, image in inputs(pair).items()},
        "stiffness": stiffness(pair),
        "model": model(config),
    }


def model(config: Config) -> dict[str, str]:
    """File name (no folders) and SHA-256 of the network's weights; empty when none was used."""
    if config.model is None:
        return {}
    path = model_path(config.model)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def stiffness(pair: Pair) -> dict[str, str]:
    """Tissue of each label that the user named."""
    named = pair.prompts.stiffness
    return {} if named is None else {str(t.label): t.kind for t in named.tissues}


def inputs(pair: Pair) -> dict[str, Image]:
    """Every image that went in, by role."""
    prompts = pair.prompts
    named = {
        "fixed": pair.fixed, "moving": pair.moving, "fixed_labels": prompts.fixed_labels,
        "moving_labels": prompts.moving_labels, "fixed_mask": prompts.fixed_mask, "moving_mask": prompts.moving_mask,
        "stiffness_labels": None if prompts.stiffness is None else prompts.stiffness.labels,
    }  # fmt: skip
    return {role: image for role, image in named.items() if image is not None}


def describe(image: Image) -> dict:
    """File name (no folders), SHA-256 of the file or, for an image made in memory, of its voxels; the grid."""
    geometry = image.geometry
    return {
        "file": Path(image.path).name if image.path else None,
        "sha256": sha256(image),
        "size": list(geometry.size),
        "spacing_mm": [round(v, 6) for v in geometry.spacing_mm],
        "origin_mm": [round(v, 6) for v in geometry.origin_mm],
        "direction": geometry.rotation.ravel().round(9).tolist(),
    }


def sha256(image: Image) -> str:
    """Hexadecimal digest of the image's file, or of its voxels when it has none."""
    if image.path and Path(image.path).is_file():
        return hashlib.sha256(Path(image.path).read_bytes()).hexdigest()
    return hashlib.sha256(image.tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
