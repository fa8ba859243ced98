"""What DeepDiffRegTest does: the way of a user through the panel, on a small generated pair, offline.

Every scenario takes (test, widget): a unittest.TestCase for its assertions and the module's widget.
"""

import pathlib
import tempfile
import time

import numpy as np
import slicer
import vtk
from DeepDiffRegScene import overlays
from DeepDiffRegScene.landmarks import LandmarkTable

from .prompts import PromptsSection
from .state import CompareMode, Quality

SIZE = 28
SPACING_MM = 3.0
PATIENCE_S = 300.0  # long on purpose: a wait says what must come, benchmarks say how soon


def waitFor(test, condition, what):
    """Let the application work until ``condition`` holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            test.fail(f"waited {PATIENCE_S:g} s in vain for: {what}")
        slicer.app.processEvents()
        time.sleep(0.005)


def anatomy(x, y, z):
    """Soft ellipsoids with some texture, as a function of RAS positions in mm."""

    def organ(center, radii, value):
        r = sum(((p - c) / s) ** 2 for p, c, s in zip((x, y, z), center, radii))
        return value / (1 + np.exp(np.minimum(6 * (r - 1), 50)))

    body = organ((0, 0, 0), (38, 32, 36), 400)
    return (
        body * (1 + 0.1 * np.sin(x / 4) * np.cos(y / 5) * np.sin(z / 6))
        + organ((-14, 4, 6), (12, 10, 13), 500)
        + organ((15, -6, -4), (9, 12, 10), -300)
        + organ((2, 14, -12), (7, 6, 9), 700)
    )


def trueMap(points):
    """Where a point of the fixed scan lies in the moving one: a smooth bump and a shift, RAS mm, (N, 3)."""
    away = points - np.array([-10.0, 2.0, 4.0])
    bump = np.exp(-(away**2).sum(1) / (2 * 16.0**2))
    return points + np.array([2.0, -1.0, 1.5]) + bump[:, None] * np.array([5.0, 3.0, -2.0])


def makePair():
    """Fixed and moving volume nodes; the moving one lies under a parent transform of the user."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    k, j, i = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([i.ravel(), j.ravel(), k.ravel()], 1)
    matrix = np.diag([SPACING_MM] * 3 + [1.0])
    matrix[:3, 3] = axis[0]
    fixed = _volume("fixed", anatomy(*trueMap(points).T).reshape(k.shape), matrix)
    shift = np.eye(4)
    shift[:3, 3] = (6.0, -4.0, 8.0)
    moving = _volume("moving", anatomy(*points.T).reshape(k.shape), np.linalg.inv(shift) @ matrix)
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "table position")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
    moving.SetAndObserveTransformNodeID(parent.GetID())
    return fixed, moving


def _volume(name, array, ijkToRas):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    slicer.util.updateVolumeFromArray(node, array.astype(np.float32))
    node.CreateDefaultDisplayNodes()
    return node


def segmentation(name, organ, volume):
    """A segmentation node with one segment, where ``organ(points)`` is true on the grid of ``volume``."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    ids = node.GetSegmentation().AddEmptySegment("organ", "organ")
    array = slicer.util.arrayFromVolume(volume)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in array.shape), indexing="ij"), -1)[..., ::-1].reshape(-1, 3)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    affine = slicer.util.arrayFromVTKMatrix(matrix)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        organ(points).reshape(array.shape).astype(np.uint8), node, ids, volume
    )
    return node


def begin(widget):
    """Choose the generated pair and a quick preset."""
    fixed, moving = makePair()
    widget.initializeParameterNode()
    state = widget.panel.state
    state.preset, state.quality, state.device = "fast", Quality.PRESET, "cpu"
    state.fixedVolume, state.movingVolume = fixed, moving
    return state


def run(test, widget):
    """Press Run and wait for the judged result."""
    logic = widget.logic
    test.assertTrue(widget.ui.runButton.enabled, widget.ui.runButton.toolTip)
    widget.ui.runButton.click()
    waitFor(test, lambda: logic.judged is not None, "the judged result")
    waitFor(test, lambda: not logic.busy, "the end of the run")


def residual(widget):
    """Largest residual of the landmarks in mm, as the panel's table has it."""
    values = [row.residual_mm for row in widget.panel.landmarks().rows() if row.residual_mm is not None]
    return max(values)


def addLandmarks(state, off=0.0):
    """Three true pairs, their moving points ``off`` mm to the right of where they belong."""
    for name in ("fixedLandmarks", "movingLandmarks"):
        if getattr(state, name) is None:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            node.CreateDefaultDisplayNodes()
            setattr(state, name, node)
    table = LandmarkTable(state.fixedLandmarks, state.movingLandmarks)
    for point in np.array([[-14.0, 4.0, 6.0], [15.0, -6.0, -4.0], [2.0, 14.0, -12.0]]):
        table.add("fixed", point)
        table.add("moving", trueMap(point[None])[0] + (off, 0, 0))


def drag(node, index, ras):
    """What a drag in a view does to a control point."""
    node.SetNthControlPointPositionWorld(index, *(float(v) for v in ras))
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def correlation(a, b):
    """Of two volume nodes on the same grid."""
    return float(np.corrcoef(slicer.util.arrayFromVolume(a).ravel(), slicer.util.arrayFromVolume(b).ravel())[0, 1])


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


def prompt(test, widget):
    """Landmarks, live update after a drag, residuals falling, undo, redo, A/B."""
    state, ui, logic = begin(widget), widget.ui, widget.logic
    run(test, widget)
    state.updateLive = False
    addLandmarks(state, off=6.0)
    widget.panel.refresh()
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


def place(test, widget, ras):
    """Place a point in the fixed scan and wait for its proposed partner."""
    table = widget.panel.landmarks()
    label = table.add("fixed", ras)
    waitFor(
        test,
        lambda: any(row.label == label and row.proposal is not None for row in table.rows()),
        f"the proposed partner of {label} ({widget.ui.assistLabel.text})",
    )


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


def chooseTissue(ui, row, kind):
    """Choose the tissue of a segment."""
    combo = ui.stiffnessTable.cellWidget(row, 1)
    combo.setCurrentIndex(combo.findData(kind))


def readOut(transformNode):
    """Where a transform node takes some points."""
    points = np.array([[-14.0, 4.0, 6.0], [15.0, -6.0, -4.0], [2.0, 14.0, -12.0]])
    return np.array([transformNode.GetTransformFromParent().TransformDoublePoint(p) for p in points])


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
    run(test, widget)
    state.updateLive = False
    addLandmarks(state, off=4.0)
    widget.panel.refresh()
    before = residual(widget)
    killWorker(logic)
    waitFor(test, lambda: logic.workerState == "crashed", "the crash to be noticed")
    test.assertIsNotNone(state.outputTransform)
    ui.updateButton.click()
    waitFor(test, lambda: logic.judged is not None and not logic.busy, "the update by a new worker")
    test.assertLess(residual(widget), before)


def killWorker(logic):
    """End the worker as a crash would."""
    import os
    import signal

    os.kill(logic.workerPid, getattr(signal, "SIGKILL", signal.SIGTERM))


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
