"""What a network saw, asked of a real worker: channels, colors, through the map, as files; refused where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from interactive_bed import FrontEnd, mapped, phantom, quick
from scipy.ndimage import map_coordinates

from DeepDiffRegLib.methods.features import scan_features
from DeepDiffRegLib.networks import FEATURES
from DeepDiffRegLib.networks.weights import ModelCard, load_model, save_model


@pytest.fixture(scope="module")
def made():
    return phantom()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    kind, path = FEATURES.load("unet-e"), tmp_path_factory.mktemp("models") / "net.safetensors"
    save_model(path, kind(kind.variant("light")), ModelCard("unet-e", {}, "none", "generated"))
    return str(path)


@pytest.fixture(scope="module")
def line(made, model):
    """A worker with one map made from features."""
    front = FrontEnd().start(made)
    front.client.run({**quick(), "method": "dio", "model": model, "similarity": "mse"})
    front.map = front.wait("map").data["map"]
    front.wait("judged")
    front.until("ready")
    yield front
    front.client.close()


def asked(line, *what) -> dict:
    line.client.features(*what)
    return line.wait("features").data


def test_a_channel_is_what_the_network_gave(line, made, model):
    known = scan_features(made.pair.fixed, load_model(model))
    for scale, (image, geometry) in enumerate(known.images):
        told = asked(line, "fixed", scale, 3)
        assert (told["step"], told["channels"], told["channel"], told["scale"]) == (0, 8, 3, scale)
        scan = told["images"][0]
        assert scan.geometry.same_grid(geometry) and np.allclose(scan.array, image[0, 3].numpy(), atol=1e-4)
    assert [row["size"] for row in told["scales"]] == [list(geometry.size) for _, geometry in known.images]
    assert asked(line, "fixed", -1, 3)["scale"] == len(known.images) - 1


def test_colors_are_those_of_both_scans_and_follow_the_map(line):
    fixed, moving, warped = (asked(line, side, 1) for side in ("fixed", "moving", "warped"))
    for told in (fixed, moving, warped):
        assert [scan.name for scan in told["images"]] == ["red", "green", "blue"]
        assert all(scan.array.min() >= 0 and scan.array.max() <= 1 for scan in told["images"])
    assert warped["images"][0].geometry.same_grid(fixed["images"][0].geometry)
    grid, own = fixed["images"][0].geometry, moving["images"][0].geometry
    inner = np.argwhere(np.ones(grid.shape, bool))[:, ::-1].astype(float)
    inner = inner[((inner > 2) & (inner < np.array(grid.size) - 3)).all(1)]
    index = own.to_index(mapped(line.map, grid.to_world(inner)))
    inside = ((index >= 0) & (index <= np.array(own.size) - 1)).all(1)
    assert inside.mean() > 0.5
    for before, after in zip(moving["images"], warped["images"]):
        expected = map_coordinates(before.array, index[inside, ::-1].T, order=1)
        found = after.array[tuple(inner[inside, ::-1].astype(int).T)]
        assert np.abs(found - expected).max() < 0.02


def test_what_there_is_not_is_refused(line):
    for what, says in ((("left", 0), "side"), (("fixed", 3), "scale"), (("fixed", 0, 8), "channel")):
        line.client.features(*what)
        error = line.wait("error").data
        assert error["kind"] == "input" and says in error["message"]


def test_all_channels_are_written_and_only_on_demand(line, tmp_path):
    line.client.save(tmp_path / "some")
    assert not any("features" in name for name in line.wait("saved").data["paths"])
    line.client.save(tmp_path / "all", ("features",))
    paths = line.wait("saved").data["paths"]
    assert set(paths) == {f"features_{side}_{n}.nii.gz" for side in ("fixed", "moving") for n in (1, 2, 3)}
    stored = sitk.GetArrayFromImage(sitk.ReadImage(paths["features_fixed_3.nii.gz"]))
    told = asked(line, "fixed", 2, 5)
    assert stored.shape[-1] == 8 and np.allclose(stored[..., 5], told["images"][0].array, atol=1e-4)


def test_a_map_made_from_the_scans_has_none(line):
    line.client.run(quick())
    line.wait("map")
    line.client.features("fixed", 0)
    error = line.wait("error").data
    assert error["kind"] == "input" and "dio" in error["message"]
