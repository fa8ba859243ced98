"""The panel as a whole: binds the state to the widgets, polls the logic, tells the sections what happened."""

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from .export import ExportSection
from .inputs import InputsSection
from .judge import JudgeSection
from .prompts import PromptsSection
from .results import ResultsSection
from .run import RunSection
from .setup import SetupSection
from .shortcuts import Shortcuts
from .state import CompareMode
from .views import Views

POLL_MS = 40
SECTIONS = (InputsSection, RunSection, PromptsSection, ResultsSection, JudgeSection, ExportSection, SetupSection)
PROPERTY = "SlicerParameterName"


class Panel(VTKObservationMixin):
    """Owned by the module's widget. ``close`` undoes everything that the constructor did."""

    def __init__(self, ui, logic):
        VTKObservationMixin.__init__(self)
        self.ui, self.logic, self.state = ui, logic, None
        self._guiTag = None
        self.views = Views()
        self.shortcuts = Shortcuts(ui)
        self.sections = [section(self) for section in SECTIONS]
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.poll)

    def section(self, kind):
        """The section of a class, for the few things that one section asks of another."""
        return next(section for section in self.sections if isinstance(section, kind))

    def setState(self, state):
        """Show another state; None lets go of the widgets and observes nothing."""
        if self.state is not None:
            if self._guiTag is not None:
                self.state.disconnectGui(self._guiTag)
            self.removeObserver(self.state.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onStateModified)
        self.state, self._guiTag = state, None
        if state is not None:
            # connectGui() of some releases does not return the tag that disconnectGui() needs.
            bound = {}
            for widget in vars(self.ui).values():
                name = widget.property(PROPERTY)
                if name:
                    bound[name] = widget
            self._guiTag = state.connectParametersToGui(bound)
            self.addObserver(state.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onStateModified)
        for section in self.sections:
            section.bind()

    def enter(self):
        """The module comes to the front."""
        self.shortcuts.connect()
        self.logic.warmUp()
        self.timer.start()
        self.refresh()

    def leave(self):
        """Another module comes to the front; a run goes on."""
        self.shortcuts.disconnect()

    def poll(self):
        """Called by the timer: take what the worker sent, and tell the sections."""
        events = self.logic.poll()
        if self.state is not None:
            self.logic.keepOutputs(self.state)
        for event in events:
            for section in self.sections:
                section.onEvent(event)
        for section in self.sections:
            tick = getattr(section, "tick", None)
            if tick is not None:
                tick()

    def started(self):
        """A section has given the worker something to do."""
        self.section(RunSection).started()

    def remember(self):
        """The landmarks as they are belong to the command that follows."""
        self.section(PromptsSection).remember()

    def landmarks(self):
        """The table of landmark pairs, or None when a list is missing."""
        return self.section(PromptsSection).table()

    def sideBySide(self):
        """Show the undeformed moving scan beside the fixed one."""
        self.state.compareMode = CompareMode.SIDE_BY_SIDE
        self.section(ResultsSection).sideBySide()

    def refresh(self):
        """Let every section look at the state again."""
        for section in self.sections:
            section.refresh()

    def close(self):
        """Stop the timer and forget every observer, shortcut and view setting."""
        self.timer.stop()
        self.timer.disconnect("timeout()")
        self.shortcuts.disconnect()
        self.setState(None)
        for section in self.sections:
            section.close()
        self.views.close()
        self.removeObservers()

    def _onStateModified(self, _caller=None, _event=None):
        if self.state is not None and not slicer.mrmlScene.IsClosing():
            self.refresh()
