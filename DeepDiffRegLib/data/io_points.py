"""Points and landmark pairs from and to Slicer's .mrk.json and .fcsv, and plain .csv. Positions leave here as mm LPS."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from .atomic import write_aside
from .io_images import check_exists
from .points import Landmarks, Points

_RAS = {"RAS": True, "LPS": False, "0": True, "1": False}
_AXES = ("x", "y", "z")
_NUMBERED = re.compile(r"^(.*?)[\s_-]*\d+$")


def read_points(path: str | Path, ndim: int | None = None) -> Points:
    """Read named points as mm LPS: (N, 3), or (N, 2) from a .csv with the columns x, y only.

    .mrk.json and .fcsv: the coordinate system the file names is honored (RAS is turned to LPS); a .fcsv that names none is
    RAS, a .mrk.json LPS, as in Slicer. .csv: columns x, y[, z][, name], LPS, with or without a header line. ndim: 2 drops
    z, for points of 2-D images that a 3-D program stored. Raises InputError for an empty list, a point without position,
    a malformed line (named), another number of coordinates than ``ndim``.
    """
    path = Path(path)
    check_exists(path)
    read = _READERS.get(_suffix(path))
    if read is None:
        raise InputError(f"{path}: not a point format this program reads; use one of {', '.join(_READERS)}")
    try:
        positions, names = read(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error
    if not positions:
        raise InputError(f"{path}: holds no points")
    positions = np.array(positions, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(bad):
        raise InputError(f"{path}: point {names[bad[0]]!r} has a position that is NaN or Inf")
    if ndim == 2:
        positions = positions[:, :2]
    if ndim is not None and positions.shape[1] != ndim:
        raise InputError(f"{path}: expected {ndim} coordinates per point, got {positions.shape[1]}")
    return Points(positions, tuple(names))


def write_points(points: Points, path: str | Path) -> None:
    """Write points (mm LPS) in the format the name asks for: .mrk.json, .fcsv (both marked LPS) or .csv.

    2-D points get z = 0 in Slicer's formats. Aside first, then renamed.
    """
    path = Path(path)
    write = _WRITERS.get(_suffix(path))
    if write is None:
        raise InputError(f"{path}: cannot write this point format; use one of {', '.join(_WRITERS)}")
    with write_aside(path) as aside:
        write(aside, points)


def read_landmarks(fixed_path: str | Path, moving_path: str | Path, ndim: int | None = None) -> Landmarks:
    """Read two point lists and pair them: by name when the names are given by the user and agree, else by order.

    Names that only number the points (``F-1``, ``3``) say nothing about the anatomy and are not used. Raises InputError
    when the lists differ in length, or when only some of the user's names have a partner.
    """
    fixed, moving = read_points(fixed_path, ndim), read_points(moving_path, ndim)
    if len(fixed) != len(moving):
        raise InputError(
            f"{fixed_path} has {len(fixed)} landmarks but {moving_path} has {len(moving)}; every landmark needs its partner"
        )
    if fixed.positions_mm.shape[1] != moving.positions_mm.shape[1]:
        raise InputError(f"{fixed_path} and {moving_path}: one list is 2-D, the other 3-D")
    if not (_speaking(fixed.names) and _speaking(moving.names)):
        return Landmarks(fixed, moving)
    alone = sorted(set(fixed.names) ^ set(moving.names))
    if len(alone) == 2 * len(fixed):
        return Landmarks(fixed, moving)
    if alone:
        raise InputError(f"{fixed_path} and {moving_path}: landmarks without a partner: {', '.join(alone)}")
    order = [moving.names.index(name) for name in fixed.names]
    return Landmarks(fixed, Points(moving.positions_mm[order], fixed.names))


def _speaking(names: tuple[str, ...]) -> bool:
    """Whether the names tell the points apart by more than a running number after one common word."""
    matches = [_NUMBERED.match(name) for name in names]
    numbered = all(matches) and len({match.group(1) for match in matches if match}) == 1
    return not numbered and len(set(names)) == len(names) and all(names)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".mrk.json" if name.endswith(".mrk.json") else Path(name).suffix


def _is_ras(path: Path, system: object) -> bool:
    if str(system).strip().upper() not in _RAS:
        raise InputError(f"{path}: unknown coordinate system {system!r}; expected LPS or RAS")
    return _RAS[str(system).strip().upper()]


def _to_lps(position: list[float], ras: bool) -> list[float]:
    return [-position[0], -position[1], *position[2:]] if ras else position


def _read_json(path: Path):
    try:
        lists = json.loads(path.read_text(encoding="utf-8-sig"))["markups"]
        found = [(entry.get("coordinateSystem", "LPS"), entry.get("coordinateUnits", "mm"), p) for entry in lists
                 for p in entry.get("controlPoints", [])]  # fmt: skip
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a Slicer markups file (.mrk.json), or damaged") from error
    positions, names = [], []
    for system, units, point in found:
        name = str(point.get("label") or len(names) + 1)
        if isinstance(units, str) and units != "mm":
            raise InputError(f"{path}: positions must be in mm, the file says {units!r}")
        position = point.get("position")
        if point.get("positionStatus", "defined") != "defined" or not _is_position(position):
            raise InputError(f"{path}: point {name!r} has no position; place it or delete it")
        positions.append(_to_lps([float(v) for v in position], _is_ras(path, system)))
        names.append(name)
    return positions, names


def _is_position(value) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)


def _read_fcsv(path: Path):
    ras, columns = True, ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    positions, names = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip().lower() == "coordinatesystem":
                ras = _is_ras(path, value)
            elif key.strip().lower() == "columns":
                columns = [name.strip().lower() for name in value.split(",")]
        elif line.strip():
            row = dict(zip(columns, next(csv.reader([line]))))
            positions.append(_to_lps(_coordinates(path, number, [row.get(axis, "") for axis in _AXES]), ras))
            names.append(row.get("label") or str(len(names) + 1))
    return positions, names


def _read_csv(path: Path):
    text = path.read_text(encoding="utf-8-sig")
    rows = [(n, [cell.strip() for cell in row]) for n, row in enumerate(csv.reader(text.splitlines()), 1)]
    rows = [(n, row) for n, row in rows if any(row) and not row[0].startswith("#")]
    if not rows:
        return [], []
    columns = _csv_columns(path, rows)
    if not _is_number(rows[0][1][0]):
        rows = rows[1:]
    axes = [axis for axis in _AXES if axis in columns]
    positions, names = [], []
    for number, row in rows:
        cells = dict(zip(columns, row))
        positions.append(_coordinates(path, number, [cells.get(axis, "") for axis in axes]))
        names.append(cells.get("name") or str(len(names) + 1))
    return positions, names


def _csv_columns(path: Path, rows: list[tuple[int, list[str]]]) -> list[str]:
    first = rows[0][1]
    if _is_number(first[0]):
        numbers = 0
        while numbers < min(len(first), 3) and _is_number(first[numbers]):
            numbers += 1
        columns = [*_AXES[:numbers], "name"]
    else:
        columns = ["name" if cell.lower() in ("name", "label") else cell.lower() for cell in first]
    if not {"x", "y"} <= set(columns):
        raise InputError(f"{path}: line {rows[0][0]}: expected the columns x,y,z (LPS, mm) and maybe name, got {first}")
    return columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _coordinates(path: Path, line: int, cells: list[str]) -> list[float]:
    if not all(_is_number(cell) for cell in cells):
        raise InputError(f"{path}: line {line}: expected {len(cells)} numbers, got {cells}")
    return [float(cell) for cell in cells]


def _spatial(points: Points) -> list[list[float]]:
    positions = points.positions_mm
    return np.pad(positions, ((0, 0), (0, 3 - positions.shape[1]))).tolist()


def _write_json(path: Path, points: Points) -> None:
    controls = [
        {"id": str(i + 1), "label": name, "position": position, "positionStatus": "defined"}
        for i, (name, position) in enumerate(zip(points.names, _spatial(points)))
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/"
        "Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    )
    path.write_text(json.dumps({"@schema": schema, "markups": [markup]}, indent=2), encoding="utf-8")


def _write_fcsv(path: Path, points: Points) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
        stream.write("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n")
        rows = csv.writer(stream, lineterminator="\n")
        for i, (name, position) in enumerate(zip(points.names, _spatial(points)), 1):
            rows.writerow([i, *map(repr, position), 0, 0, 0, 1, 1, 1, 0, name, "", ""])


def _write_csv(path: Path, points: Points) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow([*_AXES[: points.positions_mm.shape[1]], "name"])
        for name, position in zip(points.names, points.positions_mm.tolist()):
            rows.writerow([*map(repr, position), name])


_READERS = {".mrk.json": _read_json, ".fcsv": _read_fcsv, ".csv": _read_csv}
_WRITERS = {".mrk.json": _write_json, ".fcsv": _write_fcsv, ".csv": _write_csv}
