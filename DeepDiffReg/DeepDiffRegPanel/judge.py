"""Judge: findings with their verdicts, numbers per segment, inverse consistency, warnings; jump to the worst places."""

import qt
import slicer
from DeepDiffRegScene import convert
from slicer.i18n import tr as _

from . import base

LIMIT_WIDTH = 96
VERDICT_TEXTS = {
    "good": _("Good: no check found a reason to doubt this map."),
    "check": _("Check: look at the places that the orange rows name."),
    "bad": _("Bad: do not use the map at the places that the red rows name."),
}


class JudgeSection(base.Section):
    def setup(self):
        ui = self.ui
        base.setUpTable(ui.findingsTable, [_("Finding"), _("Value"), _("Limit"), _("Verdict")])
        base.setUpTable(ui.segmentsTable, [_("Segment"), _("Volume"), _("Jacobian 1-50-99 %"), _("Dice"), _("Folds")])
        header = ui.findingsTable.horizontalHeader()
        header.setSectionResizeMode(2, qt.QHeaderView.Interactive)
        header.resizeSection(2, LIMIT_WIDTH)
        self._places = []
        self._shown = None
        ui.worstPlaceButton.connect("clicked(bool)", self.onGoToWorst)
        ui.findingsTable.connect("cellDoubleClicked(int,int)", lambda row, _column: self._goTo(row))
        ui.findingsTable.connect("itemSelectionChanged()", self._refreshButton)

    def bind(self):
        self._shown = None
        self.refresh()

    def refresh(self):
        judged = self.logic.judged
        if judged is self._shown and judged is not None:
            return
        self._shown = judged
        self._fill(judged or {})

    def onEvent(self, event):
        if event.kind in ("map", "judged"):
            self.refresh()

    def onGoToWorst(self, _checked=False):
        """Jump to the selected finding's worst place, or to that of the first one that has a place."""
        rows = base.selectedRows(self.ui.findingsTable)
        candidates = [row for row in rows if self._places[row]] or [i for i, p in enumerate(self._places) if p]
        if candidates:
            self._goTo(candidates[0])

    def _goTo(self, row):
        if self._places[row]:
            self.panel.views.jump(convert.ras([self._places[row]])[0])

    def _refreshButton(self):
        self.ui.worstPlaceButton.setEnabled(any(self._places))

    def _fill(self, judged):
        ui, verdict = self.ui, judged.get("verdict", "")
        nothing = _("Measuring...") if self.logic.phase == "judging" else _("Nothing to judge yet.")
        ui.verdictLabel.setText(VERDICT_TEXTS.get(verdict, verdict) if judged else nothing)
        warnings = judged.get("warnings", [])
        ui.warningsLabel.setText("\n".join(f"\u2022 {text}" for text in warnings))
        ui.warningsLabel.setVisible(bool(warnings))
        self._fillFindings(judged.get("findings", []))
        self._fillSegments(judged.get("segments", []))
        error = judged.get("inverse_error_mm") or {}
        text = _("Inverse consistency: mean {mean:.2f} mm, 99 % below {p99:.2f} mm, largest {max:.2f} mm.")
        kept = judged.get("map_error_mm") or {}
        thinned = _(
            "The transform in the scene keeps every second voxel: off by {mean:.2f} mm on average, 99 % below {p99:.2f} mm, "
            "at most {max:.2f} mm. Exported files are exact."
        )
        lines = [text.format(**error)] if error else []
        lines += [thinned.format(**kept)] if kept.get("max") else []
        ui.inverseErrorLabel.setText(" ".join(lines))
        ui.inverseErrorLabel.setVisible(bool(error))
        self._refreshButton()

    def _fillFindings(self, findings):
        order = {"bad": 0, "check": 1, "good": 2}
        findings = sorted(findings, key=lambda finding: order.get(finding["verdict"], 3))
        table = self.ui.findingsTable
        table.setRowCount(len(findings))
        base.fitRows(table, 12, 2)
        self._places = [finding.get("where_mm") for finding in findings]
        for row, finding in enumerate(findings):
            tip = finding.get("text") or finding["label"]
            base.cell(table, row, 0, finding["label"], tip)
            value = finding["value"]
            unit = finding.get("unit") or ""
            base.cell(table, row, 1, f"{base.number(value)} {unit}".strip(), tip)
            base.cell(table, row, 2, finding.get("limit") or "")
            verdict = finding["verdict"]
            base.cell(table, row, 3, verdict, tip, base.VERDICT_COLORS.get(verdict, ""))

    def _fillSegments(self, segments):
        table = self.ui.segmentsTable
        table.setRowCount(len(segments))
        table.setVisible(bool(segments))
        base.fitRows(table, 8)
        for row, segment in enumerate(segments):
            base.cell(table, row, 0, self._segmentName(segment))
            change = segment.get("volume_change_percent")
            base.cell(table, row, 1, "-" if change is None else f"{change:+.1f} %")
            low, middle, high = (segment.get(f"jacobian_p{p}") for p in (1, 50, 99))
            base.cell(table, row, 2, f"{base.number(low)} - {base.number(middle)} - {base.number(high)}")
            base.cell(table, row, 3, base.number(segment.get("dice")))
            folded = segment.get("folded") or 0
            base.cell(table, row, 4, f"{folded:g}", "", base.VERDICT_COLORS["bad"] if folded else "")

    def _segmentName(self, segment):
        """The worker knows values; the segmentation knows names."""
        node = self.state.fixedSegmentation if self.state is not None else None
        if node is not None and not slicer.mrmlScene.IsClosing():
            for row in convert.segment_table(node):
                if row.value == segment["value"]:
                    return row.name
        return segment.get("name") or str(segment["value"])
