"""Scans of any grid become alike; pairs, patches and augmentation depend on the step alone; bad lists are refused in one line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from conftest import rotation

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.io import write_image
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.networks.weights import CanonicalGrid
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.training.augmentation import augmented, drawn_matrix
from DeepDiffRegLib.training.config import Augmentation, Data, TrainingConfig, read_config
from DeepDiffRegLib.training.dataset import PairSource, swapped
from DeepDiffRegLib.training.preparation import prepare
from DeepDiffRegLib.training.scans import list_scans, partners
from DeepDiffRegLib.training.surfaces import from_labels, from_mesh
from DeepDiffRegLib.training.tasks import cut

RADIUS_MM = 9.0


def ball(geometry: Geometry, center_mm, scale: float = 1.0, radius_mm: float = RADIUS_MM):
    """A smooth ball with a bump on one side, and its label map, on any grid."""
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1)) - np.asarray(center_mm)
    distance = np.linalg.norm(points, axis=-1) - radius_mm
    side = points[..., 0] - radius_mm / 2
    values = (1 / (1 + np.exp(distance)) * (1 + 0.5 / (1 + np.exp(-side)))).astype(np.float32)
    return Image.from_array(values * scale, geometry), Image.from_array(distance < 0, geometry, "labels")


def write_scans(folder, ndim: int = 2, count: int = 4, labels: bool = True) -> list[dict[str, str]]:
    """Scans of different sizes, spacings, directions (in 3-D) and intensity scales; returns the rows of their table."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        size = (32 + 3 * number, 30 + 2 * number, 28)[:ndim]
        spacing = (1.0 + 0.1 * number, 1.0, 1.2)[:ndim]
        direction = np.eye(2) if ndim == 2 else rotation((0, 0, 10.0 * number))
        middle = direction @ (np.array(spacing) * (np.array(size) - 1) / 2)
        geometry = Geometry(size, spacing, tuple(-middle), direction.tolist())
        image, found = ball(geometry, np.arange(1, ndim + 1) * 0.5 * number, scale=10.0**number)
        suffix = "mha"
        write_image(image, folder / f"scan{number}.{suffix}")
        row = {"image": f"scan{number}.{suffix}"}
        if labels:
            write_image(found, folder / f"labels{number}.{suffix}")
            row["labels"] = f"labels{number}.{suffix}"
        rows.append(row)
    return rows


def write_table(path, rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def source_of(tmp_path, ndim=2, surfaces=False, augmentation=None, **options):
    rows = write_scans(tmp_path / "scans", ndim)
    data = Data(write_table(tmp_path / "scans" / "table.csv", rows), **options)
    scans = list_scans(data, 0, True, surfaces)
    prepared = prepare(scans, data, tmp_path / "cache", Progress(), surfaces)
    return PairSource(prepared, scans, data, augmentation or Augmentation(), 0, True, surfaces), prepared


@pytest.mark.parametrize("ndim", (2, 3))
def test_scans_of_different_grids_and_scales_come_out_alike(tmp_path, ndim):
    _, prepared = source_of(tmp_path, ndim, grid=None)
    first = prepared.image(0)
    assert tuple(first.shape[2:]) == prepared.grid.size[::-1]
    for number in range(1, 4):
        other = prepared.image(number)
        assert other.shape == first.shape and float(other.amin()) >= 0 and float(other.amax()) <= 1
        assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.9
        assert float(other.median()) == pytest.approx(float(first.median()), abs=0.05)
        same = (prepared.label_map(number) == prepared.label_map(0)).float().mean()
        assert same > 0.9
    assert prepared.labels == (1,)


def test_the_cache_is_used_and_a_changed_scan_is_read_again(tmp_path):
    _, prepared = source_of(tmp_path)
    stamps = [f.stat().st_mtime_ns for f in sorted((tmp_path / "cache").rglob("*.npy"))]
    rows = json.loads(json.dumps(write_scans(tmp_path / "other", labels=True)))
    assert len(rows) == 4
    data = Data(str(tmp_path / "scans" / "table.csv"))
    again = prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())
    assert again.files == prepared.files
    assert stamps == [f.stat().st_mtime_ns for f in sorted((tmp_path / "cache").rglob("*.npy"))]
    (tmp_path / "other" / "scan2.mha").replace(tmp_path / "scans" / "scan2.mha")
    changed = prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())
    assert [a == b for a, b in zip(changed.files, prepared.files)] == [True, True, False, True]


