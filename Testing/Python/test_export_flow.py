"""Files and pictures of a flow: which there are, what other programs read in them, what result.json says."""

from __future__ import annotations

import base64
import io
import json
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as Pillow

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, Schedule, Start
from DeepDiffRegLib.data.io import read_image, write_image
from DeepDiffRegLib.data.pair import Pair, Prompts, Stiffness, Tissue
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.export.flow import belongs, flow_files, flow_of, flow_summary, frame_times
from DeepDiffRegLib.export.folder import FILES, check_outdir, write_result
from DeepDiffRegLib.export.nifti_warp import read_displacement
from DeepDiffRegLib.export.report import render_report
from DeepDiffRegLib.pipeline import register
from DeepDiffRegLib.qc._planes import center_of, standard_planes
from DeepDiffRegLib.qc.figures import _Gray
from DeepDiffRegLib.qc.flow_figures import FILM_PIXELS, FRAMES, film

QUICK = Schedule((4, 2), (6, 4))
START = Start("moments", "affine", schedule=Schedule((4,), (8,)))


@pytest.fixture(scope="module")
def phantom():
    return make_pair(1, (36, 32, 28), deformation_mm=8.0)


def solved(phantom, name: str, intermediate: int = 0, stiff: bool = False, **options):
    prompts = Prompts()
    if stiff:
        prompts = Prompts(stiffness=Stiffness(phantom.moving_labels, (Tissue(2, "stiff"),)))
    config = Config(
        transform=Choice(name, options), schedule=QUICK, start=START, intermediate=intermediate, threads=1, device="cpu"
    )
    return register(Pair(phantom.pair.fixed, phantom.pair.moving, prompts), config)


@pytest.fixture(scope="module")
def rdmm(phantom, tmp_path_factory):
    """Result of RDMM with a stiff structure, and its folder with three intermediate maps."""
    result = solved(phantom, "rdmm", 3, True, background="soft", sigmas=(6, 12, 24, 60), sigma_unit="mm", blur=4)
    folder = tmp_path_factory.mktemp("flow") / "out"
    write_result(result, folder)
    return result, folder


def read_vectors(path) -> np.ndarray:
    """(d, Z, Y, X) as ITK gives them: LPS."""
    return np.moveaxis(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), -1, 0)


def test_exactly_what_the_result_says_was_written(rdmm):
    result, folder = rdmm
    names = {path.name for path in folder.iterdir()}
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert names == {*values["files"], "result.json"} == {*FILES, *flow_files(result)}
    assert {"momentum.nii.gz", "sigma_0.nii.gz", "sigma_1.nii.gz", "weights_0.nii.gz", "weights_1.nii.gz"} <= names
    assert {"phi_0.nii.gz", "phi_0.5.nii.gz", "phi_1.nii.gz", "velocity_0.nii.gz", "velocity_1.nii.gz"} <= names
    shot = flow_of(result.transform).shot
    assert len([n for n in names if n.startswith("velocity")]) == shot.path.steps + 1
    assert all(belongs(n) for n in names - set(FILES)) and not any(belongs(n) for n in FILES)


def test_what_the_summary_says(rdmm):
    result, folder = rdmm
    flow = json.loads((folder / "result.json").read_text(encoding="utf-8"))["flow"]
    shot = flow_of(result.transform).shot
    assert flow["energy"] == pytest.approx(shot.energy()) and flow["energy"] > 0
    assert flow["energy_drift"] < 1e-3
    assert flow["size"] == list(shot.geometry.size) and flow["steps"] == shot.path.steps
    assert 6 <= flow["sigma_mm"][0] < flow["sigma_mm"][1] <= 60


