"""`register` and `demo` end to end on generated pairs: files, formats, prompts, repeatability, cancel."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from DeepDiffRegLib.cli import demo
from DeepDiffRegLib.cli.main import CommandProgress, main
from DeepDiffRegLib.data.io import read_image, write_image
from DeepDiffRegLib.data.phantoms import make_pair, write_pair
from DeepDiffRegLib.progress import Step

FILES = {
    "warped.nii.gz",
    "transform.h5",
    "inverse.h5",
    "displacement.nii.gz",
    "jacobian.nii.gz",
    "report.html",
    "result.json",
}
SHORT = ["--preset", "fast", "--set", "schedule.factors=[2,1]", "--set", "schedule.iterations=[15,5]", "--threads", "2"]


@pytest.fixture(scope="module")
def phantom():
    return make_pair(1, (40, 36, 32), deformation_mm=6.0)


@pytest.fixture(scope="module")
def files(phantom, tmp_path_factory):
    return {role: str(path) for role, path in write_pair(phantom, tmp_path_factory.mktemp("pair")).items()}


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """Folder of one registration and what it printed as JSON."""
    out = tmp_path_factory.mktemp("register") / "deep" / "out"
    command = [
        sys.executable,
        "-m",
        "DeepDiffRegLib",
        "register",
        files["fixed"],
        files["moving"],
        "-o",
        str(out),
        "--json",
    ]
    run = subprocess.run([*command, *SHORT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-800:]
    return out, json.loads(run.stdout), run.stderr


def test_the_folder_holds_exactly_what_is_promised(finished):
    out, _, _ = finished
    assert {p.name for p in out.iterdir()} == FILES
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_json_repeats_result_json(finished):
    out, printed, _ = finished
    stored = json.loads((out / "result.json").read_text())
    assert {k: v for k, v in printed.items() if k != "outdir"} == stored
    assert printed["outdir"] == str(out)
    assert stored["status"] in ("converged", "max_steps")
    for finding in stored["findings"]:
        assert {"name", "label", "value", "unit", "limit", "verdict"} <= set(finding)


def test_progress_goes_to_standard_error(finished):
    _, _, err = finished
    assert "%]" in err and "level" in err


def test_other_programs_read_the_transforms(finished, phantom):
    """SimpleITK maps the landmarks closer to their partners than they were, and back again."""
    out, _, _ = finished
    forward, backward = (sitk.ReadTransform(str(out / name)) for name in ("transform.h5", "inverse.h5"))
    fixed, moving = phantom.landmarks.fixed.positions_mm, phantom.landmarks.moving.positions_mm
    mapped = np.array([forward.TransformPoint(p) for p in fixed.tolist()])
    back = np.array([backward.TransformPoint(p) for p in mapped.tolist()])
    error = np.linalg.norm(mapped - moving, axis=1).mean()
    assert error < 0.6 * phantom.landmarks.distances_mm.mean()
    assert np.linalg.norm(back - fixed, axis=1).max() < 1.0


def test_images_lie_on_the_fixed_grid(finished, files):
    out, _, _ = finished
    fixed = sitk.ReadImage(files["fixed"])
    transform = sitk.ReadTransform(str(out / "transform.h5"))
    for name in ("warped.nii.gz", "jacobian.nii.gz", "displacement.nii.gz"):
        image = sitk.ReadImage(str(out / name))
        assert image.GetSize()[:3] == fixed.GetSize()
        assert np.allclose(image.GetOrigin()[:3], fixed.GetOrigin(), atol=1e-3)
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))
    moving = sitk.ReadImage(files["moving"], sitk.sitkFloat32)
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    assert np.quantile(np.abs(warped - expected), 0.99) < 0.01 * expected.max()


def test_report_is_self_contained(finished):
    out, _, _ = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and "data:image" in page
    assert 'src="http' not in page and "<link" not in page


def test_stored_configuration_repeats_the_run(finished, files, tmp_path):
    out, printed, _ = finished
    again = tmp_path / "again.json"
    again.write_text(json.dumps(printed["config"]))
    assert (
        main(
            ["register", files["fixed"], files["moving"], "-o", str(tmp_path / "o"), "--preset", str(again), "--quiet"]
        )
        == 0
    )
    points = make_pair(1, (40, 36, 32), deformation_mm=6.0).landmarks.fixed.positions_mm.tolist()
    transforms = [sitk.ReadTransform(str(folder / "transform.h5")) for folder in (out, tmp_path / "o")]
    mapped = [np.array([t.TransformPoint(p) for p in points]) for t in transforms]
    assert np.abs(mapped[0] - mapped[1]).max() < 1e-3


def test_prompts_on_other_grids_are_accepted(files, phantom, tmp_path, capsys):
    """Label maps and masks on grids of their own are brought over by physical space."""
    coarse = sitk.ReadImage(files["fixed_labels"])
    size = [n // 2 for n in coarse.GetSize()]
    reference = sitk.Image(size, coarse.GetPixelID())
    reference.SetOrigin(coarse.GetOrigin())
    reference.SetDirection(coarse.GetDirection())
    reference.SetSpacing([2.0 * s for s in coarse.GetSpacing()])
    path = str(tmp_path / "coarse.nii.gz")
    sitk.WriteImage(sitk.Resample(coarse, reference, sitk.Transform(), sitk.sitkNearestNeighbor), path)
    hints = ["--fixed-labels", path, "--moving-labels", files["moving_labels"], "--fixed-mask", path]
    hints += ["--fixed-landmarks", files["fixed_landmarks"], "--moving-landmarks", files["moving_landmarks"]]
    hints += ["--label-pairs", ",".join(f"{v}:{v}" for v in list(phantom.label_names)[:2])]
    out = tmp_path / "out"
    assert main(["register", files["fixed"], files["moving"], "-o", str(out), *hints, *SHORT, "--quiet", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    found = {f["name"]: f["value"] for f in values["findings"]}
    assert found["tre_mean"] < 0.5 * phantom.landmarks.distances_mm.mean()
    assert found["folds"] == 0


def test_an_earlier_result_is_kept_unless_overwrite(files, tmp_path, capfd):
    out = tmp_path / "out"
    command = ["register", files["fixed"], files["moving"], "-o", str(out), "--quiet", "--transform", "rigid", *SHORT]
    assert main(command) == 0
    stamp = (out / "result.json").stat().st_mtime_ns
    assert main(command) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert (out / "result.json").stat().st_mtime_ns == stamp
    assert main([*command, "--overwrite"]) == 0
    assert (out / "result.json").stat().st_mtime_ns != stamp
    assert {p.name for p in out.iterdir()} == FILES
    (out / "notes.txt").write_text("mine")
    assert main([*command, "--overwrite"]) == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_initial_transform_is_used(files, phantom, tmp_path, capsys):
    """Without start and without iterations' worth of freedom, the result is the given transform."""
    shift = str(tmp_path / "shift.tfm")
    sitk.WriteTransform(sitk.TranslationTransform(3, (5.0, -4.0, 3.0)), shift)
    out = tmp_path / "out"
    options = [
        "--initial",
        shift,
        "--start-transform",
        "none",
        "--set",
        "schedule.factors=[4]",
        "--set",
        "schedule.iterations=[1]",
    ]
    assert main(["register", files["fixed"], files["moving"], "-o", str(out), *options, "--quiet"]) == 0
    transform = sitk.ReadTransform(str(out / "transform.h5"))
    points = phantom.landmarks.fixed.positions_mm
    moved = np.array([transform.TransformPoint(p) for p in points.tolist()]) - points
    assert np.allclose(moved.mean(0), (5.0, -4.0, 3.0), atol=3.0)


