"""The protocol's values come back as they were sent, and nothing else is taken for a message."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive import messages
from DeepDiffRegLib.interactive.messages import Command, Event, LandmarkPair, Map, MessageError, PromptSet, Scan

GRID = Geometry((5, 4, 3), (1.0, 2.0, 3.0), (-4.0, 5.5, 6.0), ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


class Shelf:
    """Stands for the folder of array files: keeps arrays in memory."""

    def __init__(self):
        self.arrays = []

    def put(self, array, dtype):
        self.arrays.append(np.ascontiguousarray(array, dtype=dtype))
        return {"file": len(self.arrays) - 1, "dtype": np.dtype(dtype).str, "shape": list(array.shape)}

    def get(self, handle, dtype, shape):
        array = self.arrays[handle["file"]]
        assert array.dtype == dtype and array.shape == shape
        return array


def scan(kind="intensity", dtype=np.float32) -> Scan:
    return Scan(np.arange(60).reshape(GRID.shape).astype(dtype), GRID, kind, "scan")


def prompts() -> PromptSet:
    return PromptSet(
        (LandmarkPair("a", (1, 2, 3), (1.5, 2, 3)), LandmarkPair("b", (0, 0, 0), (0, 0, 1), False, 2.5)),
        scan("labels", np.uint8), scan("labels", np.int32), ((1, 2, 0.5),), scan("mask"), None, {3: "stiff"}, scan("labels", np.int32),
    )  # fmt: skip


def there_and_back(command: Command) -> Command:
    shelf = Shelf()
    return messages.decode_command(messages.encode(command, shelf.put), shelf.get)


def test_a_run_comes_back_as_it_was_sent():
    world = np.diag([1.0, 2.0, 0.5, 1.0])
    start = Map(world, np.random.default_rng(0).normal(size=(3, *GRID.shape)).astype(np.float32), GRID)
    data = {"config": {"name": "mine", "seed": 3}, "prompts": prompts(), "initial": start}
    back = there_and_back(Command("run", 7, data))
    assert (back.name, back.generation, back.data["config"]) == ("run", 7, data["config"])
    np.testing.assert_array_equal(back.data["initial"].displacement, start.displacement)
    np.testing.assert_array_equal(back.data["initial"].world, world)
    assert back.data["initial"].geometry == GRID
    got = back.data["prompts"]
    assert got.landmarks == prompts().landmarks and got.label_pairs == ((1, 2, 0.5),) and got.stiffness == {3: "stiff"}
    assert got.fixed_labels.array.dtype == np.int32 and got.fixed_mask.kind == "mask" and got.moving_mask is None
    np.testing.assert_array_equal(got.fixed_labels.array, prompts().fixed_labels.array)


def test_whole_numbers_become_single_precision_on_the_way():
    back = there_and_back(Command("load", 1, {"fixed": scan(dtype=np.int16), "moving": scan()}))
    assert back.data["fixed"].array.dtype == np.float32 and back.data["fixed"].geometry == GRID


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scan(np.zeros((3, 4, 5)), Geometry.identity((4, 4, 4))),
        lambda: Scan(np.zeros((1, 4, 5)), Geometry.identity((5, 4, 1))),
        lambda: Scan(np.zeros((4, 5)), Geometry.identity((5, 4))),
        lambda: Scan(np.zeros((3, 4, 5)), Geometry.identity((5, 4, 3)), "labels"),
        lambda: Scan(np.zeros((3, 4, 5), dtype=complex), Geometry.identity((5, 4, 3))),
        lambda: Scan(np.zeros((3, 4, 5)), Geometry.identity((5, 4, 3)), "picture"),
        lambda: Map(np.eye(3)),
        lambda: Map(np.diag([1.0, 1.0, np.nan, 1.0])),
        lambda: Map(np.diag([1.0, 1.0, 0.0, 1.0])),
        lambda: Map(np.eye(4), np.zeros((3, 3, 4, 5))),
        lambda: Map(np.eye(4), np.zeros((3, 2, 2, 2)), GRID),
        lambda: LandmarkPair("a", (0, 0, np.inf), (0, 0, 0)),
        lambda: LandmarkPair("a", (0, 0), (0, 0, 0)),
        lambda: LandmarkPair("a", (0, 0, 0), (0, 0, 0), True, 0.0),
        lambda: PromptSet(fixed_labels=scan()),
        lambda: PromptSet(label_pairs=((1, 1, -1.0),)),
        lambda: PromptSet(stiffness={1: "hard"}),
        lambda: PromptSet(stiffness_labels=scan()),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(make):
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_command_and_event_knows_its_keys():
    with pytest.raises(MessageError, match="unknown message"):
        messages.encode(Command("dance", 0, {}), Shelf().put)
    with pytest.raises(MessageError, match="expected the keys"):
        messages.encode(Command("select", 0, {}), Shelf().put)
    with pytest.raises(MessageError, match="expected int"):
        messages.encode(Command("select", 0, {"step": 1.5}), Shelf().put)
    with pytest.raises(MessageError, match="cannot be sent"):
        messages.encode(Event("saved", 0, {"paths": {"a": float("nan")}}), Shelf().put)
    with pytest.raises(MessageError, match="are more than"):
        messages.encode(Event("saved", 0, {"paths": {"a": "x" * messages.LONGEST_MESSAGE}}), Shelf().put)


def test_rules_of_replacement_name_commands():
    assert set(messages.REPLACES) <= set(messages.COMMANDS)
    assert all(names <= set(messages.COMMANDS) for names in messages.REPLACES.values())


def test_handles_are_found_wherever_they_are():
    shelf = Shelf()
    raw = messages.encode(Command("update", 1, {"prompts": prompts()}), shelf.put)
    assert len(messages.handles(raw)) == len(shelf.arrays) == 4
    assert messages.handles(b"\xff{") == [] and messages.head(b"{}") == ("", 0)


def damaged(text: str, chance: random.Random) -> bytes:
    """A message with one thing wrong in it."""
    raw = bytearray(text.encode())
    kind = chance.randrange(5)
    if kind == 0:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    elif kind == 1:
        del raw[chance.randrange(len(raw)) :]
    elif kind == 2:
        start = chance.randrange(len(raw))
        del raw[start : start + chance.randrange(1, 40)]
    elif kind == 3:
        raw[chance.randrange(len(raw)) : 0] = chance.choice([b"null", b"-1", b"1e999", b"[", b'"x":{},', b"NaN", b"{}"])
    else:
        return json.dumps(replaced(json.loads(text), chance)).encode()
    return bytes(raw)


def replaced(value, chance: random.Random):
    """The value with one of its parts exchanged for something of another kind."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = chance.choice(list(keys))
        value[key] = replaced(value[key], chance)
        return value
    return chance.choice([None, True, -1, 2**70, 1e308, "", "x" * 50, [], {}, [[]], {"file": "../../etc"}, [1, 2, 3]])


