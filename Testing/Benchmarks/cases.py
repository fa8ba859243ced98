"""Accuracy, time and memory on the real scans, beside greedy and ANTs: one process at a time, ours and theirs in turn.

Every registration is a whole process, measured from outside, and every transform is scored by the same script, which knows
nothing of this library. ``LIMITS`` says what this library sets out to reach; a line that is not reached is reported as lost.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common
from common import BenchmarkError

PRESETS = ("default", "fast")
PEERS = ("greedy", "ants")
ORDER = ("default", "greedy", "fast", "ants")
"""Ours and theirs in turn, so that a slow minute of the machine does not hit one side only."""
SHORT_ROUND_S = 60.0
"""A case whose first round took less is measured ``SHORT_ROUNDS`` times; times are then medians."""
SHORT_ROUNDS = 3
SCORES = ("dice", "hd95", "tre_mean", "tre_p95", "sdlogj", "folds_pct")


@dataclass(frozen=True)
class Limit:
    """``score`` of ``preset`` on ``case`` must be at most or at least ``bound``, relative to a peer when one is named.

    score: of the scoring script, or ``wall``. relation: ``absolute``, ``ratio`` (ours / peer's), ``difference`` (ours - peer's).
    """

    case: str
    preset: str
    score: str
    sense: str
    bound: float
    relation: str = "absolute"
    peer: str = ""

    def judge(self, scores: dict[str, dict]) -> dict | None:
        """Value and whether it holds; None when something it needs was not measured. scores: by method."""
        ours, peer = scores.get(self.preset), scores.get(self.peer, {})
        value = (ours or {}).get(self.score)
        if value is None or (self.peer and peer.get(self.score) is None):
            return None
        if self.relation == "ratio":
            value = value / peer[self.score]
        elif self.relation == "difference":
            value = value - peer[self.score]
        value = round(value, 4)
        reached = value <= self.bound if self.sense == "at most" else value >= self.bound
        return {"case": self.case, "preset": self.preset, "text": self.text, "value": value, "reached": reached}

    @property
    def text(self) -> str:
        of = {"absolute": "", "ratio": f" / {self.peer}'s", "difference": f" - {self.peer}'s"}[self.relation]
        return f"{NAMES[self.score]}{of} {self.sense} {self.bound:g}"


NAMES = {"wall": "wall time", "tre_mean": "TRE (mm)", "dice": "Dice", "sdlogj": "SDlogJ", "folds_pct": "folds (%)"}
_BRAINS = ("brain_1000_1001", "brain_1002_1003")
LIMITS = (
    Limit("lung_ct", "default", "tre_mean", "at most", 1.45),
    Limit("lung_ct", "default", "folds_pct", "at most", 0.0),
    Limit("lung_ct", "default", "wall", "at most", 5.0, "ratio", "greedy"),
    Limit("lung_ct", "fast", "tre_mean", "at most", 2.0),
    Limit("lung_mr", "default", "dice", "at least", 0.89),
    Limit("lung_mr", "fast", "dice", "at least", 0.87),
    *(
        limit
        for case in _BRAINS
        for limit in (
            Limit(case, "default", "dice", "at least", 0.01, "difference", "greedy"),
            Limit(case, "default", "sdlogj", "at most", 0.30),
            Limit(case, "default", "folds_pct", "at most", 0.0),
            Limit(case, "default", "wall", "at most", 1.0, "ratio", "greedy"),
            Limit(case, "fast", "dice", "at least", 0.02, "difference", "ants"),
            Limit(case, "fast", "wall", "at most", 0.4, "ratio", "greedy"),
        )
    ),
)


def data_folder() -> Path:
    """Folder of the real scans; raises ``BenchmarkError`` when they or the scoring scripts are not there."""
    folder = Path(os.environ.get("DEEPDIFFREG_DATA", common.ROOT.parent / "shared" / "data")).resolve()
    if not (folder / "cases.json").is_file():
        raise BenchmarkError(f"no cases.json in {folder}: set DEEPDIFFREG_DATA to the folder of the real scans")
    for script in ("score.py", "peers.py"):
        if not (folder.parent / "tools" / script).is_file():
            raise BenchmarkError(f"{folder.parent / 'tools' / script} is missing: it belongs beside the scans' folder")
    return folder


def peers_python() -> Path:
    """Interpreter of the environment that holds greedy and ANTs."""
    path = Path(os.environ.get("PEERS_PYTHON") or common.ROOT / ".venv-peers" / "bin" / "python")
    path = path if path.is_absolute() else common.ROOT / path  # not resolved: a venv's interpreter is a link
    if not path.is_file():
        raise BenchmarkError(f"no interpreter {path} for the other packages: run `make bench` or set PEERS_PYTHON")
    return path


def run(names: list[str] | None, threads: int) -> dict:
    """Measure the named cases (all when None)."""
    data, python = data_folder(), peers_python()
    known = json.loads((data / "cases.json").read_text(encoding="utf-8"))
    for name in names or []:
        if name not in known:
            raise BenchmarkError(f"unknown case {name!r}; there are {', '.join(known)}")
    bench = _Bench(data, python, threads)
    cases = {name: bench.case(name, known[name]) for name in names or known}
    judged = [limit.judge(cases[limit.case]["methods"]) for limit in LIMITS if limit.case in cases]
    return {
        "peer_versions": bench.peer_versions(),
        "cases": cases,
        "limits": [row for row in judged if row is not None],
    }


@dataclass(frozen=True)
class _Bench:
    data: Path
    python: Path
    threads: int

    def case(self, name: str, files: dict) -> dict:
        """All methods on one case, in turn; the first, unmeasured run compiles kernels and fills the file cache."""
        common.say(f"cases: {name}, warm-up")
        self._ours(name, files, "fast", scored=False)
        rounds = [self._round(name, files)]
        if sum(run["process_wall_s"] for run in rounds[0].values()) < SHORT_ROUND_S:
            rounds += [self._round(name, files) for _ in range(SHORT_ROUNDS - 1)]
        methods = {method: _merged([one[method] for one in rounds]) for method in ORDER}
        return {"note": files.get("note", ""), "rounds": len(rounds), "methods": methods}

    def peer_versions(self) -> dict:
        """Versions of the other packages, asked of their own interpreter."""
        code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {common.PEER_PACKAGES}}}))"
        return common.measure([str(self.python), "-c", code], self.threads).json()

    def _round(self, name: str, files: dict) -> dict[str, dict]:
        found = {}
        for method in ORDER:
            common.say(f"cases: {name}, {method}")
            found[method] = self._ours(name, files, method) if method in PRESETS else self._peer(name, method)
            shown = {k: found[method][k] for k in ("wall", *SCORES) if k in found[method]}
            common.say(f"       {shown}")
        return found

    def _ours(self, name: str, files: dict, preset: str, scored: bool = True) -> dict:
        """Wall, CPU and memory of the whole command; the score is another process."""
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            scans = [str(self.data / files[role]) for role in ("fixed", "moving")]
            command = [sys.executable, "-m", "DeepDiffRegLib", "register", *scans, "-o", str(folder / "out")]
            options = ["--preset", preset, "--threads", str(self.threads), "--device", "cpu", "--quiet"]
            child = common.measure([*command, *options], self.threads)
            if not scored:
                return {}
            result = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
            return {
                "wall": round(child.wall_s, 2),
                "cpu": round(child.cpu_s, 2),
                "peak_mb": round(child.peak_mb),
                "process_wall_s": round(child.wall_s, 2),
                "stages_s": {k: round(v, 2) for k, v in result["timings_s"].items()},
                "verdict": result["verdict"],
                **self._score(name, folder / "out"),
            }
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _score(self, name: str, outdir: Path) -> dict:
        command = [sys.executable, str(self.data.parent / "tools" / "score.py"), name, str(outdir)]
        return common.measure(command, self.threads, {"DEEPDIFFREG_DATA": str(self.data)}).json()

    def _peer(self, name: str, method: str) -> dict:
        """The script times the registration alone (no start of Python, no imports, no reading of our inputs, no scoring)."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            command = [str(self.python), str(self.data.parent / "tools" / "peers.py"), name, method]
            child = common.measure(command, self.threads, {"DEEPDIFFREG_DATA": str(self.data), "TMPDIR": folder})
        found = child.json()
        own = {"wall": found.pop("wall_s"), "cpu": found.pop("cpu_s"), "peak_mb": found.pop("peak_mb")}
        own["process_wall_s"] = round(child.wall_s, 2)
        return {**own, **{k: v for k, v in found.items() if k not in ("case", "method")}}


def _merged(runs: list[dict]) -> dict:
    """Medians of times, peak and scores, all walls, and whether every run gave the same scores."""
    merged = dict(runs[0])
    for key in ("wall", "cpu", "peak_mb", "process_wall_s", *SCORES):
        if key in merged:
            merged[key] = round(statistics.median(run[key] for run in runs), 5)
    merged["walls"] = [run["wall"] for run in runs]
    merged["repeatable"] = all(run.get(key) == runs[0].get(key) for run in runs for key in SCORES)
    return merged
