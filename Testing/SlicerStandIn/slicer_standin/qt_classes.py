"""Python subclasses of PySide6's QObject classes that behave as PythonQt's wrappers do.

PythonQt differs from PySide6 in five ways that Slicer modules rely on, and all five are made here:

- a Qt property is a plain Python attribute (``label.text``, ``box.checked = True``), its getter is not callable;
- ``obj.connect("clicked(bool)", f)`` and ``obj.disconnect("clicked(bool)", f)`` exist;
- ``className()``, ``exec_()``, ``delete()`` and the attribute ``name`` exist;
- a new attribute cannot be set on a Qt object, so that a misspelled property is an error;
- objects that Qt made itself (a layout, a header, a button of a dialog) come back with the same abilities.
"""

from __future__ import annotations

import ctypes
import warnings
import weakref

from PySide6 import QtCore

# Names that are properties and also virtual functions: a property of that name would be taken for an override.
VIRTUAL_GETTERS = frozenset({"sizeHint", "minimumSizeHint", "spacing", "duration"})

# Functions that give QObjects made by Qt. They are never virtual in the classes where they are replaced.
GIVERS = [
    "parent",
    "parentWidget",
    "window",
    "layout",
    "children",
    "sender",
    "lineEdit",
    "view",
    "model",
    "selectionModel",
    "horizontalHeader",
    "verticalHeader",
    "header",
    "viewport",
    "statusBar",
    "menuBar",
    "menu",
    "button",
    "buttons",
    "addButton",
    "actions",
    "addAction",
    "addMenu",
    "cellWidget",
    "itemWidget",
    "widget",
    "currentWidget",
    "centralWidget",
    "document",
    "focusWidget",
    "nextInFocusChain",
    "completer",
    "validator",
    "buddy",
    "checkedButton",
    "scrollBar",
    "horizontalScrollBar",
    "verticalScrollBar",
    "addToolBar",
    "tabBar",
    "cornerWidget",
    "topLevelWidgets",
    "allWidgets",
    "activeWindow",
    "activeModalWidget",
    "activePopupWidget",
    "defaultButton",
]

STATIC_GIVERS = frozenset({"topLevelWidgets", "allWidgets", "activeWindow", "activeModalWidget", "activePopupWidget"})

FIND_CHILDREN, OBJECT_NAME = QtCore.QObject.findChildren, QtCore.QObject.objectName  # they may be replaced later

BASES: dict[type, type] = {}


class _Meta(type(QtCore.QObject)):
    """isinstance and issubclass follow Qt's tree of classes, which the generated classes do not share."""

    def __instancecheck__(cls, instance):
        if "_qtBase" in cls.__dict__:
            return isinstance(instance, cls._qtBase)
        return super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass):
        if "_qtBase" in cls.__dict__:
            return issubclass(subclass, cls._qtBase)
        return super().__subclasscheck__(subclass)


class _MetaProperty:
    """One Qt property as an attribute; on the class itself the function of the same name stays reachable."""

    def __init__(self, base: type, name: str):
        self.name = name
        self.function = getattr(base, name, None)
        capital = name[0].upper() + name[1:]
        self.getter = self.function if callable(self.function) else getattr(base, "is" + capital, None)
        self.setter = getattr(base, "set" + capital, None)

    def __get__(self, instance, owner=None):
        if instance is None:
            return self.function
        try:
            value = self.getter(instance) if self.getter else instance.property(self.name)
        except TypeError:
            value = instance.property(self.name)
        return adopt(value)

    def __set__(self, instance, value):
        if self.setter is not None:
            try:
                self.setter(instance, value)
                return
            except TypeError:
                pass  # PythonQt takes an int for an enumeration, and so does setProperty
        if not instance.setProperty(self.name, value):
            raise ValueError(f"{type(instance).__name__}.{self.name}: cannot be set to {value!r}")


def adopt(value):
    """``value`` with every raw PySide6 QObject in it given the abilities of its generated class.

    Its class cannot be changed: PySide6 would never forget such an object and the process would crash when it ends.
    So the PySide6 class itself gets the properties; ``release()`` takes them away again.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(adopt(item) for item in value)
    if isinstance(value, QtCore.QObject) and type(value) in BASES:
        _equip(type(value))
        if "connect" not in value.__dict__:  # PySide6 overlooks a connect() in its own classes, but not in the object
            itself = weakref.ref(value)
            value.__dict__["connect"] = lambda *arguments: Abilities.connect(itself(), *arguments)
            value.__dict__["disconnect"] = lambda *arguments: Abilities.disconnect(itself(), *arguments)
    return value


_equipped: dict[type, dict[str, object]] = {}  # raw class -> what its own dictionary had before under each new name
_ABSENT = object()


def _equip(base: type) -> None:
    if base in _equipped:
        return
    generated = vars(BASES[base])
    taken = _equipped[base] = {}
    for name in generated:
        if name.startswith("_") or name in ("connect", "disconnect"):
            continue
        taken[name] = base.__dict__.get(name, _ABSENT)
    for name in taken:
        setattr(base, name, generated[name])


def release() -> None:
    """Give PySide6's classes their own attributes back."""
    for base, taken in _equipped.items():
        for name, value in taken.items():
            if value is _ABSENT:
                delattr(base, name)
            else:
                setattr(base, name, value)
    _equipped.clear()


def _giver(base: type, name: str):
    function = getattr(base, name)

    def give(self, *args, **kwargs):
        return adopt(function(self, *args, **kwargs))

    give.__name__ = name
    return give


def _static_giver(base: type, name: str):
    function = getattr(base, name)
    return staticmethod(lambda *args, **kwargs: adopt(function(*args, **kwargs)))