def test_maps_on_the_way(rdmm):
    """phi_0 is the affine part, phi_1 the displacement that is written anyway."""
    result, folder = rdmm
    fixed = result.pair.fixed.geometry
    *_, affine = result.transform.transforms
    start, end, whole = (read_displacement(folder / f"{n}.nii.gz").tensor for n in ("phi_0", "phi_1", "displacement"))
    torch.testing.assert_close(end, whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(start, affine.displacement(fixed), atol=1e-3, rtol=0)
    half = read_displacement(folder / "phi_0.5.nii.gz")
    torch.testing.assert_close(half.tensor, result.transform.at(0.5).displacement(fixed), atol=1e-4, rtol=0)


def test_vectors_are_lps_in_mm_for_itk_and_ras_for_nifti(rdmm):
    result, folder = rdmm
    shot = flow_of(result.transform).shot
    for name, field in (
        ("momentum", shot.momentum),
        ("velocity_0", shot.velocity(0.0)),
        ("velocity_1", shot.velocity(1.0)),
    ):
        path = folder / f"{name}.nii.gz"
        np.testing.assert_allclose(read_vectors(path), field[0].numpy(), atol=1e-6 + 1e-5 * float(field.abs().max()))
        image = sitk.ReadImage(str(path))
        assert image.GetSize() == shot.geometry.size
        np.testing.assert_allclose(image.GetSpacing(), shot.geometry.spacing_mm, rtol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), shot.geometry.origin_mm, atol=1e-3)
        raw = np.asarray(nibabel.load(path).dataobj)[..., 0, :].T
        np.testing.assert_allclose(raw, field[0].numpy() * np.array([-1, -1, 1])[:, None, None, None], atol=1e-5)


def test_sigma_lies_on_the_scan_it_belongs_to(rdmm, phantom):
    """Wide in the stiff structure, narrow elsewhere: at t = 0 where the moving scan has it, at t = 1 where the map puts it."""
    result, folder = rdmm
    flow = flow_of(result.transform)
    for time, labels in ((0, phantom.moving_labels), (1, None)):
        sigma = read_image(folder / f"sigma_{time}.nii.gz")
        index = np.indices(sigma.geometry.shape)[::-1].reshape(3, -1).T
        points = sigma.geometry.to_world(index)
        if labels is None:
            labels = phantom.moving_labels
            points = result.transform.map_points(points)
        voxel = np.rint(labels.geometry.to_index(points)).astype(int)
        inside = ((voxel >= 0) & (voxel < labels.geometry.size)).all(1)
        stiff = np.zeros(len(points), bool)
        stiff[inside] = labels.numpy()[tuple(voxel[inside].T[::-1])] == 2
        values = sigma.numpy().ravel()
        assert stiff.sum() > 20
        assert values[stiff].mean() > 2 * values[inside & ~stiff].mean()
        weights = read_vectors(folder / f"weights_{time}.nii.gz")
        assert weights.shape == (4, *sigma.geometry.shape)
        again = np.sqrt((weights**2 * np.square(flow.shot.metric.sigmas_mm)[:, None, None, None]).sum(0))
        np.testing.assert_allclose(again, sigma.numpy(), rtol=0.15)


@pytest.mark.parametrize(
    ("name", "files"), [("lddmm", {"momentum", "velocity_0"}), ("vsvf", {"momentum", "velocity_0"}), ("svf", set())]
)
def test_other_models_write_what_they_have(phantom, tmp_path, name, files):
    result = solved(phantom, name)
    assert set(flow_files(result)) == {f"{n}.nii.gz" for n in files}
    summary = flow_summary(result.transform)
    assert (summary is None) == (name == "svf")
    if summary is not None:
        assert summary["sigma_mm"][0] == pytest.approx(summary["sigma_mm"][1]) and summary["energy_drift"] < 1e-3


