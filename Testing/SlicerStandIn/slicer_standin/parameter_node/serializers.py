"""How values are kept in a parameter node: as text, or as node references; containers under dotted names."""

from __future__ import annotations

import enum
import pathlib
import typing

from .types_of import is_node_class, split
from .validators import FloatRange, IsInstance, NotNone, Validator

PATHS = (
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)
_registered: list[type] = []


class Serializer:
    """Writes, reads and removes values of one type under a name."""

    @staticmethod
    def canSerialize(type_) -> bool:
        raise NotImplementedError

    @staticmethod
    def create(type_):
        raise NotImplementedError

    def default(self):
        raise NotImplementedError

    def isIn(self, parameterNode, name) -> bool:
        return bool(parameterNode.HasParameter(name))

    def write(self, parameterNode, name, value) -> None:
        raise NotImplementedError

    def read(self, parameterNode, name):
        raise NotImplementedError

    def remove(self, parameterNode, name) -> None:
        parameterNode.UnsetParameter(name)

    def supportsCaching(self) -> bool:
        return False

    def validate(self, value) -> None:
        """Raises for a value that may not be written."""


class ValidatedSerializer(Serializer):
    """A serializer that checks values first."""

    def __init__(self, serializer: Serializer, validators: list[Validator]):
        self.serializer, self.validators = serializer, list(validators)

    def default(self):
        return self.serializer.default()

    def isIn(self, parameterNode, name):
        return self.serializer.isIn(parameterNode, name)

    def validate(self, value):
        for validator in self.validators:
            validator.validate(value)
        self.serializer.validate(value)

    def write(self, parameterNode, name, value):
        self.validate(value)
        self.serializer.write(parameterNode, name, value)

    def read(self, parameterNode, name):
        return self.serializer.read(parameterNode, name)

    def remove(self, parameterNode, name):
        self.serializer.remove(parameterNode, name)

    def supportsCaching(self):
        return self.serializer.supportsCaching()


def parameterNodeSerializer(cls):
    """Class decorator: the serializer is asked for types from now on."""
    _registered.append(cls)
    return cls


class _Text(Serializer):
    """Values that are one text."""

    def __init__(self, default, to_text, from_text):
        self._default, self._to_text, self._from_text = default, to_text, from_text

    def default(self):
        return self._default

    def write(self, parameterNode, name, value):
        parameterNode.SetParameter(name, self._to_text(value))

    def read(self, parameterNode, name):
        return self._from_text(parameterNode.GetParameter(name))

    def supportsCaching(self):
        return True


class _Node(Serializer):
    """A node reference; its role is the parameter's name."""

    def default(self):
        return None

    def isIn(self, parameterNode, name):
        return bool(parameterNode.GetNodeReferenceID(name))

    def write(self, parameterNode, name, value):
        parameterNode.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, parameterNode, name):
        return parameterNode.GetNodeReference(name)

    def remove(self, parameterNode, name):
        parameterNode.RemoveNodeReferenceIDs(name)


class _Elements(Serializer):
    """Base of containers: a count under ``name.len`` and one entry for each element."""

    def __init__(self, element: Serializer):
        self.element = element

    def default(self):
        return []

    def isIn(self, parameterNode, name):
        return bool(parameterNode.HasParameter(f"{name}.len"))

    def validate(self, value):
        for item in value:
            self.element.validate(item)

    def write(self, parameterNode, name, value):
        self.remove(parameterNode, name)
        parameterNode.SetParameter(f"{name}.len", str(len(value)))
        for index, item in enumerate(value):
            self.element.write(parameterNode, f"{name}.{index}", item)

    def read(self, parameterNode, name):
        return [
            self.element.read(parameterNode, f"{name}.{index}") for index in range(self._length(parameterNode, name))
        ]

    def _length(self, parameterNode, name) -> int:
        return int(parameterNode.GetParameter(f"{name}.len") or 0)

    def remove(self, parameterNode, name):
        for index in range(self._length(parameterNode, name)):
            self.element.remove(parameterNode, f"{name}.{index}")
        parameterNode.UnsetParameter(f"{name}.len")

    def supportsCaching(self):
        return self.element.supportsCaching()


