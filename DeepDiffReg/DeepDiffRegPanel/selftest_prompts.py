"""Scenarios of the module's own test that steer a registration: landmarks, proposed partners, segments, stiffness (see ``selftest``)."""

import pathlib
import tempfile

import numpy as np
import slicer
from DeepDiffRegScene import overlays

from .prompts import PromptsSection
from .selftest_bed import (
    SPACING_MM,
    begin,
    chooseTissue,
    drag,
    killWorker,
    place,
    readOut,
    residual,
    run,
    runAndMark,
    segmentation,
    trueMap,
    waitFor,
)
from .state import CompareMode, Quality


def prompt(test, widget):
    """Landmarks, live update after a drag, residuals falling, undo, redo, A/B."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    runAndMark(test, widget, off=6.0)
    waitFor(test, lambda: ui.updateButton.enabled, "Update to be possible")
    ui.updateButton.click()
    waitFor(test, lambda: len(logic.history["steps"]) == 2 and logic.judged is not None, "the update")
    first = residual(widget)
    state.updateLive = True
    point = state.movingLandmarks.GetNthControlPointPositionWorld(0)
    drag(state.movingLandmarks, 0, np.array(point) + (3.0, 0.0, 0.0))
    dragged = residual(widget)
    test.assertGreater(dragged, first)
    waitFor(test, lambda: len(logic.history["steps"]) == 3 and not logic.busy, "the live update")
    test.assertLess(residual(widget), dragged)
    ui.undoButton.click()
    waitFor(test, lambda: logic.history["current"] == 1 and not logic.busy, "undo")
    test.assertTrue(np.allclose(state.movingLandmarks.GetNthControlPointPositionWorld(0), point, atol=1e-3))
    ui.redoButton.click()
    waitFor(test, lambda: logic.history["current"] == 2 and not logic.busy, "redo")
    shown = logic.history["current"]
    ui.compareStepsButton.click()
    waitFor(test, lambda: logic.history["current"] != shown and not logic.busy, "the other step")
    ui.compareStepsButton.click()
    waitFor(test, lambda: logic.history["current"] == shown and not logic.busy, "the step again")


def assist(test, widget):
    """Proposed partners wait for the user's word, places to look at are answered; a lost worker loses no points."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    run(test, widget)
    state.updateLive, state.assist = False, True
    widget.panel.section(PromptsSection).placing.ensureLists()
    table = widget.panel.landmarks()
    place(test, widget, (-14.0, 4.0, 6.0))
    row = table.rows()[0]
    test.assertLess(np.linalg.norm(trueMap(np.array([row.fixed_ras]))[0] - row.moving_ras), 2 * SPACING_MM)
    test.assertEqual(table.pairs(), [])
    test.assertIn("waiting for your word", ui.promptsSummaryLabel.text)
    test.assertIn("%", ui.landmarksTable.item(0, 3).text())
    test.assertFalse(ui.rejectButton.isHidden())
    ui.landmarksTable.cellWidget(0, 4).click()
    waitFor(test, lambda: len(table.pairs()) == 1, "the pair to be accepted")
    test.assertTrue(ui.rejectButton.isHidden())
    place(test, widget, (15.0, -6.0, -4.0))
    drag(state.movingLandmarks, 1, np.array(table.rows()[1].moving_ras) + (1.0, 0.0, 0.0))
    test.assertEqual([pair.sd_mm for pair in table.pairs()][1:], [1.0])
    place(test, widget, (2.0, 14.0, -12.0))
    ui.rejectButton.click()
    test.assertEqual(table.unpaired(), [("F-3", "fixed")])
    test.assertIn("rejected", ui.assistLabel.text)
    ui.suggestButton.click()
    test.assertIn("Looking", ui.assistLabel.text)
    waitFor(test, lambda: "place" in ui.assistLabel.text and ui.suggestButton.enabled, "the places where a pair helps")
    test.assertEqual(ui.suggestionsTable.isHidden(), "No place" in ui.assistLabel.text)
    waitFor(test, lambda: logic.judged is not None and not logic.workerBusy, "the worker")
    ui.updateButton.click()
    waitFor(test, lambda: len(logic.history["steps"]) == 2 and logic.judged is not None, "the update")
    test.assertEqual(logic.history["steps"][1]["prompts"]["landmarks"], 2)
    state.fixedLandmarks.RemoveNthControlPoint(2)
    table.add("fixed", (-20.0, -4.0, 10.0))
    killWorker(logic)
    waitFor(test, lambda: logic.workerState == "crashed", "the crash to be noticed")
    test.assertNotIn("Looking", ui.assistLabel.text)
    test.assertEqual(len(table.pairs()), 2)
    slicer.mrmlScene.Clear()
    test.assertEqual(ui.assistLabel.text, "")


