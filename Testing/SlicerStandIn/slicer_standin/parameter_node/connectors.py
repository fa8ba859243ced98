"""Which widget can show which type: only the exact classes that Slicer's wrapper knows."""

from __future__ import annotations

import enum
import typing

import shiboken6

from .serializers import PATHS
from .types_of import node_classes, split
from .validators import Choice, Decimals, FloatRange, SingleStep, bounds, find

_registered: list[type] = []


class GuiConnector:
    """Reads and writes one widget; ``signals`` are those that tell of a change by the user."""

    signals: tuple[str, ...] = ()
    needs_bounds = False

    @classmethod
    def canRepresent(cls, widget, datatype) -> bool:
        raise NotImplementedError

    @classmethod
    def create(cls, widget, datatype):
        return cls(widget, datatype) if cls.canRepresent(widget, datatype) else None

    def __init__(self, widget, datatype):
        self._widget = widget
        self.kind, self.annotations = split(datatype)
        self._slots: list = []
        self.prepare()

    def prepare(self):
        """Set limits and items of the widget."""

    def widget(self):
        """The widget."""
        return self._widget

    def alive(self) -> bool:
        """False when Qt has destroyed the widget."""
        return shiboken6.isValid(self._widget)

    def read(self):
        raise NotImplementedError

    def write(self, value):
        raise NotImplementedError

    def onChanged(self, function):
        """Call ``function()`` after each change."""
        for signal in self.signals:

            def slot(*_):
                function()

            self._widget.connect(signal, slot)
            self._slots.append((signal, slot))

    def offChanged(self):
        """Undo onChanged."""
        if self.alive():
            for signal, slot in self._slots:
                self._widget.disconnect(signal, slot)
        self._slots = []


def parameterNodeGuiConnector(cls):
    """Class decorator: the connector is asked from now on, before the built-in ones."""
    _registered.insert(0, cls)
    return cls


def _exact(*names):
    """Test for exactly these widget classes (names in qt, ctk or slicer)."""

    def test(widget):
        import ctk
        import qt
        import slicer

        for name in names:
            owner = slicer if name.startswith("qMRML") else ctk if name.startswith("ctk") else qt
            if type(widget) is getattr(owner, name, None):
                return True
        return False

    return test


class _Attribute(GuiConnector):
    """A widget whose value is one attribute."""

    widgets: tuple[str, ...] = ()
    kinds: tuple[type, ...] = ()
    attribute = "value"

    @classmethod
    def canRepresent(cls, widget, datatype):
        return split(datatype)[0] in cls.kinds and _exact(*cls.widgets)(widget)

    def read(self):
        return self.kind(getattr(self._widget, self.attribute))

    def write(self, value):
        setattr(self._widget, self.attribute, value)


class _Check(_Attribute):
    widgets, kinds, attribute, signals = ("QCheckBox", "ctkCheckBox"), (bool,), "checked", ("toggled(bool)",)


class _Push(_Check):
    widgets = ("QPushButton", "ctkCheckablePushButton")

    @classmethod
    def canRepresent(cls, widget, datatype):
        return super().canRepresent(widget, datatype) and widget.checkable


class _Bounded(_Attribute):
    """Numbers with limits, decimals and step."""

    def prepare(self):
        low, high = bounds(self.annotations)
        if self.needs_bounds and (low is None or high is None):
            raise RuntimeError(
                f"{type(self._widget).__name__} {self._widget.name!r}: the parameter needs bounds (WithinRange, or Minimum and Maximum)"
            )
        decimals, step = find(self.annotations, Decimals), find(self.annotations, SingleStep)
        if decimals is not None and hasattr(self._widget, "setDecimals"):
            self._widget.setDecimals(decimals.value)
        if low is not None:
            self._widget.setMinimum(low)
        if high is not None:
            self._widget.setMaximum(high)
        if step is not None:
            self._widget.setSingleStep(step.value)


class _Integer(_Bounded):
    widgets, kinds, signals = ("QSpinBox",), (int,), ("valueChanged(int)",)


class _IntegerSlider(_Integer):
    widgets, needs_bounds = ("QSlider",), True


class _Double(_Bounded):
    widgets = ("QDoubleSpinBox", "ctkDoubleSpinBox", "qMRMLSpinBox")
    kinds, signals = (float, int), ("valueChanged(double)",)

    def read(self):
        value = self._widget.value
        return round(value) if self.kind is int else float(value)


class _DoubleSlider(_Double):
    widgets, needs_bounds = ("ctkSliderWidget", "qMRMLSliderWidget", "ctkDoubleSlider"), True


