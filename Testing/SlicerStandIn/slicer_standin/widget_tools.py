"""How the stand-in widgets declare Qt properties, and where the ``.ui`` loader finds their classes."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtNetwork, QtSvg, QtWidgets

from . import qt_classes, ui_loader

for _source in (QtCore, QtGui, QtNetwork, QtSvg, QtWidgets):
    for _name in dir(_source):
        _item = getattr(_source, _name)
        if isinstance(_item, type) and issubclass(_item, QtCore.QObject) and _item not in qt_classes.BASES:
            qt_classes.generate(_item)

Signal = QtCore.Signal
Property = QtCore.Property


def qt(name: str) -> type:
    """The generated class of a QtWidgets or QtCore class."""
    return qt_classes.BASES[getattr(QtWidgets, name, None) or getattr(QtCore, name)]


def stand_in(cls: type) -> type:
    """Class decorator: known to the ``.ui`` loader, closed against misspelled attributes."""
    cls._strict = True
    ui_loader.CUSTOM[cls.__name__] = cls
    return cls


def stored(**properties) -> dict:
    """Class body entries for Qt properties that only keep a value: ``name=(type, default[, hook name])``.

    For each: the property, ``setName(value)``, and a call of the hook after a change. Used as
    ``locals().update(stored(...))`` in a class body, because PySide6 reads properties while the class is made.
    """
    body: dict = {}
    for name, (kind, default, *hook) in properties.items():
        getter, setter = _accessors(name, default, hook[0] if hook else None)
        body[name] = Property(kind, getter, setter)
        body["set" + name[0].upper() + name[1:]] = setter
    return body


def _accessors(name: str, default, hook: str | None):
    def getter(self):
        value = self.__dict__.get("_stored", {}).get(name, default)
        return list(value) if isinstance(value, list) else value

    def setter(self, value):
        values = self.__dict__.setdefault("_stored", {})
        if values.get(name, default) == value:
            return
        values[name] = value
        if hook is not None:
            getattr(self, hook)()

    return getter, setter


def forwarded(part: str, *names: str) -> dict:
    """Class body entries for properties that belong to the inner widget ``self.<part>``: ``"name:type"``."""
    kinds = {"int": int, "float": float, "str": str, "bool": bool}
    body: dict = {}
    for entry in names:
        name, kind = entry.split(":")
        getter, setter = _forwarders(part, name)
        body[name] = Property(kinds[kind], getter, setter)
        body["set" + name[0].upper() + name[1:]] = setter
    return body


def _forwarders(part: str, name: str):
    def getter(self):
        return getattr(getattr(self, part), name)

    def setter(self, value):
        setattr(getattr(self, part), name, value)

    return getter, setter
