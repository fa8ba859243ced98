"""The one place where values are looked up between voxels.

Coordinates are continuous voxel indices in x, y, z order. Outside: ``zeros`` follows ITK (a position is inside up to half
a voxel beyond the border voxels' centers, with clamped interpolation there, and 0 further out); ``border`` clamps.
The [-1, 1] coordinates of torch exist only in ``_grid_sample``. 3-D float32 tensors on the CPU without gradient tracking
go through fused kernels (``_fused_sampling``), everything else through torch.
"""

from __future__ import annotations

import numpy as np
import torch

from ..checks import check_shape
from ..errors import ConfigError
from .grid import Geometry

PADDINGS = ("zeros", "border")


def identity_index(shape: tuple[int, ...], device="cpu", dtype=torch.float32) -> torch.Tensor:
    """Voxel indices of a grid of tensor ``shape`` ([Z,] Y, X): (1, d, *shape), components x, y, z."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])[None]


def per_component(values, like: torch.Tensor) -> torch.Tensor:
    """d numbers (x, y[, z]), such as a spacing, shaped (1, d, 1, ...) to multiply the field ``like`` (1, d, *shape)."""
    return torch.as_tensor(np.asarray(values, dtype=float), dtype=like.dtype, device=like.device).reshape(
        1, -1, *(1,) * (like.ndim - 2)
    )


def sample(values: torch.Tensor, index: torch.Tensor, mode: str = "linear", padding: str = "zeros") -> torch.Tensor:
    """Look up ``values`` (B, C, *in_shape) at ``index`` (B, d, *out_shape); returns (B, C, *out_shape).

    mode: ``linear`` (floating types, differentiable) or ``nearest`` (any type, half rounds up as in ITK).
    """
    d = values.ndim - 2
    check_shape("sample", "index", index, (values.shape[0], d, *(None,) * d))
    if padding not in PADDINGS:
        raise ConfigError(f"sample(): 'padding' must be one of {PADDINGS}, got {padding!r}")
    if mode == "nearest":
        return _nearest(values, index, padding)
    if _is_fused(values, index):
        from . import _fused_sampling as fused

        out = values.new_empty((1, values.shape[1], *index.shape[2:]))
        fused.sample_at(_array(values), _array(index), padding == "zeros", out[0].numpy())
        return out
    return _grid_sample(values, index, padding)


def warp(values: torch.Tensor, displacement: torch.Tensor, matrix: np.ndarray, padding: str = "zeros") -> torch.Tensor:
    """Sample ``values`` at matrix @ (i + u(i)).

    displacement: u, (1, d, *shape) in voxels of its own grid. matrix: (d, d+1), from that grid's voxels to voxels of
    ``values`` (``index_matrix`` makes it). Returns (1, C, *shape), side by side in memory where the channels of ``values`` are.
    """
    if _is_fused(values, displacement, planes=True):
        from . import _fused_sampling as fused

        matrix32 = np.ascontiguousarray(matrix, dtype=np.float32)
        if values.ndim == 5 and side_by_side(values):
            out = values.new_empty((*displacement.shape[2:], values.shape[1]))
            fused.warp_beside(
                values.detach()[0].movedim(0, -1).numpy(),
                _array(displacement),
                matrix32,
                padding == "zeros",
                out.numpy(),
            )
            return out.movedim(-1, 0)[None]
        out = values.new_empty((1, values.shape[1], *displacement.shape[2:]))
        kernel = fused.warp if values.ndim == 5 else fused.warp_plane
        kernel(_array(values), _array(displacement), matrix32, padding == "zeros", out[0].numpy())
        return out
    return sample(values, warp_index(displacement, matrix), padding=padding)


def pull_gradient(
    values: torch.Tensor, displacement: torch.Tensor, matrix: np.ndarray, residual: torch.Tensor
) -> torch.Tensor:
    """Chain rule through ``warp``: sum_c residual_c * d warped_c / d displacement, (1, d, *shape).

    residual: dE/dwarped, (1, C, *shape). Exact derivative of the interpolant (METHODS: trilinear, zeros padding).
    """
    if _is_fused(values, displacement):
        from . import _fused_sampling as fused

        out = torch.zeros_like(displacement)
        matrix32 = np.ascontiguousarray(matrix, dtype=np.float32)
        fused.pull_gradient(_array(values), _array(displacement), matrix32, _array(residual), out[0].numpy())
        return out
    with torch.enable_grad():
        u = displacement.detach().requires_grad_()
        warped = sample(values.detach(), warp_index(u, matrix))
        return torch.autograd.grad(warped, u, residual)[0]


def warped_gradient(warped: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """sum_c residual_c * grad warped_c by central differences in voxels: (1, d, *shape).

    This is dE/dd at d = 0 for phi o (Id + d), the derivative that compositional models descend. Rows at the border of an
    axis get 0 along that axis (x) or half the one-sided difference (y, z).
    """
    d = warped.ndim - 2
    out = warped.new_zeros((1, d, *warped.shape[2:]))
    if _is_fused(warped, residual):
        from . import _fused_sampling as fused

        fused.warped_gradient(_array(warped), _array(residual), out[0].numpy())
        return out
    for component in range(d):
        axis = warped.ndim - 1 - component
        n = warped.shape[axis]
        upper = warped.narrow(axis, 2, n - 2) - warped.narrow(axis, 0, n - 2)
        inner = residual.narrow(axis, 1, n - 2) * upper / 2
        out[:, component].narrow(axis - 1, 1, n - 2).add_(inner.sum(1))
        if component:
            for edge, step in ((0, 1), (n - 1, -1)):
                first = warped.select(axis, edge), warped.select(axis, edge + step)
                one_sided = step * (first[1] - first[0]) / 2 * residual.select(axis, edge)
                out[:, component].select(axis - 1, edge).add_(one_sided.sum(1))
    return out


def sample_points(
    values: torch.Tensor, geometry: Geometry, points_mm: np.ndarray, padding: str = "zeros"
) -> np.ndarray:
    """Look up (1, C, *shape) values at (N, d) points in mm: (N, C) float64, computed in double precision."""
    array = values.detach().cpu().numpy()[0]
    index = geometry.to_index(points_mm)
    size = np.array(geometry.size)
    inside = ((index >= -0.5) & (index < size - 0.5)).all(1)
    index = np.clip(index, 0, size - 1)
    lower = np.minimum(index.astype(int), np.maximum(size - 2, 0))
    fraction = index - lower
    out = np.zeros((len(index), array.shape[0]))
    for corner in np.ndindex(*(2,) * geometry.ndim):
        offset = np.array(corner)
        weight = np.where(offset, fraction, 1 - fraction).prod(1)
        at = np.minimum(lower + offset, size - 1)
        out += weight[:, None] * array[(slice(None), *at.T[::-1])].T
    return out * inside[:, None] if padding == "zeros" else out


def index_matrix(grid: Geometry, values_geometry: Geometry, world: np.ndarray | None = None) -> np.ndarray:
    """(d, d+1) float64 matrix from ``grid`` voxels to voxels of another geometry.

    world: homogeneous (d+1, d+1) map in mm from the grid's space to the other's (identity when absent).
    """
    world = np.eye(grid.ndim + 1) if world is None else world
    return (values_geometry.world_to_index @ world @ grid.index_to_world)[:-1]


def warp_index(displacement: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """matrix @ (i + u(i)) as an index tensor (1, d, *shape)."""
    index = identity_index(tuple(displacement.shape[2:]), displacement.device, displacement.dtype) + displacement
    m = torch.as_tensor(matrix, device=index.device, dtype=index.dtype)
    offset = m[:, -1].reshape(1, -1, *(1,) * (index.ndim - 2))
    return torch.einsum("ij,bj...->bi...", m[:, :-1], index) + offset


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach()[0].contiguous().numpy()


def side_by_side(image: torch.Tensor) -> bool:
    """Whether several channels of (1, C, *shape) are the fastest axis in memory (``channels_last``)."""
    return image.shape[1] > 1 and image.movedim(1, -1).is_contiguous()


def _is_fused(values: torch.Tensor, index: torch.Tensor, planes: bool = False) -> bool:
    """Whether the fused kernels apply: one image, 3-D (or 2-D with ``planes``), float32, CPU, axes of at least 2 voxels, nothing to
    differentiate."""
    tensors = (values, index)
    tracked = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    fits = values.ndim == 5 or (planes and values.ndim == 4)
    return fits and values.shape[0] == 1 and plain and not tracked and min(values.shape[2:]) > 1


def _inside(index: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    n = torch.as_tensor(size, device=index.device, dtype=index.dtype).reshape(1, -1, *(1,) * (index.ndim - 2))
    return ((index >= -0.5) & (index < n - 0.5)).all(1, keepdim=True)


def _grid_sample(values: torch.Tensor, index: torch.Tensor, padding: str) -> torch.Tensor:
    size = values.shape[:1:-1]
    n = torch.as_tensor(size, device=index.device, dtype=index.dtype).reshape(1, -1, *(1,) * (index.ndim - 2))
    grid = (2 * index / (n - 1).clamp(min=1) - 1).movedim(1, -1)
    out = torch.nn.functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out * _inside(index, size) if padding == "zeros" else out


def _nearest(values: torch.Tensor, index: torch.Tensor, padding: str) -> torch.Tensor:
    size = values.shape[:1:-1]
    rounded = (index + 0.5).floor().long()
    flat = torch.zeros_like(rounded[:, :1])
    for component in reversed(range(len(size))):
        flat = flat * size[component] + rounded[:, component : component + 1].clamp(0, size[component] - 1)
    batch, channels = values.shape[:2]
    looked_up = values.flatten(2).gather(2, flat.flatten(2).expand(batch, channels, -1))
    out = looked_up.reshape(batch, channels, *index.shape[2:])
    return out * _inside(index, size) if padding == "zeros" else out