def test_damaged_messages_are_refused_or_harmless():
    """2000 damaged messages: each is decoded or refused with an InputError; nothing else comes out."""
    shelf, chance = Shelf(), random.Random(7)
    data = {"config": "fast", "prompts": prompts(), "initial": Map(np.eye(4), np.zeros((3, *GRID.shape)), GRID)}
    text = messages.encode(Command("run", 3, data), shelf.put).decode()
    refused = 0

    def get(handle, dtype, shape):
        if not isinstance(handle, dict) or handle.get("shape") != list(shape):
            raise InputError("not this array")
        return np.zeros(shape, dtype)

    for _ in range(2000):
        try:
            messages.decode_command(damaged(text, chance), get)
        except InputError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\x00" * 50, b"9" * 10_000, b"{}", b"\xff\xfe"]
)
def test_what_is_no_message_is_refused(raw):
    with pytest.raises(MessageError):
        messages.decode_command(raw, None)


def test_the_front_end_part_never_imports_torch():
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys\n"
        "from DeepDiffRegLib.interactive import messages, arrays, process, client\n"
        "import DeepDiffRegLib.registry, DeepDiffRegLib.config, DeepDiffRegLib.transforms, DeepDiffRegLib.similarity\n"
        "import DeepDiffRegLib.methods, DeepDiffRegLib.qc, DeepDiffRegLib.errors\n"
        "heavy = {'torch', 'numba', 'SimpleITK', 'vtk', 'nibabel', 'h5py', 'jinja2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr[-500:]
