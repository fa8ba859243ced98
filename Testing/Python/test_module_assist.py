"""Assisted prompts in the panel, with the worker's answers made up: what is refused, deleted in a view, undone, suggested, reloaded."""

from __future__ import annotations

import numpy as np
import pytest
from panel_bed import settle, widget  # noqa: F401 - fixtures

from DeepDiffRegLib.interactive.messages import Event, Map

GOOD = {"confidence": 0.8, "tolerance_mm": 3.0, "error_mm": 1.5, "shift_mm": 0.5, "note": "", "score": 2.5}


@pytest.fixture
def desk(widget, monkeypatch):  # noqa: F811
    """The panel with a map in the scene and a logic that only notes what it is asked for."""
    import slicer
    from DeepDiffRegPanel import selftest_bed
    from DeepDiffRegPanel.prompts import PromptsSection
    from DeepDiffRegScene.maps import MapNodes

    state = selftest_bed.begin(widget)
    state.outputTransform = MapNodes(like=state.fixedVolume).update(Map(np.eye(4)))
    widget.logic.adopt(state)
    section = widget.panel.section(PromptsSection)
    asked = []
    kind = type(widget.logic)
    monkeypatch.setattr(kind, "workerBusy", True)
    monkeypatch.setattr(kind, "propose", lambda self, *what: asked.append(what[:2]) or len(asked))
    monkeypatch.setattr(kind, "suggest", lambda self, *what: asked.append(what[:1]) or len(asked))
    section.asked = asked
    state.updateLive = False
    section.placing.ensureLists()
    state.assist = True
    slicer.app.processEvents()
    return section


def answer(desk, generation, fixed, moving, **changes):
    """What the worker says to a ``propose``; positions in RAS."""
    row = {
        **GOOD,
        **changes,
        "fixed_mm": list(np.multiply(fixed, (-1, -1, 1))),
        "moving_mm": list(np.multiply(moving, (-1, -1, 1))),
    }
    desk.onEvent(Event("proposal", generation, {"step": 0, "side": "fixed", "proposals": [row]}))


def test_a_point_is_asked_for_once_and_an_old_answer_is_no_answer(desk):
    table = desk.table()
    table.add("fixed", (10, 0, 0))
    assert len(desk.asked) == 1 and desk.asked[0][1] == "fixed" and np.allclose(desk.asked[0][0], [(10, 0, 0)])
    desk.panel.refresh()
    assert len(desk.asked) == 1 and "F-1" in desk.ui.assistLabel.text
    answer(desk, 99, (10, 0, 0), (12, 0, 0))
    assert table.rows()[0].proposal is None
    desk.state.fixedLandmarks.SetNthControlPointPositionWorld(0, 11.0, 0.0, 0.0)
    answer(desk, 1, (10, 0, 0), (12, 0, 0))
    assert table.rows()[0].proposal is None and len(desk.asked) == 2, "it was moved: asked anew"
    answer(desk, 2, (11, 0, 0), (13, 1, 0))
    assert np.allclose(table.rows()[0].moving_ras, (13, 1, 0)) and table.pairs() == []
    assert (
        desk.ui.landmarksTable.item(0, 3).text() == "80 % sure"
        and "3.0 mm" in desk.ui.landmarksTable.item(0, 3).toolTip()
    )
    desk.state.assist = False
    table.add("fixed", (0, 10, 0))
    assert len(desk.asked) == 2


def test_without_an_answer_the_user_goes_on(desk):
    table = desk.table()
    table.add("fixed", (10, 0, 0))
    answer(desk, 1, (10, 0, 0), (10, 0, 0), confidence=0.0, error_mm=None, note="outside the moving scan")
    assert table.unpaired() == [("F-1", "fixed")] and "outside the moving scan" in desk.ui.assistLabel.text
    desk.panel.refresh()
    assert len(desk.asked) == 1, "it is not asked again"
    table.add("moving", (12, 0, 0))
    table.add("fixed", (0, 10, 0))
    desk.onEvent(Event("error", 2, {"kind": "internal", "message": "no room", "detail": ""}))
    assert not desk.assist.waiting and "no room" in desk.ui.assistLabel.text
    table.add("moving", (0, 12, 0))
    table.add("fixed", (0, 0, 10))
    assert desk.assist.waiting
    desk.onEvent(Event("crashed", 3, {"exit_code": 1, "detail": ""}))
    desk.panel.refresh()
    assert not desk.assist.waiting and len(desk.asked) == 3, "what failed is not asked again by itself"
    desk.state.assist = False
    desk.state.assist = True
    assert desk.assist.waiting and len(desk.asked) == 4


