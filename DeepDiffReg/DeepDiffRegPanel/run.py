"""Run: one button, progress with the seconds that are left, the convergence curve, the live preview."""

import slicer
from slicer.i18n import tr as _

from . import base, curve

REDRAW_TICKS = 5
"""Timer ticks between two drawings of the curve."""


class RunSection(base.Section):
    def setup(self):
        self._ticks = 0
        self._drawn = None
        self._previewShown = False
        self._text = ""
        self.ui.runButton.connect("clicked(bool)", self.onRunButton)
        self.ui.progressBar.setFormat("")

    def onRunButton(self, _checked=False):
        """Run, or cancel what runs."""
        if self.logic.busy:
            self.logic.cancel()
            self.refresh()
            return
        with slicer.util.tryWithErrorDisplay(_("The registration could not be started."), waitCursor=True):
            self._begin(_("Sending the scans..."))
            self.panel.remember()
            self.logic.startFromState(self.state)
        self.panel.refresh()

    def refresh(self):
        button, phase = self.ui.runButton, self.logic.phase
        if phase == "cancelling":
            text, reason = _("Cancelling..."), _("The worker finishes its step.")
        elif phase == "running":
            text, reason = _("Cancel"), ""
        else:
            text = _("Run")
            reason = self.logic.reasonNotToRun(self.state) if self.state is not None else _("The scene is closing.")
        button.setText(text)
        button.setEnabled(not reason)
        button.setToolTip(reason or self._tip(phase))
        if self.logic.registration is not None and self.state is not None:
            self.logic.registration.livePreview = self.state.livePreview

    def bind(self):
        self._text = ""
        self._show("", 0.0)
        curve.paint(self.ui.curveLabel, [])
        self.refresh()

    def tick(self):
        self._ticks += 1
        if self._ticks % REDRAW_TICKS == 0:
            points = self.logic.curve
            mark = (len(points), self.ui.curveLabel.width)
            if mark != self._drawn:
                self._drawn = mark
                curve.paint(self.ui.curveLabel, points)

    def onEvent(self, event):
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event.data)
        if event.kind != "progress":
            self.panel.refresh()

    def started(self):
        """Another section has given the worker something to do."""
        self._begin(_("Updating..."))
        self.panel.refresh()

    def _begin(self, text):
        self._text = ""
        self._previewShown = False
        self._show(text, 0.0)

    def _tip(self, phase):
        return _("Stop and keep the map reached so far.") if phase == "running" else _("Register moving to fixed.")

    def _show(self, text, fraction=None):
        self.ui.statusLabel.setText(text)
        if fraction is not None:
            self.ui.progressBar.setValue(int(1000 * fraction))

    def _on_ready(self, data):
        cards = ", ".join(device.get("label") or device["name"] for device in data["devices"])
        if not self.logic.busy:
            self._show(_("The worker is ready: {devices}.").format(devices=cards))

    def _on_loaded(self, data):
        text = _("Needs about {gb:.1f} GB of memory; {free:.1f} GB are free.").format(
            gb=data["estimated_gb"], free=data["free_gb"]
        )
        self._text = " ".join(filter(None, (text, data["plan_message"])))
        self._show(self._text)

    def _on_progress(self, data):
        parts = [data["stage"]]
        if data["levels"] > 1:
            parts.append(_("level {level} of {levels}").format(level=data["level"] + 1, levels=data["levels"]))
        if data["iterations"]:
            parts.append(_("iteration {i} of {n}").format(i=data["iteration"] + 1, n=data["iterations"]))
        if data["seconds_left"] is not None:
            parts.append(_("{seconds:.0f} s left").format(seconds=data["seconds_left"]))
        self._show(", ".join(parts), data["fraction"])

    def _on_preview(self, _data):
        registration = self.logic.registration
        if registration is None or registration.previewVolume is None or self._previewShown:
            return
        self._previewShown = True
        self.panel.views.showPair(registration.fixed, registration.previewVolume)

    def _on_map(self, data):
        text = _("Map {step} of {steps}: {message}. Measuring its quality...").format(
            step=data["step"] + 1, steps=data["steps"], message=data["message"] or data["status"].replace("_", " ")
        )
        self._show(text, 1.0)

    def _on_judged(self, data):
        self._show(_("Done. Verdict: {verdict}.").format(verdict=data["verdict"]), 1.0)
        registration = self.logic.registration
        if registration is not None and registration.outputs.warped is not None:
            self.panel.views.showPair(registration.fixed, registration.outputs.warped)

    def _on_cancelled(self, data):
        kept = _("Cancelled; the map reached so far is kept.") if data["kept"] else _("Cancelled; nothing was changed.")
        self._show(kept, 0.0)
        self.panel.views.restore()

    def _on_error(self, data):
        self._show(_("Not done: {message}").format(message=data["message"]), 0.0)

    def _on_refused(self, data):
        self._show(_("The worker refused: {message}").format(message=data["message"]), 0.0)

    def _on_crashed(self, data):
        text = _(
            "The worker ended unexpectedly (exit code {code}). The last map is kept; Run or Update starts a new one."
        )
        self._show(text.format(code=data["exit_code"]), 0.0)
