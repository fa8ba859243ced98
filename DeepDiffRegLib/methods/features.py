"""Feature images of scans by a network, each scan alone and on a grid of its own."""

from __future__ import annotations

import numpy as np
import torch

from ..data.image import Image
from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid, level_geometry, strided, turned_to
from ..networks.base import FeatureNetwork
from ..networks.weights import CanonicalGrid, Model
from ._scans import as_trained, filled, on_grid

MOST_REFINED = 3.0
"""Thick slices are refined so many times at most where a model wants its own spacing."""


def network_grid(geometry: Geometry, canonical: CanonicalGrid | None) -> Geometry:
    """The grid that a network is shown a scan on.

    Convolutions know no turns: the axes are exchanged and reversed towards those of the model's training (LPS where the card does
    not say), which changes no voxel. A model with a canonical grid is shown its spacing, every other the scan's own.
    """
    wanted = np.eye(geometry.ndim) if canonical is None else np.array(canonical.direction)
    turned = turned_to(geometry, wanted)
    if canonical is None or np.allclose(turned.spacing_mm, canonical.spacing_mm, rtol=0.01):
        return turned
    size = [level_geometry(turned, h, 2, MOST_REFINED).size[axis] for axis, h in enumerate(canonical.spacing_mm)]
    return turned.resized(size)


def feature_images(scan: torch.Tensor, grid: Geometry, network: FeatureNetwork, finest: int = 1) -> Pyramid:
    """Features of (1, 1, *grid.shape) in [0, 1] for every stride of at least ``finest``; differentiable in the weights."""
    return Pyramid(tuple(zip(network(scan, finest), feature_grids(grid, network, finest))))


def feature_grids(grid: Geometry, network: FeatureNetwork, finest: int = 1) -> tuple[Geometry, ...]:
    """Where the features of a scan on ``grid`` lie, for every stride of at least ``finest``, coarse to fine."""
    return tuple(strided(grid, s, network.offset_voxels(s)) for s in network.strides if s >= finest)


def scan_features(
    image: Image,
    model: Model,
    device: torch.device | str = "cpu",
    finest: int = 1,
    half: bool = False,
    weight: torch.Tensor | None = None,
) -> Pyramid:
    """Features of a scan as the model's card wants it to be shown; nothing is differentiated. half: keep them in 16 bits.

    weight: of its mask, (1, 1, *shape) on its grid; what lies outside is filled from inside, so that no feature sees a border.
    """
    grid = network_grid(image.geometry, model.card.canonical)
    shown = filled(image, weight).to(device)
    scan = as_trained(on_grid(shown, grid, np.eye(grid.ndim + 1)), model.card.preprocessing)
    with torch.no_grad():
        pyramid = feature_images(scan, grid, model.network, finest)
    return Pyramid(tuple((f.half(), g) for f, g in pyramid.images)) if half else pyramid