def test_alignment_brings_scans_onto_the_first_one(tmp_path):
    geometry = Geometry.identity((40, 36), 1.0)
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, (center, radius) in enumerate((((19.0, 17.0), 9.0), ((23.0, 15.0), 10.5))):
        write_image(ball(geometry, center, radius_mm=radius)[0], folder / f"{number}.nii.gz")
    errors = {}
    for align in ("none", "affine"):
        data = Data(str(folder), align=align)
        prepared = prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())
        errors[align] = float((prepared.image(0) - prepared.image(1)).square().mean())
    assert errors["affine"] < 0.1 * errors["none"]


def test_pairs_depend_on_the_step_alone(tmp_path):
    source, _ = source_of(tmp_path, batch=3, augmentation=Augmentation(("x",), 10.0, 0.1, 2.0, 0.2))
    later, again = source(7), source(7)
    assert all(torch.equal(later[name], again[name]) for name in later)
    assert later["fixed"].shape[0] == 3
    assert not torch.equal(later["fixed"], source(8)["fixed"])
    assert float(later["moving"].amin()) >= 0 and float(later["moving"].amax()) <= 1
    assert later["moving_labels"].dtype == torch.int32


def test_both_directions_exchange_roles_every_second_step(tmp_path):
    source, _ = source_of(tmp_path, batch=2, both_directions=True)
    first, second = source(4), source(5)
    assert all(torch.equal(second[name], tensor) for name, tensor in swapped(first).items())


def test_the_atlas_is_always_fixed_and_held_out_scans_are_never_trained_on(tmp_path):
    rows = write_scans(tmp_path / "scans", count=5)
    data = Data(
        write_table(tmp_path / "scans" / "t.csv", rows[1:]),
        mode="atlas",
        atlas=str(tmp_path / "scans" / "scan0.mha"),
        atlas_labels=str(tmp_path / "scans" / "labels0.mha"),
        validation=1,
    )
    scans = list_scans(data, 3, True)
    prepared = prepare(scans, data, tmp_path / "cache", Progress())
    source = PairSource(prepared, scans, data, Augmentation(), 3, True, False)
    held_out = scans.of("validation")
    assert len(held_out) == 1 and len(scans.of("train")) == 3
    assert source.held_out_numbers() == [(0, held_out[0])]
    unseen = prepared.image(held_out[0])
    for step in range(12):
        batch = source(step)
        assert torch.equal(batch["fixed"], prepared.image(0))
        assert not torch.equal(batch["moving"], unseen)
    assert "fixed_labels" in next(iter(source.held_out()))


