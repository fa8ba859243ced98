"""Stand-ins of CTK's sliders, ranges and spin boxes: double values, rounded to their decimals and clamped."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

from .widget_tools import Property, Signal, qt, stand_in, stored

STEPS = 1000


@stand_in
class ctkDoubleSpinBox(qt("QDoubleSpinBox")):
    """Double spin box."""

    locals().update(stored(sizeHintPolicy=(int, 0), invertedControls=(bool, False), decimalsOption=(int, 0)))


class _Slider(qt("QWidget")):
    """Value within limits, a QSlider that shows it, and signals of changes."""

    def __init__(self, *args):
        parents = [item for item in args if isinstance(item, QtWidgets.QWidget)]
        super().__init__(*parents[:1])
        orientations = [item for item in args if isinstance(item, QtCore.Qt.Orientation)]
        self._orientation = orientations[0] if orientations else QtCore.Qt.Orientation.Horizontal
        self._minimum, self._maximum, self._value = 0.0, 99.0, 0.0
        self._slider = qt("QSlider")(self._orientation)
        self._slider.setRange(0, STEPS)
        self._showing = False
        self._row = qt("QHBoxLayout")(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.addWidget(self._slider)
        self._slider.valueChanged.connect(self._dragged)

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    positionChanged = Signal(float)
    rangeChanged = Signal(float, float)
    sliderPressed = Signal()
    sliderReleased = Signal()
    locals().update(
        stored(
            singleStep=(float, 1.0, "_show"), pageStep=(float, 10.0), tickInterval=(float, 0.0), tracking=(bool, True)
        )
    )
    orientation = Property(object, lambda self: self._orientation, lambda self, value: None)

    def _rounded(self, value: float) -> float:
        return float(value)

    def setValue(self, value):
        """Take ``value``, clamped to the limits; emits valueChanged when it differs."""
        value = min(max(self._rounded(value), self._minimum), self._maximum)
        changed = value != self._value
        self._value = value
        self._show()
        if changed:
            self.valueChanged.emit(value)

    def setMinimum(self, value):
        """Lower limit; the upper one and the value follow."""
        self.setRange(value, max(value, self._maximum))

    def setMaximum(self, value):
        """Upper limit; the lower one and the value follow."""
        self.setRange(min(value, self._minimum), value)

    def setRange(self, minimum, maximum):
        """Both limits; the value is clamped."""
        if (minimum, maximum) == (self._minimum, self._maximum):
            return
        self._minimum, self._maximum = float(minimum), float(max(minimum, maximum))
        self.rangeChanged.emit(self._minimum, self._maximum)
        self.setValue(self._value)

    value = Property(float, lambda self: self._value, setValue)
    minimum = Property(float, lambda self: self._minimum, setMinimum)
    maximum = Property(float, lambda self: self._maximum, setMaximum)

    def _show(self):
        span = self._maximum - self._minimum
        self._showing = True
        self._slider.setValue(round(STEPS * (self._value - self._minimum) / span) if span else 0)
        self._showing = False

    def _dragged(self, position):
        if not self._showing:
            self.setValue(self._minimum + position / STEPS * (self._maximum - self._minimum))


@stand_in
class ctkDoubleSlider(_Slider):
    """Slider of double values."""


@stand_in
class ctkSliderWidget(_Slider):
    """Slider and spin box together."""

    locals().update(
        stored(
            decimals=(int, 2, "_show"),
            prefix=(str, "", "_show"),
            suffix=(str, "", "_show"),
            spinBoxVisible=(bool, True, "_show"),
            popupSlider=(bool, False),
            invertedAppearance=(bool, False),
            synchronizeSiblings=(int, 0),
        )
    )

    def __init__(self, *args):
        super().__init__(*args)
        self._spin = qt("QDoubleSpinBox")()
        self._row.addWidget(self._spin)
        self._spin.setRange(0.0, 99.0)
        self._spin.valueChanged.connect(self._typed)

    def _rounded(self, value: float) -> float:
        return round(float(value), self.decimals)

    def _typed(self, value):
        if not self._showing:
            self.setValue(value)

    def _show(self):
        super()._show()
        self._showing = True
        self._spin.setDecimals(self.decimals)
        self._spin.setRange(self._minimum, self._maximum)
        self._spin.setSingleStep(self.singleStep)
        self._spin.setPrefix(self.prefix)
        self._spin.setSuffix(self.suffix)
        self._spin.setVisible(self.spinBoxVisible)
        self._spin.setValue(self._value)
        self._showing = False

    def spinBox(self):
        """The inner spin box."""
        return self._spin

    def slider(self):
        """The inner slider."""
        return self._slider


class _Range(qt("QWidget")):
    """Two values within limits, the lower never above the upper."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    rangeChanged = Signal(float, float)
    locals().update(
        stored(
            singleStep=(float, 1.0, "_show"),
            decimals=(int, 2, "_show"),
            prefix=(str, "", "_show"),
            suffix=(str, "", "_show"),
            tracking=(bool, True),
            symmetricMoves=(bool, False),
        )
    )

    def __init__(self, *args):
        parents = [item for item in args if isinstance(item, QtWidgets.QWidget)]
        super().__init__(*parents[:1])
        self._limits, self._values, self._showing = (0.0, 99.0), (0.0, 99.0), False
        self._low, self._high = qt("QDoubleSpinBox")(), qt("QDoubleSpinBox")()
        row = qt("QHBoxLayout")(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._low)
        row.addWidget(self._high)
        self._low.valueChanged.connect(lambda value: self._typed(value, self._values[1]))
        self._high.valueChanged.connect(lambda value: self._typed(self._values[0], value))
        self._show()

    def setValues(self, lower, upper):
        """Both values, clamped and ordered."""
        lower, upper = (min(max(float(value), self._limits[0]), self._limits[1]) for value in (lower, upper))
        new, old = (min(lower, upper), max(lower, upper)), self._values
        self._values = new
        self._show()
        if new[0] != old[0]:
            self.minimumValueChanged.emit(new[0])
        if new[1] != old[1]:
            self.maximumValueChanged.emit(new[1])
        if new != old:
            self.valuesChanged.emit(*new)

    def setMinimumValue(self, value):
        """Lower value."""
        self.setValues(value, max(value, self._values[1]))

    def setMaximumValue(self, value):
        """Upper value."""
        self.setValues(min(value, self._values[0]), value)

    def setRange(self, minimum, maximum):
        """Limits; the values are clamped."""
        limits = (float(minimum), float(max(minimum, maximum)))
        if limits != self._limits:
            self._limits = limits
            self.rangeChanged.emit(*limits)
            self.setValues(*self._values)

    def setMinimum(self, value):
        """Lower limit."""
        self.setRange(value, max(value, self._limits[1]))

    def setMaximum(self, value):
        """Upper limit."""
        self.setRange(min(value, self._limits[0]), value)

    minimumValue = Property(float, lambda self: self._values[0], setMinimumValue)
    maximumValue = Property(float, lambda self: self._values[1], setMaximumValue)
    minimum = Property(float, lambda self: self._limits[0], setMinimum)
    maximum = Property(float, lambda self: self._limits[1], setMaximum)

    def _typed(self, lower, upper):
        if not self._showing:
            self.setValues(lower, upper)

    def _show(self):
        self._showing = True
        for spin, value in zip((self._low, self._high), self._values):
            spin.setDecimals(self.decimals)
            spin.setSingleStep(self.singleStep)
            spin.setPrefix(self.prefix)
            spin.setSuffix(self.suffix)
            spin.setRange(*self._limits)
            spin.setValue(value)
        self._showing = False


@stand_in
class ctkRangeWidget(_Range):
    """Range slider with two spin boxes."""


@stand_in
class ctkDoubleRangeSlider(_Range):
    """Range slider."""
