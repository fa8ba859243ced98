"""The contract of `deepdiffreg reproduce`: exit codes, what is printed, what is written, nothing half-done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from DeepDiffRegLib.cli import reproduce as command
from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.errors import Cancelled, RegistrationError
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.registry import Entry, Registry
from DeepDiffRegLib.reproduce import EXPERIMENTS, figures
from DeepDiffRegLib.reproduce.base import Criterion, Experiment, Outcome, tell

HERE = f"{__name__}:"


class Good(Experiment):
    """Both criteria hold."""

    def run(self, outdir, quick, progress):
        tell(progress, "drawing", 0.5)
        sheet, axes = figures.canvas(1, 2, 1.0, 1.0)
        figures.picture(axes[0, 0], np.eye(4), "a picture")
        figures.scaled(sheet, axes[0, 1], np.eye(4), "with a bar")
        paths = (figures.save(sheet, outdir / "picture.png"),)
        criteria = (Criterion("low", 0.5, "mm", "<=", 1.0), Criterion("high", 2.0, "", ">=", 1.0))
        return Outcome(criteria, paths, {"quick": quick, "seed": self.seed})


class Bad(Experiment):
    """Completes, but one criterion does not hold."""

    def run(self, outdir, quick, progress):
        return Outcome((Criterion("low", 3.0, "mm", "<=", 1.0), Criterion("high", 2.0, "", ">=", 1.0)))


class Broken(Experiment):
    """Something could not be measured."""

    def run(self, outdir, quick, progress):
        (outdir / "half.png").write_bytes(b"")
        return Outcome((Criterion("low", float("nan"), "mm", "<=", 1.0),))


class Stopped(Experiment):
    """Cancelled on the way."""

    def run(self, outdir, quick, progress):
        progress.cancel()
        tell(progress, "never", 0.1)
        raise AssertionError("not reached")


@pytest.fixture
def experiments(monkeypatch):
    rows = Registry(
        "experiment", *(Entry(c.__name__.lower(), HERE + c.__name__, "x") for c in (Good, Bad, Broken, Stopped))
    )
    monkeypatch.setattr(command, "EXPERIMENTS", rows)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["reproduce", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_json_is_the_summary(experiments, capsys, tmp_path):
    code, out, _ = run(capsys, "good", "-o", str(tmp_path / "out"), "--json", "--quick", "--seed", "5")
    printed = json.loads(out)
    assert code == 0 and printed["passed"] is True and printed["experiment"] == "good"
    assert printed["criteria"] == [
        {"name": "low", "value": 0.5, "unit": "mm", "limit": "<= 1", "passed": True},
        {"name": "high", "value": 2.0, "unit": "", "limit": ">= 1", "passed": True},
    ]
    assert printed["figures"] == ["picture.png"] and printed["details"] == {"quick": True, "seed": 5}
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {k: v for k, v in printed.items() if k != "outdir"} == written
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"picture.png", "result.json"}
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_criterion_is_no_failure_of_the_program(experiments, capsys, tmp_path):
    code, out, _ = run(capsys, "bad", "-o", str(tmp_path / "out"))
    assert code == 0 and "NOT passed" in out and "low" in out and "<= 1" in out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["passed"] is False


def test_what_cannot_be_measured_is_an_error_and_leaves_nothing(experiments, capsys, tmp_path):
    code, _, error = run(capsys, "broken", "-o", str(tmp_path / "out"))
    assert code == 4 and "could not be measured" in error
    assert not list(tmp_path.iterdir())


def test_cancelled_is_3_and_leaves_nothing(experiments, capsys, tmp_path):
    code, _, error = run(capsys, "stopped", "-o", str(tmp_path / "out"))
    assert code == 3 and "cancelled" in error
    assert not list(tmp_path.iterdir())


def test_unknown_name_suggests_the_nearest(capsys, tmp_path):
    code, _, error = run(capsys, "rdmm-enery", "-o", str(tmp_path / "out"))
    assert code == 2 and "did you mean 'rdmm-energy'?" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["rdmm-energy"], ["rdmm-energy", "-o", "x", "--seed", "many"]])
def test_bad_usage_is_2(capsys, arguments):
    code, _, error = run(capsys, *arguments)
    assert code == 2 and error.count("\n") == 1


def test_an_earlier_result_stays_unless_overwritten(experiments, capsys, tmp_path):
    out = tmp_path / "out"
    assert run(capsys, "good", "-o", str(out))[0] == 0
    before = (out / "result.json").read_bytes()
    code, _, error = run(capsys, "bad", "-o", str(out))
    assert code == 2 and "--overwrite" in error and (out / "result.json").read_bytes() == before
    assert run(capsys, "bad", "-o", str(out), "--overwrite")[0] == 0
    assert {p.name for p in out.iterdir()} == {"result.json"}


def test_other_peoples_files_stay(experiments, capsys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run(capsys, "good", "-o", str(out), "--overwrite")[0] == 2
    (out / "notes.txt").unlink()
    assert run(capsys, "good", "-o", str(out))[0] == 0
    (out / "notes.txt").write_text("mine")
    code, _, error = run(capsys, "good", "-o", str(out), "--overwrite")
    assert code == 2 and "notes.txt" in error and (out / "notes.txt").read_text() == "mine"


def test_a_criterion_knows_its_direction():
    assert Criterion("x", 1.0, "", "<=", 1.0).passed and Criterion("x", 1.0, "", ">=", 1.0).passed
    assert not Criterion("x", 1.1, "", "<=", 1.0).passed and not Criterion("x", 0.9, "", ">=", 1.0).passed
    with pytest.raises(RegistrationError, match="could not be measured"):
        Criterion("x", float("inf"), "", "<=", 1.0)
    with pytest.raises(RegistrationError, match="without a criterion"):
        Outcome(())


def test_tell_stops_when_asked():
    progress = Progress()
    tell(progress, "going on", 0.1)
    progress.cancel()
    with pytest.raises(Cancelled):
        tell(progress, "not any more", 0.2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_registered_experiments_are_experiments(name):
    assert issubclass(EXPERIMENTS.load(name), Experiment)
    assert EXPERIMENTS[name].reference


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupt_ends_with_3(tmp_path):
    """A real experiment, stopped by Ctrl-C at its first report, leaves no folder."""
    arguments = ["reproduce", "rdmm-predefined", "-o", str(tmp_path / "out"), "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "DeepDiffRegLib", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 3, first + rest
    assert not list(tmp_path.iterdir())
