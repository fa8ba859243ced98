"""Which scans a user has: a folder, or a table with labels, surfaces, splits and pairs; refused line by line when wrong."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ..data.io import READABLE
from ..errors import InputError
from ..registry import nearest
from .config import Data
from .streams import numbers

COLUMNS = ("image", "labels", "surface", "split", "pair")
SPLITS = ("train", "validation")
SPLIT_STREAM = 4


@dataclass(frozen=True)
class Scan:
    """Files of one scan. split: ``train`` or ``validation``. pair: what it shares with its partner."""

    image: Path
    labels: Path | None = None
    surface: Path | None = None
    split: str = "train"
    pair: str = ""


@dataclass(frozen=True)
class ScanList:
    """All scans; the atlas, when there is one, is not among them."""

    scans: tuple[Scan, ...]
    atlas: Scan | None = None

    @property
    def all(self) -> tuple[Scan, ...]:
        """The atlas first."""
        return self.scans if self.atlas is None else (self.atlas, *self.scans)

    def of(self, split: str) -> list[int]:
        """Numbers among ``all`` of the scans of a split."""
        first = 0 if self.atlas is None else 1
        return [number + first for number, scan in enumerate(self.scans) if scan.split == split]


def list_scans(data: Data, seed: int, needs_labels: bool = False, needs_surfaces: bool = False) -> ScanList:
    """Read what ``data`` names and check that it can be trained on, before any scan is opened.

    needs_labels: every scan must have a label map; needs_surfaces: a label map or a surface. ``InputError`` in one line.
    """
    source = Path(data.scans)
    if not source.exists():
        raise InputError(f"data.scans: {source} does not exist")
    scans = _folder(source) if source.is_dir() else _table(source)
    atlas = None
    if data.atlas is not None:
        paths = [None if p is None else Path(p) for p in (data.atlas, data.atlas_labels, data.atlas_surface)]
        atlas = Scan(*paths)
    found = ScanList(_held_out(scans, data, seed), atlas)
    for scan in found.all:
        for path in filter(None, (scan.image, scan.labels, scan.surface)):
            if not path.exists():
                raise InputError(f"{source}: {path} does not exist")
        if needs_labels and scan.labels is None:
            raise InputError(
                f"{scan.image}: has no labels, which the loss 'dice' needs; add a column labels to the table"
            )
    if needs_surfaces:
        _check_surfaces(found.all)
    _check_enough(found, data, source)
    return found


def partners(scans: ScanList) -> dict[str, list[tuple[int, int]]]:
    """(fixed, moving) of every pair by split, for the mode ``pairs``."""
    groups: dict[str, list[int]] = {}
    for number, scan in enumerate(scans.all):
        groups.setdefault(scan.pair, []).append(number)
    pairs: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    for first, second in groups.values():
        pairs[scans.all[first].split].append((first, second))
    return pairs


def _folder(folder: Path) -> list[Scan]:
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name.lower().endswith(READABLE))
    return [Scan(file) for file in files]


def _table(path: Path) -> list[Scan]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            for name in names:
                if name not in COLUMNS:
                    raise InputError(f"{path}: unknown column {name!r}{nearest(str(name), COLUMNS)}")
            if "image" not in names:
                raise InputError(f"{path}: the column image is missing")
            return [_scan(path, row, number) for number, row in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file: {error}") from error


def _scan(table: Path, row: dict[str, str | None], line: int) -> Scan:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not values["image"]:
        raise InputError(f"{table}, line {line}: no image")
    split = values["split"] or "train"
    if split not in SPLITS:
        raise InputError(f"{table}, line {line}: split must be one of {SPLITS}, got {split!r}")
    files = [table.parent / values[name] if values[name] else None for name in ("image", "labels", "surface")]
    return Scan(*files, split, values["pair"])


def _held_out(scans: list[Scan], data: Data, seed: int) -> tuple[Scan, ...]:
    """The scans with ``data.validation`` of them (whole pairs in the mode ``pairs``) held out, drawn by the seed."""
    if not data.validation or any(scan.split != "train" for scan in scans):
        return tuple(scans)
    keys = [scan.pair if data.mode == "pairs" else number for number, scan in enumerate(scans)]
    order = list(dict.fromkeys(keys))
    drawn = numbers(seed, SPLIT_STREAM).permutation(len(order))[: data.validation]
    chosen = {order[i] for i in drawn}
    return tuple(Scan(s.image, s.labels, s.surface, SPLITS[key in chosen], s.pair) for s, key in zip(scans, keys))


def _check_surfaces(scans: tuple[Scan, ...]) -> None:
    """All label maps, all surfaces, or both: every scan must have the same structures."""
    columns = {name: [getattr(scan, name) is not None for scan in scans] for name in ("labels", "surface")}
    for name, known in columns.items():
        if any(known) and not all(known):
            raise InputError(
                f"{scans[known.index(False)].image}: has no {name}, but other scans do; the loss 'surface' needs all"
            )
    if not any(map(any, columns.values())):
        raise InputError(f"{scans[0].image}: has neither labels nor a surface, one of which the loss 'surface' needs")


def _check_enough(scans: ScanList, data: Data, source: Path) -> None:
    if data.mode == "pairs":
        groups: dict[str, int] = {}
        for scan in scans.scans:
            if not scan.pair:
                raise InputError(f"{scan.image}: mode 'pairs' needs a value in the column pair of {source}")
            groups[scan.pair] = groups.get(scan.pair, 0) + 1
        for name, count in groups.items():
            if count != 2:
                raise InputError(f"{source}: pair {name!r} has {count} scans, not two")
        if len({(s.pair, s.split) for s in scans.scans}) != len(groups):
            raise InputError(f"{source}: the two scans of a pair must be in the same split")
    least = 1 if data.mode == "atlas" else 2
    for split in SPLITS:
        found = len(scans.of(split))
        if found < least and (split == "train" or found):
            raise InputError(
                f"{source}: mode {data.mode!r} needs at least {least} scans in the split {split}, found {found}"
            )
