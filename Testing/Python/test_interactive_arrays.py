"""Array files: what was put is read, the file goes away, and what does not fit is refused."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.arrays import ArrayFolder

F4 = np.dtype("<f4")


@pytest.fixture
def sides(tmp_path):
    """The folder as both processes see it."""
    return ArrayFolder(tmp_path, "c"), ArrayFolder(tmp_path, "w")


def files(folder: ArrayFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


@pytest.mark.parametrize("how", ["read", "view"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 5, 6)])
def test_what_was_put_is_read_and_the_file_goes(sides, how, shape, rng):
    client, worker = sides
    array = rng.normal(size=shape).astype(np.float32)
    handle = client.put(array, F4)
    assert files(client) == [handle["file"]]
    got = getattr(worker, how)(handle, F4, shape)
    np.testing.assert_array_equal(got, array)
    worker.sweep()
    del got
    worker.sweep()
    assert files(client) == []


def test_numbers_are_converted_and_order_does_not_matter(sides, rng):
    client, worker = sides
    array = rng.integers(-1000, 3000, (6, 5, 40)).astype(np.int16)
    for view in (array, array[::-1, :, ::2], array.T, np.asfortranarray(array)):
        got = worker.read(client.put(view, F4), F4, view.shape)
        np.testing.assert_array_equal(got, view)


def test_big_arrays_are_written_in_slabs(sides, rng, monkeypatch):
    monkeypatch.setattr("DeepDiffRegLib.interactive.arrays.SLAB_BYTES", 200)
    client, worker = sides
    for shape in ((9, 5, 6), (3, 9, 5, 6)):
        array = rng.normal(size=shape)
        np.testing.assert_array_equal(worker.read(client.put(array, F4), F4, shape), array.astype(np.float32))


def test_a_view_is_read_only(sides):
    client, worker = sides
    view = client.view(worker.put(np.ones((2, 2, 2)), F4), F4, (2, 2, 2))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 2


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../c0.raw"}, {"file": "/etc/passwd"}, {"file": "c0.raw.part"}, {"file": None}, {"file": "c7.raw"},
        {"shape": [2, 2, 3]}, {"shape": "8"}, {"dtype": "<f8"}, {"extra": 1},
    ],
)  # fmt: skip
def test_handles_that_do_not_fit_are_refused(sides, change):
    client, worker = sides
    handle = {**client.put(np.zeros((2, 2, 2)), F4), **change}
    with pytest.raises(InputError, match="array") as caught:
        worker.read(handle, F4, (2, 2, 2))
    assert "\n" not in str(caught.value)
    worker.drop(handle)
    assert (client.path / "c0.raw").is_file() or change == {"extra": 1} or "shape" in change or "dtype" in change


def test_a_file_of_another_length_is_refused(sides):
    client, worker = sides
    handle = client.put(np.zeros((2, 2, 2)), F4)
    (client.path / handle["file"]).write_bytes(b"short")
    with pytest.raises(InputError, match="holds 5 bytes"):
        worker.read(handle, F4, (2, 2, 2))


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(sides, monkeypatch):
    client, _ = sides

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    original = Path.open

    def open_full(self, *args, **kwargs):
        original(self, *args, **kwargs).close()
        return Full()

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(InputError, match="No space left"):
        client.put(np.zeros((2, 2, 2)), F4)
    assert files(client) == []


def test_a_reader_that_does_not_read_does_not_fill_the_disk(tmp_path):
    worker = ArrayFolder(tmp_path, "w", most=3)
    handles = [worker.put(np.full((2, 2, 2), n), F4) for n in range(10)]
    assert len(files(worker)) == 3
    assert worker.read(handles[-1], F4, (2, 2, 2))[0, 0, 0] == 9
    with pytest.raises(InputError, match="missing"):
        worker.read(handles[0], F4, (2, 2, 2))


def test_a_mapped_file_is_deleted_later_where_the_system_asks_for_it(sides, monkeypatch):
    client, worker = sides
    handle = worker.put(np.ones((2, 2, 2)), F4)
    unlink, blocked = Path.unlink, [True]

    def mapped(self, missing_ok=False):
        if blocked[0]:
            raise PermissionError("in use")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", mapped)
    client.view(handle, F4, (2, 2, 2))
    assert files(client) == [handle["file"]]
    blocked[0] = False
    client.sweep()
    assert files(client) == []


def test_removing_the_folder_may_be_repeated(sides):
    client, worker = sides
    client.put(np.zeros((2, 2, 2)), F4)
    client.remove()
    worker.remove()
    assert not client.path.exists()
    with pytest.raises(InputError, match="cannot store"):
        client.put(np.zeros((2, 2, 2)), F4)
