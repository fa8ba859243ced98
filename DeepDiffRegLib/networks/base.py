"""What every network of this folder offers: an architecture that can be stored as JSON, and a prediction with units."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError, ShapeError
from ..registry import nearest
from .blocks import cropped, padded_to_multiple

Kind = Literal["displacement", "velocity", "time_varying", "momentum", "affine"]


@dataclass(frozen=True)
class Architecture:
    """Everything that decides the shapes of a network's weights. ndim: 2 or 3."""

    ndim: int = 3

    def __post_init__(self):
        if self.ndim not in (2, 3):
            raise ConfigError(f"{type(self).__name__}: ndim must be 2 or 3, got {self.ndim}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, every default spelled out."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """The inverse of ``to_dict``; unknown keys and values of another kind are a ``ConfigError``."""
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__} must be an object, got {values!r}")
        defaults = {f.name: f.default for f in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in defaults:
                raise ConfigError(f"{cls.__name__}: unknown key {name!r}{nearest(name, defaults)}")
            if not _alike(value, defaults[name]):
                raise ConfigError(f"{cls.__name__}: {name} must be like {defaults[name]!r}, got {value!r}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    def replace(self, **changes) -> Architecture:
        return dataclasses.replace(self, **changes)


def _alike(value: Any, default: Any) -> bool:
    """Whether a value read from JSON is of the kind of the default."""
    if isinstance(default, tuple):
        number = (int, float) if isinstance(default[0] if default else 0, float) else int
        fits = (
            (isinstance(v, number) and not isinstance(v, bool) and v > 0 for v in value)
            if isinstance(value, (list, tuple))
            else (False,)
        )
        return all(fits)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))


