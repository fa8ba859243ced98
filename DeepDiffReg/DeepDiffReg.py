"""DeepDiffReg in 3D Slicer: pick two scans, run, look, prompt, judge. The work is done in a process of its own."""

import importlib.util
import pathlib
import sys
import time

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if importlib.util.find_spec("DeepDiffRegLib") is None:
    # Installed, the library lies beside this file; in a checkout, one folder up.
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

PACKAGES = ("DeepDiffRegPanel", "DeepDiffRegScene", "DeepDiffRegWork")
WAIT_S = 0.02
NO_HISTORY = {"steps": [], "current": 0}


class DeepDiffReg(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DeepDiffReg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = ["Markups", "Segmentations", "Transforms"]
        self.parent.contributors = ["The DeepDiffReg authors"]
        self.parent.helpText = _(
            "Registers two scans with a deformation that can be steered with landmarks and segments and that says how "
            "far to trust it. Research software, not a medical device. See the <a href='{link}'>tutorial</a>."
        ).format(link="https://github.com/DeepDiffReg/SlicerDeepDiffReg#readme")
        self.parent.acknowledgementText = _("Methods and papers are named in the documentation and in every report.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the generated scan pair in the module Sample Data."""
    from DeepDiffRegWork.sample_data import register

    register(pathlib.Path(__file__).resolve().parent / "Resources" / "Icons")


class DeepDiffRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Wires the shipped .ui to the panel; everything made in ``setup`` is undone in ``cleanup``."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        """Called when the module is opened for the first time, and after a reload."""
        ScriptedLoadableModuleWidget.setup(self)
        from DeepDiffRegPanel.panel import Panel

        widget = slicer.util.loadUI(self.resourcePath("UI/DeepDiffReg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = DeepDiffRegLogic()
        self.panel = Panel(self.ui, self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        slicer.app.connect("aboutToQuit()", self.onQuit)
        self.initializeParameterNode()

    def cleanup(self):
        """Called before a reload and at the end."""
        self.removeObservers()
        if self.panel is not None:
            slicer.app.disconnect("aboutToQuit()", self.onQuit)
            self.panel.close()
            self.panel = None
        if self.logic is not None:
            self.logic.close()

    def enter(self):
        """The module comes to the front."""
        if self.panel is not None:
            self.initializeParameterNode()
            self.panel.enter()

    def exit(self):
        """Another module comes to the front; a run goes on, and its results are shown."""
        if self.panel is not None:
            self.panel.leave()

    def onSceneStartClose(self, _caller, _event):
        """Let go of every node before it disappears; what runs is cancelled."""
        self.panel.views.forget()
        self.panel.setState(None)
        self.logic.forget()

    def onSceneEndClose(self, _caller, _event):
        """A new, empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, _caller, _event):
        """A scene was read: its state and its map are taken up."""
        if self.panel.state is not None or self.parent.isEntered:
            self.logic.forget()
            self.panel.setState(None)
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Bind the panel to the state in the scene, and to the result that the scene holds."""
        if self.panel is not None and self.panel.state is None:
            state = self.logic.getParameterNode()
            self.logic.adopt(state)
            self.panel.setState(state)

    def onQuit(self):
        """No worker outlives Slicer."""
        self.logic.close()

    def onReload(self):
        """For developers: the helper packages are reloaded with the module."""
        for name in list(sys.modules):
            if name.partition(".")[0] in PACKAGES:
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DeepDiffRegLogic(ScriptedLoadableModuleLogic):
    """Registration without a window: nodes in, nodes out.

    logic = DeepDiffRegLogic()
    result = logic.register(slicer.util.getNode("fixed"), slicer.util.getNode("moving"))
    slicer.util.setSliceViewerLayers(background="fixed", foreground=result.warped, foregroundOpacity=0.5)

    ``close`` ends the worker process; without it the worker stays ready for the next call and ends with Slicer.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.client = None
        self.registration = None

    def getParameterNode(self):
        """The typed state."""
        from DeepDiffRegPanel.state import DeepDiffRegState

        return DeepDiffRegState(ScriptedLoadableModuleLogic.getParameterNode(self))

    # For scripts

    def register(
        self, fixed, moving, preset="default", initial=None, fixedMask=None, movingMask=None, landmarks=None,
        labels=None, device="auto", wait=True, progress=None,
    ):  # fmt: skip
        """Register ``moving`` to ``fixed`` (volume nodes); returns RegistrationOutputs(transform, warped, jacobian, ...).

        preset: a name, or a configuration as ``Config.to_dict`` gives it. initial: transform node. masks: segmentation or
        label map nodes. landmarks: (fixed list, moving list). labels: (fixed, moving) segmentations whose segments of equal
        name belong on each other. wait: return when the result is complete, the application staying usable; else ``poll``
        must be called until ``busy`` and ``judging`` are over. progress: called with (stage, fraction, seconds left).
        Raises RuntimeError with one line of text when it cannot be done.
        """
        from DeepDiffRegWork.prompts import PromptNodes

        from DeepDiffRegLib.config import load_preset

        config = dict(preset) if isinstance(preset, dict) else load_preset(preset).to_dict()
        config["device"] = device
        nodes = PromptNodes(
            landmarks or (None, None), labels or (None, None), fixedMask=fixedMask, movingMask=movingMask
        )
        self.start(fixed, moving, config, nodes, initial)
        return self._await(progress) if wait else self.registration.outputs

    def start(self, fixed, moving, config, promptNodes=None, initial=None):
        """Begin a run; ``poll`` brings its results. config: ``Config.to_dict``. initial: transform node."""
        from DeepDiffRegScene import maps
        from DeepDiffRegWork import preflight
        from DeepDiffRegWork.prompts import PromptNodes, promptSetOf

        reason = preflight.reasonNotToRun(fixed, moving)
        if reason:
            raise RuntimeError(reason)
        prompts = promptSetOf(promptNodes or PromptNodes(), fixed, moving)
        start = None if initial is None else maps.map_of(initial, reference=fixed)
        registration = self._registrationOf(fixed, moving, config)
        registration.start(prompts, start)

    def update(self, promptNodes):
        """Continue from the current map with these prompts, wherever that map came from."""
        from DeepDiffRegWork.prompts import promptSetOf

        if not self.hasMap:
            raise RuntimeError(_("There is no map to continue from; run first."))
        registration = self.registration
        registration.update(promptSetOf(promptNodes, registration.fixed, registration.moving))

    def cancel(self):
        """Stop what runs; the map reached so far is kept."""
        if self.registration is not None:
            self.registration.cancel()

    def undo(self):
        """Back to the map before the last step."""
        if self.registration is not None:
            self.registration.undo()

    def redo(self):
        """Forward again."""
        if self.registration is not None:
            self.registration.redo()

    def select(self, step):
        """Show the map of a step of the history."""
        if self.registration is not None:
            self.registration.select(step)

    def save(self, folder, what):
        """Have the worker write files of the current map; False when it holds none."""
        return self.registration is not None and self.registration.save(folder, what)

    def propose(self, points, side, state):
        """Have the worker look for the partners of points (RAS, mm) of the ``fixed`` or ``moving`` scan in the other one.

        Returns the number that the answer, a ``proposal`` event of ``poll``, carries. Raises RuntimeError without a map.
        """
        return self._needed().propose(points, side, lambda: self._promptsOf(state))

    def suggest(self, count, state):
        """Have the worker look for the places where a landmark pair would help; as ``propose``, ``suggestions`` answers."""
        return self._needed().suggest(count, lambda: self._promptsOf(state))

    def features(self, side, scale, channel, state):
        """Have the worker make a picture of what the network saw; the volume is an output when its event has come.

        side: ``fixed``, or ``warped`` for the moving scan through the map. scale: 0 for the coarsest resolution, -1 for the
        finest. channel: from 0, None for all as colors. Raises RuntimeError without a map.
        """
        return self._needed().features(side, scale, channel, lambda: self._promptsOf(state))

    def way(self):
        """The map on its way (``DeepDiffRegWork.way.Way``), None without a map; frames come with ``poll``."""
        return self.registration.askForWay() if self.registration is not None else None

    def poll(self):
        """Apply the latest events to the nodes and return them. Called by the panel's timer, or by a script."""
        if self.registration is not None:
            return self.registration.poll()
        events = self.client.poll() if self.client is not None else []
        return [event for event in events if event.kind in ("ready", "crashed")]

    # For the panel

    def startFromState(self, state):
        """Begin the run that the panel describes."""
        from DeepDiffRegPanel.state import configOf
        from DeepDiffRegWork.prompts import promptNodesOf

        self.start(state.fixedVolume, state.movingVolume, configOf(state), promptNodesOf(state), state.initialTransform)

    def updateFromState(self, state):
        """Continue with the prompts that the panel describes."""
        from DeepDiffRegWork.prompts import promptNodesOf

        self.update(promptNodesOf(state))

    def reasonNotToRun(self, state):
        """One line, or an empty text."""
        from DeepDiffRegWork import preflight

        reason = preflight.reasonNotToRun(state.fixedVolume, state.movingVolume)
        return reason or preflight.reasonAgainstModel(state) or preflight.reasonAgainstStiffness(state)

    def adopt(self, state):
        """Take up the result that the scene holds; nothing is computed, the worker need not run."""
        from DeepDiffRegPanel.state import configOf
        from DeepDiffRegWork.registration import Registration, outputsOf

        if state.outputTransform is None or None in (state.fixedVolume, state.movingVolume):
            return
        if self.registration is None:
            self.registration = Registration(
                self._worker(), state.fixedVolume, state.movingVolume, configOf(state), outputsOf(state)
            )

    def keepOutputs(self, state):
        """Write the output nodes into the state, where they have changed."""
        from DeepDiffRegWork.registration import keepOutputs

        if self.registration is not None:
            keepOutputs(self.registration, state)

    def warmUp(self):
        """Start the worker in advance, when its packages are there."""
        from DeepDiffRegWork import packages

        if not packages.missing():
            self._worker().start()

    def restartWorker(self):
        """End the worker, whatever it does, and start a new one; the map stays in the scene."""
        if self.registration is not None:
            self.registration.workerLost()
        self._worker().restart()

    def forget(self):
        """The nodes are about to go: cancel, and hold on to none of them."""
        if self.registration is not None:
            self.registration.close()
            self.registration = None

    def close(self):
        """Forget the nodes and end the worker."""
        self.forget()
        if self.client is not None:
            self.client.close()
            self.client = None

    phase = property(lambda self: self.registration.phase if self.registration is not None else "idle")
    busy = property(lambda self: self.registration is not None and self.registration.busy)
    judging = property(lambda self: self.phase == "judging")
    hasMap = property(lambda self: self.registration is not None and self.registration.hasMap)
    judged = property(lambda self: self.registration.judged if self.registration is not None else None)
    history = property(lambda self: self.registration.history if self.registration is not None else NO_HISTORY)
    curve = property(lambda self: self.client.curve if self.client is not None else [])
    workerState = property(lambda self: self.client.state if self.client is not None else "stopped")
    workerBusy = property(lambda self: self.client is not None and self.client.busy)
    workerPid = property(lambda self: self.client.pid if self.client is not None else None)

    def _needed(self):
        if not self.hasMap:
            raise RuntimeError(_("Run first: there is no map yet."))
        return self.registration

    def _promptsOf(self, state):
        from DeepDiffRegWork.prompts import promptNodesOf, promptSetOf

        return promptSetOf(promptNodesOf(state), self.registration.fixed, self.registration.moving)

    def _worker(self):
        if self.client is None:
            from DeepDiffRegWork import packages

            from DeepDiffRegLib.interactive.client import WorkerClient

            self.client = WorkerClient(packages.pythonExecutable(), packages.workingFolder())
        return self.client

    def _registrationOf(self, fixed, moving, config):
        from DeepDiffRegWork.registration import Registration

        old = self.registration
        if old is not None and old.fixed is fixed and old.moving is moving:
            old.config = config
            return old
        self.forget()
        self.registration = Registration(self._worker(), fixed, moving, config)
        return self.registration

    def _await(self, progress):
        """Poll until the result is judged; raises RuntimeError with what went wrong."""
        registration, told = self.registration, None
        while registration.busy or registration.phase == "judging":
            self.poll()
            if progress is not None and registration.progress not in (None, told):
                told = registration.progress
                progress(told["stage"], told["fraction"], told["seconds_left"])
            slicer.app.processEvents()
            time.sleep(WAIT_S)
        if registration.failure:
            raise RuntimeError(registration.failure)
        return registration.outputs


class DeepDiffRegTest(ScriptedLoadableModuleTest):
    """The scenarios of ``DeepDiffRegPanel.selftest``; offline, without pop-ups, on a generated pair."""

    def setUp(self):
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Every scenario, each on an empty scene."""
        from DeepDiffRegPanel import selftest
        from DeepDiffRegWork import packages

        if packages.missing():
            self.skipTest(_("packages are missing: {names}").format(names=", ".join(packages.missing())))
        slicer.util.selectModule("DeepDiffReg")
        widget = slicer.util.getModuleWidget("DeepDiffReg")
        for name, scenario in selftest.SCENARIOS.items():
            self.setUp()
            self.delayDisplay(name, 50)
            scenario(self, widget)
        self.setUp()
