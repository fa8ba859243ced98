"""@parameterPack: a group of typed values that can be a member of a parameter node wrapper or of another pack."""

from __future__ import annotations

import dataclasses

from .observed import observe, plain
from .serializers import Serializer, serializer_for
from .types_of import members, split
from .validators import Default, find


@dataclasses.dataclass(frozen=True)
class Member:
    """Type, serializer and first value of one parameter."""

    hint: object
    serializer: Serializer
    default: object  # callable without arguments


def read_members(cls: type) -> dict[str, Member]:
    """The parameters of a decorated class, in order; a default given twice is refused."""
    found = {}
    for name, hint in members(cls).items():
        serializer = serializer_for(hint)
        annotated = find(split(hint)[1], Default)
        if name in cls.__dict__ and annotated is not None:
            raise ValueError(f"{cls.__name__}.{name}: has a default value and a Default annotation")
        if name in cls.__dict__:
            annotated = Default(plain(cls.__dict__[name]))
        default = annotated if annotated is not None else serializer.default
        found[name] = Member(hint, serializer, default)
    return found


def parameterPack(cls):
    """Class decorator; see the documentation of Slicer's parameter nodes."""
    found = read_members(cls)
    for name, member in found.items():
        setattr(cls, name, _member_property(name, member))
    cls._packMembers = found
    for name, function in _GENERATED.items():
        if name not in cls.__dict__:
            setattr(cls, name, function)
    for name, function in _INTERNAL.items():
        setattr(cls, name, function)
    return cls


def _member_property(name: str, member: Member) -> property:
    def get(self):
        values = self.__dict__.setdefault("_values", {})
        if name not in values:
            values[name] = member.default()
        value = values[name]
        if self.__dict__.get("_written") is None:
            return value

        def written(changed):
            values[name] = plain(changed)
            self._written(self)

        return observe(value, written)

    def put(self, value):
        member.serializer.validate(value)
        self.__dict__.setdefault("_values", {})[name] = plain(value)
        if self.__dict__.get("_written") is not None:
            self._written(self)

    return property(get, put)


def _init(self, *args, **kwargs):
    names = list(self._packMembers)
    if len(args) > len(names):
        raise ValueError(f"{type(self).__name__}: at most {len(names)} values, got {len(args)}")
    given = dict(zip(names, args))
    for name, value in kwargs.items():
        if name not in self._packMembers or name in given:
            raise ValueError(f"{type(self).__name__}: unexpected or repeated value {name!r}")
        given[name] = value
    for name, value in given.items():
        setattr(self, name, value)


def _equal(self, other):
    if type(other) is not type(self):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self._packMembers)


def _text(self):
    return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._packMembers)})"


def _from_members(cls, values):
    pack = cls.__new__(cls)
    pack.__dict__["_values"] = dict(values)
    return pack


def _observed(self, written):
    pack = self._copied()
    pack.__dict__["_written"] = written
    return pack


def _copied(self):
    return type(self)._fromMembers({name: plain(self.__dict__.get("_values", {}).get(name, member.default()))
                                    for name, member in self._packMembers.items()})  # fmt: skip


_GENERATED = {"__init__": _init, "__eq__": _equal, "__str__": _text, "__repr__": _text}
_INTERNAL = {
    "_fromMembers": classmethod(_from_members),
    "_defaultInstance": classmethod(lambda cls: cls()),
    "_observed": _observed,
    "_copied": _copied,
    "allParameters": property(lambda self: {name: member.hint for name, member in self._packMembers.items()}),
}