class _Range(_Bounded):
    widgets = ("ctkRangeWidget", "ctkDoubleRangeSlider", "qMRMLRangeWidget")
    kinds, signals, needs_bounds = (FloatRange,), ("valuesChanged(double,double)",), True

    def read(self):
        return FloatRange(self._widget.minimumValue, self._widget.maximumValue)

    def write(self, value):
        self._widget.setValues(value.minimum, value.maximum)


class _Combo(GuiConnector):
    """Items are those of an Enum or of a Choice; what the .ui file says is replaced."""

    signals = ("currentIndexChanged(int)",)

    @classmethod
    def canRepresent(cls, widget, datatype):
        kind, annotations = split(datatype)
        chooses = (isinstance(kind, type) and issubclass(kind, enum.Enum)) or (
            kind in (int, float, str, bool) and find(annotations, Choice) is not None
        )
        return chooses and _exact("QComboBox", "ctkComboBox")(widget)

    def prepare(self):
        choice = find(self.annotations, Choice)
        self.values = list(choice.choices) if choice is not None else list(self.kind)
        self._widget.clear()
        for value in self.values:
            if isinstance(value, enum.Enum):
                self._widget.addItem(value.label() if hasattr(value, "label") else value.name)
            else:
                self._widget.addItem(str(value))

    def read(self):
        return self.values[self._widget.currentIndex]

    def write(self, value):
        self._widget.setCurrentIndex(self.values.index(value))


class _Line(_Attribute):
    widgets, kinds, attribute, signals = ("QLineEdit",), (str,), "text", ("textChanged(QString)",)


class _Label(_Attribute):
    widgets, kinds, attribute = ("QLabel",), (str,), "text"


class _Text(_Attribute):
    widgets, kinds, attribute, signals = ("QTextEdit",), (str,), "plainText", ("textChanged()",)


class _Path(_Attribute):
    widgets, kinds, attribute, signals = ("ctkPathLineEdit",), PATHS, "currentPath", ("currentPathChanged(QString)",)

    def write(self, value):
        setattr(self._widget, self.attribute, str(value))


class _Folder(_Path):
    widgets, attribute, signals = ("ctkDirectoryButton",), "directory", ("directoryChanged(QString)",)


class _NodeChoice(GuiConnector):
    signals = ("currentNodeChanged(vtkMRMLNode*)",)

    @classmethod
    def canRepresent(cls, widget, datatype):
        return bool(node_classes(split(datatype)[0])) and _exact("qMRMLNodeComboBox")(widget)

    def prepare(self):
        if not self._widget.nodeTypes:
            self._widget.nodeTypes = [kind.__name__ for kind in node_classes(self.kind)]

    def read(self):
        return self._widget.currentNode()

    def write(self, value):
        self._widget.setCurrentNode(value)


class _Color(GuiConnector):
    signals = ("colorChanged(QColor)",)

    @classmethod
    def canRepresent(cls, widget, datatype):
        import qt

        return split(datatype)[0] is qt.QColor and _exact("ctkColorPickerButton")(widget)

    def read(self):
        return self._widget.color

    def write(self, value):
        self._widget.color = value


BUILT_IN = (
    _Check,
    _Push,
    _Integer,
    _IntegerSlider,
    _Double,
    _DoubleSlider,
    _Range,
    _Combo,
    _Line,
    _Label,
    _Text,
    _Path,
    _Folder,
    _NodeChoice,
    _Color,
)


def create_connector(widget, datatype, name) -> GuiConnector:
    """The connector of a widget and a type. Raises RuntimeError when Slicer has none for this pair."""
    for candidate in (*_registered, *BUILT_IN):
        if candidate.canRepresent(widget, datatype):
            return candidate.create(widget, datatype)
    raise RuntimeError(
        f"connectGui: parameter {name!r} of type {datatype} cannot be bound to the widget "
        f"{type(widget).__name__} {widget.name!r}; wire it by hand or register a connector"
    )


def createGui(datatype):
    """A widget fit for a type; only the choices that the documentation's table names."""
    import ctk
    import qt
    import slicer

    kind, annotations = split(datatype)
    if find(annotations, Choice) is not None or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return qt.QComboBox()
    if kind is float and None not in bounds(annotations):
        return ctk.ctkSliderWidget()
    if node_classes(kind):
        return slicer.qMRMLNodeComboBox()
    plain: dict[typing.Any, type] = {int: qt.QSpinBox, float: qt.QDoubleSpinBox, bool: qt.QCheckBox, str: qt.QLineEdit}
    if kind in plain:
        return plain[kind]()
    if kind in PATHS:
        return ctk.ctkPathLineEdit()
    raise TypeError(f"createGui: no widget for the type {datatype!r}")
