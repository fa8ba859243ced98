"""The result folder: exactly the promised files, all of them or none."""

from __future__ import annotations

import dataclasses
import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepDiffRegLib.config import Config
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.export import folder
from DeepDiffRegLib.export.folder import FILES, check_outdir, write_result
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.verdict import run_checks
from DeepDiffRegLib.result import Result, Status
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.warp.image import warp_image


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.fixture(scope="module")
def result() -> Result:
    case = make_pair(1, (20, 18, 16), deformation_mm=4.0)
    grid = case.pair.fixed.geometry
    field = AffineTransform(case.truth.matrix, case.truth.offset_mm).displacement(grid)
    transform = DisplacementTransform(field, grid)
    warped = warp_image(case.pair.moving, transform, grid)
    context = Context.build(case.pair, transform, transform.inverse(), warped)
    return Result(
        case.pair, Config(), transform, context.inverse, warped, run_checks(context), (), Status.MAX_STEPS, "stopped",
        {"all": np.float32(1.5), "never": float("nan")}, 300.0, {"versions": {"numpy": np.__version__}},
    )  # fmt: skip


def test_exactly_the_promised_files(result, tmp_path):
    write_result(result, tmp_path / "deep" / "out")
    assert names(tmp_path / "deep" / "out") == sorted(FILES)
    assert names(tmp_path / "deep") == ["out"]


def test_what_the_checks_computed_is_written_without_computing_it_again(result, tmp_path, monkeypatch):
    context = Context.of(result)
    known = dataclasses.replace(result, context=context)
    assert Context.of(known) is context
    monkeypatch.setattr(Context, "build", lambda *_, **__: pytest.fail("the displacement was computed again"))
    write_result(known, tmp_path / "out")
    assert names(tmp_path / "out") == sorted(FILES)


def test_other_programs_read_the_files(result, tmp_path):
    write_result(result, tmp_path / "out")
    fixed = result.pair.fixed.geometry
    for name in ("warped", "displacement", "jacobian"):
        image = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))
        assert image.GetSize() == fixed.size
        np.testing.assert_allclose(image.GetOrigin(), fixed.origin_mm, atol=1e-4)
    transform, inverse = (sitk.ReadTransform(str(tmp_path / "out" / f"{n}.h5")) for n in ("transform", "inverse"))
    point = tuple(fixed.center_mm)
    mapped = transform.TransformPoint(point)
    np.testing.assert_allclose(mapped, result.transform.map_points(np.array([point]))[0], atol=1e-3)
    np.testing.assert_allclose(inverse.TransformPoint(mapped), point, atol=0.05)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz")))
    np.testing.assert_allclose(values, result.warped.numpy(), rtol=1e-5)


def test_result_json_says_everything(result, tmp_path):
    write_result(result, tmp_path / "out")
    values = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert values["status"] == "max_steps"
    assert {f["name"] for f in values["findings"]} == {f.name for f in result.findings}
    assert all({"unit", "limit", "verdict"} <= set(f) for f in values["findings"])
    assert values["timings_s"] == {"all": 1.5, "never": None}
    assert Config.from_dict(values["config"]) == result.config
    assert values["verdict"] in ("good", "check", "bad")


def test_an_earlier_result_is_replaced_when_asked(result, tmp_path):
    write_result(result, tmp_path / "out")
    (tmp_path / "out" / "warped.nii.gz").write_bytes(b"old")
    with pytest.raises(InputError, match="overwrite"):
        write_result(result, tmp_path / "out")
    write_result(result, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "warped.nii.gz").stat().st_size > 100
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_halfway_leaves_the_old_state(result, tmp_path, monkeypatch, earlier):
    if earlier:
        write_result(result, tmp_path / "out")
    before = names(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_report", full)
    with pytest.raises(InputError, match="No space left") as caught:
        write_result(result, tmp_path / "out", overwrite=True)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    if earlier:
        assert names(tmp_path / "out") == sorted(FILES)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="a file of that name"):
        check_outdir(tmp_path / "out")
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_outdir(tmp_path / "out" / "below")


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no result\.json"):
        check_outdir(tmp_path, overwrite=True)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"notes\.txt"):
        check_outdir(tmp_path, overwrite=True)


def test_an_empty_or_new_folder_is_fine(tmp_path):
    check_outdir(tmp_path)
    check_outdir(tmp_path / "a" / "b")
    assert names(tmp_path) == []


def test_a_full_disk_is_refused(result, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 1000, 1000))
    with pytest.raises(InputError, match="disk is full"):
        check_outdir(tmp_path / "out", result.pair)


def test_an_unwritable_parent_is_refused(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.tempfile, "TemporaryFile", denied)
    with pytest.raises(InputError, match="Permission denied"):
        check_outdir(tmp_path / "out")
