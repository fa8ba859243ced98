"""An image: a tensor on a geometry, with a kind that decides how it is interpolated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..checks import check_shape
from ..geometry.grid import Geometry

Kind = Literal["intensity", "labels", "mask"]


@dataclass(frozen=True)
class Image:
    """Voxels and where they are.

    tensor: (1, C, [Z,] Y, X); float32 for intensities and masks, int32 for label maps. kind: ``intensity`` (linear
    interpolation), ``labels`` (nearest neighbour), ``mask`` (linear, weights in [0, 1]). path: the file it came from.
    """

    tensor: torch.Tensor
    geometry: Geometry
    kind: Kind = "intensity"
    path: str | None = None

    def __post_init__(self):
        check_shape("Image", "tensor", self.tensor, (1, None, *self.geometry.shape))

    @classmethod
    def from_array(
        cls, array: np.ndarray, geometry: Geometry, kind: Kind = "intensity", path: str | None = None
    ) -> Image:
        """Wrap a (Z, Y, X) or (C, Z, Y, X) array; copies to the kind's number type."""
        dtype = np.int32 if kind == "labels" else np.float32
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
        channels = () if tensor.ndim > geometry.ndim else (1,)
        return cls(tensor.reshape(1, *channels, *tensor.shape), geometry, kind, path)

    @property
    def ndim(self) -> int:
        return self.geometry.ndim

    def numpy(self) -> np.ndarray:
        """The first channel as a (Z, Y, X) array (shares memory on the CPU)."""
        return self.tensor[0, 0].detach().cpu().numpy()

    def to(self, device: torch.device | str) -> Image:
        return replace(self, tensor=self.tensor.to(device))