class _Dictionary(Serializer):
    """Keys and values as two lists."""

    def __init__(self, key: Serializer, value: Serializer):
        self.keys, self.values = _Elements(key), _Elements(value)

    def default(self):
        return {}

    def isIn(self, parameterNode, name):
        return self.keys.isIn(parameterNode, f"{name}.keys")

    def validate(self, value):
        self.keys.validate(list(value.keys()))
        self.values.validate(list(value.values()))

    def write(self, parameterNode, name, value):
        self.keys.write(parameterNode, f"{name}.keys", list(value.keys()))
        self.values.write(parameterNode, f"{name}.values", list(value.values()))

    def read(self, parameterNode, name):
        keys, values = self.keys.read(parameterNode, f"{name}.keys"), self.values.read(parameterNode, f"{name}.values")
        return dict(zip(keys, values))

    def remove(self, parameterNode, name):
        self.keys.remove(parameterNode, f"{name}.keys")
        self.values.remove(parameterNode, f"{name}.values")

    def supportsCaching(self):
        return self.keys.supportsCaching() and self.values.supportsCaching()


class _Tuple(Serializer):
    """Elements of fixed number, each of its own type."""

    def __init__(self, elements: list[Serializer]):
        self.elements = elements

    def default(self):
        return tuple(element.default() for element in self.elements)

    def isIn(self, parameterNode, name):
        return all(element.isIn(parameterNode, f"{name}.{index}") for index, element in enumerate(self.elements))

    def validate(self, value):
        if len(value) != len(self.elements):
            raise ValueError(f"Expected a tuple of {len(self.elements)} elements, got {len(value)}")
        for element, item in zip(self.elements, value):
            element.validate(item)

    def write(self, parameterNode, name, value):
        for index, (element, item) in enumerate(zip(self.elements, value)):
            element.write(parameterNode, f"{name}.{index}", item)

    def read(self, parameterNode, name):
        return tuple(element.read(parameterNode, f"{name}.{index}") for index, element in enumerate(self.elements))

    def remove(self, parameterNode, name):
        for index, element in enumerate(self.elements):
            element.remove(parameterNode, f"{name}.{index}")

    def supportsCaching(self):
        return all(element.supportsCaching() for element in self.elements)


class _Union(Serializer):
    """One of several types; which one is kept beside the value."""

    def __init__(self, kinds: list[Serializer | None]):
        self.kinds = kinds

    def default(self):
        if len(self.kinds) == 2 and self.kinds[1] is None:
            return None
        return self.kinds[0].default() if self.kinds[0] is not None else None

    def _which(self, value) -> int:
        problems = []
        for index, kind in enumerate(self.kinds):
            if kind is None:
                if value is None:
                    return index
                continue
            if value is None:
                continue
            try:
                kind.validate(value)
            except (TypeError, ValueError) as problem:
                problems.append(str(problem))
                continue
            return index
        raise ValueError(f"No type of the union takes {value!r}: " + ("; ".join(problems) or "None is not among them"))

    def isIn(self, parameterNode, name):
        return bool(parameterNode.HasParameter(f"{name}.type"))

    def validate(self, value):
        self._which(value)

    def write(self, parameterNode, name, value):
        which = self._which(value)
        self.remove(parameterNode, name)
        parameterNode.SetParameter(f"{name}.type", str(which))
        if self.kinds[which] is not None:
            self.kinds[which].write(parameterNode, name, value)

    def read(self, parameterNode, name):
        kind = self.kinds[int(parameterNode.GetParameter(f"{name}.type") or 0)]
        return kind.read(parameterNode, name) if kind is not None else None

    def remove(self, parameterNode, name):
        for kind in self.kinds:
            if kind is not None:
                kind.remove(parameterNode, name)
        parameterNode.UnsetParameter(f"{name}.type")

    def supportsCaching(self):
        return all(kind is None or kind.supportsCaching() for kind in self.kinds)


class _NodeUnion(_Node):
    """One of several node classes, kept as a plain reference; None only if the union names it."""


