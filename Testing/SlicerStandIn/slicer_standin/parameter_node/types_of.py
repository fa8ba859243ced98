"""Reading type hints as the wrapper understands them."""

from __future__ import annotations

import inspect
import types
import typing


def split(hint) -> tuple[object, tuple]:
    """(type, annotations) of a possibly Annotated hint."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__, tuple(hint.__metadata__)
    return hint, ()


def members(cls: type) -> dict[str, object]:
    """Name -> hint of a decorated class.

    Refused here though Python would allow them, because a released Slicer may not read them: hints as strings (so no
    ``from __future__ import annotations`` in that file) and unions written with ``|``.
    """
    hints = inspect.get_annotations(cls)
    for name, hint in hints.items():
        _check(f"{cls.__name__}.{name}", hint)
    return hints


def _check(where: str, hint) -> None:
    if isinstance(hint, str):
        raise TypeError(
            f"{where}: the type hint must be an object, not the text {hint!r}; remove 'from __future__ import annotations'"
        )
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{where}: write typing.Union or typing.Optional, not {hint}")
    for part in typing.get_args(split(hint)[0]):
        if part is not Ellipsis:
            _check(where, part)


def is_node_class(kind) -> bool:
    """Whether ``kind`` is vtkMRMLNode or derived from it."""
    import slicer

    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


def node_classes(kind) -> tuple[type, ...]:
    """The node classes of a node hint or of a Union of them (None left out); empty for anything else."""
    if is_node_class(kind):
        return (kind,)
    if typing.get_origin(kind) is typing.Union:
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        if parts and all(map(is_node_class, parts)):
            return tuple(parts)
    return ()
