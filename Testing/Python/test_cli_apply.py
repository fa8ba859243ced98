"""`apply` and `evaluate`: the right direction for images, labels, points and surfaces, in agreement with SimpleITK."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.data.io import read_image, read_points, read_surface, surface_points, write_surface
from DeepDiffRegLib.data.phantoms import make_pair, write_pair

ANGLE = 0.3


@pytest.fixture(scope="module")
def phantom():
    return make_pair(3, (28, 26, 24), deformation_mm=6.0)


@pytest.fixture(scope="module")
def files(phantom, tmp_path_factory):
    """Paths of the generated scans, labels and landmarks, and of a rotation about the fixed scan's middle."""
    folder = tmp_path_factory.mktemp("apply")
    paths = {role: str(path) for role, path in write_pair(phantom, folder).items()}
    paths["transform"] = str(folder / "rotation.tfm")
    sitk.WriteTransform(rotation(phantom), paths["transform"])
    return paths


def rotation(phantom) -> sitk.Transform:
    center = phantom.pair.fixed.geometry.center_mm.tolist()
    return sitk.Euler3DTransform(center, ANGLE, -0.1, 0.2, (4.0, -3.0, 2.0))


@pytest.mark.parametrize("inverse", [False, True])
def test_image_agrees_with_simpleitk(phantom, files, tmp_path, inverse, capsys):
    moving, reference = ("fixed", "moving") if inverse else ("moving", "fixed")
    out = tmp_path / "out.nii.gz"
    options = ["--inverse"] if inverse else []
    assert (
        main(["apply", files["transform"], files[moving], "-o", str(out), "--reference", files[reference], *options])
        == 0
    )
    transform = rotation(phantom).GetInverse() if inverse else rotation(phantom)
    read = [sitk.ReadImage(files[r], sitk.sitkFloat32) for r in (moving, reference)]
    expected = sitk.Resample(read[0], read[1], transform, sitk.sitkLinear, 0.0)
    got = sitk.ReadImage(str(out))
    assert np.abs(sitk.GetArrayFromImage(got) - sitk.GetArrayFromImage(expected)).max() < 0.5
    assert np.allclose(got.GetOrigin(), expected.GetOrigin(), atol=1e-3)
    assert "wrote" in capsys.readouterr().out


def test_labels_stay_labels(phantom, files, tmp_path):
    out = tmp_path / "labels.nii.gz"
    command = [
        "apply",
        files["transform"],
        files["moving_labels"],
        "-o",
        str(out),
        "--reference",
        files["fixed"],
        "--labels",
    ]
    assert main(command) == 0
    got = read_image(out, kind="labels")
    assert set(np.unique(got.numpy())) <= {0, *phantom.label_names}
    read = [sitk.ReadImage(files[r]) for r in ("moving_labels", "fixed")]
    expected = sitk.GetArrayFromImage(sitk.Resample(*read, rotation(phantom), sitk.sitkNearestNeighbor, 0))
    assert (got.numpy() == expected).mean() > 0.999


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_points_follow_the_transform_and_come_back(phantom, files, tmp_path, suffix):
    there, back = tmp_path / f"there{suffix}", tmp_path / f"back{suffix}"
    assert main(["apply", files["transform"], files["fixed_landmarks"], "-o", str(there)]) == 0
    positions = phantom.landmarks.fixed.positions_mm
    expected = [rotation(phantom).TransformPoint(p) for p in positions.tolist()]
    assert np.allclose(read_points(there).positions_mm, expected, atol=1e-3)
    assert main(["apply", files["transform"], str(there), "-o", str(back), "--inverse"]) == 0
    assert np.allclose(read_points(back).positions_mm, positions, atol=2e-3)


