"""Where the moving features alone decide which way a map is pushed: the implicit bias of optimizing on images.

With one channel the force on a voxel lies along the gradient of the moving image, whatever the fixed image says; the fixed one only
chooses the sign and the length. With many channels it may point anywhere (Jena et al., 2024, appendix).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..geometry.sampling import pull_gradient
from ._feature_force import feature_force

FLAT = 1e-6
"""Vectors shorter than this share of the longest one have no direction."""


def alignment(
    fixed: torch.Tensor, moving: torch.Tensor, displacement: torch.Tensor, matrix: np.ndarray
) -> torch.Tensor:
    """|cos| of the angle between the force rho = dE/du and the gradient of mean_c M_c(phi) by u: (1, 1, *shape), double precision.

    E is the mean squared difference of the features. fixed: (1, C, *shape). moving: (1, C, *moving shape). displacement: u,
    (1, d, *shape) in voxels. matrix: from the fixed grid's voxels to the moving one's (``index_matrix``). NaN where either vector
    vanishes. 1 everywhere for one channel; 2 / pi (2-D) or 1/2 (3-D) on average when the two have nothing to do with each other.
    """
    u = displacement.double()
    force, slope = torch.zeros_like(u), torch.zeros_like(u)
    for c in range(fixed.shape[1]):
        own, other = fixed[:, c : c + 1].double(), moving[:, c : c + 1].double()
        force += feature_force(own, other, u, matrix)
        slope += pull_gradient(other, u, matrix, torch.ones_like(own))
    lengths = [v.norm(dim=1, keepdim=True) for v in (force, slope)]
    known = (lengths[0] > FLAT * lengths[0].max()) & (lengths[1] > FLAT * lengths[1].max())
    cosine = (force * slope).sum(1, keepdim=True).abs() / (lengths[0] * lengths[1])
    return torch.where(known, cosine, torch.full_like(cosine, math.nan))


def mean_alignment(cosines: torch.Tensor) -> float:
    """Mean over the voxels that have one; NaN when none has."""
    return float(cosines.nanmean())
