"""Multi-step affine registration by a network that takes scans of any size (Shen et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..geometry.sampling import identity_index
from .base import Architecture, Network, Prediction
from .blocks import Conv

MATRIX_SD = 1e-4
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class AffineArchitecture(Architecture):
    """siamese: channels of the first convolution, the same for both scans. features: of the convolutions that follow, numbers 2, 5
    and 7 of them with stride 2, pooled before the first and the fourth. bins: per axis, of the last features. hidden: units."""

    siamese: int = 16
    features: tuple[int, ...] = (32, 32, 32, 32, 16, 16, 4)
    bins: int = 4
    hidden: int = 32

    def __post_init__(self):
        super().__post_init__()
        if len(self.features) != 7 or min(self.siamese, self.bins, self.hidden) < 1:
            raise ConfigError(f"AffineArchitecture: seven convolutions and positive sizes are needed, got {self}")


class AffineNet(Network):
    """One step of affine registration; ask again with the moving scan through what was found so far, and join the matrices.

    The last features are averaged over ``bins`` parts of every axis, so that any size will do. The matrix is near the identity at
    first; its translation counts shares of half the longest axis.
    """

    kind, stride, local_reach = "affine", 1, False
    VARIANTS: ClassVar[dict[str, Architecture]] = {
        "paper": AffineArchitecture(),
        "light": AffineArchitecture(siamese=8, features=(16, 16, 16, 16, 16, 16, 8)),
    }
    multiple = 1

    def __init__(self, architecture: AffineArchitecture | None = None):
        super().__init__()
        self.architecture = shape = architecture or self.variant()
        d = shape.ndim

        def conv(inputs: int, outputs: int, stride: int = 1) -> Conv:
            return Conv(d, inputs, outputs, stride, 0.0, "symmetric")

        self.siamese = conv(1, shape.siamese)
        sizes = (2 * shape.siamese, *shape.features)
        self.features = nn.ModuleList(
            conv(a, b, 2 if n in (1, 4, 6) else 1) for n, (a, b) in enumerate(zip(sizes, shape.features))
        )
        self.hidden = nn.Linear(shape.features[-1] * shape.bins**d, shape.hidden)
        self.matrix = nn.Linear(shape.hidden, d * (d + 1))
        nn.init.normal_(self.matrix.weight, 0.0, MATRIX_SD)
        nn.init.zeros_(self.matrix.bias)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        """The matrix (B, d, d + 1) that carries voxels of the fixed scan, counted from the middle, to those of the moving one."""
        self.check(moving, fixed)
        (matrix,), _ = self.predict(torch.cat((moving, fixed), 1))
        return Prediction((matrix,), self.kind, 1.0, (1.0,) * self.architecture.ndim)

    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], None]:
        d, count = self.architecture.ndim, len(pair)
        both = self.siamese(torch.cat(pair.split(1, 1)))
        x = torch.cat(both.split(count), 1)
        for number, conv in enumerate(self.features):
            x = conv(self._pooled(x) if number in (0, 3) else x)
        x = self._binned(x).flatten(1)
        said = self.matrix(F.relu(self.hidden(x))).reshape(count, d, d + 1)
        scale = said.new_ones(d + 1)
        scale[-1] = max(pair.shape[2:]) / 2
        return (torch.eye(d, d + 1, dtype=said.dtype, device=said.device) + said * scale,), None

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Halved, where an axis has two voxels at least."""
        kernel = tuple(min(2, n) for n in x.shape[2:])
        return POOL[self.architecture.ndim](x, kernel)

    def _binned(self, x: torch.Tensor) -> torch.Tensor:
        """Means over ``bins`` parts of every axis."""
        pool = F.adaptive_avg_pool2d if self.architecture.ndim == 2 else F.adaptive_avg_pool3d
        return pool(x, self.architecture.bins)


def displaced(matrix: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The displacement A x + b - x, in voxels, of (B, d, d + 1) at every voxel x of a grid, counted from its middle."""
    x = identity_index(tuple(shape), matrix.device, matrix.dtype)
    middle = x.new_tensor([(n - 1) / 2 for n in shape[::-1]]).reshape(1, -1, *(1,) * len(shape))
    x = (x - middle).reshape(len(shape), -1)
    moved = matrix[:, :, :-1] @ x + matrix[:, :, -1:] - x
    return moved.reshape(len(matrix), len(shape), *shape)


def joined(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """x -> outer(inner(x)) of matrices (B, d, d + 1)."""
    turn, shift = outer[:, :, :-1], outer[:, :, -1:]
    return torch.cat((turn @ inner[:, :, :-1], turn @ inner[:, :, -1:] + shift), 2)
