"""What the module's own test stands on: a small generated pair with a known map, and what a user does with hands and eyes."""

import time

import numpy as np
import slicer
import vtk
from DeepDiffRegScene.landmarks import LandmarkTable

from .state import Quality

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


def runAndMark(test, widget, off):
    """A judged run, then landmarks ``off`` mm away that wait for Update."""
    run(test, widget)
    widget.panel.state.updateLive = False
    addLandmarks(widget.panel.state, off)
    widget.panel.refresh()


def place(test, widget, ras):
    """Place a point in the fixed scan and wait for its proposed partner."""
    table = widget.panel.landmarks()
    label = table.add("fixed", ras)
    waitFor(
        test,
        lambda: any(row.label == label and row.proposal is not None for row in table.rows()),
        f"the proposed partner of {label} ({widget.ui.assistLabel.text})",
    )


def drag(node, index, ras):
    """What a drag in a view does to a control point."""
    node.SetNthControlPointPositionWorld(index, *(float(v) for v in ras))
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def correlation(a, b):
    """Of two volume nodes on the same grid."""
    return float(np.corrcoef(slicer.util.arrayFromVolume(a).ravel(), slicer.util.arrayFromVolume(b).ravel())[0, 1])


def chooseTissue(ui, row, kind):
    """Choose the tissue of a segment."""
    combo = ui.stiffnessTable.cellWidget(row, 1)
    combo.setCurrentIndex(combo.findData(kind))


def readOut(transformNode):
    """Where a transform node takes some points."""
    points = np.array([[-14.0, 4.0, 6.0], [15.0, -6.0, -4.0], [2.0, 14.0, -12.0]])
    return np.array([transformNode.GetTransformFromParent().TransformDoublePoint(p) for p in points])


def killWorker(logic):
    """End the worker as a crash would."""
    import os
    import signal

    os.kill(logic.workerPid, getattr(signal, "SIGKILL", signal.SIGTERM))
