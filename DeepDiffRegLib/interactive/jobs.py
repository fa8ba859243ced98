"""What the worker does for each command: commands in, a ``RegistrationSession`` at work, events out."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from ..budget import Voxels, plan
from ..config import MOST_FRAMES, Config, load_preset
from ..data.image import Image
from ..data.pair import Pair, Prompts
from ..data.phantoms import make_pair
from ..device import available_devices, choose_device
from ..errors import Cancelled, InputError, OutOfMemoryError
from ..export.flow import frame_times
from ..memory import available_memory_bytes
from ..problem import working_voxels
from ..provenance import sha256, versions
from ..qc.verdict import assess
from ..result import Result, Status
from ..session import OUT_OF_MEMORY, RegistrationSession, State
from ..transforms.base import Transform
from . import _outputs as outputs
from ._convert import image_of, inverse_map_of, map_of, prompts_of, scan_of, transform_of
from ._features import feature_volumes
from ._progress import JobProgress, Tell
from ._thinning import WHOLE_VOXELS, cost_mm, for_a_scene
from .arrays import ArrayFolder
from .desk import JUDGE, WARM, YIELDING, Desk, Job, Tray
from .messages import BESIDE, MOST_POINTS, Command, PromptSet, decode_command, handles

GB = 2**30
WARM_SIZE = (24, 24, 24)


class Jobs:
    """Carries out commands one at a time and keeps the session between them."""

    def __init__(self, arrays: ArrayFolder, tell: Tell, desk: Desk, tray: Tray):
        self._arrays, self._send, self._desk, self._tray = arrays, tell, desk, tray
        self._pair: Pair | None = None
        self._hashes: tuple[str, str] | None = None
        self._session: RegistrationSession | None = None
        self._prompts: WeakKeyDictionary[State, PromptSet] = WeakKeyDictionary()
        self._verdicts: WeakKeyDictionary[State, str] = WeakKeyDictionary()
        self._generations: WeakKeyDictionary[State, int] = WeakKeyDictionary()
        self._result: tuple[State, Result] | None = None

    def greet(self) -> None:
        """Say that the worker is ready and what it can compute on."""
        import os

        import torch

        data = {"pid": os.getpid(), "devices": outputs.devices(available_devices()), "versions": versions()}
        self._send("ready", 0, {**data, "threads": torch.get_num_threads()})

    def do(self, job: Job) -> None:
        """One job from beginning to end; whatever goes wrong becomes an event, and the next job can come."""
        kept = False
        try:
            kept = bool(_HANDLERS[job.name](self, job))
        except Cancelled:
            pass
        except Exception as error:  # noqa: BLE001 - a job must never end the worker; the front end is told
            if not job.stop.is_set():
                self._explain(job, error)
        finally:
            if job.raw:
                self._arrays.drop_all(handles(job.raw))
        self._close(job, kept)

    def _close(self, job: Job, kept: bool) -> None:
        cancelled = self._desk.finish()
        if job.name in YIELDING:
            return
        if cancelled:
            self._send("cancelled", job.generation, {"kept": kept, "restarted": False})
        try:
            if cancelled and self._steps and not kept:
                self._show(job)
        except (InputError, *OUT_OF_MEMORY) as error:
            self._explain(job, error)
        if job.name not in BESIDE:
            self._history(job)
        self._send("done", job.generation, {"command": job.name})
        if self._steps and job.name not in BESIDE:
            self._desk.follow_up(JUDGE, job.generation)

    def _explain(self, job: Job, error: Exception) -> None:
        lines = traceback.format_exception(error)
        print("".join(lines), file=sys.stderr)
        if job.name == WARM:
            return  # nobody asked for it: the log is enough
        kind, message = "internal", f"{type(error).__name__}: {error}"
        if isinstance(error, (*OUT_OF_MEMORY, OutOfMemoryError)):
            kind, message = "memory", f"out of memory: {error}" if str(error) else "out of memory"
        elif isinstance(error, (InputError, OSError)):
            kind, message = "input", str(error)
        detail = "" if kind == "input" else "".join(lines[-4:])
        self._send("error", job.generation, {"kind": kind, "message": " ".join(message.split()), "detail": detail})

    def _command(self, job: Job) -> Command:
        return decode_command(job.raw, self._arrays.read)

    def warm(self, job: Job) -> bool:
        """Register a tiny generated pair while nobody waits: compiled code is then loaded (compiled, on the first start ever)."""
        phantom = make_pair(0, WARM_SIZE)
        quick = load_preset("default")
        quick = quick.replace(schedule=replace(quick.schedule, iterations=(2,) * len(quick.schedule.factors)))
        session = RegistrationSession(phantom.pair, quick, JobProgress(job, lambda *_: None, self._tray))
        session.run()
        session.update(Prompts(landmarks=phantom.landmarks))
        session.propose(phantom.landmarks.fixed.positions_mm[:1], stop=job.stop.is_set)
        session.suggest(1, stop=job.stop.is_set)
        return True

    def load(self, job: Job) -> bool:
        """Take the pair, unless it is the one that is there already; then the history stays too."""
        data = self._command(job).data
        pair = Pair(image_of(data["fixed"]), image_of(data["moving"]))
        hashes = tuple(self._hash(job, image) for image in (pair.fixed, pair.moving))
        if hashes != self._hashes:
            self._pair, self._hashes, self._session, self._result = pair, hashes, None, None
        voxels = Voxels(pair.fixed.geometry.voxels, pair.moving.geometry.voxels, working_voxels(pair))
        planned = plan(voxels, load_preset("default"), choose_device("auto"))
        free = available_memory_bytes() / GB
        told = {"estimated_gb": planned.bytes / GB, "free_gb": free, "plan_message": planned.message}
        self._send("loaded", job.generation, told)
        return True

    @staticmethod
    def _hash(job: Job, image: Image) -> str:
        if job.stop.is_set():
            raise Cancelled("cancelled while loading")
        return f"{sha256(image)} {image.geometry}"

    def run(self, job: Job) -> bool:
        """Align and deform."""
        data = self._command(job).data
        session = self._configured(job, data["config"])
        initial = None if data["initial"] is None else transform_of(data["initial"])
        session.run(initial, prompts_of(data["prompts"]))
        return self._reached(job, data["prompts"])

    def update(self, job: Job) -> bool:
        """Continue from the current map with other prompts."""
        prompts = self._command(job).data["prompts"]
        session, self._result = self._needed(), None
        session.progress = JobProgress(job, self._send, self._tray)
        session.update(prompts_of(prompts))
        return self._reached(job, prompts)

    def resume(self, job: Job) -> bool:
        """Make a given map the current one."""
        data = self._command(job).data
        session = self._configured(job, data["config"])
        session.resume(transform_of(data["map"]), prompts_of(data["prompts"]))
        return self._reached(job, data["prompts"])

    def undo(self, job: Job) -> bool:
        """One step back; only shows the current one when the update that is to be undone never made a step."""
        data, session = self._command(job).data, self._needed()
        made = self._generations.get(session.steps[session.step]) if session.step >= 0 else None
        if not data["instead_of"] or made in data["instead_of"]:
            session.undo()
        return self._show(job)

    def redo(self, job: Job) -> bool:
        """One step forward."""
        self._command(job)
        self._needed().redo()
        return self._show(job)

    def select(self, job: Job) -> bool:
        """To any step."""
        self._needed().select(self._command(job).data["step"])
        return self._show(job)

    def save(self, job: Job) -> bool:
        """Write files of the current map."""
        data, result = self._command(job).data, self._judged(job)
        if "features" in data["what"] and result.features is None:
            result = replace(result, features=self._session.features())
        paths = outputs.save(result, Path(data["folder"]), data["what"])
        self._send("saved", job.generation, {"paths": paths})
        return True

    def frames(self, job: Job) -> bool:
        """The current map on its way, frame by frame; a later command ends it between two of them."""
        count, session = self._command(job).data["count"], self._needed()
        if not 2 <= count <= MOST_FRAMES:
            raise InputError(f"frames: their number must lie between 2 and {MOST_FRAMES}, got {count}")
        whole, grid = session.transform, session.pair.fixed.geometry
        if grid.voxels > WHOLE_VOXELS:
            whole = whole.coarse(2 * min(grid.spacing_mm))
        about = {"step": session.step, "count": count, "flows": whole.flows}
        for number, time in enumerate(frame_times(count)):
            if job.stop.is_set():
                break
            now = for_a_scene(map_of(whole.at(time), grid))
            self._send("frame", job.generation, {**about, "number": number, "time": time, "map": now})
        return True

    def features(self, job: Job) -> bool:
        """What the network saw, one picture of it."""
        data, session = self._command(job).data, self._needed()
        found = feature_volumes(session, data["side"], data["scale"], data["channel"])
        self._send("features", job.generation, {"step": session.step, **found})
        return True

    def propose(self, job: Job) -> bool:
        """The point of the other scan for each of the points; the map stays as it is."""
        data, session = self._command(job).data, self._needed()
        points = data["points_mm"]
        if not 1 <= len(points) <= MOST_POINTS or any(len(point) != 3 for point in points):
            raise InputError(f"propose: 1 to {MOST_POINTS} points of three coordinates each are needed")
        found = session.propose(np.array(points), data["side"], data["radius_mm"], stop=job.stop.is_set)
        rows = [proposal.values for proposal in found]
        self._send("proposal", job.generation, {"step": session.step, "side": data["side"], "proposals": rows})
        return True

    def suggest(self, job: Job) -> bool:
        """Where landmarks would help most; the map stays as it is."""
        data, session = self._command(job).data, self._needed()
        found = session.suggest(data["count"], data["radius_mm"], stop=job.stop.is_set)
        rows = [proposal.values for proposal in found]
        self._send("suggestions", job.generation, {"step": session.step, "suggestions": rows})
        return True

    def judge(self, job: Job) -> bool:
        """Say how good the current map is."""
        result, state = self._judged(job), self._state
        if job.stop.is_set():
            return False
        self._verdicts[state] = assess(result.findings).verdict
        forward = map_of(result.transform, result.pair.fixed.geometry)
        inverse = inverse_map_of(result.transform, result.inverse.transform, result.pair.moving.geometry)
        data = outputs.judgement(result, self._prompts.get(state), cost_mm(forward, inverse))
        data |= {"step": self._session.step, "warped": scan_of(result.warped, "warped")}
        data |= {"inverse": for_a_scene(inverse)}
        self._send("judged", job.generation, data)
        self._send("sigma", job.generation, {"step": self._session.step, **outputs.widths(result)})
        self._send("uncertainty", job.generation, {"step": self._session.step, **outputs.uncertainty(result)})
        self._history(job)
        return True

    def _judged(self, job: Job) -> Result:
        session = self._needed()
        state = self._state
        if self._result is None or self._result[0] is not state:
            self._result = None
            session.progress = JobProgress(job, self._send, self._tray)
            self._result = state, session.result(job.stop.is_set)
        return self._result[1]

    def _configured(self, job: Job, config: dict | str) -> RegistrationSession:
        if self._pair is None:
            raise InputError("there is no pair yet: load one first")
        wanted = load_preset(config) if isinstance(config, str) else Config.from_dict(config)
        progress, self._result = JobProgress(job, self._send, self._tray), None
        if self._session is None:
            self._session = RegistrationSession(self._pair, wanted, progress)
        else:
            self._session.progress = progress
            if wanted != self._session.requested:
                self._session.configure(wanted)
        if job.stop.is_set():
            raise Cancelled("cancelled while preparing")
        return self._session

    def _needed(self) -> RegistrationSession:
        if self._session is None or not self._steps:
            raise InputError("nothing has been registered yet: run first")
        return self._session

    @property
    def _steps(self) -> tuple[State, ...]:
        return () if self._session is None else self._session.steps

    @property
    def _state(self) -> State:
        return self._session.steps[self._session.step]

    def _reached(self, job: Job, prompts: PromptSet) -> bool:
        """Show a new map; one that was cancelled gives way to the map before, when there is one."""
        session = self._session
        if session.status is Status.CANCELLED and session.drop():
            return False
        self._prompts[self._state], self._generations[self._state] = prompts, job.generation
        self._result = None
        return self._show(job)

    def _show(self, job: Job) -> bool:
        session, state = self._session, self._state
        before = session.steps[session.step - 1].solution.transform if session.step > 0 else None
        solution = state.solution
        data = {
            "map": for_a_scene(map_of(solution.transform, session.pair.fixed.geometry)), "step": session.step,
            "steps": len(session.steps), "status": solution.status.value, "message": solution.message,
            "landmarks": self._residuals(state, before),
        }  # fmt: skip
        self._send("map", job.generation, data)
        return True

    def _residuals(self, state: State, before: Transform | None) -> list[dict]:
        landmarks = state.prompts.landmarks
        if landmarks is None:
            return []
        fixed, moving = landmarks.fixed.positions_mm, landmarks.moving.positions_mm
        start = fixed if before is None else before.map_points(fixed)
        ways = [np.linalg.norm(p - moving, axis=1) for p in (start, state.solution.transform.map_points(fixed))]
        return [
            {"label": name, "before_mm": round(float(b), 3), "after_mm": round(float(a), 3)}
            for name, b, a in zip(landmarks.fixed.names, *ways)
        ]

    def _history(self, job: Job) -> None:
        steps = [
            {
                "step": number, "name": state.name, "prompts": outputs.summary(self._prompts.get(state)),
                "verdict": self._verdicts.get(state), "loss": state.loss,
            }
            for number, state in enumerate(self._steps)
        ]  # fmt: skip
        self._send("history", job.generation, {"steps": steps, "current": self._session.step if self._session else -1})


_HANDLERS: dict[str, Callable[[Jobs, Job], bool]] = {
    name: getattr(Jobs, name)
    for name in (
        "load",
        "run",
        "update",
        "resume",
        "undo",
        "redo",
        "select",
        "save",
        "frames",
        "features",
        "propose",
        "suggest",
        JUDGE,
        WARM,
    )
}