@pytest.mark.parametrize("suffix", [".vtp", ".stl", ".ply"])
def test_surface_follows_the_transform(phantom, files, tmp_path, suffix):
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    sphere = vtkSphereSource()
    sphere.SetCenter(*phantom.pair.fixed.geometry.center_mm.tolist())
    sphere.SetRadius(30)
    sphere.Update()
    source, out = tmp_path / f"sphere{suffix}", tmp_path / f"moved{suffix}"
    write_surface(sphere.GetOutput(), source)
    assert main(["apply", files["transform"], str(source), "-o", str(out)]) == 0
    before, after = (surface_points(read_surface(p)) for p in (source, out))
    expected = np.array([rotation(phantom).TransformPoint(p) for p in before.tolist()])
    assert np.allclose(after, expected, atol=2e-3)


def test_direction_of_images_and_points_belong_together(phantom, tmp_path, files):
    """A bright spot at q in the moving image appears, after `apply`, where `apply --inverse` sends the point q."""
    grid = phantom.pair.moving.geometry
    q = grid.to_world(np.array(grid.size) // 2 + 2)
    image = sitk.ReadImage(files["moving"], sitk.sitkFloat32) * 0
    index = [int(v) for v in np.array(grid.size) // 2 + 2]
    image[index] = 1000.0
    spot, points = str(tmp_path / "spot.nii.gz"), tmp_path / "q.csv"
    sitk.WriteImage(sitk.SmoothingRecursiveGaussian(image, 8.0), spot)
    points.write_text("x,y,z\n" + ",".join(f"{v:.6f}" for v in q) + "\n")
    common = ["--reference", files["fixed"]]
    assert main(["apply", files["transform"], spot, "-o", str(tmp_path / "w.nii.gz"), *common]) == 0
    assert main(["apply", files["transform"], str(points), "-o", str(tmp_path / "p.csv"), "--inverse"]) == 0
    warped = read_image(tmp_path / "w.nii.gz")
    weight = warped.numpy().ravel()
    where = np.stack(np.unravel_index(np.arange(weight.size), warped.geometry.shape)[::-1], -1)
    center = warped.geometry.to_world((where * weight[:, None]).sum(0) / weight.sum())
    assert np.linalg.norm(center - read_points(tmp_path / "p.csv").positions_mm[0]) < 1.0


def test_json_is_one_object(files, tmp_path, capsys):
    out = str(tmp_path / "p.csv")
    assert main(["apply", files["transform"], files["fixed_landmarks"], "-o", out, "--inverse", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["kind"] == "points" and values["inverse"] is True
    assert values["inverse_error_mm"]["max"] == pytest.approx(0.0, abs=1e-6)


def test_evaluate_tells_the_true_map_from_a_wrong_one(phantom, files, tmp_path, capsys):
    """The map the pair was made with is judged better than the identity, on labels and landmarks alike."""
    scans = ["--fixed", files["fixed"], "--moving", files["moving"]]
    hints = [x for kind in ("labels", "landmarks") for role in ("fixed", "moving") for x in (f"--{role}-{kind}", files[f"{role}_{kind}"])]  # fmt: skip
    grid = phantom.pair.fixed.geometry
    index = np.stack(np.unravel_index(np.arange(grid.voxels), grid.shape)[::-1], -1)
    world = grid.to_world(index)
    field = sitk.GetImageFromArray((phantom.truth(world) - world).reshape(*grid.shape, 3), isVector=True)
    field.SetOrigin(grid.origin_mm)
    field.SetSpacing(grid.spacing_mm)
    field.SetDirection(grid.rotation.ravel().tolist())
    true, identity = str(tmp_path / "true.h5"), str(tmp_path / "identity.tfm")
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), true)
    sitk.WriteTransform(sitk.TranslationTransform(3), identity)
    found = {}
    for path in (true, identity):
        assert main(["evaluate", path, *scans, *hints, "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        found[path] = {f["name"]: f["value"] for f in values["findings"]}
        assert values["verdict"] in ("good", "check", "bad")
    assert found[true]["tre_mean"] < 0.5 < found[identity]["tre_mean"]
    assert found[true]["dice_mean"] > found[identity]["dice_mean"] + 0.05
    assert found[true]["folds"] == 0
    assert main(["evaluate", true, *scans]) == 0
    assert "Folded voxels" in capsys.readouterr().out
