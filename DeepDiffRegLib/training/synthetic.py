"""Training pairs from nothing: an invented anatomy, two deformations of it, two contrasts, and the map between them.

Weights trained on them owe nothing to anybody's scans. What a step gives depends on the seed and the step alone. The idea of
learning registration from label maps with random contrasts is that of Hoffmann et al. (SynthMorph), IEEE TMI 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ..geometry.sampling import identity_index, sample
from ..geometry.vector_fields import compose
from ..registry import nearest
from ._synthetic_anatomy import KINDS, Anatomy
from ._synthetic_fields import Source, diffeomorphism, noise, velocity
from ._synthetic_scans import CONTRASTS, contrasts, corrupted, painted
from .base import Batch

STREAM = 21
MARGIN = 0.08
"""The anatomy reaches so far beyond the patch on every side, as a share of its longest axis: deformations look there."""
CONSISTENT_VOXELS = 0.5
"""A voxel's partner is known where going there and back misses by less."""
ONLY_GENERATED = ("displacement", "known", "moving_natural", "fixed_natural")
"""What a batch of scans cannot have."""


@dataclass(frozen=True)
class Synthetic:
    """What is generated. shape: of the patch (tensor order, 2-D or 3-D). kinds: relative shares of the invented anatomies.

    voxel_mm: least and largest edge of a voxel, drawn for each pair. strength: of both deformations (1 bends by about 6 % of
    the longest axis). texture: largest amplitude of tissue texture. remap: share of scans whose finished
    intensities go through another random map. clean: nothing goes wrong with the scans. contrasts: relative shares of the ways in
    which the contrasts of the two scans are related.
    """

    shape: tuple[int, ...] = (48, 48, 48)
    kinds: tuple[tuple[str, float], ...] = (("brain", 0.4), ("chest", 0.2), ("organs", 0.25), ("cells", 0.15))
    voxel_mm: tuple[float, float] = (1.0, 3.0)
    strength: float = 1.0
    texture: float = 0.1
    remap: float = 0.0
    clean: bool = False
    contrasts: tuple[tuple[str, float], ...] = CONTRASTS

    def __post_init__(self):
        for name in ("shape", "voxel_mm"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("kinds", "contrasts"):
            shares = getattr(self, name)
            shares = shares.items() if isinstance(shares, dict) else shares
            object.__setattr__(self, name, tuple((key, float(share)) for key, share in shares))
        if len(self.shape) not in (2, 3) or not all(isinstance(n, int) and n >= 8 for n in self.shape):
            raise ConfigError(f"Synthetic.shape must be 2 or 3 whole numbers of at least 8, got {self.shape}")
        _check_shares("kinds", self.kinds, "anatomy", KINDS)
        _check_shares("contrasts", self.contrasts, "contrast", dict(CONTRASTS))
        if len(self.voxel_mm) != 2 or not 0 < self.voxel_mm[0] <= self.voxel_mm[1]:
            raise ConfigError(f"Synthetic.voxel_mm must be two rising positive numbers, got {self.voxel_mm}")
        for name in ("strength", "texture", "remap"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"Synthetic.{name} must be at least 0, got {getattr(self, name)}")


class SyntheticPairs:
    """step -> batch of ``count`` generated pairs, each a function of (seed, step, row) alone.

    Beside ``moving``, ``fixed`` (in [0, 1]) and their ``*_labels`` a batch holds ``displacement`` (B, d, *shape): the known map
    x -> x + u(x) from the fixed to the moving scan in voxels, and ``known`` (B, 1, *shape, bool), where it is one; ``*_natural``:
    what a common scanner might show of each, flawless. device: where the work is done; the numbers are drawn on the CPU, so cards
    give the same pairs but for rounding.
    """

    def __init__(
        self,
        options: Synthetic | None = None,
        seed: int = 0,
        count: int = 1,
        device: torch.device | str = "cpu",
        stream: int = STREAM,
    ):
        self.options, self.seed, self.count = options or Synthetic(), seed, count
        self.device, self.stream = torch.device(device), stream

    def __call__(self, step: int) -> Batch:
        with torch.no_grad():
            rows = [self.pair(step, row) for row in range(self.count)]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def pair(self, step: int, row: int = 0) -> Batch:
        """One pair, a batch of one."""
        source = Source(self.seed, self.stream, step, row, device=self.device)
        options = self.options
        margin = round(MARGIN * max(options.shape))
        anatomy = draw_anatomy(source, options, tuple(n + 2 * margin for n in options.shape))
        fields = [velocity(source, options.shape, options.strength) for _ in range(2)]
        maps = [diffeomorphism(v) for v in fields]
        texture = noise(source, tuple(anatomy.labels.shape), source.uniform(1.5, 4.0))[0]
        natural = painted(anatomy, torch.tensor(anatomy.natural))
        tables = contrasts(source, anatomy, options.contrasts)
        batch: Batch = {}
        for role, table, u in zip(("moving", "fixed"), tables, maps):
            amounts = options.texture * _amounts(source, anatomy.count)
            index = identity_index(options.shape, self.device) + u + margin
            scan = sample(painted(anatomy, table, amounts, texture), index, padding="border")
            batch[role] = scan.clamp(0, 1) if options.clean else corrupted(source, scan, options.remap)
            batch[f"{role}_natural"] = sample(natural, index, padding="border")
            batch[f"{role}_labels"] = sample(anatomy.labels[None, None], index, mode="nearest", padding="border")
        batch["displacement"], batch["known"] = between(fields[0], *maps)
        return batch


def draw_anatomy(source: Source, options: Synthetic, shape: tuple[int, ...]) -> Anatomy:
    """One of ``options.kinds`` on a grid of ``shape``."""
    names, shares = zip(*options.kinds)
    kind = KINDS[str(source.rng.choice(names, p=[s / sum(shares) for s in shares]))]
    return kind(source, shape, source.log_uniform(*options.voxel_mm))


def between(
    moving_velocity: torch.Tensor, moving: torch.Tensor, fixed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The displacement (voxels) of moving^-1 o fixed, and where it is known: within the grid and true there and back.

    moving, fixed: displacements from the grids of the two scans to that of the anatomy; moving is exp of ``moving_velocity``.
    """
    u = compose(diffeomorphism(-moving_velocity), fixed)
    missed = torch.linalg.vector_norm(compose(moving, u) - fixed, dim=1, keepdim=True)
    place = identity_index(tuple(u.shape[2:]), u.device) + u
    inside = torch.ones_like(missed, dtype=torch.bool)
    for component, n in enumerate(u.shape[:1:-1]):
        inside &= (place[:, component : component + 1] >= 0) & (place[:, component : component + 1] <= n - 1)
    return u, inside & (missed < CONSISTENT_VOXELS)


def _amounts(source: Source, count: int) -> torch.Tensor:
    """Texture of each label, either sign; none in the background and in some tissues."""
    amounts = source.rng.uniform(-1, 1, count) * (source.rng.random(count) < 0.6)
    amounts[0] = 0.0
    return torch.as_tensor(amounts, dtype=torch.float32)


def _check_shares(option: str, shares: tuple[tuple[str, float], ...], what: str, known: dict) -> None:
    for name, share in shares:
        if name not in known:
            raise ConfigError(f"Synthetic.{option}: unknown {what} {name!r}{nearest(name, known)}")
        if not share >= 0:
            raise ConfigError(f"Synthetic.{option}: the share of {name!r} must be at least 0, got {share}")
    if not sum(share for _, share in shares) > 0:
        raise ConfigError(f"Synthetic.{option}: at least one share must be positive")