class _Pack(Serializer):
    """The members of a parameterPack under ``name.member``."""

    def __init__(self, pack: type):
        self.pack = pack
        self.members = pack._packMembers

    def default(self):
        return self.pack._defaultInstance()

    def isIn(self, parameterNode, name):
        return all(member.serializer.isIn(parameterNode, f"{name}.{key}") for key, member in self.members.items())

    def validate(self, value):
        for key, member in self.members.items():
            member.serializer.validate(getattr(value, key))

    def write(self, parameterNode, name, value):
        for key, member in self.members.items():
            member.serializer.write(parameterNode, f"{name}.{key}", getattr(value, key))

    def read(self, parameterNode, name):
        values = {key: member.serializer.read(parameterNode, f"{name}.{key}") for key, member in self.members.items()}
        return self.pack._fromMembers(values)

    def remove(self, parameterNode, name):
        for key, member in self.members.items():
            member.serializer.remove(parameterNode, f"{name}.{key}")

    def supportsCaching(self):
        return all(member.serializer.supportsCaching() for member in self.members.values())


_SCALARS = {
    int: (0, str, int, [NotNone(), IsInstance(int)]),
    float: (0.0, lambda value: repr(float(value)), float, [NotNone(), IsInstance((float, int))]),
    str: ("", str, str, [NotNone(), IsInstance(str)]),
    bool: (False, str, lambda text: text == "True", [NotNone(), IsInstance(bool)]),
}


def serializer_for(hint) -> Serializer:
    """The serializer of a type hint, its Annotated validators included. Raises TypeError for an unknown type."""
    kind, annotations = split(hint)
    serializer = _plain(kind)
    checks = [item for item in annotations if isinstance(item, Validator)]
    return ValidatedSerializer(serializer, checks) if checks else serializer


def _plain(kind) -> Serializer:
    for candidate in reversed(_registered):
        if candidate.canSerialize(kind):
            return candidate.create(kind)
    if kind in _SCALARS:
        default, to_text, from_text, checks = _SCALARS[kind]
        return ValidatedSerializer(_Text(default, to_text, from_text), checks)
    if kind in PATHS:
        return ValidatedSerializer(_Text(kind(), str, kind), [NotNone(), IsInstance(kind)])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        text = _Text(next(iter(kind)), lambda value: value.name, lambda name: kind[name])
        return ValidatedSerializer(text, [NotNone(), IsInstance(kind)])
    if kind is FloatRange:
        text = _Text(
            FloatRange(0.0, 0.0),
            lambda value: f"{float(value.minimum)!r};{float(value.maximum)!r}",
            lambda stored: FloatRange(*map(float, stored.split(";"))),
        )
        return ValidatedSerializer(text, [NotNone(), IsInstance(FloatRange)])
    if is_node_class(kind):
        return ValidatedSerializer(_Node(), [IsInstance(kind)])
    if hasattr(kind, "_packMembers"):
        return ValidatedSerializer(_Pack(kind), [NotNone(), IsInstance(kind)])
    return _composite(kind)


def _composite(kind) -> Serializer:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and len(parts) == 1:
        return ValidatedSerializer(_Elements(serializer_for(parts[0])), [NotNone(), IsInstance(list)])
    if origin is dict and len(parts) == 2:
        return ValidatedSerializer(_Dictionary(*map(serializer_for, parts)), [NotNone(), IsInstance(dict)])
    if origin is tuple and parts and Ellipsis not in parts:
        return ValidatedSerializer(_Tuple([serializer_for(part) for part in parts]), [NotNone(), IsInstance(tuple)])
    if origin is typing.Union:
        given = [part for part in parts if part is not type(None)]
        if all(map(is_node_class, given)):
            checks = [IsInstance(tuple(given))] + ([] if len(given) < len(parts) else [NotNone()])
            return ValidatedSerializer(_NodeUnion(), checks)
        return _Union([None if part is type(None) else serializer_for(part) for part in parts])
    raise TypeError(f"parameterNodeWrapper: no serializer for the type {kind!r}")
