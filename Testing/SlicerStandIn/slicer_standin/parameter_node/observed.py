"""Lists and dictionaries read from a parameter node: a change of theirs is written back at once."""

from __future__ import annotations


def _watching(base: type, *mutators: str):
    def make(name: str):
        original = getattr(base, name)

        def changed(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            self._written(self)
            return self if name == "__ior__" or name == "__iadd__" or name == "__imul__" else result

        return changed

    return {name: make(name) for name in mutators}


class ObservedList(list):
    """A list that tells its owner."""

    locals().update(
        _watching(
            list,
            *[
                "append",
                "extend",
                "insert",
                "remove",
                "pop",
                "clear",
                "sort",
                "reverse",
                "__setitem__",
                "__delitem__",
                "__iadd__",
                "__imul__",
            ],
        )
    )

    def __init__(self, values, written):
        super().__init__(values)
        self._written = written


class ObservedDict(dict):
    """A dict that tells its owner."""

    locals().update(
        _watching(dict, *["update", "pop", "popitem", "clear", "setdefault", "__setitem__", "__delitem__", "__ior__"])
    )

    def __init__(self, values, written):
        super().__init__(values)
        self._written = written


def observe(value, written):
    """``value`` in a form that calls ``written(value)`` after each change of its content; plain values as they are."""
    if isinstance(value, list):
        result = ObservedList([], written)
        list.extend(result, (observe(item, lambda _: written(result)) for item in value))
        return result
    if isinstance(value, dict):
        result = ObservedDict({}, written)
        dict.update(result, {key: observe(item, lambda _: written(result)) for key, item in value.items()})
        return result
    if hasattr(type(value), "_packMembers"):
        return value._observed(written)
    return value


def plain(value):
    """A deep copy of ``value`` without observers."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if hasattr(type(value), "_packMembers"):
        return value._copied()
    return value