def test_stationary_velocities_give_frames_too(phantom, tmp_path):
    result = solved(phantom, "svf", 2)
    write_result(result, tmp_path / "out")
    inner = result.transform.transforms[0]
    np.testing.assert_allclose(
        read_vectors(tmp_path / "out" / "velocity_0.nii.gz"), inner.velocity[0].numpy(), atol=1e-4
    )
    assert {"phi_0.nii.gz", "phi_1.nii.gz"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_an_earlier_result_with_other_files_is_replaced(rdmm, phantom, tmp_path):
    write_result(rdmm[0], tmp_path / "out")
    check_outdir(tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "sigma_2.nii.gz").write_text("mine")
    with pytest.raises(InputError, match="sigma_2"):
        check_outdir(tmp_path / "out", overwrite=True)


def test_frames_are_counted():
    assert frame_times(3) == [0.0, 0.5, 1.0]
    for count in (1, 102, -3):
        with pytest.raises(ConfigError, match="intermediate"):
            Config(intermediate=count)


def test_command_line(phantom, tmp_path, capsys):
    pair = {"fixed": phantom.pair.fixed, "moving": phantom.pair.moving, "labels": phantom.moving_labels}
    for name, image in pair.items():
        write_image(image, tmp_path / f"{name}.nii.gz")
    command = ["register", str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"), "-o", str(tmp_path / "out")]
    command += [
        "--transform",
        "rdmm",
        "--set",
        "schedule.factors=[4]",
        "--set",
        "schedule.iterations=[3]",
        "--threads",
        "1",
    ]
    command += ["--stiffness", "2:soft", "--stiffness-labels", str(tmp_path / "labels.nii.gz"), "--quiet"]
    assert main([*command, "--intermediate", "1"]) == 2
    assert "intermediate" in capsys.readouterr().err
    assert main([*command, "--intermediate", "2"]) == 0
    assert {"phi_0.nii.gz", "phi_1.nii.gz", "sigma_0.nii.gz"} <= {path.name for path in (tmp_path / "out").iterdir()}


# --- the report --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(rdmm) -> str:
    return (rdmm[1] / "report.html").read_text(encoding="utf-8")


def test_the_report_holds_the_film_and_needs_nothing_else(page):
    assert not re.search(r"https?://|src=|@import|<link|fetch\(|XMLHttp|import\(", page)
    assert page.count("<script>") == 1 and 'type="range"' in page and ">Play</button>" in page
    assert "prefers-reduced-motion" in page and 'class="play" hidden' in page  # controls appear with the script only
    strips = [Pillow.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"image/jpeg;base64,([\w+/=]+)", page)]
    boxes = [tuple(map(int, b)) for b in re.findall(r'viewBox="0 0 (\d+) (\d+)" data-height', page)]
    assert [s.size for s in strips] == [(w, FRAMES * h) for w, h in boxes] and len(strips) == 3
    assert page.count('class="gridline on"') == 3 and sum(len(s.tobytes()) for s in strips) > 0
    assert len(re.findall(r'class="gridline(?: on)?" d="M\d', page)) == 3 * FRAMES
    assert "Kernel width at t = 0" in page and "kernel width (mm)" in page


def test_the_film_begins_straight_and_ends_at_the_registered_scan(rdmm):
    result, _ = rdmm
    shown = film(result.context, result.transform)[0]
    width, height = shown.size
    frames = np.asarray(Pillow.open(io.BytesIO(shown.jpeg)), float).reshape(FRAMES, height, width)
    first, last = shown.paths[0], shown.paths[-1]
    for line in re.findall(r"M\d+ \d+l([-\d ]+)", first):
        steps = np.array(line.split(), int).reshape(-1, 2)
        assert np.abs(steps).min(1).max() <= 1  # along one axis, but for rounding
    assert first != last
    plane = standard_planes(
        result.context.work.geometry,
        center_of(result.pair.fixed, result.context.work.fixed_foreground, result.context.work.geometry),
        FILM_PIXELS,
    )[0]
    assert np.abs(frames[-1] / 255 - _Gray(result.context).after(plane)).mean() < 0.02
    assert np.abs(frames[0] - frames[-1]).mean() > 2


def test_a_planar_flow_has_a_film_of_one_view():
    phantom = make_pair(0, (48, 40), ndim=2, deformation_mm=4.0)
    result = solved(phantom, "svf")
    assert len(film(result.context, result.transform, 3)) == 1
    text = render_report(result)
    assert text.count("image/jpeg") == 1 and "Kernel width" not in text
    assert "image/jpeg" not in render_report(solved(phantom, "displacement"))
