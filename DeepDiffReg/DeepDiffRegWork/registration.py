"""The run of one pair: commands to the worker, events to nodes. No widgets; ``poll`` does all the work on nodes."""

from dataclasses import dataclass

import slicer
import vtk
from DeepDiffRegScene import convert, feature_layer, maps, outputs, record
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from .way import COUNT, Way

ENDINGS = ("cancelled", "error", "refused")
WAITING = ("running", "cancelling")
"""Phases in which the worker owes an answer."""


@dataclass
class RegistrationOutputs:
    """Nodes of a result; None until the worker has got that far."""

    transform: object = None
    inverse: object = None
    warped: object = None
    jacobian: object = None
    folds: object = None
    record: object = None
    sigma: object = None
    movingSigma: object = None
    uncertainty: object = None
    jacobianUncertainty: object = None
    priorUncertainty: object = None
    labelUncertainty: object = None
    features: object = None


PARAMETERS = {
    "transform": "outputTransform",
    "inverse": "inverseTransform",
    "warped": "outputVolume",
    "jacobian": "jacobianVolume",
    "folds": "foldsSegmentation",
    "record": "runRecord",
    "sigma": "sigmaVolume",
    "movingSigma": "movingSigmaVolume",
    "uncertainty": "uncertaintyVolume",
    "jacobianUncertainty": "jacobianUncertaintyVolume",
    "priorUncertainty": "priorUncertaintyVolume",
    "labelUncertainty": "labelUncertaintyVolume",
    "features": "featuresVolume",
}
"""Output and the parameter of the state that refers to it."""


UNCERTAINTY = {
    "displacement_sd_mm": "uncertainty",
    "jacobian_sd": "jacobianUncertainty",
    "relative_to_prior": "priorUncertainty",
    "label_entropy": "labelUncertainty",
}
"""Output for each map of a network's uncertainty that the worker knows."""


def outputsOf(state):
    """The output nodes that a state refers to; without a transform the others belong to nothing."""
    if state.outputTransform is None:
        return RegistrationOutputs()
    return RegistrationOutputs(**{name: getattr(state, parameter) for name, parameter in PARAMETERS.items()})


def keepOutputs(registration, state):
    """Let a state refer to the output nodes that are new; what the user has chosen meanwhile stays."""
    for name, parameter in PARAMETERS.items():
        node = getattr(registration.outputs, name)
        if registration.kept.get(name) is not node:
            registration.kept[name] = node
            setattr(state, parameter, node)


