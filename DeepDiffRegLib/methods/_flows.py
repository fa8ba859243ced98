"""Predicted momenta and matrices as transforms in mm (LPS)."""

from __future__ import annotations

import numpy as np
import torch

from ..geometry.grid import Geometry
from ..geometry.pyramid import level_geometry, resample
from ..networks.base import Prediction
from ..transforms.affine import AffineTransform
from ..transforms.displacement import to_world
from ..transforms.shooting import ShootingTransform
from ..transforms.stiffness import GivenWeights
from ._belief import prediction_geometry
from .shot import metric_of


def flow_of_prediction(prediction: Prediction, grid: Geometry, fixed: Geometry) -> ShootingTransform:
    """The flow of a momentum that was predicted on ``grid``, over the fixed scan's box, its map about as fine as ``grid``.

    Where the box is that of the network's own grid nothing is interpolated; beyond that grid the momentum is 0 and stiffness goes on
    as it is at its border.
    """
    own = prediction_geometry(prediction, grid)
    target = level_geometry(fixed, min(own.spacing_mm), 2)
    momentum = resample(to_world(prediction.field * prediction.unit_voxels, grid), own, target, "zeros", blur=False)
    metric = metric_of(prediction.kernels, float(grid.extent_mm.max()))
    weights = prediction.pre_weights
    if weights is not None and not own.same_grid(target):
        weights = GivenWeights(weights, own).pre_weights(target, weights.device)[None]
    free = ((False, False),) * grid.ndim
    domain = level_geometry(fixed, min(grid.spacing_mm), 2)
    return ShootingTransform(momentum.contiguous(), target, metric, free, domain, pre_weights=weights)


def affine_of_prediction(matrix: torch.Tensor, grid: Geometry) -> AffineTransform:
    """A matrix (1, d, d + 1) on voxels of ``grid`` counted from its middle, in mm."""
    d = grid.ndim
    about = np.eye(d + 1)
    about[:-1, -1] = (np.array(grid.size) - 1) / 2
    to_mm = grid.index_to_world @ about
    own = np.eye(d + 1)
    own[:-1] = matrix[0].double().cpu().numpy()
    return AffineTransform.from_homogeneous(to_mm @ own @ np.linalg.inv(to_mm))
