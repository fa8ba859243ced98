"""Batches of training pairs by step, and the pairs a network is validated on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from .augmentation import augmented
from .base import Batch
from .config import Augmentation, Data
from .preparation import Prepared
from .scans import ScanList, partners
from .streams import numbers

PAIR_STREAM, POINT_STREAM, HELD_OUT_STREAM = 6, 7, 8


class PairSource:
    """step -> batch of ``data.batch`` pairs, each drawn by (seed, step, row) alone.

    labels, surfaces: what the losses need beside the scans.
    """

    def __init__(
        self,
        prepared: Prepared,
        scans: ScanList,
        data: Data,
        augmentation: Augmentation,
        seed: int,
        labels: bool,
        surfaces: bool,
    ):
        self.prepared, self.data, self.augmentation, self.seed = prepared, data, augmentation, seed
        self._labels, self._surfaces = labels, surfaces
        self._scans = {split: scans.of(split) for split in ("train", "validation")}
        self._partners = partners(scans) if data.mode == "pairs" else {}

    def __call__(self, step: int) -> Batch:
        """All pairs of a step; with both directions the odd ones exchange the roles of those before."""
        swap = self.data.both_directions and step % 2
        drawn = step // 2 if self.data.both_directions else step
        rows = []
        for row in range(self.data.batch):
            fixed, moving = self._choose(drawn, row)
            pair = self._pair(fixed, moving, drawn, row)
            pair = augmented(pair, self.augmentation, self.seed, drawn, row)
            rows.append(swapped(pair) if swap else pair)
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def held_out(self) -> Iterator[Batch]:
        """At most ``data.validation_pairs`` pairs of validation scans, always the same, one at a time."""
        for fixed, moving in self.held_out_numbers():
            yield self._scans_of(fixed, moving, labels=self.prepared.any_labels)

    def held_out_numbers(self) -> list[tuple[int, int]]:
        """(fixed, moving) of the held-out pairs."""
        numbers_of = self._scans["validation"]
        if self.data.mode == "pairs":
            every = self._partners["validation"]
        elif self.data.mode == "atlas":
            every = [(0, moving) for moving in numbers_of]
        else:
            every = list(itertools.permutations(numbers_of, 2))
        order = numbers(self.seed, HELD_OUT_STREAM).permutation(len(every))[: self.data.validation_pairs]
        return [every[i] for i in sorted(order)]

    def _choose(self, step: int, row: int) -> tuple[int, int]:
        rng, train = numbers(self.seed, step, row, PAIR_STREAM), self._scans["train"]
        if self.data.mode == "pairs":
            known = self._partners["train"]
            return known[int(rng.integers(len(known)))]
        if self.data.mode == "atlas":
            return 0, train[int(rng.integers(len(train)))]
        fixed, moving = rng.choice(len(train), 2, replace=False)
        return train[fixed], train[moving]

    def _pair(self, fixed: int, moving: int, step: int, row: int) -> Batch:
        pair = self._scans_of(fixed, moving, self._labels)
        if self._surfaces:
            for place, (role, number) in enumerate((("fixed", fixed), ("moving", moving))):
                points, structure = self.prepared.surface(number)
                rng = numbers(self.seed, step, row, POINT_STREAM, place)
                chosen = torch.from_numpy(rng.integers(len(points), size=self.data.surface_points))
                pair[f"{role}_points"], pair[f"{role}_structure"] = points[chosen][None], structure[chosen][None]
                pair[f"{role}_distance"] = self.prepared.distance(number)
        return pair

    def _scans_of(self, fixed: int, moving: int, labels: bool) -> Batch:
        pair = {"moving": self.prepared.image(moving), "fixed": self.prepared.image(fixed)}
        if labels:
            pair |= {"moving_labels": self.prepared.label_map(moving), "fixed_labels": self.prepared.label_map(fixed)}
        return pair


def swapped(pair: Batch) -> Batch:
    """The pair with fixed and moving exchanged."""
    other = {"fixed": "moving", "moving": "fixed"}
    return {other[name.split("_")[0]] + name[len(name.split("_")[0]) :]: tensor for name, tensor in pair.items()}