def test_pairs_of_the_table_stay_together(tmp_path):
    rows = write_scans(tmp_path / "scans")
    for number, row in enumerate(rows):
        row["pair"] = "ab"[number // 2]
        row["split"] = ("train", "validation")[number // 2]
    data = Data(write_table(tmp_path / "scans" / "t.csv", rows), mode="pairs")
    scans = list_scans(data, 0)
    assert partners(scans) == {"train": [(0, 1)], "validation": [(2, 3)]}
    for row in rows:
        del row["split"]
    data = Data(write_table(tmp_path / "scans" / "t.csv", rows), mode="pairs", validation=1)
    drawn = list_scans(data, 0)
    assert sorted(map(len, (drawn.of("train"), drawn.of("validation")))) == [2, 2]
    assert len({drawn.scans[i].pair for i in drawn.of("validation")}) == 1


def test_mirroring_moves_points_labels_and_distances_together():
    shape = (9, 12)
    pair = {name: torch.rand(1, 1, *shape) for name in ("moving", "fixed", "moving_distance", "fixed_distance")}
    points = torch.tensor([[[2.0, 3.0], [10.0, 8.0]]])
    for role in ("moving", "fixed"):
        pair[f"{role}_points"], pair[f"{role}_structure"] = points, torch.zeros(1, 2, dtype=torch.int32)
    mirrored = next(
        out
        for out in (augmented(pair, Augmentation(("x",)), 0, step, 0) for step in range(20))
        if not torch.equal(out["fixed"], pair["fixed"])
    )
    assert torch.equal(mirrored["fixed_distance"], pair["fixed_distance"].flip(-1))
    for (x, y), (a, b) in zip(points[0].long(), mirrored["moving_points"][0].long()):
        assert (a, b) == (11 - x, y)
        assert mirrored["moving_distance"][0, 0, b, a] == pair["moving_distance"][0, 0, y, x]


@pytest.mark.parametrize("ndim", (2, 3))
def test_drawn_moves_keep_the_middle_and_their_limits(ndim):
    shape = (11, 15, 19)[:ndim]
    options = Augmentation(rotation_deg=15.0, scale=0.1)
    for seed in range(10):
        matrix = drawn_matrix(shape, options, np.random.default_rng(seed))
        middle = (np.array(shape[::-1]) - 1) / 2
        assert np.allclose(matrix[:, :-1] @ middle + matrix[:, -1], middle)
        scale = np.linalg.det(matrix[:, :-1]) ** (1 / ndim)
        assert 1 / 1.1001 < scale < 1.1001
        assert np.allclose(matrix[:, :-1] @ matrix[:, :-1].T, np.eye(ndim) * scale**2)


def test_patches_are_the_same_box_of_everything():
    shape = (16, 20)
    ramp = torch.arange(320.0).reshape(1, 1, *shape)
    batch = {"moving": ramp, "fixed": ramp + 1000, "fixed_labels": ramp.int(), "row": torch.zeros(1)}
    places = set()
    for step in range(10):
        part = cut(batch, (8, 12), 0, step)
        assert part["fixed"].shape == (1, 1, 8, 12)
        assert torch.equal(part["fixed"], part["moving"] + 1000) and torch.equal(
            part["fixed_labels"], part["moving"].int()
        )
        places.add(float(part["moving"][0, 0, 0, 0]))
    assert len(places) > 3


@pytest.mark.parametrize("ndim", (2, 3))
def test_points_lie_on_the_surface_below_a_voxels_size(ndim):
    """Of a ball: all at its radius, spread over all directions, distances those to the sphere."""
    geometry = Geometry.identity((30, 32, 28)[:ndim], (1.0, 1.0, 1.2)[:ndim])
    center = geometry.to_world(np.array([14.3, 15.6, 13.1])[:ndim])
    _, labels = ball(geometry, center)
    found = from_labels(labels.numpy(), (7, 1), geometry.spacing_mm)
    assert set(found.structure) == {1} and not found.distance[0].any()
    offset = geometry.to_world(found.points) - center
    radius = np.linalg.norm(offset, axis=1)
    assert abs(radius.mean() - RADIUS_MM) < 0.15 and radius.std() < 0.4
    assert np.abs((offset / radius[:, None]).mean(0)).max() < 0.05


def test_a_mesh_gives_points_on_its_triangles():
    pytest.importorskip("vtkmodules")
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    sphere = vtkSphereSource()
    sphere.SetRadius(6.0)
    sphere.SetCenter(10.0, 11.0, 12.0)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.Update()
    grid = Geometry((18, 20, 16), (1.2, 1.1, 1.5), (0.0, 0.0, 0.0), np.eye(3).tolist())
    world = np.eye(4)
    world[:3, 3] = (1.0, 0.0, -0.5)
    found = from_mesh(sphere.GetOutput(), grid, world)
    radius = np.linalg.norm(grid.to_world(found.points) + (1.0, 0.0, -0.5) - (10.0, 11.0, 12.0), axis=1)
    assert np.abs(radius - 6).max() < 0.05
    centers = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1)) + (1.0, 0.0, -0.5) - (10.0, 11.0, 12.0)
    exact = np.abs(np.linalg.norm(centers, axis=-1) - 6)
    assert np.abs(found.distance[0] - exact).max() < 0.15


@pytest.mark.parametrize("ndim", (2, 3))
def test_batches_for_the_surface_loss_are_complete(tmp_path, ndim):
    source, _ = source_of(tmp_path, ndim, surfaces=True, batch=2, surface_points=50)
    batch = source(0)
    for role in ("moving", "fixed"):
        assert batch[f"{role}_points"].shape == (2, 50, ndim)
        assert batch[f"{role}_structure"].shape == (2, 50)
        assert batch[f"{role}_distance"].shape == (2, 1, *batch["fixed"].shape[2:])


def table(tmp_path, rows, **options):
    return lambda: list_scans(
        Data(write_table(tmp_path / "t.csv", rows), **options), 0, True, options.get("surface", False)
    )