def _arguments(signature: str) -> list[str]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    depth, items, current = 0, [], ""
    for letter in inside:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and depth == 0:
            items.append(current)
            current = ""
        else:
            current += letter
    if current.strip():
        items.append(current)
    return [item.replace("const ", "").replace("&", "").strip() for item in items]


def _same_type(wanted: str, given: str) -> bool:
    """Whether the C++ type ``wanted`` may name the signal's argument type ``given``."""
    if wanted == given:
        return True
    if given == "PyObject":  # how PySide6 names an argument declared as a Python object
        return wanted.endswith("*") or wanted.startswith(("QList", "QVariant"))
    return {wanted, given} <= {"QVariantList", "QStringList", "QList<QString>"}


def resolve_signal(sender: QtCore.QObject, signature: str):
    """The bound signal that a PythonQt signature such as ``"currentNodeChanged(vtkMRMLNode*)"`` names.

    Raises ValueError, with the signals that do exist, when there is none: Slicer only writes a warning then, but a
    test should see it.
    """
    if "(" not in signature:
        raise ValueError(
            f"{type(sender).__name__}.connect(): 'signal' must be written with its arguments, got {signature!r}"
        )
    name, wanted = signature[: signature.index("(")].strip(), _arguments(signature)
    meta = sender.metaObject()
    known = []
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() != QtCore.QMetaMethod.MethodType.Signal:
            continue
        if bytes(method.name()).decode() != name:
            continue
        given = [bytes(item).decode() for item in method.parameterTypes()]
        known.append(bytes(method.methodSignature()).decode())
        if len(given) == len(wanted) and all(map(_same_type, wanted, given)):
            signal = getattr(sender, name)
            if len(given) == 1 and given[0] == "PyObject":
                return signal[object]
            return signal[tuple(given)] if len(given) != 1 else signal[given[0]]
    raise ValueError(
        f"{type(sender).__name__}.connect(): no signal {signature!r}; "
        + (f"signals of that name: {', '.join(known)}" if known else "no signal has that name")
    )


class Abilities:
    """What every generated class has besides its Qt properties; the functions are copied into each."""

    def connect(self, signal, slot, *_):
        """PythonQt's form: ``obj.connect("signal(args)", callable)``."""
        resolve_signal(self, signal).connect(slot)
        return True

    def disconnect(self, signal, slot=None):
        """True when the connection existed."""
        bound = resolve_signal(self, signal)
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always", RuntimeWarning)
            try:
                bound.disconnect(slot) if slot is not None else bound.disconnect()
            except (RuntimeError, TypeError):
                return False
        return not complaints

    def className(self):
        """Name of the Qt class."""
        return self.metaObject().className()

    def delete(self):
        """Destroy the C++ object, here when the event loop runs next: at once, PySide6 may keep dangling pointers."""
        self.deleteLater()

    def findChild(self, kind, name=""):
        """First descendant of that class (a class or its name) and object name, or None."""
        return next(iter(self.findChildren(kind, name)), None)

    def findChildren(self, kind, name=""):
        """All descendants of that class (a class or its name) and, if given, that object name."""
        class_name = kind if isinstance(kind, str) else None
        found = []
        for child in FIND_CHILDREN(self, QtCore.QObject):
            right_kind = child.inherits(class_name) if class_name else isinstance(child, kind)
            if right_kind and (not name or child.property("objectName") == name):
                found.append(adopt(child))
        return found

    @property
    def name(self):
        """The object name; Slicer's utilities read it under this name."""
        return OBJECT_NAME(self)


def _checked_setattr(base: type):
    def set_attribute(self, name, value):
        if "_strict" in type(self).__dict__ and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"'{name}' does not exist and creating new attributes on '{type(self).__name__}' is not allowed"
            )
        base.__setattr__(self, name, value)

    return set_attribute


def generate(base: type) -> type:
    """The PythonQt-like subclass of one PySide6 QObject class."""
    body: dict = {"_qtBase": base, "_strict": True, "__module__": "qt", "__doc__": base.__doc__}
    meta = base.staticMetaObject
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        if name not in VIRTUAL_GETTERS and not name.startswith("_"):
            body[name] = _MetaProperty(base, name)
    virtual = (
        {"parent", "layout", "widget"} if issubclass(base, QtCore.QAbstractItemModel) or _is_layout(base) else set()
    )
    for name in GIVERS:
        if name in body or name in virtual or not hasattr(base, name):
            continue
        static = name in STATIC_GIVERS or (name == "focusWidget" and issubclass(base, QtCore.QCoreApplication))
        body[name] = _static_giver(base, name) if static else _giver(base, name)
    body.update({name: value for name, value in vars(Abilities).items() if not name.startswith("__")})
    body["__setattr__"] = _checked_setattr(base)
    body["__init_subclass__"] = classmethod(_copy_connect)
    if hasattr(base, "exec"):
        body["exec_"] = lambda self, *args: base.exec(self, *args)
    generated = _Meta(base.__name__, (base,), body)
    _make_immortal(generated)
    BASES[base] = generated
    return generated


def _make_immortal(kind: type) -> None:
    """Keep a class for good, whatever its reference count says.

    Shiboken gives back a reference too many to the class of an adopted object when that object goes; in the end the class
    itself would go, and the next widget of that class would crash.
    """
    ctypes.c_ssize_t.from_address(id(kind)).value += 1 << 30


def _copy_connect(cls, **_):
    """PySide6 looks for ``connect`` in the class itself, so every derived class needs its own."""
    for name in ("connect", "disconnect"):
        if name not in cls.__dict__:
            setattr(cls, name, getattr(Abilities, name))


def _is_layout(base: type) -> bool:
    return any(parent.__name__ == "QLayout" for parent in base.__mro__)
