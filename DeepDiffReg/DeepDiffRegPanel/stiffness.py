"""The table of stiff and soft segments of the moving scan, and the line that says whether they will act."""

import qt
from DeepDiffRegWork import preflight
from slicer.i18n import tr as _

from . import base

STIFF_PRESET = "stiff-bone"
KINDS = (("", _("as the rest")), ("stiff", _("stiff")), ("soft", _("soft")))


class StiffnessTable:
    """Rows of ``state.stiffness`` (by segment id), one per segment; rebuilt only when something has changed."""

    def __init__(self, section):
        self.section, self.ui = section, section.ui
        self.table = self.ui.stiffnessTable
        self._built = None
        base.setUpTable(self.table, [_("Segment of the moving scan"), _("Tissue")], 0)
        self.table.verticalHeader().setDefaultSectionSize(26)
        self.ui.stiffPresetButton.connect("clicked(bool)", self.onPreset)

    def refresh(self):
        """Show the marks of the state."""
        state = self.section.state
        rows = self.section.segmentRows(state.movingSegmentation) if state is not None else []
        marks = dict(state.stiffness) if state is not None else {}
        self._note(state)
        if (rows, marks) == self._built:
            return
        self._built = (rows, marks)
        self.table.setRowCount(0)
        self.table.setRowCount(len(rows))
        for number, (segment, name) in enumerate(rows):
            base.cell(self.table, number, 0, name)
            combo = qt.QComboBox()
            combo.setFrame(False)
            for kind, text in KINDS:
                combo.addItem(text, kind)
            combo.setCurrentIndex([kind for kind, _text in KINDS].index(marks.get(segment, "")))
            combo.connect("currentIndexChanged(int)", lambda i, c=combo, key=segment: self._mark(key, c.itemData(i)))
            self.table.setCellWidget(number, 1, combo)
        self.table.setVisible(bool(rows))
        base.fitRows(self.table, 6)

    def onPreset(self, _checked=False):
        """Choose the preset in which stiffness acts."""
        state = self.section.state
        state.preset, state.transformModel = STIFF_PRESET, ""

    def _note(self, state):
        """One line: what the marks do, or what to choose for them to act."""
        marked = preflight.markedSegments(state) if state is not None else {}
        problem = preflight.reasonAgainstStiffness(state) if state is not None else ""
        rest = preflight.tissueOfTheRest(state) if marked and not problem else ""
        self.ui.stiffnessLabel.setText(problem or rest)
        self.ui.stiffnessLabel.setVisible(bool(problem or rest))
        self.ui.stiffPresetButton.setVisible(bool(problem))

    def _mark(self, segment, kind):
        state = self.section.state
        known = {key: value for key, value in dict(state.stiffness).items() if key != segment}
        state.stiffness = {**known, segment: kind} if kind else known
        self.section.changed()
