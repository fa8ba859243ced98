"""Registries: name -> dotted path -> one-line help, loaded only when used.

A folder's ``__init__`` holds its table; the command line, the panel, the documentation and the tests read it from there.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """One registered name: ``target`` is ``"module:attribute"``; ``reference`` the paper it comes from."""

    name: str
    target: str
    help: str
    reference: str = ""

    def load(self):
        module, attribute = self.target.split(":")
        return getattr(importlib.import_module(module), attribute)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` when a known name is close, else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


class Registry(Mapping):
    """Ordered, read-only table of ``Entry`` rows; a duplicate name is refused, an unknown one suggests the nearest."""

    def __init__(self, kind: str, *entries: Entry):
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ConfigError(f"Registry({kind!r}): {entry.name!r} is registered twice")
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}{nearest(str(name), self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def load(self, name: str):
        """Import and return the object registered as ``name``."""
        return self[name].load()

    def build(self, name: str, **options):
        """Construct the class registered as ``name``; an option it does not take is a ``ConfigError``."""
        target = self.load(name)
        try:
            return target(**options)
        except TypeError as error:
            raise ConfigError(f"{self.kind} {name!r} does not take these options: {error}") from error