def test_far_apart_scans_with_centers_asked_for(files, tmp_path):
    """The same pair, the moving origin 2 m away: refused by default, registered with --start centers."""
    image = sitk.ReadImage(files["moving"])
    image.SetOrigin([o + 2000.0 for o in image.GetOrigin()])
    far = str(tmp_path / "far.nii.gz")
    sitk.WriteImage(image, far)
    out = tmp_path / "out"
    command = ["register", files["fixed"], far, "-o", str(out), "--quiet", *SHORT]
    assert main(command) == 2
    assert main([*command, "--start", "centers"]) == 0
    assert (out / "warped.nii.gz").is_file()


def test_two_dimensions_and_numpy_files(tmp_path):
    flat = make_pair(2, (64, 60), ndim=2, oblique=False)
    write_image(flat.pair.fixed, tmp_path / "fixed.mha")
    moving = flat.pair.moving
    np.save(tmp_path / "moving.npy", moving.numpy())
    spacing = ",".join(str(s) for s in moving.geometry.spacing_mm)
    out = tmp_path / "out"
    command = ["register", str(tmp_path / "fixed.mha"), str(tmp_path / "moving.npy"), "-o", str(out), "--quiet"]
    assert main([*command, "--moving-spacing", spacing, "--start", "centers", *SHORT]) == 0
    assert {p.name for p in out.iterdir()} == FILES
    assert sitk.ReadTransform(str(out / "transform.h5")).GetDimension() == 2
    assert read_image(out / "warped.nii.gz", ndim=2).geometry.size == flat.pair.fixed.geometry.size


