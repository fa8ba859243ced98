"""`propose`: pairs of point files that `register` reads, one line for what cannot be answered."""

from __future__ import annotations

import json

import numpy as np
import pytest

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.data.io import read_image, read_landmarks, write_image, write_points
from DeepDiffRegLib.data.phantoms import make_pair, write_pair
from DeepDiffRegLib.data.points import Points
from DeepDiffRegLib.export.itk_transform import write_transform
from DeepDiffRegLib.transforms.affine import AffineTransform


@pytest.fixture(scope="module")
def phantom():
    return make_pair(2, (36, 32, 28), deformation_mm=5.0)


@pytest.fixture(scope="module")
def files(phantom, tmp_path_factory):
    """The scans, three landmarks of the fixed one, and the affine map nearest to the truth."""
    folder = tmp_path_factory.mktemp("propose")
    paths = {role: str(path) for role, path in write_pair(phantom, folder).items()}
    fixed = phantom.landmarks.fixed
    paths["points"] = str(folder / "some.csv")
    write_points(Points(fixed.positions_mm[:3], fixed.names[:3]), paths["points"])
    points = phantom.pair.fixed.geometry.to_world(np.argwhere(phantom.fixed_labels.numpy() > 0)[::97, ::-1])
    matrix = np.eye(4)
    solved = np.linalg.lstsq(np.c_[points, np.ones(len(points))], phantom.truth(points), rcond=None)[0]
    matrix[:3] = solved.T
    paths["map"] = str(folder / "affine.tfm")
    write_transform(AffineTransform.from_homogeneous(matrix), paths["map"])
    return paths


def ask(files, tmp_path, *options) -> tuple[int, list[str]]:
    out = [str(tmp_path / "f.mrk.json"), str(tmp_path / "m.csv")]
    command = ["propose", files["fixed"], files["moving"], "--transform", files["map"], "-o", *out, "--threads", "2"]
    return main([*command, *options]), out


def test_partners_of_points_are_written_as_pairs(phantom, files, tmp_path, capsys):
    code, out = ask(files, tmp_path, "--points", files["points"], "--confidence", "0", "--json")
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and len(told["proposals"]) == 3
    pairs = read_landmarks(*out)
    kept = [row for row in told["proposals"] if row["written"]]
    assert [row["name"] for row in kept] == list(pairs.fixed.names)
    np.testing.assert_allclose(pairs.moving.positions_mm, [row["moving_mm"] for row in kept], atol=1e-3)
    assert all({"confidence", "error_mm", "note", "tolerance_mm"} <= set(row) for row in kept)


def test_points_of_the_moving_scan(files, phantom, tmp_path, capsys):
    there = str(tmp_path / "there.csv")
    write_points(Points(phantom.landmarks.moving.positions_mm[:1], ("tip",)), there)
    code, _ = ask(files, tmp_path, "--points", there, "--side", "moving", "--confidence", "0", "--json")
    row = json.loads(capsys.readouterr().out)["proposals"][0]
    assert code == 0 and row["moving_mm"] == pytest.approx(phantom.landmarks.moving.positions_mm[0], abs=1e-3)


def test_suggestions_for_people(files, tmp_path, capsys):
    code, out = ask(files, tmp_path, "--suggest", "2", "--confidence", "0")
    told = capsys.readouterr()
    if code == 2:
        assert "no place was found" in told.err
    else:
        assert "suggestion 1" in told.out and 1 <= len(read_landmarks(*out)) <= 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--points", "POINTS", "--confidence", "2"), "--confidence"),
        (("--points", "POINTS", "--radius", "-1"), "radius_mm"),
        (("--suggest", "0"), "count"),
        (("--points", "missing.csv"), "missing.csv"),
        ((), "required"),
    ],
)
def test_bad_questions_end_with_one_line(files, tmp_path, capsys, options, word):
    code, _ = ask(files, tmp_path, *(files["points"] if o == "POINTS" else o for o in options))
    told = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and word in told[-1] and not any((tmp_path / name).exists() for name in ("f.mrk.json", "m.csv"))


def test_outputs_are_checked_first(files, tmp_path, capsys):
    base = ["propose", files["fixed"], files["moving"], "--points", files["points"], "-o"]
    same = str(tmp_path / "a.csv")
    for out in ([same, same], [str(tmp_path / "a.nii"), same], [str(tmp_path / "none" / "a.csv"), same]):
        assert main([*base, *out]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_where_nothing_is_seen_nothing_is_written(files, tmp_path, capsys):
    """All points lie in the air around the body."""
    scan = read_image(files["fixed"])
    corner = str(tmp_path / "corner.csv")
    write_points(Points(scan.geometry.to_world([[1, 1, 1]])), corner)
    quiet = scan.tensor.clone()
    quiet[quiet < 0.3 * quiet.max()] = 0
    still = str(tmp_path / "still.nii.gz")
    write_image(type(scan)(quiet, scan.geometry), still)
    code, _ = ask({**files, "fixed": still}, tmp_path, "--points", corner)
    assert code == 2 and "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()
