"""The published network and a scan for it, from files that are not part of the library."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..data.image import Image
from ..data.io import read_image
from ..data.io_keras import read_keras_layers
from ..errors import InputError
from ..geometry.grid import Geometry
from ..networks.keras_layers import CANONICAL, DATA, PRIOR, TOP, from_keras
from ..networks.weights import SUFFIX, CanonicalGrid, Intensities, Model, ModelCard, load_model

VARIABLE = "DEEPDIFFREG_DATA"
FOLDER = "voxelmorph_reference"
WEIGHTS, SCAN = f"{FOLDER}/miccai2018_10_02_init1.h5", f"{FOLDER}/test_scan.npz"
OTHERS = "brain_malf/*_SS.nii.gz"
"""Skull-stripped brains that serve where the authors' example scan is missing."""
SLICES = "oasis_2d_mermaid/oasis2d_*.nrrd"


def data_folder() -> Path | None:
    """``$DEEPDIFFREG_DATA``, else ``../shared/data`` beside a checkout of the project; None when there is no such folder."""
    folder = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data")
    return folder if folder.is_dir() else None


def published_model(path: str | Path | None = None) -> Model:
    """The network in ``path`` (safetensors or the authors' Keras file), by default VoxelMorph-diff among the data.

    Raises ``InputError`` in one line when there is none.
    """
    folder = data_folder()
    if path is None and (folder is None or not (folder / WEIGHTS).is_file()):
        raise InputError(
            f"the authors' weights are needed: set {VARIABLE} to a folder with {WEIGHTS}, or pass --model FILE "
            "(.h5 of the authors or .safetensors of VoxelMorph-diff)"
        )
    path = folder / WEIGHTS if path is None else Path(path)
    if path.suffix == SUFFIX:
        return load_model(path)
    name, network = from_keras(read_keras_layers(path))
    card = ModelCard(
        name, {}, "GPL-3.0", DATA, CanonicalGrid(**CANONICAL), Intensities(top=TOP), prior=PRIOR.get(name, {})
    )
    return Model(network.requires_grad_(False).eval(), card)


def brain() -> Image:
    """The authors' example scan on its own grid, else another brain among the data. Raises ``InputError`` without any."""
    folder = data_folder()
    if folder is not None and (folder / SCAN).is_file():
        try:
            with np.load(folder / SCAN) as file:
                array = file["vol"].astype(np.float32)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder / SCAN}: not a readable scan ({error})") from error
        size, spacing = CANONICAL["size"], CANONICAL["spacing_mm"]
        if array.shape != size[::-1]:
            raise InputError(f"{folder / SCAN}: expected a volume of shape {size[::-1]}, got {array.shape}")
        return Image.from_array(array, Geometry(size, spacing, (0.0, 0.0, 0.0), CANONICAL["direction"]))
    others = sorted(folder.glob(OTHERS)) if folder is not None else []
    if not others:
        raise InputError(f"a brain scan is needed: set {VARIABLE} to a folder with {SCAN} or {OTHERS}")
    return read_image(others[0])


def slices(count: int, experiment: str) -> list[Image]:
    """The first ``count`` 2-D slices of brains among the data. ``InputError`` in one line when there are fewer."""
    folder = data_folder()
    files = [] if folder is None else sorted(folder.glob(SLICES))
    if len(files) < count:
        raise InputError(
            f"{experiment} needs {count} slices of brains: set {VARIABLE} to a folder with {SLICES} (found {len(files)})"
        )
    return [read_image(path, ndim=2) for path in files[:count]]
