"""Assisted prompts: the worker proposes the partner of a point, and the places where a pair would help; the user decides."""

import numpy as np
import qt
import slicer
from DeepDiffRegScene import convert
from DeepDiffRegScene.proposals import Proposal
from slicer.i18n import tr as _

from . import base

COUNT = 5
"""Places that are asked for."""
SAME_MM = 0.01
"""Points nearer than this have not been moved."""
VERDICTS = {"good": "good", "fair": "check", "bad": "bad"}
POINT = "{:.1f}, {:.1f}, {:.1f}"
OTHER = {"fixed": "moving", "moving": "fixed"}


class Assist:
    """Part of the section Prompts. What waits for the user's word lies in the point lists; nothing of it reaches the worker."""

    def __init__(self, section):
        self.section, self.ui = section, section.ui
        self.adding = False
        table = self.ui.suggestionsTable
        base.setUpTable(table, [_("Place (RAS, mm)"), _("Helps (mm)"), _("Sure"), ""], 0)
        table.verticalHeader().setDefaultSectionSize(26)
        table.connect("itemSelectionChanged()", self._onSuggestionSelected)
        self.ui.suggestButton.connect("clicked(bool)", self.onSuggest)
        self.ui.rejectButton.connect("clicked(bool)", self.onReject)
        self.forget()

    def forget(self):
        """Another scene, another worker: what was asked will not be answered."""
        self._asked, self._suggesting, self._text = {}, None, ""
        self._refused, self._places = set(), {}
        self.suggestions = []
        self._built = None

    @property
    def waiting(self):
        """Whether the partner of a point is being looked for."""
        return bool(self._asked)

    # Proposals

    def leaveAlone(self):
        """Points that wait in a scene that was opened are not asked for until Assist is switched on anew."""
        table = self.section.table()
        self._refused = {row.label for row in table.rows() if not row.complete} if table is not None else set()

    def ask(self):
        """Have the partners of lone points looked for, with Assist on and a map in the scene."""
        section, table = self.section, self.section.table()
        if self.adding or table is None or not section.state.assist or not section.logic.hasMap:
            return
        self._notice()
        known = {label for points in self._asked.values() for label, _side, _ras in points} | self._refused
        for row in table.rows():
            if row.complete or row.label in known:
                continue
            side = "fixed" if row.fixed_index is not None else "moving"
            ras = row.fixed_ras if side == "fixed" else row.moving_ras
            with slicer.util.tryWithErrorDisplay(_("The partner could not be looked for."), waitCursor=False):
                generation = section.logic.propose([ras], side, section.state)
                self._asked[generation] = [(row.label, side, ras)]
                self._say(_("Looking for the partner of {label} in the other scan...").format(label=row.label))
                continue
            self._refused.add(row.label)

    def onEvent(self, event):
        """Answers, and what ends the waiting for them."""
        if event.kind == "proposal":
            self._onProposal(event)
        elif event.kind == "suggestions" and event.generation == self._suggesting:
            self._suggesting = None
            self.suggestions = list(event.data["suggestions"])
            self._say(
                _("The best places are listed below.")
                if self.suggestions
                else _("No place was found where a pair helps.")
            )
        elif event.kind == "map":
            self.suggestions = []
        elif event.kind in ("crashed", "cancelled"):
            self._give_up()
        elif event.kind == "error":
            if event.generation in (*self._asked, self._suggesting):
                self._refuse(self._asked.pop(event.generation, []))
                self._suggesting = None if event.generation == self._suggesting else self._suggesting
                self._say(_("Not found: {message}").format(message=event.data["message"]))
                self.section.placing.goOn()
        else:
            return
        self.refresh()

    def tick(self):
        """A worker with nothing left to do has dropped what was asked."""
        if (self._asked or self._suggesting is not None) and not self.section.logic.workerBusy:
            self._give_up()
            self.refresh()

    def accept(self, label, moved=False):
        """Let a proposed pair act."""
        table = self.section.table()
        if table is not None and table.accept(label, moved):
            self._places.pop(label, None)
            self._say("")
            self.section.refresh()
            self.section.changed()

    def reject(self, labels):
        """Take proposed points away; their partners stay, to be paired by hand. Returns the labels that were proposed."""
        table = self.section.table()
        self._refused |= set(labels)
        rejected = [label for label in labels if table is not None and table.reject(label)]
        for label in rejected:
            self._places.pop(label, None)
            self._say(_("{label}: rejected. Place its partner yourself, or delete it.").format(label=label))
        if rejected:
            self.section.refresh()
            self.section.placing.goOn()
        return rejected

    def proposed(self):
        """Labels of the pairs that wait for the user's word."""
        return [row.label for row in self._proposed()]

    def onReject(self, _checked=False):
        """The selected proposals, or the last one."""
        proposed = self.proposed()
        chosen = [label for label in self.section.selectedLabels() if label in proposed]
        self.reject(chosen or proposed[-1:])

    def onDropped(self):
        """A proposed point that was dragged is accepted; of one whose partner was dragged another one is looked for."""
        for row in self._proposed():
            before = self._places.get(row.label)
            if before is None:
                continue
            side, points = before
            moved = {name for name, a in points.items() if np.linalg.norm(np.subtract(a, _at(row, name))) > SAME_MM}
            if side in moved:
                self.accept(row.label, moved=True)
            elif moved:
                self._places.pop(row.label, None)
                self.section.table().reject(row.label)
                self.ask()

    def recall(self):
        """The lists were brought back to an earlier state: look at the proposals anew."""
        self._places = {}
        self.refresh()

    def _notice(self):
        """A proposed point that was deleted in a view is rejected; a point that is gone, or Assist switched off, ends a refusal."""
        table = self.section.table()
        rows = {row.label: row for row in table.rows()} if table is not None else {}
        gone = [label for label in self._places if label not in rows or rows[label].proposal is None]
        for label in gone:
            del self._places[label]
            if label in rows and not rows[label].complete:
                self._refused.add(label)
        assisting = self.section.state is not None and self.section.state.assist
        self._refused = self._refused & set(rows) if assisting else set()

    def _onProposal(self, event):
        asked, table = self._asked.pop(event.generation, []), self.section.table()
        rows = {row.label: row for row in table.rows()} if table is not None else {}
        for (label, side, ras), answer in zip(asked, event.data["proposals"]):
            row = rows.get(label)
            if row is None or row.complete or _at(row, side) is None:
                continue
            if np.linalg.norm(np.subtract(_at(row, side), ras)) > SAME_MM:
                self.ask()
                continue
            self._show(table, label, OTHER[side], answer)
        self.section.placing.goOn()
        self.section.refresh()

    def _show(self, table, label, side, answer):
        proposal = Proposal.of(answer)
        if not proposal.confidence > 0:
            self._refused.add(label)
            self._say(
                _("{label}: no partner was found; place it yourself. {note}").format(label=label, note=proposal.note)
            )
            return
        self.adding = True
        try:
            table.propose(label, side, convert.ras([answer[f"{side}_mm"]])[0], proposal)
        finally:
            self.adding = False
        views = self.section.panel.views
        shown = {"fixed": views.fixedSliceNodes(), "moving": views.movingSliceNodes()}
        table.jump(label, **{f"{side}_slices": shown[side]})
        self._say(
            _("{label}: accept the proposed partner, drag it to where it belongs, or press Esc. {note}").format(
                label=label, note=proposal.note
            )
        )

    def _proposed(self):
        table = self.section.table()
        return [row for row in table.rows() if row.proposal is not None] if table is not None else []

    # Suggestions

    def onSuggest(self, _checked=False):
        """Ask where a pair would help."""
        with slicer.util.tryWithErrorDisplay(_("The places could not be looked for."), waitCursor=False):
            self._suggesting = self.section.logic.suggest(COUNT, self.section.state)
            self.suggestions = []
            self._say(_("Looking for places where a landmark helps..."))
        self.refresh()

    def acceptSuggestion(self, number):
        """Make a suggested place a pair that acts."""
        answer = self.suggestions.pop(number)
        self.section.placing.ensureLists()
        self.adding = True
        try:
            ends = [convert.ras([answer[f"{side}_mm"]])[0] for side in ("fixed", "moving")]
            label = self.section.table().add_pair(*ends, Proposal.of(answer))
        finally:
            self.adding = False
        self._say(_("{label} was added.").format(label=label))
        self.section.refresh()
        self.section.changed()

    def _onSuggestionSelected(self):
        rows = base.selectedRows(self.ui.suggestionsTable)
        if rows and rows[0] < len(self.suggestions):
            answer, views = self.suggestions[rows[0]], self.section.panel.views
            for side, nodes in (("fixed", views.fixedSliceNodes()), ("moving", views.movingSliceNodes())):
                for node in nodes:
                    node.JumpSlice(*(float(v) for v in convert.ras([answer[f"{side}_mm"]])[0]))

    # Widgets

    def refresh(self):
        """Show what waits for the user's word."""
        self._notice()
        proposed = self._proposed()
        self._places = {
            row.label: self._places.get(row.label) or (row.proposed_side, {s: _at(row, s) for s in OTHER})
            for row in proposed
        }
        self.ui.rejectButton.setVisible(bool(proposed))
        self.section.panel.shortcuts.enable("rejectButton", bool(proposed))
        self.ui.assistLabel.setText(self._text)
        self.ui.assistLabel.setVisible(bool(self._text))
        reason = "" if self.section.logic.hasMap else _("Run first: there is no map yet.")
        self.ui.suggestButton.setEnabled(not reason and self._suggesting is None)
        self.ui.suggestButton.setStatusTip(reason)
        self._fillSuggestions()

    def _fillSuggestions(self):
        table = self.ui.suggestionsTable
        table.setVisible(bool(self.suggestions))
        if self.suggestions == self._built:
            return
        self._built = list(self.suggestions)
        table.setRowCount(0)
        table.setRowCount(len(self.suggestions))
        for number, answer in enumerate(self.suggestions):
            proposal = Proposal.of(answer)
            base.cell(table, number, 0, POINT.format(*convert.ras([answer["fixed_mm"]])[0]), answer["note"])
            base.cell(table, number, 1, f"{answer['score']:.1f}")
            base.cell(table, number, 2, *confidenceCell(proposal, "{percent:.0f} %"))
            acceptButton(table, number, 3, lambda n=number: self.acceptSuggestion(n))
        base.fitRows(table, COUNT)

    def _say(self, text):
        self._text = text.strip()

    def _refuse(self, points):
        """These are not asked for again: what went wrong would go wrong once more."""
        self._refused |= {label for label, _side, _ras in points}

    def _give_up(self):
        asked = [point for points in self._asked.values() for point in points]
        self._refuse(asked)
        self._asked, self._suggesting, self._text = {}, None, ""
        if asked:
            self.section.placing.goOn()


def confidenceCell(proposal, text):
    """Text, tool tip and color of how sure a proposal is. text: with a place for ``percent``."""
    percent = 100 * proposal.confidence
    tip = _("Right to within {mm:.1f} mm with {percent:.0f} % confidence. {note}").format(
        mm=proposal.tolerance_mm, percent=percent, note=proposal.note
    )
    return text.format(percent=percent), tip.strip(), base.VERDICT_COLORS[VERDICTS[proposal.verdict]]


def acceptButton(table, row, column, accept):
    """A button in a cell; None takes it away."""
    if accept is None:
        table.removeCellWidget(row, column)
        return
    button = qt.QPushButton(_("Accept"))
    # The table that holds the button is filled anew by what it does: not while it is being pressed.
    button.connect("clicked(bool)", lambda _checked=False: qt.QTimer.singleShot(0, accept))
    table.setCellWidget(row, column, button)


def _at(row, side):
    return row.fixed_ras if side == "fixed" else row.moving_ras
