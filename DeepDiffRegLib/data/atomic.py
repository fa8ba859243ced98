"""Write aside, then rename: a reader never sees half a file, and a failed write leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a fresh folder beside ``path``; on success all files there replace their namesakes.

    Side files (the ``.raw`` of an ``.mhd``) move first, the named file last. Raises InputError when the folder is missing,
    is not writable or is full.
    """
    path = Path(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot write there: {error.strerror or error}") from error
    try:
        aside = folder / path.name
        yield aside
        for file in sorted(folder.iterdir(), key=lambda file: file == aside):
            file.replace(path.parent / file.name)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reason(error: OSError) -> str:
    """Why a write failed, in the system's few words; HDF5 hides them in a long line."""
    hidden = re.search(r"error message = '([^']+)'", str(error))
    return error.strerror or (hidden[1] if hidden else str(error))


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence what C and C++ readers print on the process's standard error; errors still arrive as exceptions.

    The whole process is silenced, so keep the body short.
    """
    try:
        saved = os.dup(2)
    except OSError:  # a windowed program on Windows has no standard error to silence
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
