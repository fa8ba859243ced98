"""Apply and export: warped copies of other nodes, files for other programs."""

import pathlib

import slicer
from DeepDiffRegScene import apply, export
from slicer.i18n import tr as _

from . import base
from .state import Direction

FILES = (
    ("exportTransform", "transform", "transform", "transform.h5"),
    ("exportInverse", "inverse", "inverse", "inverse.h5"),
    ("exportDisplacement", "displacement", "transform", "displacement.nii.gz"),
    ("exportJacobian", "jacobian", "jacobian", "jacobian.nii.gz"),
)
"""Tick, what the worker calls it, output node, file name. The worker writes the whole map. Without it (in a reopened scene) the
nodes are written, which of a large map hold every second voxel."""
REPORT, FLOW, FEATURES = ("report", "result"), ("flow",), ("features",)


class ExportSection(base.Section):
    def setup(self):
        self.ui.applyNodesButton.connect("clicked(bool)", self.onApply)
        self._say("")
        self.ui.exportButton.connect("clicked(bool)", self.onExport)
        self.ui.exportFolderEdit.connect("currentPathChanged(QString)", self._onFolder)
        self.ui.applyNodesSelector.connect("checkedNodesChanged()", self.refresh)

    def refresh(self):
        if self.state is not None and self.ui.exportFolderEdit.currentPath != self.state.exportFolder:
            self.ui.exportFolderEdit.setCurrentPath(self.state.exportFolder)
        hasMap = self.logic.hasMap
        nodes = self.ui.applyNodesSelector.checkedNodes() if self.state is not None else []
        reason = "" if hasMap else _("Run first: there is no map yet.")
        self._enable(self.ui.applyNodesButton, reason or ("" if nodes else _("Tick the nodes to apply the map to.")))
        if not reason and self.logic.phase in ("running", "judging", "cancelling"):
            reason = _("Wait: the map is still being made and measured.")
        self._enable(self.ui.exportButton, reason or ("" if self._folder() else _("Choose a folder.")))

    def onEvent(self, event):
        if event.kind == "saved":
            names = ", ".join(sorted(pathlib.Path(path).name for path in event.data["paths"].values()))
            self._say(_("Written: {names}.").format(names=names))

    def onApply(self, _checked=False):
        """Warped copies of the ticked nodes, beside the originals' study."""
        state, registration = self.state, self.logic.registration
        with slicer.util.tryWithErrorDisplay(_("The map could not be applied."), waitCursor=True):
            backward = state.applyDirection is Direction.FIXED_TO_MOVING
            reference = registration.moving if backward else registration.fixed
            nodes = self.ui.applyNodesSelector.checkedNodes()
            made = apply.apply_to(nodes, registration.outputs.transform, inverse=backward, reference=reference)
            base.showStatus(_("Made {names}.").format(names=", ".join(node.GetName() for node in made)))

    def onExport(self, _checked=False):
        """Write the ticked files: by the worker, or without it from the scene."""
        state, registration = self.state, self.logic.registration
        with slicer.util.tryWithErrorDisplay(_("The files could not be written."), waitCursor=True):
            folder = self._folder()
            folder.mkdir(parents=True, exist_ok=True)
            ticked = [row for row in FILES if getattr(state, row[0])]
            what = [row[1] for row in ticked]
            for on, names in ((state.exportFlow, FLOW), (state.exportReport, REPORT), (state.exportFeatures, FEATURES)):
                what += names if on else ()
            if what and self.logic.save(folder, what):
                self._say(_("Writing ..."))
                return
            written = []
            for _tick, _what, output, name in ticked:
                node = getattr(registration.outputs, output)
                if node is not None:
                    self._write(output, node, registration, folder / name)
                    written.append(name)
            self._say(_("Written from the scene: {names}.").format(names=", ".join(written)) if written else "")
            if state.exportReport or state.exportFlow or state.exportFeatures:
                self._say(
                    _("Report, flow and features need the worker's memory of the run: press Update or Run once."),
                    add=True,
                )

    def _write(self, output, node, registration, path):
        if output == "inverse":
            export.write_inverse(registration.mapNodes, path)
        elif output == "jacobian":
            export.write_volume(node, path)
        else:
            export.write_transform(node, path)

    def _onFolder(self, path):
        if self.state is not None and self.state.exportFolder != path:
            self.state.exportFolder = path

    def _folder(self):
        path = self.state.exportFolder if self.state is not None else ""
        return pathlib.Path(path) if path else None

    def _enable(self, button, reason):
        button.setEnabled(not reason)
        button.setToolTip(reason)

    def _say(self, text, add=False):
        label = self.ui.exportLabel
        label.setText(" ".join(filter(None, (label.text, text))) if add else text)
        label.setVisible(bool(label.text))
