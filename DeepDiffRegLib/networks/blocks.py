"""Convolutions in 2-D and 3-D with TensorFlow's padding, and the cheap form of convolving an enlarged tensor."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

PADDINGS = ("tensorflow", "symmetric")
"""How 'same' convolutions are padded. They differ for stride 2: tensorflow pads an even axis by 0 before and 1 after."""
KERNEL = 3
LEAST_CHANNELS = 8
"""The CPU's convolutions of fewer input channels are slower than those of this many, of which the rest are zero."""
CONVOLVE = {2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_padding(size: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and after an axis of ``size`` for a kernel of 3, so that ceil(size / stride) values come out."""
    if padding == "symmetric":
        return 1, 1
    total = max((-(-size // stride) - 1) * stride + KERNEL - size, 0)
    return total // 2, total - total // 2


def padded_to_multiple(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    """(B, C, *shape) continued by zeros at the far end of each axis up to the next multiple."""
    missing = [(-n) % multiple for n in tensor.shape[2:]]
    if not any(missing):
        return tensor
    return F.pad(tensor, [v for m in reversed(missing) for v in (0, m)])


def cropped(tensor: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The first ``size`` voxels of each axis of (B, C, *shape)."""
    return tensor[(slice(None), slice(None), *(slice(0, n) for n in size))]


def laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """(B, C, *shape) on the CPU with channels last, the layout in which its convolutions are fastest; else as it is.

    Asked for before each convolution: some return another layout than they were given.
    """
    if tensor.device.type != "cpu":
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d)


class Conv(nn.Module):
    """3-wide convolution with bias, zeros outside, then LeakyReLU (slope None: no activation). He-normal weights.

    Input and output (B, C, *shape); stride 2 halves each axis, rounded up. groups: of channels that do not see each other.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        stride: int = 1,
        slope: float | None = 0.2,
        padding="tensorflow",
        groups: int = 1,
    ):
        super().__init__()
        self.ndim, self.stride, self.slope, self.padding, self.groups = ndim, stride, slope, padding, groups
        self.weight = nn.Parameter(torch.empty((outputs, inputs // groups, *(KERNEL,) * ndim)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        convolve = CONVOLVE[self.ndim]
        sides = [same_padding(n, self.stride, self.padding) for n in x.shape[2:]]
        if all(before == after for before, after in sides):
            pads = tuple(before for before, _ in sides)
            y = convolve(laid_out(x), self.weight, self.bias, self.stride, pads, groups=self.groups)
        else:
            x = F.pad(x, [v for pair in reversed(sides) for v in pair])
            y = convolve(laid_out(x), self.weight, self.bias, self.stride, groups=self.groups)
        return activated(y, self.slope)


class UpConv(nn.Module):
    """Convolution of [x enlarged twice by repetition, skip], then LeakyReLU.

    A voxel of the enlarged x is seen by neighboring taps at once, so the kernel over it folds into a transposed convolution
    with 2 instead of 3 taps per axis and output voxel: in 3-D 8/27 of the work, and the enlarged tensor is never made.
    """

    def __init__(self, ndim: int, below: int, skip: int, outputs: int, slope: float | None = 0.2):
        super().__init__()
        self.ndim, self.below, self.slope = ndim, below, slope
        self.weight = nn.Parameter(torch.empty((outputs, below + skip, *(KERNEL,) * ndim)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """x: (B, below, *shape); skip: (B, C, *(2 n for n in shape)); returns (B, outputs, ...) on the skip's grid."""
        folded = folded_kernel(self.weight[:, : self.below])
        y = TRANSPOSED[self.ndim](laid_out(x), folded, self.bias, stride=2, padding=1)
        y += CONVOLVE[self.ndim](widened(skip), widened(self.weight[:, self.below :]), padding=1)
        return activated(y, self.slope)


def folded_kernel(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, 3, ...) to the (in, out, 4, ...) kernel of the transposed convolution that equals enlarging first.

    Per axis (a, b, c) becomes (c, b + c, a + b, a).
    """
    fold = weight.new_tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    with torch.autocast(weight.device.type, enabled=False):  # a few numbers: in mixed precision they stay in 32 bits
        for _axis in range(2, weight.ndim):
            weight = torch.tensordot(weight, fold, dims=([2], [0]))
    return weight.transpose(0, 1)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) with channels of zeros up to ``LEAST_CHANNELS``, channels last; wider tensors as they are."""
    missing = LEAST_CHANNELS - tensor.shape[1]
    if missing <= 0:
        return laid_out(tensor)
    return laid_out(F.pad(tensor, (*(0, 0) * (tensor.ndim - 2), 0, missing)))


def activated(x: torch.Tensor, slope: float | None) -> torch.Tensor:
    """LeakyReLU written over ``x``; None leaves it."""
    return x if slope is None else F.leaky_relu(x, slope, inplace=True)
