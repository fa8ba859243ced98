"""What happened in a training: ``history.jsonl`` (one JSON object per line), TensorBoard, and the same in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data.atomic import write_aside

NAME = "history.jsonl"
BOARD = "tensorboard"


class History:
    """Entries of losses (``{"step", "loss", ...}``) and of validations (``{"step", "validation": {...}}``).

    folder: None keeps them in memory alone. step: where a run continues; later entries of its file are dropped.
    """

    def __init__(self, folder: Path | None, step: int = 0, board: bool = True):
        self.entries: list[dict[str, Any]] = []
        self._path = None if folder is None else folder / NAME
        self._board = None
        if folder is None:
            return
        self.entries = [entry for entry in _read(self._path) if entry["step"] <= step] if step else []
        with write_aside(self._path) as aside:
            aside.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries), encoding="utf-8")
        if board:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1)

    def add(self, entry: dict[str, Any]) -> None:
        """One more entry, written at once."""
        self.entries.append(entry)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        if self._board is not None:
            for name, value in _flat(entry).items():
                self._board.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif name != "step" and isinstance(value, (int, float)):
            flat[prefix + name] = value
    return flat


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file whose last one may be half-written."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries
