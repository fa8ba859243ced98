"""Bad input on the command line: one clear line, exit 2, nothing written. One test per kind of mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.cli.main import main


def blob(size=(20, 18, 16), center=None) -> np.ndarray:
    """A smooth blob with a gradient, (Z, Y, X)."""
    axes = np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij")
    middle = center or [(n - 1) / 2 for n in size[::-1]]
    r2 = sum(((a - c) / n) ** 2 for a, c, n in zip(axes, middle, size[::-1]))
    return (100 * np.exp(-12 * r2) + axes[0]).astype(np.float32)


def save(path, array, spacing=None, origin=None, direction=None):
    """Write an array with SimpleITK and return the path as text."""
    image = sitk.GetImageFromArray(array)
    if spacing:
        image.SetSpacing(spacing)
    if origin:
        image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return str(path)


@pytest.fixture
def scans(tmp_path):
    """Paths of a good fixed and a good moving scan."""
    return save(tmp_path / "fixed.nii.gz", blob()), save(tmp_path / "moving.nii.gz", blob(center=(8, 9, 9)))


@pytest.fixture
def refused(tmp_path, capfd):
    """Run the command line and check that it refuses: exit 2, one line that holds ``words``, no output folder."""

    def check(*arguments, words=()):
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        capfd.readouterr()
        code = main(["register", *map(str, arguments), "-o", str(tmp_path / "out")])
        out, err = capfd.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.endswith("\n") and err.count("\n") == 1, err
        assert err.startswith("deepdiffreg: ") and "Traceback" not in err
        for word in words:
            assert word in err
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        return err

    return check


def test_missing_file(scans, refused):
    refused(scans[0] + ".gone.nii.gz", scans[1], words=["fixed.nii.gz.gone.nii.gz", "no such file"])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".npz"])
def test_empty_file(scans, refused, tmp_path, suffix):
    empty = tmp_path / f"empty{suffix}"
    empty.touch()
    refused(scans[0], empty, words=[f"empty{suffix}", "empty"])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_truncated_file(scans, refused, tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    noisy = blob() + np.random.default_rng(0).normal(size=blob().shape).astype(np.float32)
    save(whole, noisy)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(scans[0], cut, words=[f"cut{suffix}"])


def test_unreadable_content(scans, refused, tmp_path):
    junk = tmp_path / "junk.nii.gz"
    junk.write_bytes(b"this is not an image at all" * 20)
    refused(junk, scans[1], words=["junk.nii.gz"])


def test_unknown_format(scans, refused, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    refused(text, scans[1], words=["notes.txt", ".nii.gz"])


def test_file_without_permission(scans, refused, tmp_path):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("the administrator may read every file")
    locked = tmp_path / "locked.nii.gz"
    locked.write_bytes((tmp_path / "fixed.nii.gz").read_bytes())
    locked.chmod(0)
    refused(locked, scans[1], words=["locked.nii.gz", "permission"])


def test_empty_folder(scans, refused, tmp_path):
    (tmp_path / "series").mkdir()
    refused(tmp_path / "series", scans[1], words=["series"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf(scans, refused, tmp_path, value):
    array = blob()
    array[3, 4, 5] = value
    refused(save(tmp_path / "holes.nii.gz", array), scans[1], words=["holes.nii.gz", "NaN or Inf"])


def test_constant_image(scans, refused, tmp_path):
    refused(
        scans[0], save(tmp_path / "flat.nii.gz", np.full((16, 16, 16), 7.0, np.float32)), words=["flat.nii.gz", "7"]
    )


@pytest.mark.parametrize("spacing", [0.0, -1.0])
def test_zero_or_negative_spacing_nifti(scans, refused, tmp_path, spacing):
    import struct

    path = tmp_path / "spacing.nii"
    save(path, blob())
    data = bytearray(path.read_bytes())
    data[80:84] = struct.pack("<f", spacing)
    path.write_bytes(data)
    refused(path, scans[1], words=["spacing.nii", "spacing"])


@pytest.mark.parametrize("spacing", ["0 1 1", "-1 1 1"])
def test_zero_or_negative_spacing_mha(scans, refused, tmp_path, spacing):
    path = tmp_path / "spacing.mha"
    save(path, blob(), spacing=(1.25, 1.0, 1.0))
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1.25 1 1", f"ElementSpacing = {spacing}".encode(), 1))
    assert f"ElementSpacing = {spacing}".encode() in path.read_bytes()
    refused(path, scans[1], words=["spacing.mha", "spacing"])


def test_zero_spacing_numpy(scans, refused, tmp_path):
    path = tmp_path / "spacing.npz"
    np.savez(path, image=blob(), spacing=[1.0, 0.0, 1.0])
    refused(scans[0], path, words=["spacing.npz", "spacing"])


def test_numpy_without_spacing(scans, refused, tmp_path):
    path = tmp_path / "bare.npy"
    np.save(path, blob())
    refused(scans[0], path, words=["bare.npy", "spacing"])


def test_direction_that_is_not_orthogonal(scans, refused, tmp_path):
    path = tmp_path / "sheared.mha"
    save(path, blob())
    data = path.read_bytes().replace(
        b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 0.5 1 0 0 0 1", 1
    )
    assert b"0.5" in data
    path.write_bytes(data)
    refused(path, scans[1], words=["sheared.mha"])


def test_rgb_image(scans, refused, tmp_path):
    array = np.stack([blob().astype(np.uint8)] * 3, -1)
    image = sitk.GetImageFromArray(array, isVector=True)
    path = str(tmp_path / "color.mha")
    sitk.WriteImage(image, path)
    refused(path, scans[1], words=["color.mha", "3 values per voxel"])


def test_vector_image(scans, refused, tmp_path):
    image = sitk.GetImageFromArray(np.stack([blob()] * 3, -1), isVector=True)
    path = str(tmp_path / "vector.nii.gz")
    sitk.WriteImage(image, path)
    refused(scans[0], path, words=["vector.nii.gz", "values per voxel"])


def test_4d_without_a_chosen_frame(scans, refused, tmp_path):
    path = tmp_path / "series.nii.gz"
    series = sitk.JoinSeries([sitk.GetImageFromArray(blob()), sitk.GetImageFromArray(blob() * 2)])
    sitk.WriteImage(series, str(path))
    refused(path, scans[1], words=["series.nii.gz", "4-D", "frame"])
    refused(path, scans[1], "--frame", 7, words=["frame 7"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_thick_axis(scans, refused, tmp_path, axis):
    array = np.take(blob(), [4], axis=axis)
    refused(save(tmp_path / "thin.nii.gz", array), scans[1], words=["thin.nii.gz"])


def test_fixed_2d_with_moving_3d(scans, refused, tmp_path):
    flat = save(tmp_path / "slice.mha", blob()[8])
    refused(flat, scans[1], words=["2-D", "3-D"])


def test_absent_label_pair(scans, refused, tmp_path):
    labels = save(tmp_path / "labels.nii.gz", (blob() > 50).astype(np.uint8))
    common = [*scans, "--fixed-labels", labels, "--moving-labels", labels, "--label-pairs"]
    refused(*common, "1:1,1:9", words=["9"])
    refused(*common, "7:1", words=["7"])
    refused(*common, "one:1", words=["one:1"])


def test_label_maps_without_a_common_label(scans, refused, tmp_path):
    first = save(tmp_path / "first.nii.gz", (blob() > 50).astype(np.uint8))
    second = save(tmp_path / "second.nii.gz", 2 * (blob() > 50).astype(np.uint8))
    refused(*scans, "--fixed-labels", first, "--moving-labels", second, words=["label"])


def test_label_map_without_its_partner(scans, refused):
    refused(*scans, "--fixed-labels", scans[0], words=["--moving-labels"])


def test_label_map_that_is_a_scan(scans, refused):
    refused(*scans, "--fixed-labels", scans[0], "--moving-labels", scans[1], words=["whole numbers"])


def write_csv(path, points):
    path.write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in points))
    return str(path)


GOOD_POINTS = [(5, 5, 5), (10, 9, 8), (12, 6, 10)]


def landmarks(tmp_path, fixed, moving):
    """Command-line options that name two landmark lists."""
    first, second = write_csv(tmp_path / "f.csv", fixed), write_csv(tmp_path / "m.csv", moving)
    return ["--fixed-landmarks", first, "--moving-landmarks", second]


def test_unequal_landmark_lists(scans, refused, tmp_path):
    refused(*scans, *landmarks(tmp_path, GOOD_POINTS, GOOD_POINTS[:2]), words=["3", "2", "partner"])


def test_single_landmark_list(scans, refused, tmp_path):
    path = write_csv(tmp_path / "f.csv", GOOD_POINTS)
    refused(*scans, "--fixed-landmarks", path, words=["--moving-landmarks"])


def test_single_landmark_list_on_the_moving_side(scans, refused, tmp_path):
    path = write_csv(tmp_path / "m.csv", GOOD_POINTS)
    refused(*scans, "--moving-landmarks", path, words=["--fixed-landmarks"])


def test_lists_of_a_single_landmark_are_a_pair(scans, tmp_path, capfd):
    """One landmark on either side is a prompt like any other: it is met, and nothing folds."""
    out = tmp_path / "out"
    options = landmarks(tmp_path, [(10, 9, 8)], [(11, 9, 8)])
    assert main(["register", *scans, *options, "-o", str(out), "--preset", "fast", "--quiet"]) == 0
    found = {f["name"]: f["value"] for f in json.loads((out / "result.json").read_text())["findings"]}
    assert found["tre_max"] < 0.5 and found["folds"] == 0


def test_empty_landmark_list(scans, refused, tmp_path):
    refused(*scans, *landmarks(tmp_path, [], []), words=["f.csv"])


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_landmarks_outside_the_scan(scans, refused, tmp_path, side):
    far = [*GOOD_POINTS[:2], (900, 5, 5)]
    lists = (far, GOOD_POINTS) if side == "fixed" else (GOOD_POINTS, far)
    refused(*scans, *landmarks(tmp_path, *lists), words=[side, "outside"])


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_fully_empty_mask(scans, refused, tmp_path, side):
    mask = save(tmp_path / "mask.nii.gz", np.zeros(blob().shape, np.uint8))
    refused(*scans, f"--{side}-mask", mask, words=["mask", "empty"])


@pytest.mark.parametrize(
    ("option", "value", "suggestion"),
    [
        ("--method", "iteratve", "iterative"),
        ("--preset", "defalt", "default"),
        ("--transform", "diffeomorfic", "diffeomorphic"),
        ("--similarity", "lnc", "lncc"),
        ("--start", "moment", "moments"),
        ("--device", "cuad", "cuda"),
        ("--set", "shedule=1", "schedule"),
        ("--set", "schedule.factor=[4,2,1]", "factors"),
    ],
)
def test_unknown_name_suggests_the_nearest(scans, refused, option, value, suggestion):
    refused(*scans, option, value, words=[f"'{suggestion}'"])


def test_unwritable_output_folder(scans, tmp_path, capfd):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    code = main(["register", *scans, "-o", str(blocked / "out")])
    err = capfd.readouterr().err
    assert code == 2 and err.count("\n") == 1 and "file" in err
    assert blocked.read_text() == "a file where a folder should be"


def test_read_only_output_folder(scans, tmp_path, capfd):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("the administrator may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    assert main(["register", *scans, "-o", str(tmp_path / "locked" / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "locked" in err and not list((tmp_path / "locked").iterdir())


def test_output_on_a_full_disk(scans, tmp_path, capfd, monkeypatch):
    from DeepDiffRegLib.export import folder

    usage = type(folder.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    assert main(["register", *scans, "-o", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "disk is full" in err and not (tmp_path / "out").exists()


def test_disk_that_fills_up_while_writing(scans, tmp_path, capfd, monkeypatch):
    """The run is lost, but in one line, and neither a half result nor a hidden folder is left."""
    from DeepDiffRegLib.export import itk_transform

    def full(*_):
        raise OSError("Can't close file (errno = 28, error message = 'No space left on device', buf = 0x5)")

    monkeypatch.setattr(itk_transform, "write_transform", full)
    assert main(["register", *scans, "-o", str(tmp_path / "out"), "--preset", "fast", "--quiet"]) == 2
    err = capfd.readouterr().err
    assert err.endswith("cannot be written: No space left on device\n") and err.count("\n") == 1
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_output_folder_with_other_files(scans, tmp_path, capfd):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("years of work")
    code = main(["register", *scans, "-o", str(out)])
    err = capfd.readouterr().err
    assert code == 2 and err.count("\n") == 1 and str(out) in err
    assert [p.name for p in out.iterdir()] == ["thesis.doc"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA card")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda(scans, refused, device):
    refused(*scans, "--device", device, words=["cuda", "--device cpu"])


def test_images_that_do_not_overlap(scans, refused, tmp_path):
    far = save(tmp_path / "far.nii.gz", blob(), origin=(500.0, 0.0, 0.0))
    refused(scans[0], far, words=["do not overlap", "--start centers"])
    refused(scans[0], far, "--start", "none", words=["do not overlap"])


def test_initial_transform_that_removes_the_overlap(scans, refused, tmp_path):
    path = str(tmp_path / "far.tfm")
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 400.0, 0.0)), path)
    refused(*scans, "--initial", path, words=["overlap"])


def test_initial_transform_of_another_dimension(scans, refused, tmp_path):
    path = str(tmp_path / "flat.tfm")
    sitk.WriteTransform(sitk.TranslationTransform(2, (1.0, 0.0)), path)
    refused(*scans, "--initial", path, words=["2-D", "3-D"])


def test_initial_transform_that_is_not_one(scans, refused, tmp_path):
    path = tmp_path / "broken.h5"
    path.write_bytes(b"not a transform")
    refused(*scans, "--initial", path, words=["broken.h5"])


def test_broken_preset_file(scans, refused, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("{ not json")
    refused(*scans, "--preset", path, words=["mine.json"])


@pytest.mark.parametrize(
    "options",
    [["--threads", "0"], ["--seed", "-1"], ["--max-memory", "0"], ["--threads", "two"], ["--spacing", "0,1,1"]],
)
def test_bad_numbers(scans, refused, options):
    refused(*scans, *options, words=[options[0]])


@pytest.mark.parametrize("argv", [["regster"], ["register"], ["register", "a.nii"], ["--verbose"], ["apply", "t.h5"]])
def test_bad_usage(argv, capfd):
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("deepdiffreg: ")


def test_unknown_command_suggests_the_nearest(capfd):
    assert main(["regster"]) == 2
    assert "'register'" in capfd.readouterr().err


def test_apply_refuses(scans, tmp_path, capfd):
    shift = str(tmp_path / "shift.tfm")
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 2.0, 3.0)), shift)
    points = write_csv(tmp_path / "p.csv", GOOD_POINTS)
    cases = [
        ([shift, scans[1], "-o", str(tmp_path / "o.nii.gz")], "--reference"),
        ([shift, points, "-o", str(tmp_path / "o.nii.gz")], ".csv"),
        ([shift, scans[1], "-o", str(tmp_path / "no" / "o.nii.gz"), "--reference", scans[0]], "no such folder"),
        ([shift + "x", points, "-o", str(tmp_path / "o.csv")], "shift.tfmx"),
        ([shift, points + "x", "-o", str(tmp_path / "o.nii.gz"), "--reference", scans[0]], "p.csvx"),
    ]
    for arguments, word in cases:
        assert main(["apply", *arguments]) == 2, arguments
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and word in err, err
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("mistake", ["missing", "truncated"])
def test_as_a_process(scans, tmp_path, mistake):
    """The whole program in a process of its own: no traceback, no chatter of the readers beneath."""
    bad = tmp_path / "bad.nii.gz"
    if mistake == "truncated":
        bad.write_bytes((tmp_path / "moving.nii.gz").read_bytes()[:400])
    command = [
        sys.executable,
        "-m",
        "DeepDiffRegLib",
        "register",
        scans[0],
        str(bad),
        "-o",
        str(tmp_path / "out"),
        "--json",
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == "" and run.stderr.count("\n") == 1 and "bad.nii.gz" in run.stderr
    assert not (tmp_path / "out").exists()


def test_unexpected_error_is_one_line_with_exit_4(monkeypatch, capfd):
    from DeepDiffRegLib.cli import info

    monkeypatch.setattr(info, "facts", lambda: json.loads("{"))
    assert main(["info"]) == 4
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "JSONDecodeError" in err and "DEEPDIFFREG_DEBUG=1" in err
