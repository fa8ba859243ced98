"""What crosses the border between a front end and the worker: values, commands, events. JSON, never pickle.

Arrays do not travel in messages: a *handle* names a file in the folder that both sides share (``arrays.py``). Everything
is checked on both sides: an unknown name, key, type or a number that is not finite is a ``MessageError``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ._values import DTYPES, Command, Event, LandmarkPair, Map, MessageError, PromptSet, Scan
from ._wire import Form, Get, Put, pack, unpack

__all__ = [
    "AHEAD", "BESIDE", "COMMANDS", "DTYPES", "EVENTS", "LONGEST_MESSAGE", "MOST_POINTS", "REPLACES", "SAVED", "Command", "Event",
    "LandmarkPair", "Map", "MessageError", "PromptSet", "Scan", "check_command", "decode_command", "decode_event", "encode", "handles", "head",
]  # fmt: skip

BESIDE = frozenset({"save", "frames", "features", "propose", "suggest"})
"""Commands that change no map: judging goes on before them, and is not repeated after them."""
AHEAD = frozenset({"propose", "suggest"})
"""Of these, the ones that somebody waits for with the mouse in hand: judging gives way to them and begins anew after them."""
MOST_POINTS = 64
"""Points of one ``propose``."""
LONGEST_MESSAGE = 4 << 20
"""Bytes of one message."""
SAVED = ("transform", "inverse", "displacement", "jacobian", "flow", "report", "result", "features")
"""What ``save`` can write. ``flow``: momentum, velocity, kernel widths and weights, as far as the map has them. ``features``: what
a network saw in both scans, all channels of each resolution: large."""

COMMANDS: dict[str, dict[str, Form]] = {
    "load": {"fixed": Scan, "moving": Scan},
    "run": {"config": (dict, str), "prompts": PromptSet, "initial": (Map, None)},
    "update": {"prompts": PromptSet},
    "resume": {"map": Map, "config": (dict, str), "prompts": PromptSet},
    "undo": {"instead_of": [int]},
    "redo": {},
    "select": {"step": int},
    "save": {"folder": str, "what": [str]},
    "frames": {"count": int},
    "propose": {"points_mm": [[float]], "side": str, "radius_mm": (float, None)},
    "suggest": {"count": int, "radius_mm": (float, None)},
    "features": {"side": str, "scale": int, "channel": (int, None)},
    "cancel": {},
    "seen": {},
    "close": {},
}
"""Commands and the keys of their data. ``seen``: the last preview has been taken, the next may come. ``instead_of``:
generations of updates that the undo replaces; unless one of them was quicker, dropping them is all there is to undo."""

EVENTS: dict[str, dict[str, Form]] = {
    "ready": {"pid": int, "devices": [dict], "versions": dict, "threads": int},
    "loaded": {"estimated_gb": float, "free_gb": float, "plan_message": str},
    "progress": {
        "stage": str, "level": int, "levels": int, "iteration": int, "iterations": int, "loss": (float, None),
        "fraction": float, "seconds_left": (float, None), "curve": [list],
    },
    "preview": {"map": Map},
    "map": {"map": Map, "step": int, "steps": int, "status": str, "message": str, "landmarks": [dict]},
    "judged": {
        "step": int, "verdict": str, "findings": [dict], "segments": [dict], "warnings": [str],
        "inverse_error_mm": dict, "map_error_mm": dict, "inverse": Map, "warped": Scan, "jacobian": Scan, "folded_voxels": int, "record": dict,
    },
    "sigma": {"step": int, "moving": (Scan, None), "fixed": (Scan, None)},
    "uncertainty": {"step": int, "samples": int, "maps": [Scan], "titles": [str], "units": [str]},
    "frame": {"step": int, "number": int, "count": int, "time": float, "flows": bool, "map": Map},
    "features": {
        "step": int, "side": str, "scale": int, "channel": (int, None), "channels": int, "scales": [dict], "images": [Scan],
    },
    "proposal": {"step": int, "side": str, "proposals": [dict]},
    "suggestions": {"step": int, "suggestions": [dict]},
    "history": {"steps": [dict], "current": int},
    "saved": {"paths": dict},
    "cancelled": {"kept": bool, "restarted": bool},
    "error": {"kind": str, "message": str, "detail": str},
    "done": {"command": str},
    "refused": {"message": str},
    "crashed": {"exit_code": (int, None), "detail": str},
    "closed": {},
}  # fmt: skip
"""Events and the keys of their data. ``done``: the command has come to its end, whatever that was. ``sigma`` follows ``judged``:
kernel widths in mm at t = 0 and t = 1, None where they do not vary. ``uncertainty`` follows too: how sure a network was, one map
per quantity (named as in ``methods.uncertainty.QUANTITIES``), none without a probabilistic network. ``features``: one channel, or
red, green and blue in 0 to 1; scales: spacing_mm and size of each resolution on the fixed scan, coarse to fine. ``proposal`` and
``suggestions``: rows as ``prompts.proposals.Proposal.values``."""

REPLACES: dict[str, frozenset[str]] = {
    "load": frozenset(
        {"load", "run", "update", "resume", "undo", "redo", "select", "frames", "features", "propose", "suggest"}
    ),
    "run": frozenset({"run", "update", "resume", "frames", "features", "suggest"}),
    "resume": frozenset({"run", "update", "resume", "frames", "features", "suggest"}),
    "update": frozenset({"update", "frames", "features", "suggest"}),
    "undo": frozenset({"update", "frames", "features", "suggest"}),
    "redo": frozenset({"update", "frames", "features", "suggest"}),
    "select": frozenset({"update", "frames", "features", "suggest"}),
    "frames": frozenset({"frames"}),
    "features": frozenset({"features"}),
    "suggest": frozenset({"suggest"}),
}
"""Commands that a later one makes pointless: they are dropped, or cancelled when they run. Others wait their turn."""


def encode(message: Command | Event, put: Put) -> bytes:
    """One message as bytes. put: stores an array and returns its handle. Raises ``MessageError``."""
    name, table = _table(message)
    data = _checked(name, message.data, table, lambda form, value: pack(form, value, put))
    try:
        text = json.dumps({"name": name, "generation": int(message.generation), "data": data}, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError(f"message {name!r} cannot be sent: {error}") from error
    raw = text.encode("utf-8")
    if len(raw) > LONGEST_MESSAGE:
        raise MessageError(f"message {name!r}: {len(raw)} bytes are more than the {LONGEST_MESSAGE} allowed")
    return raw


def decode_command(raw: bytes, get: Get) -> Command:
    """The command in ``raw``. get: opens the array of a handle. Raises ``MessageError`` or ``InputError``."""
    return Command(*_decode(raw, COMMANDS, get))


def decode_event(raw: bytes, get: Get) -> Event:
    """The event in ``raw``, as ``decode_command``."""
    return Event(*_decode(raw, EVENTS, get))


def handles(raw: bytes) -> list[dict]:
    """Every array handle in a message, so that its files can be deleted unread."""
    found: list[dict] = []

    def collect(value: dict) -> dict:
        if "file" in value and "shape" in value:
            found.append(value)
        return value

    try:
        json.loads(raw, object_hook=collect)
    except (ValueError, RecursionError):
        return []
    return found


def head(raw: bytes) -> tuple[str, int]:
    """Name and generation of a message, ("", 0) of one that is none."""
    try:
        values = _parse(raw)
    except MessageError:
        return "", 0
    return values["name"], values["generation"]


def check_command(raw: bytes) -> tuple[str, int]:
    """Name and generation of a command whose outer form is right; its arrays are not opened. Raises ``MessageError``."""
    values = _parse(raw)
    if values["name"] not in COMMANDS:
        raise MessageError(f"unknown message {values['name'][:40]!r}")
    return values["name"], values["generation"]


def _table(message: Command | Event) -> tuple[str, dict[str, Form]]:
    name, tables = (message.name, COMMANDS) if isinstance(message, Command) else (message.kind, EVENTS)
    if name not in tables:
        raise MessageError(f"unknown message {name!r}")
    return name, tables[name]


def _decode(raw: bytes, tables: dict[str, dict[str, Form]], get: Get) -> tuple[str, int, dict]:
    values = _parse(raw)
    name = values["name"]
    if name not in tables:
        raise MessageError(f"unknown message {name[:40]!r}")
    data = _checked(name, values["data"], tables[name], lambda form, value: unpack(form, value, get))
    return name, values["generation"], data


def _parse(raw: bytes) -> dict:
    if len(raw) > LONGEST_MESSAGE:
        raise MessageError(f"message of {len(raw)} bytes; {LONGEST_MESSAGE} are allowed")
    try:
        values = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not a message: {type(error).__name__}") from error
    if not isinstance(values, dict) or set(values) != {"name", "generation", "data"}:
        raise MessageError("a message needs exactly name, generation and data")
    pack(str, values["name"], None)
    pack(int, values["generation"], None)
    pack(dict, values["data"], None)
    return values


def _no_constant(text: str):
    raise ValueError(f"{text} is not a number")


def _checked(name: str, data: Any, table: dict[str, Form], turn: Callable[[Form, Any], Any]) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) != set(table):
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise MessageError(f"message {name!r}: expected the keys {sorted(table)}, got {str(got)[:200]}")
    try:
        return {key: turn(table[key], value) for key, value in data.items()}
    except MessageError as error:
        raise MessageError(f"message {name!r}: {error}") from error
