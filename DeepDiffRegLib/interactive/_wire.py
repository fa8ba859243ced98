"""Values of the protocol to and from plain JSON types; what does not have the expected form is a ``MessageError``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..geometry.grid import Geometry
from ._values import DTYPES, LandmarkPair, Map, MessageError, PromptSet, Scan

MOST_NUMBER = 2**53
PROMPT_SCANS = ("fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "stiffness_labels")
Put = Callable[[np.ndarray, np.dtype], dict]
Get = Callable[[dict, np.dtype, tuple[int, ...]], np.ndarray]
Form = type | tuple | list
"""How a key's value is described: a type, a tuple of choices (``None`` for optional), a list of one element's form."""


def pack(form: Form, value: Any, put: Put | None) -> Any:
    return _walk(form, value, lambda kind, v: _PACKERS[kind](v, put) if isinstance(v, kind) else _refuse(kind, v))


def unpack(form: Form, value: Any, get: Get) -> Any:
    return _walk(form, value, lambda kind, v: _UNPACKERS[kind](v, get))


def _walk(form: Form, value: Any, turn: Callable[[type, Any], Any]) -> Any:
    if isinstance(form, list):
        if not isinstance(value, (list, tuple)):
            _refuse(list, value)
        return [_walk(form[0], v, turn) for v in value]
    if isinstance(form, tuple):
        if value is None and None in form:
            return None
        kinds = [kind for kind in form if kind is not None]
        fitting = next((kind for kind in kinds if kind in _PLAIN and _is_plain(kind, value)), None)
        return _walk(fitting or kinds[0], value, turn)
    if form in _PLAIN:
        if not _is_plain(form, value):
            _refuse(form, value)
        return float(value) if form is float else value
    return turn(form, value)


_PLAIN = (int, float, str, bool, dict, list)


def _is_plain(form: type, value: Any) -> bool:
    if form is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
    if form is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER
    return isinstance(value, form)


def _refuse(form: type, value: Any):
    raise MessageError(f"expected {form.__name__}, got {type(value).__name__} {str(value)[:60]!r}")


def _keys(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise MessageError(f"expected an object with {', '.join(names)}, got {str(value)[:60]!r}")
    return [value[name] for name in names]


def _numbers(value: Any, count: int | None = None) -> list[float]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise MessageError(f"expected {count or 'some'} numbers, got {str(value)[:60]!r}")
    return [_walk(float, v, None) for v in value]


def _pack_geometry(value: Geometry, _put) -> dict:
    return {
        "size": list(value.size), "spacing_mm": list(value.spacing_mm), "origin_mm": list(value.origin_mm),
        "direction": [list(row) for row in value.direction],
    }  # fmt: skip


def _unpack_geometry(value: Any, _get) -> Geometry:
    size, spacing, origin, rows = _keys(value, "size", "spacing_mm", "origin_mm", "direction")
    if not isinstance(rows, list) or len(rows) != 3 or not isinstance(size, list) or len(size) != 3:
        raise MessageError("a grid needs three sizes and three rows of its direction")
    size = [_walk(int, n, None) for n in size]
    direction = [_numbers(row, 3) for row in rows]
    return Geometry(tuple(size), tuple(_numbers(spacing, 3)), tuple(_numbers(origin, 3)), tuple(map(tuple, direction)))


def _pack_scan(value: Scan, put: Put) -> dict:
    array = put(value.array, DTYPES[value.kind])
    return {
        "array": array, "geometry": _pack_geometry(value.geometry, put), "kind": value.kind, "name": str(value.name)[:200]
    }  # fmt: skip


def _unpack_scan(value: Any, get: Get) -> Scan:
    array, geometry, kind, name = _keys(value, "array", "geometry", "kind", "name")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise MessageError(f"unknown kind of scan {str(kind)[:40]!r}")
    geometry = _unpack_geometry(geometry, get)
    return Scan(get(array, DTYPES[kind], geometry.shape), geometry, kind, _walk(str, name, None))


def _pack_map(value: Map, put: Put) -> dict:
    packed = {"world": value.world.tolist(), "displacement": None, "geometry": None}
    if value.displacement is not None:
        packed["displacement"] = put(value.displacement, np.dtype("<f4"))
        packed["geometry"] = _pack_geometry(value.geometry, put)
    return packed


def _unpack_map(value: Any, get: Get) -> Map:
    world, displacement, geometry = _keys(value, "world", "displacement", "geometry")
    if not isinstance(world, list) or len(world) != 4:
        raise MessageError("expected a (4, 4) matrix")
    world = np.array([_numbers(row, 4) for row in world])
    if displacement is None:
        return Map(world)
    geometry = _unpack_geometry(geometry, get)
    return Map(world, get(displacement, np.dtype("<f4"), (3, *geometry.shape)), geometry)


def _pack_prompts(value: PromptSet, put: Put) -> dict:
    return {
        "landmarks": [
            {
                "label": str(p.label), "fixed_mm": list(p.fixed_mm), "moving_mm": list(p.moving_mm),
                "enabled": bool(p.enabled), "sd_mm": float(p.sd_mm),
            }
            for p in value.landmarks
        ],
        "label_pairs": [list(pair) for pair in value.label_pairs],
        "stiffness": {str(k): v for k, v in value.stiffness.items()},
        **{name: pack((Scan, None), getattr(value, name), put) for name in PROMPT_SCANS},
    }  # fmt: skip


def _unpack_prompts(value: Any, get: Get) -> PromptSet:
    landmarks, pairs, stiffness, *maps = _keys(value, "landmarks", "label_pairs", "stiffness", *PROMPT_SCANS)
    if not isinstance(landmarks, list) or not isinstance(stiffness, dict) or not isinstance(pairs, list):
        raise MessageError("landmarks and label pairs must be lists, stiffness an object")
    pairs = [_numbers(pair, 3) for pair in pairs]
    if not all(key.lstrip("-").isdecimal() and len(key) < 12 for key in stiffness):
        raise MessageError("stiffness needs label values as keys")
    if any(not f.is_integer() or not m.is_integer() for f, m, _ in pairs):
        raise MessageError("label pairs need whole label values")
    opened = {name: unpack((Scan, None), scan, get) for name, scan in zip(PROMPT_SCANS, maps)}
    return PromptSet(tuple(map(_landmark, landmarks)), label_pairs=tuple(pairs), stiffness=stiffness, **opened)


def _landmark(value: Any) -> LandmarkPair:
    label, fixed, moving, enabled, sd = _keys(value, "label", "fixed_mm", "moving_mm", "enabled", "sd_mm")
    return LandmarkPair(
        _walk(str, label, None), _numbers(fixed, 3), _numbers(moving, 3), _walk(bool, enabled, None),
        _walk(float, sd, None),
    )  # fmt: skip


_PACKERS = {Scan: _pack_scan, Map: _pack_map, PromptSet: _pack_prompts}
_UNPACKERS = {Scan: _unpack_scan, Map: _unpack_map, PromptSet: _unpack_prompts}