def test_a_frame_of_a_series(files, tmp_path):
    image = sitk.ReadImage(files["fixed"], sitk.sitkFloat32)
    series = str(tmp_path / "series.nii.gz")
    sitk.WriteImage(sitk.JoinSeries([image * 0, image]), series)
    out = tmp_path / "out"
    command = [
        "register",
        series,
        files["moving"],
        "--frame",
        "1",
        "-o",
        str(out),
        "--quiet",
        "--transform",
        "rigid",
        *SHORT,
    ]
    assert main(command) == 0
    assert sitk.ReadImage(str(out / "warped.nii.gz")).GetSize() == image.GetSize()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that one process sends to another")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_cancel_leaves_a_whole_result_or_none(files, tmp_path, name):
    """A signal during the iterations: exit 3, and the folder is complete and says so, or it is not there."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "DeepDiffRegLib", "register", files["fixed"], files["moving"], "-o", str(out)]
    long = [
        "--set",
        "schedule.iterations=[100000,5]",
        "--set",
        "schedule.factors=[2,1]",
        "--set",
        "schedule.tolerance=0",
    ]
    process = subprocess.Popen([*command, *long], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        for line in process.stderr:
            if "iteration" in line:
                process.send_signal(getattr(signal, name))
                break
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 3
    if out.exists():
        assert {p.name for p in out.iterdir()} == FILES
        assert json.loads((out / "result.json").read_text())["status"] == "cancelled"
    assert [p.name for p in tmp_path.iterdir()] in ([], ["out"])


def test_a_cancelled_run_never_replaces_an_earlier_result(files, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    command = ["register", files["fixed"], files["moving"], "-o", str(out), "--quiet", "--overwrite", *SHORT]
    assert main(command) == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    monkeypatch.setattr(CommandProgress, "cancelled", lambda _: True)
    assert main(command) == 3
    assert "stays as it was" in capfd.readouterr().err
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_interrupt_before_the_first_report_stops_at_once():
    progress = CommandProgress()
    with pytest.raises(KeyboardInterrupt):
        progress.interrupt()
    progress.quiet = True
    progress.report(Step("start"))
    progress.interrupt()
    assert progress.cancelled()
    with pytest.raises(KeyboardInterrupt):
        progress.interrupt()


def test_keyboard_interrupt_ends_with_3(files, tmp_path, monkeypatch, capfd):
    from DeepDiffRegLib.cli import register

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(register, "read_pair", interrupted)
    assert main(["register", files["fixed"], files["moving"], "-o", str(tmp_path / "out")]) == 3
    assert capfd.readouterr().err == "deepdiffreg: cancelled; nothing was written\n"
    assert not (tmp_path / "out").exists()


def test_demo_writes_the_report_and_the_scans(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SIZE", (40, 36, 32))
    out = tmp_path / "demo"
    scans = tmp_path / "scans"
    assert main(["demo", "-o", str(out), "--scans", str(scans), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {p.name for p in out.iterdir()} == FILES
    assert (scans / "fixed.nii.gz").is_file() and (scans / "moving_landmarks.mrk.json").is_file()
    before, after = values["before_prompt"], values["after_prompt"]
    assert after["prompted_dice"] > before["prompted_dice"]
    assert after["mean_dice"] > before["mean_dice"] - 0.01
    assert after["landmark_error_mm"] < before["landmark_error_mm"] + 0.5
