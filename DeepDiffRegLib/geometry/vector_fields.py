"""Calculus of displacement fields on one grid: composition, inversion, Jacobian determinants.

Displacements in voxels are (1, d, [Z,] Y, X), components x, y, z along the grid's own axes, edge-clamped outside (a field
that fell to zero there would fold the border). 3-D float32 tensors on the CPU go through fused kernels
(``_fused_fields``); everything else runs in torch, slab by slab along the first tensor axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..checks import check_shape
from ..errors import ShapeError
from .grid import Geometry
from .sampling import identity_index, sample

SLAB_VOXELS = 2**20
"""Voxels handled at once by slab-wise code: bounds its scratch memory to some tens of MB."""
DETERMINANT_FLOOR = 0.05
PERCENTILE_SAMPLE = 500_000
"""Percentiles of more values than twice this are taken over evenly spread ones: sorting many equal values is slow."""


@dataclass(frozen=True)
class Inversion:
    """displacement: the inverse field, voxels. residual: |v + u(y+v)| per voxel, (1, 1, *shape), in voxels or in the
    unit asked for. inside: voxels y whose partner y + v lies on the grid (the others have none; their v extrapolates).
    mean, p99, max: of the residual over ``inside``.
    """

    displacement: torch.Tensor
    residual: torch.Tensor
    inside: torch.Tensor
    mean: float
    p99: float
    max: float


def slabs(geometry: Geometry, voxels: int = SLAB_VOXELS) -> Iterator[tuple[slice, Geometry]]:
    """Cut a grid along its first tensor axis (z, or y in 2-D): slice of that axis and the slab's own geometry."""
    n = geometry.shape[0]
    thickness = max(1, min(n, voxels * n // geometry.voxels))
    for start in range(0, n, thickness):
        stop = min(start + thickness, n)
        first = (0,) * (geometry.ndim - 1) + (start,)
        yield slice(start, stop), geometry.cropped(first, (*geometry.size[:-1], stop - start))


def compose(outer: torch.Tensor, inner: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Displacement of (Id + outer) o (Id + inner): inner(x) + outer(x + inner(x)), both in voxels of the same grid.

    Fields may be batches (B, d, *shape). out: a contiguous tensor for the result, not one of the inputs. Differentiable when an input tracks gradients.
    """
    _check_field("compose", "inner", inner, batch=None)
    check_shape("compose", "outer", outer, tuple(inner.shape))
    if _is_fused(outer, inner):
        from . import _fused_fields as fused

        out = torch.empty_like(inner, memory_format=torch.contiguous_format) if out is None else out
        fused.compose(_array(outer), _array(inner), out[0].numpy())
        return out
    index = identity_index(tuple(inner.shape[2:]), inner.device, inner.dtype) + inner
    result = inner + sample(outer, index, padding="border")
    return result if out is None else out.copy_(result)


def invert(
    displacement: torch.Tensor,
    iterations: int = 30,
    tolerance_voxels: float = 0.005,
    unit: tuple[float, ...] | None = None,
) -> Inversion:
    """v with (Id + u) o (Id + v) = Id, per voxel by Newton steps with step halving.

    displacement: u, (1, d, *shape) in voxels. Each voxel stops at ``tolerance_voxels`` or after ``iterations`` looks at u
    and keeps its best v. unit: length of a voxel along x, y[, z] in which the residual is stated (1: voxels).
    """
    _check_field("invert", "displacement", displacement)
    d, shape = displacement.shape[1], tuple(displacement.shape[2:])
    unit = np.broadcast_to(np.asarray(1.0 if unit is None else unit, dtype=np.float32), (d,))
    residual = displacement.new_empty((1, 1, *shape))
    if _is_fused(displacement):
        from . import _fused_fields as fused

        v = torch.empty_like(displacement, memory_format=torch.contiguous_format)
        arguments = (np.ascontiguousarray(unit), iterations, np.float32(tolerance_voxels))
        fused.invert(_array(displacement), *arguments, v[0].numpy(), residual[0, 0].numpy())
    else:
        v = torch.empty_like(displacement)
        for rows in _row_slabs(shape):
            v[:, :, rows], residual[:, :, rows] = _invert_rows(displacement, rows, iterations, tolerance_voxels, unit)
    inside = lands_inside(v)
    return Inversion(v, residual, inside, *_statistics(residual, inside))


def linear_field(
    matrix: np.ndarray,
    shape: tuple[int, ...],
    displacement: torch.Tensor | None = None,
    linear: np.ndarray | None = None,
) -> torch.Tensor:
    """matrix @ (i, 1) + linear @ u(i) at every voxel index i (x, y, z order) of a grid: (1, d, *shape) float32.

    matrix: (d, d+1), evaluated in double precision. displacement: u, (1, d, *shape); linear: (d, d), identity when absent.
    """
    d = len(shape)
    matrix, linear = np.asarray(matrix, dtype=np.float64), np.eye(d) if linear is None else np.asarray(linear)
    if displacement is not None and _is_fused(displacement):
        from . import _fused_fields as fused

        out = torch.empty((1, d, *shape))
        single = np.ascontiguousarray(linear, dtype=np.float32)
        fused.linear_field(np.ascontiguousarray(matrix), single, _array(displacement), out[0].numpy())
        return out
    device = None if displacement is None else displacement.device
    out = torch.empty((1, d, *shape), device=device)
    for row in range(d):
        total = torch.as_tensor(matrix[row, d], dtype=torch.float64, device=device)
        for component, n in enumerate(shape[::-1]):
            if matrix[row, component] == 0.0:
                continue
            axis = torch.arange(n, dtype=torch.float64, device=device) * float(matrix[row, component])
            total = total + axis.reshape(-1, *(1,) * component)
        out[0, row] = total
    if displacement is not None:
        weights = torch.as_tensor(linear, dtype=torch.float32, device=device)
        out += torch.einsum("ij,bj...->bi...", weights, displacement)
    return out


def jacobian_determinant(
    displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...], direction: np.ndarray | None = None
) -> torch.Tensor:
    """det(I + du/dx) in physical space by central differences, one-sided in the outermost voxels: (1, 1, *shape).

    displacement_mm: (1, d, *shape) along the grid's own axes, or in LPS when ``direction`` (columns: axes in LPS) is given.
    spacing_mm: x, y[, z]. At most zero means folded. The determinant of x -> A(x + u(x)) is det(A) times this.
    """
    return _determinants("jacobian_determinant", displacement_mm, spacing_mm, direction, strict=False)


def strict_jacobian(
    displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...], direction: np.ndarray | None = None
) -> torch.Tensor:
    """Least det(I + du/dx) over all choices of a forward or backward difference per axis: (1, 1, *shape).

    These are the determinants at the corners of the cells around a voxel; central differences average neighboring cells
    and can miss a flip inside one. Arguments as in ``jacobian_determinant``.
    """
    return _determinants("strict_jacobian", displacement_mm, spacing_mm, direction, strict=True)


def strict_folds(
    displacement_mm: torch.Tensor, spacing_mm: tuple[float, ...], direction: np.ndarray | None = None
) -> int:
    """Number of voxels with a corner determinant of at most zero (``strict_jacobian``)."""
    return int((strict_jacobian(displacement_mm, spacing_mm, direction) <= 0).sum())


def _determinants(function, displacement_mm, spacing_mm, direction, strict: bool) -> torch.Tensor:
    _check_field(function, "displacement_mm", displacement_mm)
    d, shape = displacement_mm.shape[1], tuple(displacement_mm.shape[2:])
    if min(shape) < 2:
        raise ShapeError(f"{function}(): 'displacement_mm' needs at least 2 voxels per axis, got shape {shape}")
    base = np.eye(d) if direction is None else np.asarray(direction, dtype=float)
    sign = 1.0 if np.linalg.det(base) > 0 else -1.0
    scale = 1 / np.asarray(spacing_mm, dtype=float)
    out = displacement_mm.new_empty((1, 1, *shape))
    if _is_fused(displacement_mm):
        from . import _fused_fields as fused

        kernel = fused.strict_jacobian if strict else fused.jacobian
        single = (scale.astype(np.float32), np.ascontiguousarray(base, dtype=np.float32), np.float32(sign))
        kernel(_array(displacement_mm), *single, out[0, 0].numpy())
        return out
    for rows in _row_slabs(shape):
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, shape[0])
        halo = displacement_mm[0, :, first:last]
        block = _strict_block(halo, scale, base) if strict else _central_block(halo, scale, base)
        out[0, 0, rows] = sign * block[rows.start - first : rows.stop - first]
    return out


def _central_block(u: torch.Tensor, scale: np.ndarray, base: np.ndarray) -> torch.Tensor:
    """det(base + du/dx) of a (d, *shape) block; torch.gradient is one-sided at the block's ends."""
    d = u.shape[0]
    partial = torch.gradient(u, dim=tuple(range(d, 0, -1)))
    return _small_determinant([[partial[b][a] * scale[b] + base[a, b] for b in range(d)] for a in range(d)])


def _strict_block(u: torch.Tensor, scale: np.ndarray, base: np.ndarray) -> torch.Tensor:
    d = u.shape[0]
    sides = [_one_sided(u, d - b, scale[b]) for b in range(d)]
    least = torch.full_like(u[0], torch.inf)
    for corner in np.ndindex(*(2,) * d):
        chosen = [sides[b][corner[b]] for b in range(d)]
        det = _small_determinant([[chosen[b][a] + base[a, b] for b in range(d)] for a in range(d)])
        least = torch.minimum(least, det.nan_to_num(nan=torch.inf))
    return least


def _one_sided(u: torch.Tensor, axis: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward differences; NaN where there is no neighbor."""
    difference = torch.diff(u, dim=axis) * scale
    missing = torch.full_like(u.narrow(axis, 0, 1), torch.nan)
    return torch.cat((difference, missing), axis), torch.cat((missing, difference), axis)


def _small_determinant(m: list[list[torch.Tensor]]) -> torch.Tensor:
    if len(m) == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


def _invert_rows(u: torch.Tensor, rows: slice, iterations: int, tolerance: float, unit) -> tuple:
    """The torch version of the fused inversion for some rows of the first axis; J from differences over one voxel."""
    d, shape = u.shape[1], tuple(u.shape[2:])
    y = identity_index((rows.stop - rows.start, *shape[1:]), u.device, u.dtype)
    y[:, -1] += rows.start
    v = -u[:, :, rows]
    best_v, step, omega = v.clone(), torch.zeros_like(v), torch.ones_like(v[:, :1])
    best_r = torch.full_like(v, torch.inf)
    for _ in range(iterations):
        r = v + sample(u, y + v, padding="border")
        better = r.norm(dim=1, keepdim=True) < best_r.norm(dim=1, keepdim=True)
        best_v, best_r = torch.where(better, v, best_v), torch.where(better, r, best_r)
        if float(best_r.norm(dim=1).amax()) < tolerance:
            break
        step = torch.where(better, _newton_step(u, y + v, r), step)
        omega = torch.where(better, torch.ones_like(omega), omega / 2)
        v = best_v + omega * step
    lengths = torch.as_tensor(unit.copy(), device=u.device, dtype=u.dtype).reshape(1, d, *(1,) * d)
    return best_v, (best_r * lengths).norm(dim=1, keepdim=True)


def _newton_step(u: torch.Tensor, at: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    d = u.shape[1]
    columns = []
    for b in range(d):
        half = torch.zeros(d, device=u.device, dtype=u.dtype)
        half[b] = 0.5
        half = half.reshape(1, d, *(1,) * d)
        columns.append(sample(u, at + half, padding="border") - sample(u, at - half, padding="border"))
    jacobian = torch.stack(columns, -1)[0].movedim(0, -2) + torch.eye(d, device=u.device, dtype=u.dtype)
    safe = (torch.linalg.det(jacobian) > DETERMINANT_FLOOR)[..., None, None]
    jacobian = torch.where(safe, jacobian, torch.eye(d, device=u.device, dtype=u.dtype))
    return -torch.linalg.solve(jacobian, r[0].movedim(0, -1)).movedim(-1, 0)[None]


def lands_inside(v: torch.Tensor) -> torch.Tensor:
    """Whether y + v(y) is within the voxels' outer faces (ITK's rule), per voxel: (1, 1, *shape) bool."""
    shape = tuple(v.shape[2:])
    inside = torch.empty((1, 1, *shape), dtype=torch.bool, device=v.device)
    if _is_fused(v):
        from . import _fused_fields as fused

        fused.lands_inside(_array(v), inside[0, 0].numpy())
        return inside
    for rows in _row_slabs(shape):
        part = torch.ones_like(inside[:, 0, rows])
        for component, n in enumerate(shape[::-1]):
            axis = len(shape) - 1 - component
            position = torch.arange(n, device=v.device, dtype=v.dtype)[rows if axis == 0 else slice(None)]
            where = v[:, component, rows] + position.reshape(-1, *(1,) * component)
            part &= (where >= -0.5) & (where < n - 0.5)
        inside[:, 0, rows] = part
    return inside


def _statistics(values: torch.Tensor, inside: torch.Tensor) -> tuple[float, float, float]:
    """mean, 99th percentile, maximum over ``inside``; infinite when there is nothing to measure.

    In NumPy: indexing a tensor by a mask lists the five indices of every voxel, 40 bytes each.
    """
    array = values.detach().cpu().numpy()[inside.cpu().numpy()]
    if array.size == 0:
        return np.inf, np.inf, np.inf
    mean, largest = float(array.mean(dtype=np.float64)), float(array.max())
    sample = array[:: max(1, array.size // PERCENTILE_SAMPLE)].copy()
    place = min(sample.size - 1, int(0.99 * sample.size))
    sample.partition(place)
    return mean, float(sample[place]), largest


def _row_slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    thickness = max(1, min(shape[0], SLAB_VOXELS // max(1, int(np.prod(shape[1:])))))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))


def _check_field(function: str, name: str, field: torch.Tensor, batch: int | None = 1) -> None:
    d = field.ndim - 2
    if d not in (2, 3):
        raise ShapeError(
            f"{function}(): {name!r} must have shape (1, d, [Z,] Y, X) with d 2 or 3, got {tuple(field.shape)}"
        )
    check_shape(function, name, field, (batch, d, *(None,) * d))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach()[0].contiguous().numpy()


def _is_fused(*fields: torch.Tensor) -> bool:
    """Whether the fused kernels apply: one 3-D field, float32, CPU, axes of at least 2 voxels, nothing to differentiate."""
    tracked = torch.is_grad_enabled() and any(t.requires_grad for t in fields)
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in fields)
    return fields[0].ndim == 5 and len(fields[0]) == 1 and plain and not tracked and min(fields[0].shape[2:]) > 1
