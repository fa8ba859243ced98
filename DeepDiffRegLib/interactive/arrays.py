"""Array files: volumes go from one process to the other through a folder that both know.

Each file is written aside and renamed when it is complete, read once, and deleted by its reader. Files are written with
plain calls, never through a mapping: a full disk is then an error that can be caught.
"""

from __future__ import annotations

import itertools
import re
import shutil
import threading
from collections import deque
from pathlib import Path

import numpy as np

from ..errors import InputError

NAME = re.compile(r"[a-z]{1,8}[0-9]{1,12}\.raw")
SLAB_BYTES = 1 << 22
"""Written at a time, so that at most this much is converted or copied in memory."""


class ArrayFolder:
    """One side's view of the folder. side: letters that its file names begin with, another one on each side.

    most: unread files of this side; when there are more, the oldest are given up, so that a reader that has stopped reading
    does not fill the disk (its handles then say that the file is missing). None: no limit.

    Safe to use from several threads. Handles are plain JSON: file name, number type, shape.
    """

    def __init__(self, path: Path, side: str, most: int | None = None):
        self.path, self._side = Path(path), side
        self._written: deque[str] | None = None if most is None else deque(maxlen=most)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._to_delete: set[str] = set()

    def put(self, array: np.ndarray, dtype: np.dtype) -> dict:
        """Store ``array`` as numbers of ``dtype``; returns the handle. Raises InputError when the disk is full."""
        self.sweep()
        name = f"{self._side}{next(self._numbers)}.raw"
        aside = self.path / f"{name}.part"
        try:
            with aside.open("wb") as file:
                for slab in _slabs(array, np.dtype(dtype)):
                    file.write(slab)
            aside.replace(self.path / name)
            self._give_up_oldest(name)
        except OSError as error:
            self._delete(aside.name)
            text = error.strerror or type(error).__name__
            raise InputError(f"cannot store a volume in the folder for temporary files {self.path}: {text}") from error
        return {"file": name, "dtype": np.dtype(dtype).str, "shape": list(array.shape)}

    def read(self, handle: dict, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The array as an own copy; its file is deleted. Raises InputError for a handle that does not fit."""
        path = self._checked(handle, dtype, shape)
        array = np.fromfile(path, dtype).reshape(shape)
        self._delete(path.name)
        return array

    def view(self, handle: dict, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The array mapped read-only, without a copy; its file goes when the system allows it (Windows: after the last use)."""
        path = self._checked(handle, dtype, shape)
        array = np.memmap(path, dtype, "r", shape=shape)
        self._delete(path.name)
        return array

    def drop(self, handle: dict) -> None:
        """Delete the file of a handle that nobody will read."""
        if isinstance(handle.get("file"), str) and NAME.fullmatch(handle["file"]):
            self._delete(handle["file"])

    def drop_all(self, handles: list[dict]) -> None:
        """Delete the files of several handles that nobody will read."""
        for handle in handles:
            self.drop(handle)

    def sweep(self) -> None:
        """Delete what could not be deleted before because it was still mapped."""
        with self._lock:
            waiting = list(self._to_delete)
        for name in waiting:
            self._delete(name)

    def remove(self) -> None:
        """Delete the folder with everything in it; what is still mapped on Windows stays until the temporary folder is emptied."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _checked(self, handle: dict, dtype: np.dtype, shape: tuple[int, ...]) -> Path:
        expected = {"dtype": np.dtype(dtype).str, "shape": list(shape)}
        if not isinstance(handle, dict) or set(handle) != {"file", *expected}:
            raise InputError(f"expected an array with file, dtype and shape, got {str(handle)[:60]!r}")
        if {key: handle[key] for key in expected} != expected:
            raise InputError(
                f"array: expected {expected['dtype']} {expected['shape']}, got {handle['dtype']} {handle['shape']}"
            )
        name = handle["file"]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(f"array: {str(name)[:60]!r} is not the name of an array file")
        path = self.path / name
        needed = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if not path.is_file():
            raise InputError(f"array: the file {name} is missing; send the volume again")
        if path.stat().st_size != needed:
            raise InputError(f"array: the file {name} holds {path.stat().st_size} bytes, {needed} are needed")
        return path

    def _give_up_oldest(self, name: str) -> None:
        if self._written is None:
            return
        with self._lock:
            oldest = self._written[0] if len(self._written) == self._written.maxlen else None
            self._written.append(name)
        if oldest is not None:
            self._delete(oldest)

    def _delete(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except PermissionError:  # Windows, while a process maps it
            with self._lock:
                self._to_delete.add(name)
            return
        except OSError:  # the folder itself is gone or unreadable: so is the file
            pass
        with self._lock:
            self._to_delete.discard(name)


def _slabs(array: np.ndarray, dtype: np.dtype):
    """The bytes of the array in C order, a few planes at a time."""
    rows = array.reshape(-1, *array.shape[2:]) if array.ndim > 3 else array
    per_row = max(1, int(np.prod(rows.shape[1:])) * dtype.itemsize)
    step = max(1, SLAB_BYTES // per_row)
    for start in range(0, len(rows), step):
        yield memoryview(np.ascontiguousarray(rows[start : start + step], dtype=dtype)).cast("B")
