"""How much memory a run will take, known before it starts, and what is done when that is too much."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .config import Config, Schedule
from .errors import OutOfMemoryError
from .memory import available_memory_bytes, peak_memory_mb
from .problem import has_half

SOLVER_BYTES = 92
"""Per voxel of the finest level: map, two moments, force, spare map, scans, LNCC gradient and scratch."""
FEATURE_CHANNELS = {"mind": 12, "dio": 16}
"""Channels that similarities or methods keep of both scans instead of the scans."""
KEPT_FEATURES = {"dio": 16 * (1 + 1 / 8 + 1 / 64)}
"""Channels of methods that keep features of all resolutions with both scans, in units of the scans' voxels."""
NETWORK_BYTES = {"dio": 450}
"""Per voxel of the larger scan while a network computes its features."""
CONTINUED = 2.8
"""The moving scan's descriptors reach beyond it and lie on a grid turned with the start: this many times its voxels."""
OUTPUT_BYTES = 60
"""Per voxel of the fixed scan after solving: total displacement, inverse, warped scan, determinants."""
SCAN_BYTES = 12
"""Per voxel of both scans: as read, normalized, level copy."""
COARSER = 1.26
"""The fallback makes the finest level's spacing this much larger at a time: half the voxels."""
COARSEST = 8.0


@dataclass(frozen=True)
class Voxels:
    """How many voxels: of the fixed and the moving scan, and of the solver's grid at factor 1 (``working_voxels``)."""

    fixed: int
    moving: int
    working: int


@dataclass(frozen=True)
class Plan:
    """config: what will be run. bytes: its estimated peak. message: what was changed to fit, empty if nothing."""

    config: Config
    bytes: int
    message: str = ""


def estimate_bytes(voxels: Voxels, config: Config) -> int:
    """Peak bytes of a run beyond the program itself (a crop only needs less)."""
    schedule = config.schedule
    finest = min((f for f, n in zip(schedule.factors, schedule.iterations) if n > 0), default=1.0)
    solving = (SOLVER_BYTES * voxels.working + _feature_bytes(voxels, config)) / max(finest, 1.0) ** 3
    kept = KEPT_FEATURES.get(config.method, 0) * (2 if config.half_precision else 4) / max(finest, 1.0) ** 3
    scans = (SCAN_BYTES + kept) * (voxels.fixed + voxels.moving)
    network = NETWORK_BYTES.get(config.method, 0) * max(voxels.fixed, voxels.moving)
    return int(scans + max(solving, OUTPUT_BYTES * voxels.fixed, network))


def plan(voxels: Voxels, config: Config, device: torch.device) -> Plan:
    """The configuration as it is when it fits, else with descriptors in half precision, else also with coarser levels.

    The limit is ``config.max_memory_gb`` (of the whole process) and what the machine has free. Raises ``OutOfMemoryError``
    when not even the coarsest plan fits.
    """
    free = available_memory_bytes(device if device.type == "cuda" else None)
    if config.max_memory_gb is not None:
        free = min(free, int(config.max_memory_gb * 2**30 - peak_memory_mb() * 2**20))
    needed = estimate_bytes(voxels, config)
    if needed <= free:
        return Plan(config, needed)
    if has_half(config.similarity, config.method in KEPT_FEATURES) and not config.half_precision:
        config = config.replace(half_precision=True)
        reduced = estimate_bytes(voxels, config)
        if reduced <= free:
            return Plan(config, reduced, f"{_too_much(needed, free)}: descriptors are kept in half precision")
    coarser = config
    for floor in _floors(config.schedule):
        schedule = replace(config.schedule, factors=tuple(max(f, floor) for f in config.schedule.factors))
        coarser = config.replace(schedule=schedule)
        reduced = estimate_bytes(voxels, coarser)
        if reduced <= free:
            half = ", descriptors in half precision" if config.half_precision else ""
            text = f"{_too_much(needed, free)}: solved at {floor:.2f} times the finest spacing instead{half}"
            return Plan(coarser, reduced, text)
    least = estimate_bytes(voxels, coarser)
    raise OutOfMemoryError(
        f"not enough memory: even the coarsest plan needs about {least / 2**30:.2f} GB beyond the program, "
        f"{max(free, 0) / 2**30:.2f} GB are allowed or free; crop or resample the scans, or raise --max-memory"
    )


def _feature_bytes(voxels: Voxels, config: Config) -> float:
    """Descriptors of both scans, and those of the warped scan with their residual: of all channels, or one by one."""
    channels = max(FEATURE_CHANNELS.get(name, 0) for name in (config.similarity.name, config.method))
    channels += sum(FEATURE_CHANNELS.get(choice.name, 0) for choice in config.further_similarities)
    both = voxels.working + CONTINUED * voxels.moving
    if config.half_precision and channels:
        return (2 * channels + 4) * both + 8 * voxels.working
    return 4 * channels * both + 8 * channels * voxels.working


def _too_much(needed: int, free: int) -> str:
    return f"the full plan needs about {needed / 2**30:.2f} GB but {free / 2**30:.2f} GB are allowed or free"


def _floors(schedule: Schedule) -> list[float]:
    finest = min(schedule.factors)
    floors = []
    while finest * COARSER <= COARSEST:
        finest *= COARSER
        floors.append(finest)
    return floors
