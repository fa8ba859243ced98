"""The table of segment pairs: two combo boxes and a weight per row, kept in the typed state."""

import qt
from slicer.i18n import tr as _

from . import base

WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)


class SegmentsTable:
    """Rows of ``state.labelPairs`` as widgets; rebuilt only when pairs or segments have changed."""

    def __init__(self, section):
        self.section, self.ui = section, section.ui
        self.table = self.ui.labelsTable
        self._built = None
        base.setUpTable(self.table, [_("Fixed"), _("Moving"), _("Weight")], 0)
        self.table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        self.table.verticalHeader().setDefaultSectionSize(26)
        self.ui.pairByNameButton.connect("clicked(bool)", self.onPairByName)
        self.ui.addLabelPairButton.connect("clicked(bool)", self.onAdd)
        self.ui.removeLabelPairButton.connect("clicked(bool)", self.onRemove)

    def refresh(self):
        """Show the pairs of the state."""
        state = self.section.state
        nodes = (state.fixedSegmentation, state.movingSegmentation) if state is not None else (None, None)
        rows = [self.section.segmentRows(node) for node in nodes]
        both = all(rows)
        for button in (self.ui.pairByNameButton, self.ui.addLabelPairButton):
            button.setEnabled(both)
        pairs = [tuple(pair) for pair in state.labelPairs] if state is not None else []
        self.ui.removeLabelPairButton.setEnabled(bool(pairs))
        wanted = (rows, pairs)
        if wanted == self._built:
            return
        self._built = wanted
        self.table.setRowCount(0)
        self.table.setRowCount(len(pairs))
        for number, (fixed, moving, weight) in enumerate(pairs):
            self._combo(number, 0, rows[0], fixed, lambda value, n=number: self._change(n, 0, value))
            self._combo(number, 1, rows[1], moving, lambda value, n=number: self._change(n, 1, value))
            weights = [(w, f"{w:g}") for w in sorted({*WEIGHTS, weight})]
            self._combo(number, 2, weights, weight, lambda value, n=number: self._change(n, 2, float(value)))
        base.fitRows(self.table, 6)

    def onPairByName(self, _checked=False):
        self.section.pairByName()
        self.section.changed()

    def onAdd(self, _checked=False):
        """A pair of the first segments that are not paired yet."""
        state = self.section.state
        pairs = [tuple(pair) for pair in state.labelPairs]
        sides = []
        for node, used in (
            (state.fixedSegmentation, {pair[0] for pair in pairs}),
            (state.movingSegmentation, {pair[1] for pair in pairs}),
        ):
            ids = [key for key, _name in self.section.segmentRows(node)]
            sides.append(next((key for key in ids if key not in used), ids[0]))
        state.labelPairs = [*pairs, (*sides, 1.0)]

    def onRemove(self, _checked=False):
        """Remove the rows that are selected, or the last one."""
        state = self.section.state
        pairs = [tuple(pair) for pair in state.labelPairs]
        rows = base.selectedRows(self.table) or [len(pairs) - 1]
        state.labelPairs = [pair for number, pair in enumerate(pairs) if number not in rows]
        self.section.changed()

    def _combo(self, row, column, entries, value, changed):
        combo = qt.QComboBox()
        combo.setFrame(False)
        for key, text in entries:
            combo.addItem(text, key)
        index = next((i for i, (key, _text) in enumerate(entries) if key == value), -1)
        if index < 0:
            combo.addItem(_("{segment} (missing)").format(segment=value), value)
            index = len(entries)
        combo.setCurrentIndex(index)
        combo.connect("activated(int)", lambda i, c=combo: changed(c.itemData(i)))
        self.table.setCellWidget(row, column, combo)

    def _change(self, number, column, value):
        state = self.section.state
        pairs = [list(pair) for pair in state.labelPairs]
        pairs[number][column] = value
        state.labelPairs = [tuple(pair) for pair in pairs]
        self.section.changed()
