"""What DeepDiffRegTest does: the way of a user through the panel, on a small generated pair, offline.

Every scenario takes (test, widget): a unittest.TestCase for its assertions and the module's widget.
"""

import pathlib
import tempfile

import numpy as np
import slicer

from .selftest_bed import (
    addLandmarks,
    begin,
    correlation,
    killWorker,
    makePair,
    residual,
    run,
    runAndMark,
    trueMap,
    waitFor,
)
from .selftest_prompts import assist, prompt, stiffen, useSegments
from .state import CompareMode, Quality


def runAndLook(test, widget):
    """Run, progress, curve, output nodes; every layer and comparison; the user's nodes stay as they were."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    parent, before = state.movingVolume.GetTransformNodeID(), slicer.util.arrayFromVolume(state.movingVolume).copy()
    run(test, widget)
    test.assertGreater(len(logic.curve), 10)
    test.assertEqual(ui.progressBar.value, ui.progressBar.maximum)
    test.assertIsNotNone(state.outputTransform)
    test.assertGreater(correlation(state.fixedVolume, state.outputVolume), 0.97)
    test.assertEqual(state.movingVolume.GetTransformNodeID(), parent)
    test.assertTrue((slicer.util.arrayFromVolume(state.movingVolume) == before).all())
    test.assertGreater(ui.findingsTable.rowCount, 3)
    for name in ("grid", "glyphs", "magnitude", "jacobian"):
        button = getattr(ui, f"{name}LayerButton")
        test.assertTrue(button.enabled, name)
        for _turn in range(2):
            button.click()
            slicer.app.processEvents()
    ui.timeSlider.value = 0.5
    waitFor(test, lambda: "0.5" in ui.timeLabel.text, "the map on its way")
    test.assertIn("scaled", ui.timeLabel.text)
    ui.timeSlider.value = 1.0
    for mode in CompareMode:
        state.compareMode = mode
        slicer.app.processEvents()
    state.compareMode = CompareMode.OFF
    ui.worstPlaceButton.click()


def cancelAndClose(test, widget):
    """Cancel, delete an input in mid-run, close the scene in mid-run: nothing is left over."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    state.quality = Quality.THOROUGH
    ui.runButton.click()
    waitFor(test, lambda: len(logic.curve) > 0, "the first iterations")
    ui.runButton.click()
    waitFor(test, lambda: not logic.busy, "the cancel")
    ui.runButton.click()
    waitFor(test, lambda: logic.busy and len(logic.curve) > 0, "the second run")
    slicer.mrmlScene.RemoveNode(state.movingVolume)
    waitFor(test, lambda: logic.workerState == "ready", "the worker to stop")
    test.assertFalse(ui.runButton.enabled)
    slicer.mrmlScene.Clear()
    state = begin(widget)
    ui.runButton.click()
    waitFor(test, lambda: logic.busy and len(logic.curve) > 0, "the third run")
    slicer.mrmlScene.Clear()
    waitFor(test, lambda: logic.workerState == "ready", "the worker to stop")
    test.assertFalse(logic.hasMap)


def recover(test, widget):
    """The worker is killed; the map stays, and an update goes on from it with a new worker."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    runAndMark(test, widget, off=4.0)
    before = residual(widget)
    killWorker(logic)
    waitFor(test, lambda: logic.workerState == "crashed", "the crash to be noticed")
    test.assertIsNotNone(state.outputTransform)
    ui.updateButton.click()
    waitFor(test, lambda: logic.judged is not None and not logic.busy, "the update by a new worker")
    test.assertLess(residual(widget), before)


def applyAndExport(test, widget):
    """Warped copies of other nodes, originals untouched; files."""
    state, ui = begin(widget), widget.ui
    run(test, widget)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points in the moving scan")
    target = np.array([[-14.0, 4.0, 6.0]])
    points.AddControlPointWorld(*(float(v) for v in trueMap(target)[0]))
    ui.applyNodesSelector.setCheckState(points, 2)
    ui.applyNodesSelector.setCheckState(state.movingVolume, 2)
    widget.panel.refresh()
    known = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")}
    ui.applyNodesButton.click()
    made = [n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") if n.GetID() not in known]
    test.assertEqual(len(made), 1)
    test.assertLess(np.linalg.norm(np.array(made[0].GetNthControlPointPositionWorld(0)) - target), 3.0)
    with tempfile.TemporaryDirectory() as folder:
        state.exportFolder = folder
        state.exportDisplacement = state.exportJacobian = True
        waitFor(test, lambda: ui.exportButton.enabled, "Export to be possible")
        ui.exportButton.click()
        wanted = ["transform.h5", "inverse.h5", "displacement.nii.gz", "jacobian.nii.gz", "report.html"]
        waitFor(test, lambda: all((pathlib.Path(folder) / name).is_file() for name in wanted), "the files")


def saveAndReopen(test, widget):
    """A saved scene brings back inputs, prompts and map; an update continues from it."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    run(test, widget)
    state.updateLive = False
    addLandmarks(state, off=4.0)
    state.preset, state.layerSpacingMm = "fast", 9.0
    before, found = residual(widget), logic.judged["findings"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "scene.mrb")
        test.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        slicer.util.loadScene(path)
    state = widget.panel.state
    test.assertEqual(state.layerSpacingMm, 9.0)
    test.assertEqual(state.fixedVolume.GetName(), "fixed")
    test.assertTrue(logic.hasMap)
    test.assertEqual(logic.judged["findings"], found)
    test.assertGreater(ui.findingsTable.rowCount, 0)
    test.assertLess(abs(residual(widget) - before), 0.1)
    ui.updateButton.click()
    waitFor(test, lambda: logic.judged is not None and not logic.busy, "the update of the reopened scene")
    test.assertLess(residual(widget), before)


def script(test, widget):
    """The logic from a script, without the panel."""
    fixed, moving = makePair()
    seen = []
    result = widget.logic.register(
        fixed, moving, preset="fast", device="cpu", progress=lambda stage, fraction, left: seen.append(fraction)
    )
    test.assertGreater(correlation(fixed, result.warped), 0.97)
    test.assertIsNotNone(result.record)
    test.assertGreater(max(seen), 0.5)


SCENARIOS = {
    "run and look": runAndLook,
    "prompt": prompt,
    "assist": assist,
    "use segments": useSegments,
    "stiffen": stiffen,
    "cancel and close": cancelAndClose,
    "recover": recover,
    "apply and export": applyAndExport,
    "save and reopen": saveAndReopen,
    "script": script,
}
