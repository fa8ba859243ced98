"""From the convolutions of the authors' Keras files to the weights of our networks.

Kernels are (k0, k1, k2, in, out) with axes in the order of the array that was fed, which is our tensor order; components
of the flow belong to array axes ("ij"), ours to x, y, z, so they are turned around.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from ..errors import InputError
from .base import Architecture, Network
from .unet import UNetArchitecture
from .voxelmorph import VoxelMorph1, VoxelMorph2, VoxelMorphDiff

Layer = tuple[np.ndarray, np.ndarray]
"""kernel (k, k, k, in, out) and bias (out,)."""
FLOW_ORDERS = {"ij": (0, 1, 2), "xy": (1, 0, 2)}
"""Which output channel displaces array axis 0, 1, 2."""
SCALED_BY = 128.0
"""Models that learnt the division of scaling and squaring (2^7) themselves give v / 128."""
CANONICAL = {
    "size": (224, 192, 160),
    "spacing_mm": (1.0, 1.0, 1.0),
    "direction": ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "anatomy_center": (106.5, 93.0, 80.0),
}
"""The authors' grid: x runs to the front, y to the feet, z to the left. The center is that of their example scan."""
PRIOR = {"voxelmorph-diff": {"precision": 10.0, "smoothing_voxels": 0.0}}
"""Of the authors' training, by their code's default."""
TOP = 0.467
"""Value of the 99.9th percentile of the authors' example scan, air included, after their division by 255."""
DATA = "T1-weighted brains, skull-stripped, aligned to an atlas by an affine map, 1 mm (as published by the authors)"
CANDIDATES = {"voxelmorph1": VoxelMorph1, "voxelmorph2": VoxelMorph2, "voxelmorph-diff": VoxelMorphDiff}


def from_keras(
    layers: Mapping[str, Layer], flow_order: str = "ij", learnt_scaling: bool = False
) -> tuple[str, Network]:
    """Name and network (authors' architecture) of the convolutions of one file, in the order of its layers.

    flow_order: ``ij``, or ``xy`` for files whose first two flow channels are exchanged. learnt_scaling: the head gives
    v / 128. Raises ``InputError`` when the shapes are those of no known network.
    """
    if flow_order not in FLOW_ORDERS:
        raise InputError(f"from_keras(): flow_order must be one of {tuple(FLOW_ORDERS)}, got {flow_order!r}")
    heads = {name: layers[name] for name in ("flow", "log_sigma") if name in layers}
    body = [layer for name, layer in layers.items() if name not in heads]
    for name, kind in CANDIDATES.items():
        network = kind(_authors(kind))
        targets = _convolutions(network.features)
        same = len(targets) == len(body) and all(_fits(t, k) for t, (k, _) in zip(targets, body))
        if not same or set(heads) != {n for n in ("flow", "log_sigma") if hasattr(network, n)}:
            continue
        with torch.no_grad():
            for target, (kernel, bias) in zip(targets, body):
                _fill(target, kernel, bias)
            for part, (kernel, bias) in heads.items():
                order = [FLOW_ORDERS[flow_order][axis] for axis in reversed(range(len(bias)))]
                _fill(getattr(network, part), kernel[..., order], bias[order])
            if learnt_scaling:
                _rescale(network)
        return name, network.eval()
    shapes = ", ".join(f"{kernel.shape[-2]}->{kernel.shape[-1]}" for kernel, _ in [*body, *heads.values()])
    raise InputError(
        f"from_keras(): convolutions {shapes} with heads {sorted(heads)} are not those of {', '.join(CANDIDATES)}"
    )


def _authors(kind: type[Network]) -> Architecture:
    """The published variant with TensorFlow's padding."""
    shape = kind.variant()
    assert isinstance(shape, UNetArchitecture)
    return shape.replace(padding="tensorflow")


def _convolutions(features: torch.nn.Module) -> list[torch.nn.Module]:
    """Modules that hold a kernel, in the order of the data."""
    return [module for module in features.modules() if isinstance(getattr(module, "weight", None), torch.nn.Parameter)]


def _fits(target: torch.nn.Module, kernel: np.ndarray) -> bool:
    return kernel.ndim == 5 and tuple(np.moveaxis(kernel, (4, 3), (0, 1)).shape) == tuple(target.weight.shape)


def _fill(target: torch.nn.Module, kernel: np.ndarray, bias: np.ndarray) -> None:
    target.weight.copy_(torch.from_numpy(np.ascontiguousarray(np.moveaxis(kernel, (4, 3), (0, 1)), dtype=np.float32)))
    target.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias, dtype=np.float32)))


def _rescale(network: Network) -> None:
    """Let the head give v itself, and the log-variance that of v."""
    network.flow.weight.mul_(SCALED_BY)
    network.flow.bias.mul_(SCALED_BY)
    if hasattr(network, "log_sigma"):
        network.log_sigma.bias.add_(2 * math.log(SCALED_BY))
