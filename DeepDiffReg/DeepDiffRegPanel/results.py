"""Results: layers over the views, comparison of fixed and warped scan, second cursor, readout at the mouse."""

import qt
import slicer
from DeepDiffRegScene import compare, cursor, layers, readout
from slicer.i18n import tr as _

from . import base, legend
from .features import Features
from .film import Film
from .state import Clip, CompareMode, UncertaintyOf

LAYERS = (
    ("grid", "showGrid"),
    ("glyphs", "showGlyphs"),
    ("magnitude", "showMagnitude"),
    ("jacobian", "showJacobian"),
    ("folds", "showFolds"),
    ("sigma", "showSigma"),
    ("uncertainty", "showUncertainty"),
    ("features", "showFeatures"),
)
OF_THE_WHOLE = ("jacobian", "folds", "sigma", "uncertainty", "features")
"""Layers made of volumes that belong to the end of the way."""
BLINK_MS = 600
COMPARED = (CompareMode.FADE, CompareMode.CHECKERBOARD, CompareMode.BLINK)


class ResultsSection(base.Section):
    def setup(self):
        self._set = self._compare = self._cursor = None
        self._of = None
        self._shown = {}
        self._legendWidth = 0
        self._comparing = None
        self._segments = (None, "")
        self._blink = qt.QTimer()
        self._blink.setInterval(BLINK_MS)
        self._blink.connect("timeout()", self._onBlink)
        self.film = Film(self)
        self.features = Features(self)
        selector = self.ui.clipSegmentSelector
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._onClipSegment)
        selector.connect("currentSegmentChanged(QString)", self._onClipSegment)
        for selector, kind in (
            (self.ui.outputTransformSelector, "vtkMRMLTransformNode"),
            (self.ui.outputVolumeSelector, "vtkMRMLScalarVolumeNode"),
        ):
            selector.addAttribute(kind, layers.OUTPUT_ATTRIBUTE)

    # State and events

    def bind(self):
        self._forget()
        self.features.forget()
        self._observeMouse()
        self.refresh()

    def refresh(self):
        state, registration = self.state, self.logic.registration
        transform = registration.outputs.transform if registration is not None else None
        if state is None or transform is None:
            self._forget()
        elif self._of is not transform:
            self._forget()
            self._of = transform
            self._set = layers.LayerSet(registration.mapNodes, registration.fixed)
        self._refreshWidgets()
        if self._of is not None:
            # First the layout: some layers differ between views of the fixed and of the moving scan.
            self._showComparison()
            self.features.ask()
            self._showLayers()
            self._showCursor()

    def draw(self, maps, now=True):
        """Draw the layers from these nodes, those of the film or the result's again; ``now``, or at the next update."""
        if self._set is not None:
            self._set.maps = maps
        if self._set is not None and now:
            self._showLayers()
            self._set.update()
            self._drawLegend()

    def onEvent(self, event):
        self.features.onEvent(event)
        if event.kind == "frame":
            self.film.onFrame()
        if event.kind in ("map", "error", "crashed"):
            self.film.end(redraw=event.kind != "map")
        if event.kind in ("map", "judged") and self._set is not None:
            if event.kind == "judged":
                self._shown = {}
            self._showLayers()
            self._set.update()
            self._drawLegend()
        if event.kind == "judged":
            self._comparing = None
            self.refresh()
        if event.kind in ("sigma", "uncertainty", "features"):
            self._shown.pop(event.kind, None)
            self.refresh()

    def tick(self):
        """The panel may have been made wider."""
        if self._set is not None and self.ui.legendLabel.width != self._legendWidth:
            self._drawLegend()

    def close(self):
        self._forget()
        self.film.close()
        self._blink.disconnect("timeout()")
        base.Section.close(self)

    # Layers

    def _showLayers(self):
        state, outputs = self.state, self.logic.registration.outputs
        options = {
            "grid": self._lines(),
            "glyphs": self._lines(),
            "magnitude": {"opacity": state.layerOpacity, "part": self._lines()["part"]},
            "jacobian": {"opacity": state.layerOpacity, "volume": outputs.jacobian},
            "folds": {"volume": outputs.folds},
            "uncertainty": {"opacity": state.layerOpacity, "volume": getattr(outputs, state.uncertaintyOf.value)},
            "sigma": self._widths(outputs),
            "features": {"opacity": state.layerOpacity, "volume": self.features.volume},
        }
        missing = set(OF_THE_WHOLE) if self.film.maps is not None else set()
        if outputs.sigma is None:
            missing.add("sigma")
        for name, parameter in LAYERS:
            wanted = (getattr(state, parameter) and name not in missing, options[name])
            if self._shown.get(name) == wanted:
                continue
            visible, chosen = wanted
            if visible:
                self._set[name].set(**chosen)
            if visible or self._shown.get(name, (False,))[0]:
                self._set[name].show(visible)
            self._shown[name] = wanted
        self._drawLegend()

    def _widths(self, outputs):
        return {
            "opacity": self.state.layerOpacity,
            "volume": outputs.sigma,
            "moving_volume": outputs.movingSigma,
            "moving_views": tuple(self.panel.views.movingViewNames()),
        }

    def _lines(self):
        state = self.state
        region = None
        if state.clip is Clip.BODY:
            region = "body"
        elif state.clip is Clip.SEGMENT and state.clipSegmentation is not None and state.clipSegment:
            region = (state.clipSegmentation, state.clipSegment)
        return {
            "direction": state.gridDirection.value,
            "spacing_mm": state.layerSpacingMm,
            "region": region,
            "part": "deformable" if state.deformableOnly else "whole",
        }

    def _drawLegend(self):
        shown = [self._set[name].legend for name, parameter in LAYERS if getattr(self.state, parameter)]
        self._legendWidth = self.ui.legendLabel.width
        legend.paint(self.ui.legendLabel, [entry for entry in shown if entry is not None])

    # Comparison, cursor, readout

    def _showComparison(self):
        state, outputs = self.state, self.logic.registration.outputs
        wanted = (state.compareMode, state.fade, state.checkers)
        if outputs.warped is None or wanted == self._comparing:
            return
        before = self._comparing[0] if self._comparing else CompareMode.OFF
        self._comparing = wanted
        mode = state.compareMode
        if mode is not before:
            self._endComparison()
        if mode is CompareMode.SIDE_BY_SIDE:
            self.sideBySide()
        elif mode in COMPARED:
            if self._compare is None:
                self._compare = compare.Compare(self.logic.registration.fixed, outputs.warped)
            if mode is CompareMode.FADE:
                self._compare.fade(state.fade)
            elif mode is CompareMode.CHECKERBOARD:
                self._compare.checkerboard(state.checkers)
            else:
                self._blink.start()

    def sideBySide(self):
        """The fixed and the undeformed moving scan beside each other, the warped one between them when there is one."""
        registration, state = self.logic.registration, self.state
        warped = registration.outputs.warped if registration is not None else None
        self.panel.views.sideBySide(state.fixedVolume, warped, state.movingVolume)

    def _endComparison(self):
        self._blink.stop()
        if self._compare is not None:
            self._compare.stop()
            self._compare = None
        self.panel.views.back()

    def _onBlink(self):
        if self._compare is not None and not slicer.mrmlScene.IsClosing():
            self._compare.blink()

    def _showCursor(self):
        if self.state.secondCursor == (self._cursor is not None):
            return
        if self._cursor is not None:
            self._cursor.stop()
            self._cursor = None
        else:
            self._cursor = cursor.SecondCursor(self._of, self.panel.views.movingViewNames())
            self._cursor.start()

    def _observeMouse(self):
        self.removeObservers()
        if self.state is None:
            return
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
            self.addObserver(crosshair, event, self._onMouse)

    def _onMouse(self, crosshair, _event):
        if self._of is None or self._of.GetScene() is None:
            return
        ras = [0.0, 0.0, 0.0]
        inside = crosshair.GetCursorPositionRAS(ras)
        text = _("Point at the fixed scan to read the displacement.")
        if inside:
            text = readout.readout(self._of, ras).text
        self.ui.readoutLabel.setText(text)

    # Widgets

    def _refreshWidgets(self):
        ui, state = self.ui, self.state
        ready = state is not None and self._of is not None
        outputs = self.logic.registration.outputs if ready else None
        reason = "" if ready else _("Run first: there is no map yet.")
        without = {
            "folds": _("Nothing is folded."),
            "sigma": _("The kernel is the same everywhere in this map."),
            "jacobian": "",
        }
        for name in ("grid", "glyphs", "magnitude", *without):
            button = getattr(ui, f"{name}LayerButton")
            missing = ready and name in without and getattr(outputs, name) is None
            button.setEnabled(ready and not missing)
            button.setStatusTip(reason or (without[name] if missing else ""))
        self.features.refresh(reason)
        self.film.refresh(reason or (_("Wait for the end of the run.") if self.logic.busy else ""))
        known = [getattr(outputs, which.value) is not None for which in UncertaintyOf] if ready else [False]
        chosen = ready and getattr(outputs, state.uncertaintyOf.value) is not None
        ui.uncertaintyLayerButton.setEnabled(any(known))
        ui.uncertaintyCombo.setEnabled(any(known))
        unknown = _("Only a network that predicts its variance (voxelmorph-diff) says how sure it is.")
        absent = _(
            "This map is missing: labels need segments of the moving scan, the prior a model card that names it."
        )
        ui.uncertaintyLayerButton.setStatusTip(reason or (unknown if not any(known) else "" if chosen else absent))
        mode = state.compareMode if state is not None else CompareMode.OFF
        for widget, shown in (
            (ui.fadeSlider, mode is CompareMode.FADE),
            (ui.fadeSliderLabel, mode is CompareMode.FADE),
            (ui.checkersSpinBox, mode is CompareMode.CHECKERBOARD),
            (ui.checkersSpinBoxLabel, mode is CompareMode.CHECKERBOARD),
            (ui.clipSegmentSelector, state is not None and state.clip is Clip.SEGMENT),
            (ui.clipSegmentSelectorLabel, state is not None and state.clip is Clip.SEGMENT),
        ):
            widget.setVisible(shown)
        if state is not None:
            self._refreshSegment(state)

    def _refreshSegment(self, state):
        wanted = (state.clipSegmentation, state.clipSegment)
        if wanted == self._segments:
            return
        self._segments = wanted
        selector = self.ui.clipSegmentSelector
        blocked = selector.blockSignals(True)
        selector.setCurrentNode(state.clipSegmentation)
        if state.clipSegment:
            selector.setCurrentSegmentID(state.clipSegment)
        selector.blockSignals(blocked)

    def _onClipSegment(self, _changed=None):
        if self.state is None:
            return
        selector = self.ui.clipSegmentSelector
        node = selector.currentNode()
        self._segments = (node, selector.currentSegmentID() or "")
        with slicer.util.NodeModify(self.state):
            self.state.clipSegmentation = node
            self.state.clipSegment = self._segments[1]

    def _forget(self):
        self.film.end()
        if self._cursor is not None:
            self._cursor.stop()
        self._endComparison()
        if self._set is not None:
            self._set.close()
        self._set = self._cursor = self._of = self._comparing = None
        self._shown = {}
        legend.paint(self.ui.legendLabel, [])
