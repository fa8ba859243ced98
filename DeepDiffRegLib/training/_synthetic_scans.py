"""From a label map to what a scanner might show of it: intensities by label, texture, and one function for each thing that goes
wrong. Scans are (1, 1, *shape); every function returns a new tensor and draws from the ``Source`` it is given.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..geometry.smoothing import gaussian
from ..preprocess.intensity import percentiles
from ._synthetic_anatomy import Anatomy
from ._synthetic_fields import Source, noise

EDGE_SIGMA = 0.5
"""Blur of painted labels in voxels: partial volume."""
CLIP = (0.1, 99.9)
AIR = 0.02
"""Darker voxels of a scan in [0, 1] show nothing."""
MODES = {2: "bilinear", 3: "trilinear"}
CONTRASTS = (("unrelated", 0.35), ("one natural", 0.2), ("remapped", 0.3), ("alike", 0.15), ("natural", 0.0))
"""How the two scans of a pair are related, and how often: not at all, likewise but one shows what a common scanner might, one remapped
from the other, one contrast seen twice with small changes, or what a common scanner might show seen twice."""


def contrasts(
    source: Source, anatomy: Anatomy, shares: tuple[tuple[str, float], ...] = CONTRASTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tables of intensities (labels,), one of ``CONTRASTS`` in these relative shares."""
    names, weights = zip(*shares)
    count = anatomy.count
    natural = torch.tensor(anatomy.natural) + 0.05 * _white(source, count)
    kind = str(source.rng.choice(names, p=[w / sum(weights) for w in weights]))
    first = natural if source.chance(0.5) or kind in ("one natural", "natural") else _random_table(source, anatomy)
    other, alike = (lambda: _random_table(source, anatomy)), (lambda: first + 0.05 * _white(source, count))
    second = {
        "unrelated": other,
        "one natural": other,
        "remapped": lambda: remapped(first.clamp(0, 1), *curve(source)),
        "alike": alike,
        "natural": alike,
    }[kind]()
    tables = [first.clamp(0, 1), second.clamp(0, 1)]
    if kind != "remapped" and source.chance(0.75):  # air is dark in most scans
        for table in tables:
            table[0] = 0.0
    return (tables[1], tables[0]) if source.chance(0.5) else (tables[0], tables[1])


def _random_table(source: Source, anatomy: Anatomy) -> torch.Tensor:
    return torch.as_tensor(source.vector(0, 1, anatomy.count), dtype=torch.float32)


def _white(source: Source, count: int) -> torch.Tensor:
    return torch.randn(count, generator=source.generator)


