"""What the network saw: which scan, which resolution, which channel; the worker makes the picture when it is looked at."""

import slicer
from slicer.i18n import tr as _

FINEST, COLORS = -1, -1
"""Values of the state: the finest resolution, all channels as colors."""


class Features:
    """Button and lists of the section Results for the layer of features."""

    def __init__(self, section):
        self.section, self.ui = section, section.ui
        self._told = None
        self.forget()
        for combo, parameter in (
            (self.ui.featureScaleCombo, "featureScale"),
            (self.ui.featureChannelCombo, "featureChannel"),
        ):
            combo.connect("currentIndexChanged(int)", lambda _index, c=combo, p=parameter: self._onChosen(c, p))

    def forget(self):
        """Another map: its features have not been looked at."""
        self._asked = self._shown = self._generation = None

    @property
    def volume(self):
        """What the layer draws: the picture that is asked for, or None until it is there."""
        registration = self.section.logic.registration
        return registration.outputs.features if registration is not None and self._shown == self._wanted() else None

    def ask(self):
        """Have the picture made that the state names, unless it is there or on its way."""
        wanted, logic = self._wanted(), self.section.logic
        if (
            not self.section.state.showFeatures
            or not self.available
            or logic.busy
            or wanted in (self._asked, self._shown)
        ):
            return
        registration = logic.registration
        first = self._asked is None and self._shown is None
        if first and not registration.solved and registration.outputs.features is not None:
            # A reopened scene shows what it holds; nothing is computed for that.
            self._shown = wanted
            return
        with slicer.util.tryWithErrorDisplay(_("The features could not be shown."), waitCursor=False):
            self._asked = wanted
            self._generation = logic.features(*wanted, self.section.state)

    @property
    def available(self):
        """Whether the map was made from learned features."""
        registration = self.section.logic.registration
        return registration is not None and registration.hasMap and registration.config["method"] == "dio"

    def onEvent(self, event):
        """A picture came, or will not come."""
        if event.kind == "features":
            data = event.data
            self._told = (data["scales"], data["channels"])
            if event.generation == self._generation:
                self._shown, self._asked = self._asked, None
        elif event.kind in ("map", "crashed", "cancelled"):
            self.forget()

    def refresh(self, reason):
        """Enable the controls, or say why not."""
        state = self.section.state
        unknown = _("Only maps that were made from a network's features (method dio) have them.")
        reason = reason or ("" if self.available else unknown)
        for widget in (
            self.ui.featuresLayerButton, self.ui.featureSideCombo, self.ui.featureScaleCombo, self.ui.featureChannelCombo
        ):  # fmt: skip
            widget.setEnabled(not reason)
        self.ui.featuresLayerButton.setStatusTip(reason)
        if state is not None:
            self._fill(state)

    def _fill(self, state):
        scales, channels = self._told or ([], 0)
        rows = [(FINEST, _("finest resolution"))]
        rows += [
            (number, _("{mm:.3g} mm voxels").format(mm=min(row["spacing_mm"])))
            for number, row in enumerate(scales[:-1])
        ]
        _choices(self.ui.featureScaleCombo, rows, state.featureScale)
        rows = [(COLORS, _("as colors"))]
        rows += [(number, _("channel {number}").format(number=number + 1)) for number in range(channels)]
        _choices(self.ui.featureChannelCombo, rows, state.featureChannel)

    def _onChosen(self, combo, parameter):
        value = combo.itemData(combo.currentIndex)
        if self.section.state is not None and value is not None:
            setattr(self.section.state, parameter, int(value))

    def _wanted(self):
        state = self.section.state
        channel = None if state.featureChannel == COLORS else state.featureChannel
        return state.featureSide.value, state.featureScale, channel


def _choices(combo, rows, chosen):
    """Items of a combo box, filled anew only when they have changed; a value that nobody knows yet is kept as an item."""
    if chosen not in [value for value, _text in rows]:
        rows = [*rows, (chosen, str(chosen + 1))]
    known = [(combo.itemData(i), combo.itemText(i)) for i in range(combo.count)]
    blocked = combo.blockSignals(True)
    if known != rows:
        combo.clear()
        for value, text in rows:
            combo.addItem(text, value)
    combo.setCurrentIndex([value for value, _text in rows].index(chosen))
    combo.blockSignals(blocked)
