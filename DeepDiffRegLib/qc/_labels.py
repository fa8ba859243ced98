"""Label maps on the fixed grid, for the checks that look at structures."""

from __future__ import annotations

import numpy as np
import torch

from ..data.image import Image


def on_grid(labels: Image, grid) -> np.ndarray:
    """The label map on the fixed grid, by physical position; the map itself when it already lies there."""
    if labels.geometry.same_grid(grid):
        return labels.numpy()
    from ..geometry.sampling import sample
    from ..warp.image import moving_index

    still = torch.zeros((1, grid.ndim, *grid.shape))
    return sample(labels.tensor, moving_index(still, grid, labels.geometry), "nearest")[0, 0].numpy()