class Registration(VTKObservationMixin):
    """Keeps the worker, the map in the scene and the prompts of one pair of volumes together.

    phase: ``idle``, ``running`` (no final map yet), ``judging`` (the map is there, its quality is being measured),
    ``cancelling`` or ``crashed``. Volumes and every other node of the user are only read. Deleting one of the volumes
    cancels; deleting an output makes the next result a new node.
    """

    def __init__(self, client, fixed, moving, config, found=None):
        VTKObservationMixin.__init__(self)
        self.client, self.fixed, self.moving, self.config = client, fixed, moving, config
        self.outputs = found or RegistrationOutputs()
        self.kept = dict(vars(self.outputs))
        self.phase = "idle"
        self.failure = ""
        self.progress = None
        self.livePreview = True
        self.previewVolume = None
        self.judged = record.judged_of(self.outputs.transform)
        self.history = {"steps": [], "current": 0}
        self.way = None
        self._loaded = self._solved = False
        self._finished = self.outputs.transform is not None
        self._since = 0
        self._unpacking = None
        self._first = None
        self._besides = set()
        self.mapNodes = self._newMapNodes()
        scene = slicer.mrmlScene
        self.addObserver(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._onNodeRemoved)

    @property
    def hasMap(self):
        """Whether the scene holds a map of this pair that an update can continue from."""
        return self._finished and self.outputs.transform is not None

    @property
    def solved(self):
        """Whether the worker holds the current map; after a crash or in a reopened scene it has to be told of it first."""
        return self._loaded and self._solved and self.client.state not in ("crashed", "stopped")

    @property
    def busy(self):
        """Whether a map is being made; judging one does not count, as the next command may interrupt it."""
        return self.phase in WAITING

    def writeTo(self, found):
        """The next map goes into these nodes; an empty ``RegistrationOutputs`` makes new ones."""
        if found.transform is not self.outputs.transform:
            self._endPreview()
            self.outputs, self.kept = found, dict(vars(found))
            self.mapNodes = self._newMapNodes()

    def start(self, prompts, initial=None):
        """Align and deform from the beginning. initial: Map or None."""
        self._load()
        self.client.run(self.config, prompts, initial)
        self._begin()

    def update(self, prompts):
        """Continue from the current map with these prompts; after a crash or in a reopened scene from the scene's map."""
        self._continue(lambda: prompts)
        self.client.update(prompts)
        self._begin()

    def undo(self):
        self._step(self.client.undo)

    def redo(self):
        self._step(self.client.redo)

    def select(self, step):
        """Show another step of the history."""
        self._step(lambda: self.client.select(int(step) + (self._first or 0)))

    def save(self, folder, what):
        """Have the worker write its files of the current step; False when it does not hold the map."""
        if not self._solved or self.client.state in ("crashed", "stopped"):
            return False
        self.client.save(folder, what)
        return True

    def propose(self, points, side, prompts):
        """Have the partners of points (RAS) of one scan looked for; returns the number that the ``proposal`` event carries.

        prompts: makes the ``PromptSet``, where the worker has to be told of the scene's map first.
        """
        self._continue(prompts)
        return self._aside(self.client.propose(convert.lps(points).tolist(), side))

    def suggest(self, count, prompts):
        """Have the places looked for where a pair would help most; arguments and result as ``propose``."""
        self._continue(prompts)
        return self._aside(self.client.suggest(int(count)))

    def features(self, side, scale, channel, prompts):
        """Have the worker make a picture of what the network saw; see ``WorkerClient.features``, and ``propose``."""
        self._continue(prompts)
        return self._aside(self.client.features(side, scale, channel))

    def askForWay(self):
        """The ``Way`` of the current map; the first call has the worker compute it, where that holds the map."""
        if self.way is None and self.hasMap and not self.busy:
            if self._solved and self.client.state not in ("crashed", "stopped"):
                self.way = Way()
                self.client.frames(COUNT)
            else:
                self.way = Way(self.mapNodes.map())
        return self.way

    def workerLost(self):
        """The worker is about to be exchanged: the map in the scene is what an update continues from."""
        self._forgetWorker()
        self._end()

    def cancel(self):
        """Ask for an early end; the map reached so far is kept."""
        if self.phase in ("running", "judging"):
            self.client.cancel()
            self.phase = "cancelling"

    def poll(self):
        """Apply what came from the worker to the nodes; returns the events for whoever shows them."""
        events = self._goOnUnpacking() if self._unpacking is not None else []
        for event in self.client.poll():
            if self._isStale(event):
                continue
            if event.kind == "judged":
                self._unpacking = event, self._unpack(event.data)
                continue
            events.append(event)
            if event.kind == "error" and event.generation in self._besides:
                continue
            handler = getattr(self, f"_on_{event.kind}", None)
            if handler is not None:
                handler(event.data)
        if self.busy and not self.client.busy and self.client.state != "cancelling":
            self._end()
        return events

    def close(self):
        """Cancel and forget the nodes; they stay in the scene."""
        self.cancel()
        self._unpacking = None
        self._endPreview()
        self.removeObservers()
        self.fixed = self.moving = None

    # Commands

    def _forgetWorker(self):
        """A new worker knows nothing of this pair."""
        self._loaded = self._solved = False
        self._first = None
        self._forgetUnfinishedWay()

    def _forgetUnfinishedWay(self):
        """Frames that are missing will not come any more."""
        if self.way is not None and not self.way.complete:
            self.way = None

    def _load(self):
        if self.client.state == "crashed":
            self.client.restart()
            self._forgetWorker()
        elif self.client.state == "stopped":
            self.client.start()
        # The worker compares hashes, so that an unchanged pair costs nothing.
        self._since = self.client.load(convert.scan_of(self.fixed), convert.scan_of(self.moving))
        self._loaded = True

    def _isStale(self, event):
        """How an earlier command ended says nothing about the one that runs."""
        return event.kind in ENDINGS and 0 < event.generation < self._since

    def _continue(self, prompts):
        """The worker knows the current map: it solved it, or is told the scene's. prompts: makes the ``PromptSet`` for that."""
        if self.client.state == "crashed" or not self._loaded or not self._solved:
            found = prompts()
            self._load()
            self.client.resume(self.mapNodes.map(), self.config, found)
            self._solved = True

    def _aside(self, generation):
        """A question beside the run: when it fails, the run has not."""
        self._besides.add(generation)
        return generation

    def _begin(self):
        self._since = max(self._since, self.client.generation)
        self.phase = "running"
        self.judged, self.failure, self.progress = None, "", None
        self._unpacking = self.way = None

    def _step(self, command):
        if self.client.state == "crashed" or not self._solved:
            return
        command()
        self._begin()

    # Events

    def _on_progress(self, data):
        self.progress = data

    def _on_preview(self, data):
        if not self.livePreview or self.phase != "running":
            return
        self._showMap(data["map"], live=True)
        if self.previewVolume is None:
            self.previewVolume = self.mapNodes.preview(self.moving)

    def _on_frame(self, data):
        if self.way is not None:
            self.way.add(data)

    def _on_uncertainty(self, data):
        out, told = self.outputs, {scan.name: i for i, scan in enumerate(data["maps"])}
        for quantity, name in UNCERTAINTY.items():
            node = getattr(out, name)
            if quantity in told:
                i = told[quantity]
                scan, title, unit = data["maps"][i], data["titles"][i], data["units"][i]
                setattr(out, name, outputs.uncertainty_volume(scan, title, unit, self.fixed, node))
            elif node is not None:
                slicer.mrmlScene.RemoveNode(node)

    def _on_features(self, data):
        side = self.fixed.GetName() if data["side"] == "fixed" else self.moving.GetName()
        what = _("all channels") if data["channel"] is None else _("channel {n}").format(n=data["channel"] + 1)
        mm = min(data["scales"][data["scale"]]["spacing_mm"])
        name = _("Features of {scan}, {what}, {mm:.3g} mm").format(scan=side, what=what, mm=mm)
        out = self.outputs
        out.features = feature_layer.feature_volume(data["images"], name, self.fixed, out.features)

    def _on_sigma(self, data):
        out = self.outputs
        for name, side, volume in (("sigma", "fixed", self.fixed), ("movingSigma", "moving", self.moving)):
            node = getattr(out, name)
            if data[side] is not None:
                setattr(out, name, outputs.sigma_volume(data[side], volume, node))
            elif node is not None:
                slicer.mrmlScene.RemoveNode(node)

    def _on_map(self, data):
        self._unpacking = self.way = None
        if self._first is None:
            # The worker keeps the steps of a pair that it has seen before; those are not steps of this registration.
            self._first = data["step"]
        data["step"] -= self._first
        data["steps"] -= self._first
        self._showMap(data["map"])
        record.clear(self.outputs.transform)
        self._solved = self._finished = True
        if self.phase == "running":
            self.phase = "judging"

    def _unpack(self, data):
        """The steps that turn a judgement into nodes; ``poll`` takes one at a time, so that the program stays quick."""
        out = self.outputs
        yield
        out.inverse = self.mapNodes.update_inverse(data["inverse"])
        yield
        out.warped = outputs.warped_volume(data["warped"], self.fixed, self.moving, out.warped)
        yield
        out.jacobian = outputs.jacobian_volume(data["jacobian"], self.fixed, out.jacobian)
        yield
        if data["folded_voxels"] or out.folds is not None:
            out.folds = outputs.folded_segmentation(data["jacobian"], self.fixed, out.folds)
        out.record = record.attach(out.transform, data["record"])
        self._endPreview()

    def _goOnUnpacking(self):
        """One more step of the judgement; returns its event when that was the last one."""
        event, steps = self._unpacking
        try:
            next(steps)
            return []
        except StopIteration:
            self._unpacking = None
        self.judged = event.data
        self.phase = "idle"
        return [event]

    def _on_history(self, data):
        first = len(data["steps"]) if self._first is None else self._first
        steps = [{**step, "step": step["step"] - first} for step in data["steps"][first:]]
        self.history = {"steps": steps, "current": max(data["current"] - first, 0)}

    def _on_error(self, data):
        self.failure = data["message"]
        self._forgetUnfinishedWay()
        if self.phase == "judging":
            # Inverse and Jacobian in the scene are those of an earlier map.
            self.mapNodes.forget_inverse()
            self.outputs.inverse = self.outputs.jacobian = self.outputs.folds = None
            self.outputs.sigma = self.outputs.movingSigma = None
        elif self.phase == "running" and self._solved and self.history["steps"]:
            # Previews of the step that failed give way to the map that holds.
            self.client.select(self.history["current"] + (self._first or 0))
        self._end()

    def _on_refused(self, data):
        self.failure = data["message"]
        self._end()

    def _on_cancelled(self, data):
        if data["restarted"]:
            self._forgetWorker()
        self._end()

    def _on_crashed(self, data):
        self._forgetWorker()
        self._finished = self.outputs.transform is not None
        self._end()
        self.phase = "crashed"
        self.failure = data["detail"] or str(data["exit_code"])

    def _end(self):
        self.phase = "idle"
        self._endPreview()
        if not self._finished and self.outputs.transform is not None:
            # Only previews have been in it.
            slicer.mrmlScene.RemoveNode(self.outputs.transform)

    def _showMap(self, value, live=False):
        self.outputs.transform = self.mapNodes.update(value, live)

    def _endPreview(self):
        if self.previewVolume is not None:
            self.mapNodes.end_preview()
            self.previewVolume = None

    def _newMapNodes(self):
        if self.outputs.transform is not None:
            return maps.MapNodes.of(self.outputs.transform)
        return maps.MapNodes(like=self.fixed)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, _scene, _event, node):
        if node is self.fixed or node is self.moving:
            self.close()
            return
        for name, value in vars(self.outputs).items():
            if value is node:
                setattr(self.outputs, name, None)
        if node is self.mapNodes.transform:
            self._endPreview()
            self.mapNodes, self.way = maps.MapNodes(like=self.fixed), None
            self._finished = False