def test_bad_lists_are_refused_in_one_line(tmp_path):
    rows = [
        {**row, "image": f"scans/{row['image']}", "labels": f"scans/{row['labels']}"}
        for row in write_scans(tmp_path / "scans")
    ]
    missing = [*rows[:3], {"image": rows[3]["image"], "labels": ""}]
    cases = [
        (table(tmp_path, rows[:1]), "needs at least 2 scans in the split train, found 1"),
        (table(tmp_path, missing), r"scan3\.mha: has no labels"),
        (table(tmp_path, [*rows, {"image": "gone.nii"}]), r"gone\.nii does not exist"),
        (table(tmp_path, [{"imgae": "a"}]), "unknown column 'imgae'; did you mean 'image'"),
        (table(tmp_path, [{"labels": "a"}]), "the column image is missing"),
        (table(tmp_path, [*rows, {"image": ""}]), "line 6: no image"),
        (table(tmp_path, [{**rows[0], "split": "test"}]), "split must be one of"),
        (table(tmp_path, rows, mode="pairs"), "needs a value in the column pair"),
        (table(tmp_path, [{**row, "pair": "a"} for row in rows], mode="pairs"), "pair 'a' has 4 scans"),
        (lambda: list_scans(Data(str(tmp_path / "nowhere")), 0), "does not exist"),
    ]
    for call, said in cases:
        with pytest.raises(InputError, match=said) as found:
            call()
        assert "\n" not in str(found.value)


def test_unreadable_scans_are_named(tmp_path):
    write_scans(tmp_path / "scans", count=3, labels=False)
    data = Data(str(tmp_path / "scans"))
    (tmp_path / "scans" / "scan1.mha").write_bytes(b"ObjectType = Image\nNDims = 2\n")
    with pytest.raises(InputError, match=r"scan1\.mha"):
        prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())
    geometry = Geometry.identity((20, 20), 1.0)
    write_image(Image.from_array(np.zeros((20, 20)), geometry), tmp_path / "scans" / "scan1.mha")
    with pytest.raises(InputError, match=r"scan1\.mha: is the same value everywhere"):
        prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())
    volume = Geometry.identity((20, 20, 20), 1.0)
    write_image(ball(volume, (10, 10, 10))[0], tmp_path / "scans" / "scan1.mha")
    with pytest.raises(InputError, match=r"scan1\.mha: is 3-D, but the first scan is 2-D"):
        prepare(list_scans(data, 0), data, tmp_path / "cache", Progress())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "'data' is missing"),
        ({"data": {}}, "data.scans is missing"),
        ({"data": {"scan": "a"}}, "unknown key 'scan'; did you mean 'scans'"),
        ({"data": {"scans": "a"}, "optimisation": {}}, "did you mean 'optimization'"),
        ({"data": {"scans": "a"}, "optimization": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"data": {"scans": "a", "mode": "atlass"}}, "did you mean 'atlas'"),
        ({"data": {"scans": "a", "mode": "atlas"}}, "belong together"),
        ({"data": {"scans": "a", "batch": 0}}, "data.batch must be"),
        ({"data": {"scans": "a"}, "network": {"name": "voxelmorf1"}}, "did you mean 'voxelmorph1'"),
        ({"data": {"scans": "a"}, "augmentation": {"flip": ["w"]}}, "must name axes"),
        ({"data": {"scans": "a", "grid": {"size": [3, 3]}}}, "spacing_mm"),
        ({"data": {"scans": "a", "intensities": {"top": -1}}}, "top be positive"),
    ],
)
def test_wrong_configurations_are_refused_with_a_hint(tmp_path, values, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as found:
        read_config(path)
    assert "config.json" in str(found.value) and "\n" not in str(found.value)


def test_a_configuration_survives_json_and_knows_its_folder(tmp_path):
    values = {
        "network": {"name": "voxelmorph2", "variant": "light", "architecture": {"ndim": 2}},
        "data": {
            "scans": "scans",
            "grid": {"size": [64, 48], "spacing_mm": [1, 1], "direction": [[1, 0], [0, 1]]},
            "intensities": {"clip_percentiles": [1, 99]},
        },
        "losses": ["lncc", {"name": "diffusion", "weight": 2}],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    config = read_config(path)
    assert config.data.scans == str((tmp_path / "scans").resolve())
    assert config.data.grid == CanonicalGrid((64, 48), (1.0, 1.0), ((1.0, 0.0), (0.0, 1.0)))
    assert TrainingConfig.from_dict(config.to_dict()) == config