def useSegments(test, widget):
    """Segments paired by name steer an update and get numbers of their own; a mask acts."""
    state, ui = begin(widget), widget.ui
    organ = np.array([-14.0, 4.0, 6.0])
    state.fixedSegmentation = segmentation(
        "fixed organs", lambda p: np.linalg.norm((trueMap(p) - organ) / (12, 10, 13), axis=1) < 1, state.fixedVolume
    )
    shift = np.array([6.0, -4.0, 8.0])
    state.movingSegmentation = segmentation(
        "moving organs", lambda p: np.linalg.norm((p + shift - organ) / (12, 10, 13), axis=1) < 1, state.movingVolume
    )
    state.movingSegmentation.SetAndObserveTransformNodeID(state.movingVolume.GetTransformNodeID())
    ui.pairByNameButton.click()
    test.assertEqual(len(state.labelPairs), 1)
    run(test, widget)
    test.assertEqual(ui.segmentsTable.rowCount, 1)
    test.assertIn("organ", ui.segmentsTable.item(0, 0).text())


def stiffen(test, widget):
    """A stiff segment of the moving scan acts with the preset for it; kernel widths are shown; the deformation plays."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    center, shift = np.array([-14.0, 4.0, 6.0]), np.array([6.0, -4.0, 8.0])
    state.movingSegmentation = segmentation(
        "moving organs", lambda p: np.linalg.norm((p + shift - center) / (12, 10, 13), axis=1) < 1, state.movingVolume
    )
    state.movingSegmentation.SetAndObserveTransformNodeID(state.movingVolume.GetTransformNodeID())
    ui.segmentsGroup.collapsed = False
    test.assertEqual(ui.stiffnessTable.rowCount, 1)
    chooseTissue(ui, 0, "stiff")
    test.assertFalse(ui.runButton.enabled)
    test.assertIn("stiff-bone", ui.stiffnessLabel.text)
    test.assertIn("stiff-bone", ui.runButton.toolTip)
    ui.stiffPresetButton.click()
    state.quality = Quality.DRAFT
    test.assertNotIn("preset", ui.stiffnessLabel.text)
    run(test, widget)
    waitFor(test, lambda: state.sigmaVolume is not None, "the kernel widths")
    widths = slicer.util.arrayFromVolume(state.sigmaVolume)
    test.assertGreater(widths.max(), 1.5 * widths.min())
    before = readOut(state.outputTransform)
    ui.sigmaLayerButton.click()
    ui.gridLayerButton.click()
    test.assertTrue(state.showSigma)
    playFilm(test, widget)
    test.assertTrue(np.array_equal(readOut(state.outputTransform), before))
    state.compareMode = CompareMode.SIDE_BY_SIDE
    slicer.app.processEvents()
    names, atStart = widget.panel.views.movingViewNames(), state.movingSigmaVolume.GetID()
    test.assertGreater(len(names), 0)
    for composite in overlays.composites(names=names):
        test.assertIsNotNone(overlays.layer_of(composite, atStart))
        test.assertIsNone(overlays.layer_of(composite, state.sigmaVolume.GetID()))
    state.compareMode = CompareMode.OFF
    ui.sigmaLayerButton.click()
    ui.gridLayerButton.click()
    with tempfile.TemporaryDirectory() as folder:
        state.exportFolder, state.exportFlow, state.exportReport = folder, True, False
        waitFor(test, lambda: ui.exportButton.enabled, "Export to be possible")
        ui.exportButton.click()
        wanted = ["momentum.nii.gz", "velocity_0.nii.gz", "sigma_0.nii.gz", "sigma_1.nii.gz", "weights_1.nii.gz"]
        waitFor(test, lambda: all((pathlib.Path(folder) / name).is_file() for name in wanted), "the files of the flow")
        waitFor(test, lambda: logic.workerState == "ready", "the worker to be done")


def playFilm(test, widget):
    """The slider shows every frame, none of it stays; the button plays from the beginning to the end."""
    ui, logic = widget.ui, widget.logic
    known = slicer.mrmlScene.GetNumberOfNodes()
    ui.timeSlider.value = 0.0
    waitFor(test, lambda: logic.way() is not None and logic.way().complete, "all frames")
    ends = []
    for time_ in (0.0, 0.5, 0.9):
        ui.timeSlider.value = time_
        slicer.app.processEvents()
        test.assertIn(f"{time_:.1f}", ui.timeLabel.text)
        test.assertIn("flow", ui.timeLabel.text)
        ends.append(readOut(slicer.util.getNode("DeepDiffReg on its way*")))
    ways = [np.linalg.norm(b - a, axis=1).max() for a, b in zip(ends, ends[1:])]
    test.assertGreater(min(ways), 0.05)
    ui.playButton.click()
    waitFor(test, lambda: ui.timeSlider.value == 1.0, "the film to end")
    test.assertEqual(ui.timeLabel.text, "")
    test.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), known)
