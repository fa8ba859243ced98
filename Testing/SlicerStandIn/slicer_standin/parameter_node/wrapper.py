"""@parameterNodeWrapper: a class whose typed members live in a vtkMRMLScriptedModuleNode."""

from __future__ import annotations

import slicer

from .connectors import create_connector
from .observed import observe, plain
from .packs import Member, read_members
from .serializers import ValidatedSerializer


def parameterNodeWrapper(cls):
    """Class decorator: adds the constructor (one argument, the node), the members and the functions of a wrapper."""
    found = read_members(cls)
    for name in found:
        setattr(cls, name, property(_getter(name), _setter(name)))
    cls._members = found
    for name, function in vars(_Wrapper).items():
        if not name.startswith("__") or name == "__init__":
            setattr(cls, name, function)
    return cls


def _getter(name):
    return lambda self: self._read(name)


def _setter(name):
    return lambda self, value: self.setValue(name, value)


def _pack_of(serializer):
    while isinstance(serializer, ValidatedSerializer):
        serializer = serializer.serializer
    return getattr(serializer, "members", None)


class _Wrapper:
    """The functions copied into every decorated class."""

    def __init__(self, parameterNode, prefix=None):
        if not isinstance(parameterNode, slicer.vtkMRMLScriptedModuleNode):
            raise TypeError(
                f"{type(self).__name__}: 'parameterNode' must be a vtkMRMLScriptedModuleNode, got {parameterNode!r}"
            )
        self.parameterNode = parameterNode
        self._prefix = f"{prefix}." if prefix else ""
        self._cache: dict[str, object] = {}
        self._connections: dict[int, tuple] = {}
        self._nextTag = 0
        with slicer.util.NodeModify(parameterNode):
            for name, member in self._members.items():
                if not member.serializer.isIn(parameterNode, self._prefix + name):
                    value = member.default()
                    if value is not None:
                        member.serializer.write(parameterNode, self._prefix + name, value)

    # --- values
    def _read(self, name):
        member = self._members[name]
        if name not in self._cache:
            stored = self._prefix + name
            present = member.serializer.isIn(self.parameterNode, stored)
            value = member.serializer.read(self.parameterNode, stored) if present else member.default()
            if not member.serializer.supportsCaching():
                return observe(value, lambda changed: self.setValue(name, plain(changed)))
            self._cache[name] = value
        return observe(plain(self._cache[name]), lambda changed: self.setValue(name, plain(changed)))

    def _descend(self, name) -> tuple[Member, list[str]]:
        first, *rest = name.split(".")
        if first not in self._members:
            raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has: {', '.join(self._members)}")
        member = self._members[first]
        for part in rest:
            inner = _pack_of(member.serializer)
            if inner is None or part not in inner:
                raise ValueError(f"{type(self).__name__}: {name!r} does not lead to a member of a parameter pack")
            member = inner[part]
        return member, rest

    def getValue(self, name):
        """Value of a parameter; dots lead into parameter packs."""
        _, rest = self._descend(name)
        value = self._read(name.split(".")[0])
        for part in rest:
            value = getattr(value, part)
        return value

    def setValue(self, name, value):
        """Check and write a value; dots lead into parameter packs."""
        member, rest = self._descend(name)
        first = name.split(".")[0]
        if rest:
            owner = self._read(first)
            for part in rest[:-1]:
                owner = getattr(owner, part)
            setattr(owner, rest[-1], value)
            return
        member.serializer.validate(value)
        if member.serializer.supportsCaching():
            self._cache[first] = plain(value)
        with slicer.util.NodeModify(self.parameterNode):
            member.serializer.write(self.parameterNode, self._prefix + first, value)

    def dataType(self, name):
        """The type hint of a parameter."""
        return self._descend(name)[0].hint

    def default(self, name):
        """The first value of a parameter."""
        return self._descend(name)[0].default()

    def isParameter(self, name):
        """Whether a parameter of that name exists."""
        try:
            self._descend(name)
        except ValueError:
            return False
        return True

    @property
    def allParameters(self):
        """Name -> type hint."""
        return {name: member.hint for name, member in self._members.items()}

    # --- the node's events
    def AddObserver(self, event, function, priority=0.0):
        """Observe the parameter node; the caller passed to ``function`` is that node."""
        return self.parameterNode.AddObserver(event, function, priority)

    def RemoveObserver(self, tag):
        """Undo AddObserver."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        """Send the node's ModifiedEvent."""
        self.parameterNode.Modified()

    def StartModify(self):
        """Hold back ModifiedEvent."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModifying):
        """Send the held back ModifiedEvent."""
        return self.parameterNode.EndModify(wasModifying)

    # --- widgets
    def connectGui(self, gui):
        """Bind every widget of ``gui`` that has the property SlicerParameterName; returns the tag for disconnectGui.

        ``gui`` is a widget (its descendants are looked at) or an object whose attributes are widgets.
        """
        widgets = gui.findChildren("QWidget") if hasattr(gui, "metaObject") else list(vars(gui).values())
        mapping = {}
        for widget in widgets:
            name = widget.property("SlicerParameterName") if hasattr(widget, "metaObject") else None
            if not name:
                continue
            if name in mapping:
                raise ValueError(f"connectGui: two widgets are bound to {name!r}")
            mapping[name] = widget
        return self.connectParametersToGui(mapping)

    def connectParametersToGui(self, mapping):
        """Bind parameters (dotted names) to widgets, both ways; returns the tag for disconnectGui."""
        connectors = []
        for name, widget in mapping.items():
            connector = create_connector(widget, self.dataType(name), name)
            connector.write(self.getValue(name))
            connectors.append((name, connector))
        state = {"showing": False}

        def show(*_):
            if state["showing"]:
                return
            state["showing"] = True
            try:
                for name, connector in connectors:
                    if not connector.alive():
                        continue
                    value = self.getValue(name)
                    if connector.read() != value:
                        connector.write(value)
            finally:
                state["showing"] = False

        for name, connector in connectors:
            connector.onChanged(lambda name=name, connector=connector: self._take(name, connector))
        observer = self.parameterNode.AddObserver("ModifiedEvent", show)
        self._nextTag += 1
        self._connections[self._nextTag] = (observer, connectors)
        return self._nextTag

    def _take(self, name, connector):
        value = connector.read()
        if self.getValue(name) != value:
            self.setValue(name, value)

    def disconnectGui(self, tag):
        """Undo connectGui or connectParametersToGui; an unknown tag (None too) is ignored."""
        if tag not in self._connections:
            return
        observer, connectors = self._connections.pop(tag)
        self.parameterNode.RemoveObserver(observer)
        for _, connector in connectors:
            connector.offChanged()
