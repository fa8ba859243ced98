"""Make the pictures of the README: the panel, and the four views with grid and Jacobian, on the generated anatomy.

python Testing/SlicerStandIn/screenshots.py --out Resources/Screenshots [--dark] [--size 96 80 64]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "SlicerStandIn"), str(ROOT / "DeepDiffReg")]
PANEL_WIDTH = 460
PATIENCE_S = 600


def darken(app) -> None:
    """A dark palette, like Slicer's dark theme."""
    from PySide6 import QtGui

    palette, role = QtGui.QPalette(), QtGui.QPalette.ColorRole
    colors = {
        role.Window: "#323232", role.WindowText: "#e6e6e6", role.Base: "#242424", role.AlternateBase: "#2c2c2c",
        role.Text: "#e6e6e6", role.Button: "#3c3c3c", role.ButtonText: "#e6e6e6", role.Highlight: "#2a82da",
        role.HighlightedText: "#ffffff", role.ToolTipBase: "#242424", role.ToolTipText: "#e6e6e6",
    }  # fmt: skip
    for key, value in colors.items():
        palette.setColor(key, QtGui.QColor(value))
    for key in (role.Text, role.ButtonText, role.WindowText):
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, key, QtGui.QColor("#808080"))
    app.setPalette(palette)


def wait(condition, what: str) -> None:
    """Let the application work until ``condition`` holds."""
    import slicer

    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        slicer.app.processEvents()
        time.sleep(0.01)


def load_anatomy(size):
    """Fixed and moving volume, their segmentations, and true landmark pairs as nodes."""
    import slicer
    from DeepDiffRegScene import convert

    from DeepDiffRegLib.data.phantoms import make_pair
    from DeepDiffRegLib.interactive.messages import Scan

    phantom = make_pair(0, size, deformation_mm=14.0)
    nodes = {}
    for role, image in (("fixed", phantom.pair.fixed), ("moving", phantom.pair.moving)):
        nodes[role] = convert.scan_to_volume(Scan(image.numpy(), image.geometry, "intensity", role), role)
        nodes[role].GetDisplayNode().SetAutoWindowLevel(False)
        nodes[role].GetDisplayNode().SetWindowLevelMinMax(0, 950)
    for role, image in (("fixed", phantom.fixed_labels), ("moving", phantom.moving_labels)):
        labels = convert.scan_to_volume(
            Scan(image.numpy().astype("int32"), image.geometry, "labels", role), f"{role} labels"
        )
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{role} organs")
        segmentation.CreateDefaultDisplayNodes()
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
        slicer.mrmlScene.RemoveNode(labels)
        segmentation.GetDisplayNode().SetVisibility(False)
        for number in range(segmentation.GetSegmentation().GetNumberOfSegments()):
            segment = segmentation.GetSegmentation().GetNthSegment(number)
            segment.SetName(phantom.label_names.get(segment.GetLabelValue(), segment.GetName()))
        nodes[f"{role} organs"] = segmentation
    return phantom, nodes


def add_landmarks(state, phantom, count: int) -> None:
    """The first true landmark pairs of the anatomy."""
    import slicer
    from DeepDiffRegScene import convert
    from DeepDiffRegScene.landmarks import LandmarkTable

    for name in ("fixedLandmarks", "movingLandmarks"):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        node.CreateDefaultDisplayNodes()
        setattr(state, name, node)
    table = LandmarkTable(state.fixedLandmarks, state.movingLandmarks)
    chosen = range(0, 3 * count, 3)
    for i in chosen:
        table.add("fixed", convert.ras(phantom.landmarks.fixed.positions_mm[i : i + 1])[0])
        table.add("moving", convert.ras(phantom.landmarks.moving.positions_mm[i : i + 1])[0])


def show_assist(widget, phantom) -> None:
    """A point whose partner is proposed."""
    from DeepDiffRegPanel.prompts import PromptsSection
    from DeepDiffRegScene import convert

    assist = widget.panel.section(PromptsSection).assist
    widget.panel.state.assist = True
    widget.panel.landmarks().add("fixed", convert.ras(phantom.landmarks.fixed.positions_mm[1:2])[0])
    wait(lambda: not assist.waiting, "the proposal")


