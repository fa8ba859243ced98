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

Kind = Literal["displacement", "velocity", "time_varying"]


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
        return isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))


@dataclass(frozen=True)
class Prediction:
    """What a network says about one batch of pairs.

    fields: one tensor (B, d, *grid), components x, y, z; for ``time_varying`` one per step. kind: ``displacement`` u,
    ``velocity`` v (unit time) or ``time_varying`` velocities per step. unit_voxels: length of a field's unit in voxels of the
    input. spacing_voxels: distance of the fields' grid points in voxels of the input (x, y[, z]); the first points coincide.
    log_variance: of the velocity, same shape, in its units squared; None when the network is not probabilistic.
    """

    fields: tuple[torch.Tensor, ...]
    kind: Kind
    unit_voxels: float
    spacing_voxels: tuple[float, ...]
    log_variance: torch.Tensor | None = None

    @property
    def field(self) -> torch.Tensor:
        """The only field, or the first of several."""
        return self.fields[0]


class Stored(nn.Module):
    """A network that a model file can hold. VARIANTS: the architectures that have a name."""

    VARIANTS: ClassVar[dict[str, Architecture]]
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
    """

    kind: ClassVar[Kind]
    stride: ClassVar[int]
    multiple: int

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        """moving, fixed: (B, 1, *shape), any size; returns the prediction on the same grid or on one of half the points.

        Sizes that are no multiple of ``multiple`` are continued by zeros at their far ends, and the result is cut back.
        """
        shape = (None, 1, *(None,) * self.architecture.ndim)
        for name, scan in (("moving", moving), ("fixed", fixed)):
            if scan.ndim != len(shape) or scan.shape[1] != 1 or scan.shape != fixed.shape:
                raise ShapeError(
                    f"{type(self).__name__}: {name!r} must have shape (B, 1, *shape) with {self.architecture.ndim} axes, the "
                    f"same as 'fixed', got {tuple(scan.shape)} and {tuple(fixed.shape)}"
                )
        size = tuple(fixed.shape[2:])
        pair = padded_to_multiple(torch.cat((moving, fixed), 1), self.multiple)
        fields, log_variance = self.predict(pair)
        spacing = tuple((n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(pair.shape[2:], fields[0].shape[2:]))
        kept = tuple(int(-(-(n - 1) // h)) + 1 for n, h in zip(size, spacing))
        return Prediction(
            tuple(cropped(f, kept).contiguous() for f in fields),
            self.kind,
            float(self.stride),
            spacing[::-1],
            None if log_variance is None else cropped(log_variance, kept).contiguous(),
        )

    @abstractmethod
    def predict(self, pair: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """(B, 2, *shape), moving first, sizes divisible by ``multiple``, to the fields and the log-variance."""


class FeatureNetwork(Stored, ABC):
    """One scan, alone, to feature images at several resolutions, coarse to fine.

    multiple: sizes are padded to it. strides: voxels of the input per voxel of each output. centered: whether a voxel of an
    output lies in the middle of the ``stride`` voxels it stands for (pooling), or on the first of them (strided convolutions).
    """

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