@dataclass(frozen=True)
class Kernels:
    """How a momentum becomes a velocity: Gaussians of ``sigmas``, in shares of the longest edge of the grid, with ``weights``.

    blur: None for weights that are the same everywhere, else s.d. (same unit) of the filter of the local pre-weights.
    stationary: whether the velocity stays as it is for unit time.
    """

    sigmas: tuple[float, ...]
    weights: tuple[float, ...]
    blur: float | None = None
    stationary: bool = False

    def __post_init__(self):
        same = len(self.sigmas) == len(self.weights) > 0
        if not same or min(*self.sigmas, *self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ConfigError(
                f"kernels: one positive weight per sigma, sum 1, and positive sigmas are needed, got {self.sigmas} and "
                f"{self.weights}"
            )


@dataclass(frozen=True)
class Prediction:
    """What a network says about one batch of pairs.

    fields: one tensor (B, d, *grid), components x, y, z; for ``time_varying`` one per step. kind: ``displacement`` u,
    ``velocity`` v (unit time), ``time_varying`` velocities per step, ``momentum`` at time 0 of a flow, or ``affine``: the field is
    then a matrix (B, d, d + 1) on voxel indices x, y[, z] of the input counted from its middle. unit_voxels: length of a field's
    unit in voxels of the input. spacing_voxels: distance of the fields' grid points in voxels of the input (x, y[, z]);
    offset_voxels: where the first of them lies on each axis. log_variance: of the velocity, same shape, in its units squared; None
    when the network is not probabilistic. kernels: of a momentum. pre_weights: h(0) of RDMM, (B, N, *grid), None without.
    """

    fields: tuple[torch.Tensor, ...]
    kind: Kind
    unit_voxels: float
    spacing_voxels: tuple[float, ...]
    log_variance: torch.Tensor | None = None
    offset_voxels: float = 0.0
    kernels: Kernels | None = None
    pre_weights: torch.Tensor | None = None

    @property
    def field(self) -> torch.Tensor:
        """The only field, or the first of several."""
        return self.fields[0]


class Stored(nn.Module):
    """A network that a model file can hold. VARIANTS: the architectures that have a name.

    local: whether it predicts local weights of kernels. local_reach: whether a box of the scans will do for training; not where
    lengths are shares of the whole grid.
    """

    VARIANTS: ClassVar[dict[str, Architecture]]
    local: ClassVar[bool] = False
    local_reach: ClassVar[bool] = True
    architecture: Architecture

    @classmethod
    def variant(cls, name: str | None = None, **changes) -> Architecture:
        """A named architecture (the first when no name is given) with some values changed, as ``ndim=2``."""
        name = next(iter(cls.VARIANTS)) if name is None else name
        if name not in cls.VARIANTS:
            raise ConfigError(f"{cls.__name__}: unknown variant {name!r}{nearest(name, cls.VARIANTS)}")
        return cls.VARIANTS[name].replace(**changes)

    def count_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class Network(Stored, ABC):
    """Moving and fixed scan on one grid, affinely aligned, to a deformation of fixed space (the pull-back).

    kind: of its prediction. stride: voxels of the input per voxel of the output, 1 or 2. multiple: sizes are padded to it.
    centered: whether a voxel of the output lies in the middle of the ``stride`` voxels it stands for; else first and last voxels of
    both grids coincide.
    """

    kind: ClassVar[Kind]
    stride: ClassVar[int]
    centered: ClassVar[bool] = False
    multiple: int

    def unit_voxels(self, size: tuple[int, ...]) -> float:
        """Length of a field's unit in voxels of an input of this size."""
        return float(self.stride)

    @property
    def kernels(self) -> Kernels | None:
        """Of networks that predict a momentum."""
        return None

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        """moving, fixed: (B, 1, *shape), any size; returns the prediction on the same grid or on one of half the points.

        Sizes that are no multiple of ``multiple`` are continued by zeros at their far ends, and the result is cut back.
        """
        self.check(moving, fixed)
        size = tuple(fixed.shape[2:])
        pair = padded_to_multiple(torch.cat((moving, fixed), 1), self.multiple)
        fields, log_variance = self.predict(pair)
        coarse = fields[0].shape[2:]
        if self.centered:
            spacing, offset = (float(self.stride),) * len(size), (self.stride - 1) / 2
            kept = tuple(-(-n // self.stride) for n in size)
        else:
            spacing = tuple((n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(pair.shape[2:], coarse))
            offset, kept = 0.0, tuple(int(-(-(n - 1) // h)) + 1 for n, h in zip(size, spacing))
        weights = self.predict_weights(pair)
        return Prediction(
            tuple(cropped(f, kept).contiguous() for f in fields),
            self.kind,
            self.unit_voxels(size),
            spacing[::-1],
            None if log_variance is None else cropped(log_variance, kept).contiguous(),
            offset,
            self.kernels,
            None if weights is None else cropped(weights, kept).contiguous(),
        )

    def check(self, moving: torch.Tensor, fixed: torch.Tensor) -> None:
        """``ShapeError`` unless both are (B, 1, *shape), alike, with the right number of axes."""
        shape = (None, 1, *(None,) * self.architecture.ndim)
        for name, scan in (("moving", moving), ("fixed", fixed)):
            if scan.ndim != len(shape) or scan.shape[1] != 1 or scan.shape != fixed.shape:
                raise ShapeError(
                    f"{type(self).__name__}: {name!r} must have shape (B, 1, *shape) with {self.architecture.ndim} axes, the "
                    f"same as 'fixed', got {tuple(scan.shape)} and {tuple(fixed.shape)}"
                )

    @abstractmethod
    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """(B, 2, *shape), moving first, sizes divisible by ``multiple``, to the fields and the log-variance."""

    def predict_weights(self, pair: torch.Tensor) -> torch.Tensor | None:
        """The same to the pre-weights h(0) of RDMM; None for networks that predict none."""
        return None


class FeatureNetwork(Stored, ABC):
    """One scan, alone, to feature images at several resolutions, coarse to fine.

    kind: of the maps that a solver finds on its features, as of a ``Prediction``. multiple: sizes are padded to it. strides: voxels
    of the input per voxel of each output. centered: whether a voxel of an output lies in the middle of the ``stride`` voxels it
    stands for (pooling), or on the first of them (strided convolutions).
    """

    kind: ClassVar[Kind] = "displacement"
    centered: ClassVar[bool]
    multiple: int

    @property
    def strides(self) -> tuple[int, ...]:
        """Coarse to fine: 4, 2, 1 for three scales."""
        return tuple(2**level for level in reversed(range(self.architecture.scales)))

    def offset_voxels(self, stride: int) -> float:
        """Where the first voxel of the output of this stride lies, in voxels of the input."""
        return (stride - 1) / 2 if self.centered else 0.0

    def forward(self, scan: torch.Tensor, finest: int = 1) -> tuple[torch.Tensor, ...]:
        """scan: (B, 1, *shape), any size, in [0, 1]; returns (B, C, *ceil(shape / stride)) for each stride of at least ``finest``.

        Sizes that are no multiple of ``multiple`` are continued by their border values, and the features are cut back.
        """
        wanted = (None, 1, *(None,) * self.architecture.ndim)
        if scan.ndim != len(wanted) or scan.shape[1] != 1:
            raise ShapeError(
                f"{type(self).__name__}: 'scan' must have shape (B, 1, *shape) with {self.architecture.ndim} axes, got "
                f"{tuple(scan.shape)}"
            )
        strides = tuple(s for s in self.strides if s >= finest)
        size = tuple(scan.shape[2:])
        missing = [(-n) % self.multiple for n in size]
        if all(n + m == self.multiple for n, m in zip(size, missing)):
            missing[-1] += self.multiple  # a normalization needs more than one voxel on the coarsest level
        scan = F.pad(scan, [v for m in reversed(missing) for v in (0, m)], mode="replicate") if any(missing) else scan
        features = self.features(scan, strides[-1])
        return tuple(cropped(f, tuple(-(-n // s) for n in size)).contiguous() for f, s in zip(features, strides))

    @abstractmethod
    def features(self, scan: torch.Tensor, finest: int) -> tuple[torch.Tensor, ...]:
        """(B, 1, *shape), sizes divisible by ``multiple``, to (B, C, *shape / stride), strides from the coarsest to ``finest``."""