def curve(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Knots and values of a random map of [0, 1] to itself: rising, falling, or neither; strong enough to tell tissues apart."""
    knots = torch.linspace(0, 1, source.whole(4, 8))
    if source.chance(0.5):
        values = torch.as_tensor(source.rng.uniform(0, 1, len(knots)), dtype=torch.float32)
    else:
        steps = torch.as_tensor(source.rng.uniform(0.1, 1, len(knots) - 1), dtype=torch.float32)
        values = F.pad(steps.cumsum(0) / steps.sum(), (1, 0))
        if source.chance(0.6):
            values = values.flip(0)
    return knots, values


def remapped(values: torch.Tensor, knots: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Piecewise linear through (knots, heights); values in [0, 1], any shape."""
    place = values.clamp(0, 1) * (len(knots) - 1)
    below = place.floor().clamp(max=len(knots) - 2)
    heights = heights.to(values.device)
    low, high = heights[below.long()], heights[below.long() + 1]
    return low + (place - below) * (high - low)


def painted(
    anatomy: Anatomy, table: torch.Tensor, amounts: torch.Tensor | None = None, texture: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """table[label] + amounts[label] * texture (*shape), with soft edges: (1, 1, *shape)."""
    which = anatomy.labels.long()
    scan = table.to(which.device)[which]
    if amounts is not None:
        scan = scan + amounts.to(which.device)[which] * texture
    return gaussian(scan[None, None], EDGE_SIGMA)


def with_lesions(source: Source, scan: torch.Tensor, count: int) -> torch.Tensor:
    """Round spots of one intensity with soft, bumpy edges where the scan is not empty."""
    shape = tuple(scan.shape[2:])
    for _ in range(count):
        center = [source.uniform(0.15, 0.85) * n for n in shape]
        radius = source.uniform(0.03, 0.12) * max(shape)
        square = sum(
            (torch.arange(n, device=scan.device).reshape([-1 if i == j else 1 for j in range(len(shape))]) - c) ** 2
            for i, (n, c) in enumerate(zip(shape, center))
        )
        depth = radius - square.sqrt() + 0.3 * radius * noise(source, shape, max(radius, 1.0))[0]
        share = (0.5 + depth / 2).clamp(0, 1) * (scan > AIR)
        scan = scan + share * (source.uniform(0, 1) - scan)
    return scan


def with_bias(source: Source, scan: torch.Tensor, sd: float, cell_voxels: float) -> torch.Tensor:
    """Times exp of a smooth field of standard deviation ``sd``."""
    return scan * torch.exp(sd * noise(source, tuple(scan.shape[2:]), cell_voxels))[None]


def with_noise(source: Source, scan: torch.Tensor, sd: float, rician: bool = False) -> torch.Tensor:
    """Plus white noise; rician: the magnitude of a complex signal with noise in both parts."""
    shape = tuple(scan.shape)
    found = scan + sd * source.normal(*shape)
    return torch.hypot(found, sd * source.normal(*shape)) if rician else found


def thick_slices(scan: torch.Tensor, axis: int, factor: float) -> torch.Tensor:
    """Seen with slices ``factor`` times thicker along a tensor axis (0: the first of the shape), and interpolated back."""
    shape = list(scan.shape[2:])
    coarse = list(shape)
    coarse[axis] = max(round(shape[axis] / factor), 2)
    mode = MODES[len(shape)]
    averaged = F.adaptive_avg_pool3d if len(shape) == 3 else F.adaptive_avg_pool2d
    return F.interpolate(averaged(scan, coarse), size=shape, mode=mode, align_corners=False)


def cropped(source: Source, scan: torch.Tensor, most: float) -> torch.Tensor:
    """0 beyond a random plane on some sides, each cutting at most the share ``most`` of the axis."""
    scan = scan.clone()
    for axis in range(2, scan.ndim):
        n = scan.shape[axis]
        for first in (True, False):
            if source.chance(0.4):
                cut = int(source.uniform(0, most) * n)
                scan.narrow(axis, 0 if first else n - cut, cut).zero_()
    return scan


def in_range(scan: torch.Tensor) -> torch.Tensor:
    """Percentiles at 0 and 1, clamped, as scans are shown to a network."""
    low, high = percentiles(scan, CLIP)
    return ((scan - low) / max(high - low, 1e-6)).clamp_(0, 1)


def wholly_remapped(source: Source, scan: torch.Tensor) -> torch.Tensor:
    """A random map of the intensities of a scan in [0, 1], borders and noise included; air stays air in half of them."""
    knots, heights = curve(source)
    keep = source.chance(0.5)
    found = remapped(scan, knots, heights)
    return torch.where(scan > AIR, found, 0.0) if keep else found


def corrupted(source: Source, scan: torch.Tensor, remap: float = 0.0) -> torch.Tensor:
    """Everything that may go wrong between the patient and the file, in the order in which it happens; in [0, 1].

    remap: share of the scans that are also remapped as a whole.
    """
    longest = max(scan.shape[2:])
    if source.chance(0.25):
        scan = with_lesions(source, scan, source.whole(1, 3))
    if source.chance(0.6):
        scan = with_bias(source, scan, source.uniform(0.02, 0.25), longest * source.uniform(0.35, 0.9))
    if source.chance(0.3):
        scan = gaussian(scan, source.uniform(0.2, 1.0))
    if source.chance(0.25):
        axis, factor = source.whole(0, scan.ndim - 3), source.uniform(1.2, 4.0)
        scan = with_noise(source, thick_slices(scan, axis, factor), source.uniform(0, 0.02))
    else:
        scan = with_noise(source, scan, 0.07 * source.uniform(0, 1) ** 2, rician=source.chance(0.3))
    if source.chance(0.2):
        scan = cropped(source, scan, 0.25)
    scan = in_range(scan)
    if remap and source.chance(remap):
        scan = in_range(wholly_remapped(source, scan))
    if source.chance(0.5):
        scan = scan ** source.log_uniform(0.6, 1.7)
    return scan