def save(array_or_pixmap, path: Path) -> None:
    """Write a picture."""
    if hasattr(array_or_pixmap, "save"):
        array_or_pixmap.save(str(path))
    else:
        from PIL import Image

        Image.fromarray(array_or_pixmap).save(path)
    print(path)


def panel_picture(widget, path: Path, sections) -> None:
    """The panel at its usual width, with these sections open."""
    import slicer

    for name in (
        "inputsButton",
        "runSectionButton",
        "promptsButton",
        "resultsButton",
        "judgeButton",
        "applyButtonSection",
        "setupButton",
    ):
        getattr(widget.ui, name).collapsed = name not in sections
    parent = widget.parent
    slicer.util.mainWindow().showPanel(None)
    parent.show()
    height = 400
    for _ in range(60):
        parent.setFixedSize(PANEL_WIDTH, height)
        slicer.app.processEvents()
        time.sleep(0.01)
        height = max(parent.sizeHint().height(), 300)
    for _ in range(60):
        slicer.app.processEvents()
        time.sleep(0.01)
    save(parent.grab(), path)


def main() -> int:
    """Run the module on the anatomy and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dark", action="store_true", help="dark theme")
    parser.add_argument("--size", type=int, nargs=3, default=(96, 80, 64))
    parser.add_argument("--view", type=int, default=420, help="edge of a slice view in pixels")
    arguments = parser.parse_args()
    import slicer_standin

    standin = slicer_standin.install()
    arguments.out.mkdir(parents=True, exist_ok=True)
    suffix = "-dark" if arguments.dark else ""
    if arguments.dark:
        darken(standin.app)
    try:
        make_pictures(standin, arguments, suffix)
    finally:
        standin.reset()
        standin.uninstall()
    return 0


def make_pictures(standin, arguments, suffix: str) -> None:
    """Run, prompt, show the layers, take the pictures."""
    import slicer

    standin.load_module(ROOT / "DeepDiffReg" / "DeepDiffReg.py")
    widget = standin.select_module("DeepDiffReg")
    phantom, nodes = load_anatomy(tuple(arguments.size))
    widget.initializeParameterNode()
    state, ui, logic = widget.panel.state, widget.ui, widget.logic
    state.device, state.updateLive = "cpu", False
    state.fixedVolume, state.movingVolume = nodes["fixed"], nodes["moving"]
    slicer.util.setSliceViewerLayers(background=nodes["fixed"], fit=True)
    for name in ("Red", "Yellow", "Green"):
        standin.layout_manager.sliceWidget(name).sliceView().resize_view(arguments.view, arguments.view)
        standin.layout_manager.sliceWidget(name).fitSliceToBackground()
    standin.layout_manager.threeDWidget(0).threeDView().resize_view(arguments.view, arguments.view)
    wait(lambda: ui.runButton.enabled, "the Run button")
    ui.runButton.click()
    wait(lambda: ui.progressBar.value > 350, "a third of the run")
    panel_picture(widget, arguments.out / f"panel-run{suffix}.png", ("inputsButton", "runSectionButton"))
    wait(lambda: logic.judged is not None and not logic.busy, "the result")
    add_landmarks(state, phantom, 4)
    widget.panel.refresh()
    ui.updateButton.click()
    wait(lambda: len(logic.history["steps"]) == 2 and logic.judged is not None, "the update")
    panel_picture(widget, arguments.out / f"panel-prompts{suffix}.png", ("promptsButton", "judgeButton"))
    show_assist(widget, phantom)
    panel_picture(widget, arguments.out / f"panel-assist{suffix}.png", ("promptsButton",))
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetForegroundOpacity(1.0)
    for node in (state.fixedLandmarks, state.movingLandmarks):
        node.GetDisplayNode().SetVisibility(False)
    from DeepDiffRegPanel.state import Clip

    state.layerOpacity, state.clip = 0.4, Clip.BODY
    state.showGrid = True
    state.showJacobian = True
    state.layerSpacingMm = 10.0
    wait(lambda: True, "the layers")
    panel_picture(
        widget, arguments.out / f"panel-results{suffix}.png", ("resultsButton", "applyButtonSection", "setupButton")
    )
    save(standin.layout_manager.picture(), arguments.out / f"four-up{suffix}.png")


if __name__ == "__main__":
    raise SystemExit(main())
