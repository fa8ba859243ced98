"""Placing pairs: points alternate between the fixed and the moving scan until the button is released."""

import qt
import slicer
from DeepDiffRegScene.landmarks import LandmarkTable
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from . import base


class Placing(VTKObservationMixin):
    """Switches Slicer's place mode on for the list whose turn it is."""

    def __init__(self, section):
        VTKObservationMixin.__init__(self)
        self.section = section
        self.button = section.ui.placeButton
        self.button.connect("toggled(bool)", self.onToggled)
        self._next = qt.QTimer()
        self._next.setSingleShot(True)
        self._next.setInterval(0)
        self._next.connect("timeout()", self._arm)
        self._awaited = None

    def onToggled(self, on):
        """Start or stop placing."""
        if not on:
            self._stop()
            return
        self.ensureLists()
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if interaction is not None and not self.Observations:
            self.addObserver(interaction, interaction.InteractionModeChangedEvent, self._onModeChanged)
        self.section.panel.sideBySide()
        self._arm()

    def onPlaced(self, node):
        """A point got its position: name it, and ask for its partner."""
        if self._awaited is None:
            return
        state = self.section.state
        side = "fixed" if node is state.fixedLandmarks else "moving"
        table = LandmarkTable(state.fixedLandmarks, state.movingLandmarks)
        table.adopt(side, node.GetNumberOfControlPoints() - 1)
        self._awaited = None
        # The markups logic leaves place mode after this event; the next point is asked for when it has.
        self._next.start()
        if not table.unpaired():
            self.section.changed()

    def _onModeChanged(self, interaction, _event):
        """The user has left place mode in another way (right click, another tool)."""
        if self._awaited is not None and interaction.GetCurrentInteractionMode() != interaction.Place:
            self._awaited = None
            self.button.setChecked(False)

    def goOn(self):
        """Ask for the next point: the partner of the last one has been found, or has to be placed by hand."""
        if self.button.checked:
            self._next.start()

    def close(self):
        """Leave place mode."""
        self._next.stop()
        self._next.disconnect("timeout()")
        self._stop()
        self.removeObservers()

    def _arm(self):
        state = self.section.state
        if state is None or not self.button.checked or self.section.assist.waiting:
            return
        table = LandmarkTable(state.fixedLandmarks, state.movingLandmarks)
        side = table.next_side()
        node = state.fixedLandmarks if side == "fixed" else state.movingLandmarks
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(node)
        logic.StartPlaceMode(False)
        self._awaited = side
        text = (
            _("Click the point in the fixed scan.")
            if side == "fixed"
            else _("Click the same point in the moving scan.")
        )
        base.showStatus(text)

    def _stop(self):
        self._awaited = None
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if interaction is not None:
            interaction.SwitchToViewTransformMode()

    def ensureLists(self):
        """Make the point lists that are missing."""
        state = self.section.state
        for name, side in (("fixedLandmarks", _("fixed landmarks")), ("movingLandmarks", _("moving landmarks"))):
            if getattr(state, name) is None:
                node = slicer.mrmlScene.AddNewNodeByClass(
                    "vtkMRMLMarkupsFiducialNode", slicer.mrmlScene.GenerateUniqueName(side)
                )
                node.CreateDefaultDisplayNodes()
                setattr(state, name, node)
