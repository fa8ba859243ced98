"""The deformation as a film: a slider for the time of the map and a button that plays it."""

import qt
import slicer
from DeepDiffRegScene.animation import Animation
from DeepDiffRegWork.way import COUNT
from slicer.i18n import tr as _

from .state import CompareMode

TICK_MS = 160


class Film:
    """Slider, button and line of the section Results. At the end of the slider nothing is left of it in the scene."""

    def __init__(self, section):
        self.section, self.ui = section, section.ui
        self._animation = None
        self._shown = None
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._onTick)
        self.ui.timeSlider.connect("valueChanged(double)", self._onTime)
        self.ui.playButton.connect("clicked(bool)", self.onPlay)

    @property
    def maps(self):
        """What layers are drawn from while the film is not at its end, else None."""
        return self._animation.maps if self._animation is not None else None

    def refresh(self, reason):
        """Enable the controls, or say in one line why not."""
        for widget in (self.ui.timeSlider, self.ui.playButton):
            widget.setEnabled(not reason)
        self.ui.playButton.setStatusTip(reason)

    def onFrame(self):
        """A frame came: it may be nearer to the chosen time than the one that is shown."""
        if self.ui.timeSlider.value < 1.0:
            self._show()

    def onPlay(self, _checked=False):
        """From the beginning to the end, or stop."""
        if self._timer.isActive():
            self._stop()
            return
        if self.ui.timeSlider.value >= 1.0:
            self.ui.timeSlider.value = 0.0
        self.ui.playButton.setText(_("Stop"))
        self._timer.start()

    def end(self, redraw=False):
        """Back to the whole map, drawn at the next update or now; what the film had in the scene goes."""
        self._stop()
        blocked = self.ui.timeSlider.blockSignals(True)
        self.ui.timeSlider.value = 1.0
        self.ui.timeSlider.blockSignals(blocked)
        self._leave(redraw)

    def close(self):
        """For good."""
        self.end()
        self._timer.disconnect("timeout()")

    def _stop(self):
        self._timer.stop()
        self.ui.playButton.setText(_("Play"))

    def _onTick(self):
        """One frame further; a frame that is not there yet is waited for."""
        way, number = self._way(), round(self.ui.timeSlider.value * (COUNT - 1))
        if way is None or self.ui.timeSlider.value >= 1.0:
            self._stop()
        elif self._shown == number or way.complete:
            self.ui.timeSlider.value = min((number + 1) / (COUNT - 1), 1.0)

    def _onTime(self, value):
        if value >= 1.0:
            self._leave(redraw=True)
        else:
            self._show()

    def _way(self):
        return self.section.logic.way() if not slicer.mrmlScene.IsClosing() else None

    def _show(self):
        way = self._way()
        found = way.nearest(self.ui.timeSlider.value) if way is not None else None
        if found is None:
            self.ui.timeLabel.setText(_("The frames are being computed..."))
            return
        number, frame = found
        if number == self._shown:
            return
        self._shown = number
        registration = self.section.logic.registration
        first = self._animation is None
        if first:
            self._animation = Animation(registration.moving)
        self._animation.show(frame)
        if first and self.section.state.compareMode is CompareMode.OFF:
            self.section.panel.views.showPair(registration.fixed, self._animation.volume)
        text = _("t = {time:.1f} of the flow.") if way.flows else _("t = {time:.1f}: the displacement, scaled.")
        self.ui.timeLabel.setText(text.format(time=number / (COUNT - 1)))
        self.section.draw(self._animation.maps)

    def _leave(self, redraw):
        self.ui.timeLabel.setText("")
        if self._animation is None:
            return
        animation, self._animation, self._shown = self._animation, None, None
        registration = self.section.logic.registration
        if registration is not None and not slicer.mrmlScene.IsClosing():
            self.section.draw(registration.mapNodes, redraw)
            warped = registration.outputs.warped
            if (
                self.section.state is not None
                and self.section.state.compareMode is CompareMode.OFF
                and warped is not None
            ):
                self.section.panel.views.showPair(registration.fixed, warped)
        animation.end()
