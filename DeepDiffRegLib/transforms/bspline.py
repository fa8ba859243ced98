"""Cubic B-spline displacement on a control grid (free-form deformation), equal to ITK's BSplineTransform of order 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..checks import check_shape
from ..errors import GeometryError
from ..geometry.grid import Geometry
from .base import Inverse, Transform, round_trip_error
from .displacement import DisplacementTransform, to_voxels, to_world
from .model import Adam, Model, Push, summed

CHUNK = 2**15
"""Points evaluated at once: 64 look-ups each."""


@dataclass(frozen=True, eq=False)
class BSplineTransform(Transform):
    """x_moving = x_fixed + sum_k beta(x_fixed; k) c_k; c: (1, d, *control_grid.shape) float32, mm LPS.

    control_grid: where the coefficients sit; the map is the identity outside control indices [1, n - 2] of any axis
    (ITK's rule). domain: the grid an inverse is computed on (None: four voxels per control cell).
    """

    coefficients: torch.Tensor
    control_grid: Geometry
    domain: Geometry | None = None

    def __post_init__(self):
        grid = self.control_grid
        check_shape("BSplineTransform", "coefficients", self.coefficients, (1, grid.ndim, *grid.shape))
        if min(grid.size) < 4:
            raise GeometryError(f"BSplineTransform: a cubic spline needs 4 control points per axis, got {grid.size}")
        if self.domain is None:
            object.__setattr__(self, "domain", _cells(grid))

    @property
    def ndim(self) -> int:
        return self.control_grid.ndim

    @cached_property
    def _table(self) -> np.ndarray:
        """(control points, d) float64."""
        return self.coefficients[0].detach().cpu().double().reshape(self.ndim, -1).T.contiguous().numpy()

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        points = np.array(points_mm, dtype=np.float64)
        for start in range(0, len(points), CHUNK):
            points[start : start + CHUNK] += self._at(points[start : start + CHUNK])
        return points

    def _at(self, points_mm: np.ndarray) -> np.ndarray:
        index, size = self.control_grid.to_index(points_mm), np.array(self.control_grid.size)
        inside = ((index >= 1) & (index <= size - 2)).all(1)
        first, weights = cubic_weights(index, size)
        out = np.zeros_like(index)
        strides = np.cumprod([1, *size[:-1]])
        for tap in np.ndindex(*(4,) * self.ndim):
            weight = np.prod([weights[:, axis, k] for axis, k in enumerate(tap)], axis=0)
            out += weight[:, None] * self._table[(first + np.array(tap)) @ strides]
        return out * inside[:, None]

    def follow(self, displacement: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
        """Separable on a grid whose axes are the control grid's; point by point elsewhere."""
        if displacement is None and _aligned(self.control_grid, geometry):
            return evaluate(self.coefficients.detach(), self.control_grid, geometry)
        return super().follow(displacement, geometry)

    def at(self, time: float) -> BSplineTransform:
        """x + time * u(x)."""
        return BSplineTransform(self.coefficients.detach() * float(time), self.control_grid, self.domain)

    def inverse(self) -> Inverse:
        """A displacement on ``domain``; the error is that of the spline itself against it."""
        sampled = DisplacementTransform(self.displacement(self.domain), self.domain)
        backward = sampled.inverse().transform
        return Inverse(backward, round_trip_error(self, backward, self.domain))

    def to_itk(self):
        import SimpleITK as sitk

        grid = self.control_grid
        transform = sitk.BSplineTransform(self.ndim, 3)
        rows = (grid.size, grid.origin_mm, grid.spacing_mm, grid.rotation.ravel())
        transform.SetFixedParameters([float(v) for row in rows for v in row])
        transform.SetParameters(self._table.T.ravel().tolist())
        return transform


def control_grid(geometry: Geometry, spacing_mm: float | Sequence[float]) -> Geometry:
    """The control grid over ``geometry``'s outer faces: whole cells no larger than ``spacing_mm`` per axis, plus the
    one extra point before and two behind that a cubic spline needs."""
    cells = np.maximum(1, np.ceil(geometry.extent_mm / np.asarray(spacing_mm, dtype=float) - 1e-6)).astype(int)
    spacing = geometry.extent_mm / cells
    first = -0.5 - spacing / np.array(geometry.spacing_mm)
    return Geometry(tuple(cells + 3), tuple(spacing), tuple(geometry.to_world(first)), geometry.direction)


def evaluate(coefficients: torch.Tensor, control: Geometry, geometry: Geometry) -> torch.Tensor:
    """The spline at every voxel of ``geometry``, whose axes must be the control grid's: (1, C, *geometry.shape).

    coefficients: (1, C, *control.shape), differentiable. One small dense basis matrix per axis.
    """
    check_shape("evaluate", "coefficients", coefficients, (1, None, *control.shape))
    out = coefficients
    for axis, matrix in reversed(list(enumerate(_bases(control, geometry, coefficients)))):
        out = _along(out, matrix, axis)
    return out


def evaluate_adjoint(field: torch.Tensor, control: Geometry, geometry: Geometry) -> torch.Tensor:
    """The transpose of ``evaluate``: a gradient (1, C, *geometry.shape) to one of (1, C, *control.shape)."""
    check_shape("evaluate_adjoint", "field", field, (1, None, *geometry.shape))
    out = field
    for axis, matrix in enumerate(_bases(control, geometry, field)):
        out = _along(out, matrix.T, axis)
    return out


def cubic_weights(index: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First of the four control points and their weights for (N, d) continuous indices: (N, d) int, (N, d, 4)."""
    first = np.clip(np.floor(index).astype(int) - 1, 0, size - 4)
    f = index - first - 1
    weights = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
    return first, np.stack(weights, -1) / 6


def _bases(control: Geometry, geometry: Geometry, like: torch.Tensor) -> list[torch.Tensor]:
    """One (voxels, control points) matrix per axis, x first; rows outside the spline's region are zero."""
    if not _aligned(control, geometry):
        raise GeometryError(
            "evaluate(): the grid's axes must be parallel to the control grid's; use map_points instead"
        )
    matrix = control.world_to_index @ geometry.index_to_world
    bases = []
    for axis, (n, m) in enumerate(zip(geometry.size, control.size)):
        index = (matrix[axis, axis] * np.arange(n) + matrix[axis, -1])[:, None]
        first, weights = cubic_weights(index, np.array([m]))
        weights = weights[:, 0] * ((index >= 1 - 1e-9) & (index <= m - 2 + 1e-9))
        basis = np.zeros((n, m))
        np.put_along_axis(basis, first + np.arange(4), weights, axis=1)
        bases.append(torch.as_tensor(basis, dtype=like.dtype, device=like.device))
    return bases


def _along(values: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Apply an (m, n) matrix along spatial axis 0 (x, the last), 1 (y) or 2 (z)."""
    if axis == 0:
        return values @ matrix.T
    place = values.ndim - 1 - axis
    shape = list(values.shape)
    out = torch.matmul(matrix, values.reshape(-1, shape[place], int(np.prod(shape[place + 1 :]))))
    shape[place] = matrix.shape[0]
    return out.reshape(shape)


def _aligned(control: Geometry, geometry: Geometry) -> bool:
    matrix = (control.world_to_index @ geometry.index_to_world)[:-1, :-1]
    off = np.abs(matrix - np.diag(np.diag(matrix)))
    return bool((off @ np.array(geometry.size)).max() < 1e-5)


def _cells(control: Geometry) -> Geometry:
    """Four voxels per control cell over the region where the spline is defined."""
    size = tuple(4 * (n - 3) for n in control.size)
    spacing = tuple(s / 4 for s in control.spacing_mm)
    return Geometry(size, spacing, tuple(control.to_world(np.full(control.ndim, 1.125))), control.direction)


class BSplineModel(Model):
    """Control-point displacements moved by Adam.

    control_spacing_mm: distance of the control points; on coarse levels at least ``least_voxels`` voxels. learning_rate:
    longest step of a control point in voxels of the level.
    """

    def __init__(
        self,
        control_spacing_mm: float = 12.0,
        least_voxels: float = 4.0,
        learning_rate: float = 0.5,
        epsilon: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        self.spacing_mm, self.least_voxels = control_spacing_mm, least_voxels
        self.learning_rate, self.epsilon, self.betas = learning_rate, epsilon, tuple(betas)
        self._c: torch.Tensor | None = None

    def enter(self, geometry: Geometry, device: torch.device | str) -> None:
        control = control_grid(geometry, np.maximum(self.spacing_mm, self.least_voxels * np.array(geometry.spacing_mm)))
        if self._c is None:
            self._c = torch.zeros((1, geometry.ndim, *control.shape), device=device)
        else:
            old = evaluate(self._c, self._control, geometry)
            ratio = np.array(self.geometry.spacing_mm) / np.array(geometry.spacing_mm)
            old = old * torch.as_tensor(ratio, dtype=old.dtype, device=device).reshape(1, -1, *(1,) * geometry.ndim)
            self._c = fit(old, control, geometry)
        self.geometry, self._control = geometry, control
        self._pin()
        self._adam = Adam(self._c, self.betas, self.epsilon)

    def displacement(self) -> torch.Tensor:
        return evaluate(self._c, self._control, self.geometry).contiguous()

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        force = summed(force, apart)
        gradient = evaluate_adjoint(force, self._control, self.geometry)
        self._c.sub_(self._adam.direction(gradient).clamp_(-1, 1), alpha=self.learning_rate)
        self._pin()

    def finish(self) -> Transform:
        return BSplineTransform(to_world(self._c, self.geometry), self._control, self.geometry)

    def resume(self, transform: Transform, geometry: Geometry, device: torch.device | str) -> None:
        """The spline closest to the given map (least squares at the voxels of ``geometry``)."""
        control = control_grid(geometry, np.maximum(self.spacing_mm, self.least_voxels * np.array(geometry.spacing_mm)))
        self._c = fit(to_voxels(transform.displacement(geometry, device), geometry), control, geometry)
        self.geometry, self._control = geometry, control

    def _pin(self) -> None:
        """Three control layers at a pinned face: value and slope vanish there."""
        for component, side in self.pinned:
            axis = self._c.ndim - 1 - component
            self._c.narrow(axis, 0 if side == 0 else self._c.shape[axis] - 3, 3).zero_()


def fit(field: torch.Tensor, control: Geometry, geometry: Geometry) -> torch.Tensor:
    """Least-squares coefficients (1, C, *control.shape) of a field (1, C, *geometry.shape), axis by axis."""
    out = field
    for axis, matrix in enumerate(_bases(control, geometry, field)):
        out = _along(out, torch.linalg.pinv(matrix.double(), rtol=1e-6).to(field.dtype), axis)
    return out.contiguous()
