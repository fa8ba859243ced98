"""Prompts: landmark pairs, pairs of segments, live updates, undo, and the history of steps."""

import qt
import slicer
from DeepDiffRegScene import convert
from DeepDiffRegScene.landmarks import LandmarkTable
from DeepDiffRegWork import preflight
from DeepDiffRegWork.prompts import pairsByName, summaryOf
from slicer.i18n import tr as _

from . import base
from .assist import Assist, acceptButton, confidenceCell
from .placing import Placing
from .segments import SegmentsTable
from .stiffness import StiffnessTable

SETTLE_MS = 250
"""Time after the end of a drag before the update starts: another drag may follow."""
VERDICTS = {"good": "good", "fair": "check", "bad": "bad"}
POINT = "{:.1f}, {:.1f}, {:.1f}"


class PromptsSection(base.Section):
    def setup(self):
        ui = self.ui
        titles = [_("Pair"), _("Fixed (RAS mm)"), _("Moving (RAS mm)"), _("Off (mm)"), ""]
        base.setUpTable(ui.landmarksTable, titles, 1)
        ui.landmarksTable.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.Stretch)
        base.setUpTable(ui.historyTable, [_("Step"), _("What"), _("Verdict"), _("Loss")], 1)
        self._filling = False
        self._lists = (None, None)
        self._table = None
        self._snapshots = {}
        self._returning = False
        self._sent = None
        self._shown = [0, 0]
        self._offered = None
        self.placing = Placing(self)
        self.assist = Assist(self)
        self.segments = SegmentsTable(self)
        self.stiffness = StiffnessTable(self)
        self._settle = qt.QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.connect("timeout()", self._onSettled)
        ui.landmarksTable.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        ui.landmarksTable.connect("itemSelectionChanged()", self.onJump)
        ui.historyTable.connect("itemSelectionChanged()", self._onHistorySelected)
        for button, slot in (
            (ui.jumpButton, self.onJump),
            (ui.deletePairButton, self.onDelete),
            (ui.updateButton, self.onUpdate),
            (ui.undoButton, self.onUndo),
            (ui.redoButton, self.onRedo),
            (ui.compareStepsButton, self.onCompareSteps),
        ):
            button.connect("clicked(bool)", slot)

    def table(self):
        """The pairs of the two lists with their residuals, or None when a list is missing or chosen twice."""
        state = self.state
        lists = (state.fixedLandmarks, state.movingLandmarks) if state is not None else (None, None)
        if None in lists or lists[0] is lists[1]:
            self._table = None
        elif self._table is None or (self._table.lists["fixed"], self._table.lists["moving"]) != lists:
            self._table = LandmarkTable(*lists)
            self._table.update_residuals(self._shownTransform())
        return self._table

    def _shownTransform(self):
        registration = self.logic.registration
        return registration.outputs.transform if registration is not None else None

    # State and events

    def bind(self):
        self._settle.stop()
        self._snapshots, self._sent, self._returning = {}, None, False
        self._shown = [0, 0]
        self.assist.forget()
        self.assist.leaveAlone()
        self.refresh()
        self._fillHistory()

    def refresh(self):
        self._observeLists()
        self.fillLandmarks()
        self.segments.refresh()
        self.stiffness.refresh()
        self._refreshButtons()
        if self.state is not None:
            self.assist.ask()
        self.assist.refresh()

    def tick(self):
        """Called by the panel's timer."""
        self.assist.tick()

    def onEvent(self, event):
        self.assist.onEvent(event)
        if event.kind in ("map", "judged"):
            table = self.table()
            if event.kind == "map":
                self._keepPoints(table, event.data["step"])
            self._measure()
        if event.kind == "history":
            self._fillHistory()
        if event.kind in ("error", "crashed", "cancelled"):
            self._settle.stop()

    def close(self):
        self._settle.stop()
        self._settle.disconnect("timeout()")
        self.placing.close()
        base.Section.close(self)

    def _refreshButtons(self):
        ui, state, logic = self.ui, self.state, self.logic
        summary = summaryOf(state) if state is not None else None
        ui.promptsSummaryLabel.setText(summary.text if summary else "")
        reason = preflight.reasonNotToUpdate(logic.hasMap, summary) if summary else _("The scene is closing.")
        if not reason:
            reason = preflight.reasonAgainstStiffUpdate(state, logic.registration.config["transform"]["name"])
        ui.updateButton.setEnabled(not reason)
        ui.updateButton.setStatusTip(reason)
        ui.updateButton.setToolTip(reason or _("Continue from the current map with these prompts (Ctrl+Shift+U)."))
        history = logic.history
        steps, current = len(history["steps"]), history["current"]
        ui.undoButton.setEnabled(current > 0)
        ui.redoButton.setEnabled(current + 1 < steps)
        ui.compareStepsButton.setEnabled(steps > 1)
        table = self.table()
        rows = len(table.rows()) if table is not None else 0
        ui.jumpButton.setEnabled(rows > 0)
        ui.deletePairButton.setEnabled(rows > 0)
        ui.placeButton.setEnabled(state is not None and None not in (state.fixedVolume, state.movingVolume))

    def _keepPoints(self, table, step):
        """Undo and redo bring back the points that led to the map; other commands record them."""
        if table is None:
            return
        if self._returning:
            self._returning = False
            if step in self._snapshots:
                self.assist.adding = True
                table.restore(self._snapshots[step])
                self.assist.adding = False
                self.assist.recall()
        elif self._sent is not None:
            self._snapshots[step] = self._sent
            self._sent = None

    def remember(self):
        """The points as they are go with the command that follows."""
        table = self.table()
        self._sent = table.snapshot() if table is not None else {"fixed": [], "moving": []}
        self._returning = False

    # Landmarks

    def fillLandmarks(self):
        """Show the pairs with their residuals."""
        table, widget = self.table(), self.ui.landmarksTable
        rows = table.rows() if table is not None else []
        self._filling = True
        widget.setRowCount(len(rows))
        for number, row in enumerate(rows):
            item = base.cell(widget, number, 0, row.label)
            item.setCheckState(qt.Qt.Checked if row.enabled else qt.Qt.Unchecked)
            for column, point in ((1, row.fixed_ras), (2, row.moving_ras)):
                base.cell(widget, number, column, _("to be placed") if point is None else POINT.format(*point))
            residual = "" if row.residual_mm is None else f"{row.residual_mm:.1f}"
            color = base.VERDICT_COLORS.get(VERDICTS.get(row.verdict, ""), "")
            shown = (residual, "", color)
            if row.proposal is not None:
                shown = confidenceCell(row.proposal, _("{percent:.0f} % sure"))
            base.cell(widget, number, 3, *shown)
        self._offerToAccept(rows)
        base.fitRows(widget, 8, 2)
        self._filling = False
        values = [row.residual_mm for row in rows if row.residual_mm is not None and row.enabled]
        text = _("mean {mean:.1f} mm, worst {worst:.1f} mm")
        mean = sum(values) / len(values) if values else 0.0
        self.ui.residualLabel.setText(text.format(mean=mean, worst=max(values)) if values else "")

    def _offerToAccept(self, rows):
        """A button in the row of each proposal; made anew only when the rows have changed."""
        offered, widget = [(row.label, row.proposal is not None) for row in rows], self.ui.landmarksTable
        if offered == self._offered:
            return
        self._offered = offered
        widget.setColumnHidden(4, not any(proposed for _label, proposed in offered))
        for number, (label, proposed) in enumerate(offered):
            acceptButton(widget, number, 4, (lambda name=label: self.assist.accept(name)) if proposed else None)

    def selectedLabels(self):
        """Labels of the selected pairs."""
        widget = self.ui.landmarksTable
        return [widget.item(row, 0).text() for row in base.selectedRows(widget)]

    def _onItemChanged(self, item):
        if self._filling or item.column() != 0:
            return
        table, ticked = self.table(), item.checkState() == qt.Qt.Checked
        if table is not None and ticked and item.text() in self.assist.proposed():
            self.assist.accept(item.text())
        elif table is not None:
            table.enable(item.text(), ticked)
            self._refreshButtons()
            self.changed()

    def onJump(self, _checked=False):
        """Both views go to the selected pair."""
        labels, table = self.selectedLabels(), self.table()
        if self._filling or not labels or table is None:
            return
        table.jump(labels[0], self.panel.views.fixedSliceNodes(), self.panel.views.movingSliceNodes())

    def onDelete(self, _checked=False):
        """Remove the selected pairs, both points of each; of a proposed pair only the proposed point."""
        table, labels = self.table(), self.selectedLabels()
        rejected = self.assist.reject([label for label in labels if label in self.assist.proposed()])
        labels = [label for label in labels if label not in rejected]
        for label in labels:
            table.delete(label)
        self.refresh()
        if labels:
            self.changed()

    def _observeLists(self):
        state = self.state
        lists = (state.fixedLandmarks, state.movingLandmarks) if state is not None else (None, None)
        if lists == self._lists:
            return
        self.removeObservers()
        self._lists = lists
        kind = slicer.vtkMRMLMarkupsNode
        for node in filter(None, lists):
            self.addObserver(node, kind.PointEndInteractionEvent, self._onDropped)
            self.addObserver(node, kind.PointPositionDefinedEvent, self._onPlaced)
            self.addObserver(node, kind.PointRemovedEvent, self._onListChanged)

    def _measure(self):
        """Residuals of the points as they are, by the map as it is."""
        table = self.table()
        if table is not None:
            table.update_residuals(self._shownTransform())
        self.fillLandmarks()

    def _onDropped(self, _node, _event):
        self._measure()
        self.assist.onDropped()
        self.changed()

    def _onPlaced(self, node, _event):
        if self.assist.adding:
            return
        self.placing.onPlaced(node)
        self.assist.ask()
        self._onListChanged()

    def _onListChanged(self, _node=None, _event=None):
        if not slicer.mrmlScene.IsClosing() and not self.assist.adding:
            self._measure()
            self._refreshButtons()
            self.assist.refresh()

    # Updates

    def changed(self):
        """A prompt has changed: with 'update live' the worker continues as soon as the hand rests."""
        if self.state is not None and self.state.updateLive and self.logic.hasMap:
            self._settle.start()

    def _onSettled(self):
        if self.state is not None and not slicer.mrmlScene.IsClosing() and self.ui.updateButton.enabled:
            self.onUpdate()

    def onUpdate(self, _checked=False):
        """Continue from the current map with the prompts as they are now."""
        self._settle.stop()
        with slicer.util.tryWithErrorDisplay(_("The update could not be started."), waitCursor=True):
            self.remember()
            self.logic.updateFromState(self.state)
            self.panel.started()

    def onUndo(self, _checked=False):
        """Back to the map before, with its points."""
        self._settle.stop()
        self._returning = True
        self.logic.undo()

    def onRedo(self, _checked=False):
        """Forward again, with its points."""
        self._settle.stop()
        self._returning = True
        self.logic.redo()

    # History

    def _fillHistory(self):
        table, history = self.ui.historyTable, self.logic.history
        self._filling = True
        table.setRowCount(len(history["steps"]))
        for row, step in enumerate(history["steps"]):
            verdict = step.get("verdict") or ""
            base.cell(table, row, 0, str(step["step"] + 1))
            base.cell(table, row, 1, step["name"], self._promptText(step.get("prompts") or {}))
            base.cell(table, row, 2, verdict, "", base.VERDICT_COLORS.get(verdict, ""))
            base.cell(table, row, 3, base.number(step.get("loss"), 4))
        base.fitRows(table, 5)
        current = history["current"]
        if history["steps"]:
            table.selectRow(current)
            if self._shown[1] != current:
                self._shown = [self._shown[1], current]
        self._filling = False
        self._refreshButtons()

    def _promptText(self, prompts):
        return _("{points} landmark pairs, {pairs} segment pairs").format(
            points=prompts.get("landmarks", 0), pairs=len(prompts.get("label_pairs", []))
        )

    def _onHistorySelected(self):
        rows = base.selectedRows(self.ui.historyTable)
        if not self._filling and rows and rows[0] != self.logic.history["current"]:
            self._returning = False
            self.logic.select(rows[0])

    def onCompareSteps(self, _checked=False):
        """Show the other one of the last two maps that were looked at."""
        steps, other = len(self.logic.history["steps"]), self._shown[0]
        current = self.logic.history["current"]
        if other == current or other >= steps:
            other = max(current - 1, 0) if current else min(1, steps - 1)
        if steps > 1:
            self._returning = False
            self.logic.select(other)

    # Asked by the helpers

    def pairByName(self):
        """Pair all segments of equal name."""
        state = self.state
        if state.fixedSegmentation is not None and state.movingSegmentation is not None:
            state.labelPairs = pairsByName(state.fixedSegmentation, state.movingSegmentation)

    @staticmethod
    def segmentRows(node):
        """(id, name) of the segments of a segmentation or label map node."""
        return [(row.segment_id, row.name) for row in convert.segment_table(node)] if node is not None else []
