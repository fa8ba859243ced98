"""How alike the warped and the fixed scan are: the library's similarities with their closed-form gradients."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..similarity.base import Similarity
from ..similarity.lncc import LNCC
from ..similarity.mean_squares import MeanSquares
from ..similarity.mk_lncc import MultiKernelLNCC
from ..similarity.ncc import NCC
from .base import IMAGES, Deformed, Loss

SCALINGS = {"released": 1.0, "paper": 0.5}
"""Factor of mean((F - M o phi)^2) / image_sigma^2."""


class ImageLoss(Loss):
    """A similarity, mean over the pairs. symmetric: half of it, and half of that of the fixed scan on the moving one.

    images: of ``base.IMAGES``. A network that sees any contrasts and is judged by ``natural`` images learns not to mind them.
    """

    def __init__(self, similarity: Similarity, factor: float = 1.0, symmetric: bool = False, images: str = "scans"):
        if images not in IMAGES:
            raise ConfigError(f"images of a loss must be one of {tuple(IMAGES)}, got {images!r}")
        self.similarity, self.factor, self.symmetric = similarity, factor, symmetric
        self.needs = tuple(role + IMAGES[images] for role in ("moving", "fixed"))

    def __call__(self, case: Deformed) -> torch.Tensor:
        moving, fixed = self.needs
        value = compared(case.sent(moving), case.batch[fixed], self.similarity)
        if self.symmetric:
            value = (value + compared(case.sent_back(fixed), case.batch[moving], self.similarity)) / 2
        return value * self.factor


class MeanSquaresLoss(ImageLoss):
    """mean((F - M o phi)^2) / image_sigma^2 as released, half of it as in the paper (whose sum is here a mean, see ``KL``)."""

    def __init__(
        self, image_sigma: float = 0.02, scaling: str = "released", symmetric: bool = False, images: str = "scans"
    ):
        if not image_sigma > 0:
            raise ConfigError(f"loss 'mse': image_sigma must be positive, got {image_sigma!r}")
        if scaling not in SCALINGS:
            raise ConfigError(f"loss 'mse': scaling must be one of {tuple(SCALINGS)}, got {scaling!r}")
        super().__init__(MeanSquares(), SCALINGS[scaling] / image_sigma**2, symmetric, images)


class LNCCLoss(ImageLoss):
    """1 - mean LNCC over windows of 2 radius_voxels + 1 voxels per axis (``similarity.lncc``)."""

    def __init__(self, radius_voxels: int = 4, epsilon: float = 1e-5, symmetric: bool = False, images: str = "scans"):
        super().__init__(LNCC(radius_voxels, epsilon), symmetric=symmetric, images=images)


class NCCLoss(ImageLoss):
    """1 - correlation of the whole scans (``similarity.ncc``)."""

    def __init__(self, symmetric: bool = False, images: str = "scans"):
        super().__init__(NCC(), symmetric=symmetric, images=images)


class MultiKernelLoss(ImageLoss):
    """1 - local correlation in windows of several sizes, which follow from the scan's (``similarity.mk_lncc``)."""

    def __init__(self, symmetric: bool = False, images: str = "scans"):
        super().__init__(MultiKernelLNCC(), symmetric=symmetric, images=images)


def compared(warped: torch.Tensor, fixed: torch.Tensor, similarity: Similarity) -> torch.Tensor:
    """Loss of a similarity that averages over channels, as a scalar that tracks gradients of ``warped`` (B, 1, *shape).

    The pairs of a batch go through as its channels.
    """
    return _Compared.apply(warped.transpose(0, 1), fixed.transpose(0, 1), similarity)


class _Compared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, warped, fixed, similarity):
        value, gradient = similarity.value_and_gradient(fixed, warped)
        ctx.save_for_backward(gradient)
        return warped.new_tensor(value)

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None, None