def test_deleted_in_a_view_is_rejected_and_a_dragged_click_is_asked_anew(desk):
    from DeepDiffRegPanel import selftest_bed

    table, state = desk.table(), desk.state
    table.add("fixed", (10, 0, 0))
    answer(desk, 1, (10, 0, 0), (12, 0, 0))
    selftest_bed.drag(state.fixedLandmarks, 0, (10, 5, 0))
    assert len(desk.asked) == 2 and np.allclose(desk.asked[1][0], [(10, 5, 0)]) and table.rows()[0].proposal is None
    answer(desk, 2, (10, 5, 0), (12, 5, 0))
    state.movingLandmarks.RemoveNthControlPoint(0)
    desk.panel.refresh()
    assert len(desk.asked) == 2 and table.unpaired() == [("F-1", "fixed")]
    table.add("moving", (12, 6, 0))
    assert [pair.label for pair in table.pairs()] == ["F-1"]


def test_ticking_accepts_deleting_rejects_and_undo_forgets_nothing(desk):
    import qt

    table, ui = desk.table(), desk.ui
    table.add("fixed", (10, 0, 0))
    answer(desk, 1, (10, 0, 0), (12, 0, 0), confidence=0.4)
    before = table.snapshot()
    ui.landmarksTable.item(0, 0).setCheckState(qt.Qt.Checked)
    assert [(pair.enabled, pair.sd_mm) for pair in table.pairs()] == [(True, 1.5)]
    table.restore(before)
    desk.assist.recall()
    desk.panel.refresh()
    assert table.pairs() == [] and not ui.rejectButton.isHidden()
    ui.landmarksTable.selectRow(0)
    ui.deletePairButton.click()
    assert table.unpaired() == [("F-1", "fixed")] and ui.rejectButton.isHidden()
    ui.landmarksTable.selectRow(0)
    ui.deletePairButton.click()
    assert table.rows() == []


def test_suggested_places_are_listed_and_accepted(desk):
    ui, table = desk.ui, desk.table()
    ui.suggestButton.click()
    assert desk.asked == [(5,)] and not ui.suggestButton.enabled
    rows = [{**GOOD, "fixed_mm": [-1.0 * n, -2.0, 3.0], "moving_mm": [-2.0 * n, -2.0, 3.0]} for n in (1, 2)]
    desk.onEvent(Event("suggestions", 1, {"step": 0, "suggestions": rows}))
    assert ui.suggestionsTable.rowCount == 2 and not ui.suggestionsTable.isHidden() and ui.suggestButton.enabled
    assert [ui.suggestionsTable.item(0, c).text() for c in range(3)] == ["1.0, 2.0, 3.0", "2.5", "80 %"]
    ui.suggestionsTable.selectRow(1)
    ui.suggestionsTable.cellWidget(1, 3).click()
    assert settle(lambda: len(table.pairs()) == 1)
    assert np.allclose(table.rows()[0].fixed_ras, (2, 2, 3)) and np.allclose(table.rows()[0].moving_ras, (4, 2, 3))
    assert ui.suggestionsTable.rowCount == 1 and len(desk.asked) == 1
    desk.onEvent(Event("suggestions", 1, {"step": 0, "suggestions": []}))
    assert ui.suggestionsTable.rowCount == 1, "an old answer"


def test_placing_waits_for_the_answer(desk):
    import slicer

    table, ui = desk.table(), desk.ui
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    ui.placeButton.setChecked(True)
    slicer.app.processEvents()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    interaction.SwitchToViewTransformMode()
    ui.placeButton.setChecked(True)
    table.add("fixed", (10, 0, 0))
    slicer.app.processEvents()
    assert desk.assist.waiting
    answer(desk, 1, (10, 0, 0), (12, 0, 0))
    assert settle(lambda: interaction.GetCurrentInteractionMode() == interaction.Place, 2)
    assert table.next_side() == "fixed"
    ui.placeButton.setChecked(False)
