"""Random changes of training pairs: mirrored, turned, scaled, shifted, brighter or darker; drawn by counter."""

from __future__ import annotations

import numpy as np

from ..geometry.sampling import sample, warp_index
from .base import Batch
from .config import Augmentation
from .streams import numbers

STREAM = 5
ROLES = ("moving", "fixed")


def augmented(pair: Batch, options: Augmentation, seed: int, step: int, row: int) -> Batch:
    """One pair (batch of one), changed as ``options`` allow; surfaces follow mirroring and do not know the other moves."""
    rng = numbers(seed, step, row, STREAM)
    pair = dict(pair)
    for axis in options.flip:
        if rng.random() < 0.5:
            _mirror(pair, "xyz".index(axis))
    for role in ROLES:
        if options.moves:
            _move(pair, role, options, rng)
        if options.gamma:
            pair[role] = pair[role] ** float(np.exp(rng.uniform(-options.gamma, options.gamma)))
    return pair


def _mirror(pair: Batch, component: int) -> None:
    n = pair["fixed"].shape[-1 - component]
    for name, tensor in pair.items():
        if name.endswith("_points"):
            pair[name] = tensor.clone()
            pair[name][..., component] = n - 1 - tensor[..., component]
        elif not name.endswith("_structure"):
            pair[name] = tensor.flip(-1 - component)


def _move(pair: Batch, role: str, options: Augmentation, rng: np.random.Generator) -> None:
    scan = pair[role]
    matrix = drawn_matrix(tuple(scan.shape[2:]), options, rng)
    index = warp_index(scan.new_zeros((1, scan.ndim - 2, *scan.shape[2:])), matrix)
    pair[role] = sample(scan, index)
    if f"{role}_labels" in pair:
        pair[f"{role}_labels"] = sample(pair[f"{role}_labels"], index, mode="nearest")


def drawn_matrix(shape: tuple[int, ...], options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """(d, d+1) map of voxel indices (x, y[, z]) about the grid's middle."""
    d = len(shape)
    matrix = np.eye(d) * np.exp(rng.uniform(-1, 1) * np.log1p(options.scale))
    for first in range(d):
        for second in range(first + 1, d):
            angle = np.deg2rad(rng.uniform(-1, 1) * options.rotation_deg)
            turn = np.eye(d)
            turn[[first, second], [first, second]] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = turn @ matrix
    middle = (np.array(shape[::-1]) - 1) / 2
    offset = middle - matrix @ middle + rng.uniform(-1, 1, d) * options.shift_voxels
    return np.concatenate((matrix, offset[:, None]), 1)
