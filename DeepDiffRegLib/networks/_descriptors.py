"""What networks may be shown instead of gray values: descriptors that contrast does not change."""

from __future__ import annotations

import torch

from ..similarity.mind import MIND, neighbor_pairs

_MIND = MIND(radius_voxels=1, distance_voxels=1)


def descriptor_channels(ndim: int) -> int:
    """12 in 3-D, 4 in 2-D."""
    return len(neighbor_pairs(ndim))


def described(scans: torch.Tensor) -> torch.Tensor:
    """MIND-SSC descriptors (B, C * pairs, *shape) of each channel of (B, C, *shape), each scan alone; nothing is differentiated.

    Lengths in voxels, as every convolution takes them (Heinrich et al., MICCAI 2013). A scan and its negative have the same.
    """
    scans, unit = scans.detach().float(), (1.0,) * (scans.ndim - 2)
    rows = [[_MIND.features(one, unit) for one in row.split(1, 1)] for row in scans.split(1)]
    return torch.cat([torch.cat(row, 1) for row in rows])
