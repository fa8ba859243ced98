"""Feature networks have the published sizes, take any scan alone, and say where their voxels lie."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, InputError, ShapeError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import strided
from DeepDiffRegLib.networks import FEATURES, NETWORKS, network_class
from DeepDiffRegLib.networks.weights import ModelCard, load_model, save_model
from DeepDiffRegLib.similarity.mind import MIND

PUBLISHED = [
    ("unet", "paper", 523_546),
    ("unet", "wide", 1_063_258),
    ("unet-e", "paper", 184_174),
    ("lku", "paper", 2_295_518),
    ("lku", "wide", 8_972_070),
    ("lku", "narrow", 1_768_992),
    ("lku-e", "paper", 1_094_012),
    ("lku-e", "full", 1_308_527),
    ("mind-net", "base", 26_160),
]
ODD = {2: (21, 34), 3: (9, 18, 13)}
HEADS = {"unet": {"heads": 3}, "unet-e": {}}


def light(name: str, ndim: int):
    kind = FEATURES.load(name)
    return kind(kind.variant("light", ndim=ndim)).eval()


@pytest.mark.parametrize(("name", "variant", "count"), PUBLISHED)
def test_parameter_counts_are_those_that_are_told(name, variant, count):
    kind = FEATURES.load(name)
    with torch.device("meta"):
        assert kind(kind.variant(variant)).count_parameters() == count


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FEATURES)
def test_any_size_goes_in_and_three_resolutions_come_out(name, ndim):
    network, size = light(name, ndim), ODD[ndim]
    with torch.no_grad():
        images = network(torch.rand(2, 1, *size))
        coarse = network(torch.rand(1, 1, *size), finest=2)
        tiny = network(torch.rand(1, 1, *(4,) * ndim))
    assert network.strides == (4, 2, 1)
    for image, stride in zip(images, network.strides):
        assert image.shape == (2, 8, *(-(-n // stride) for n in size)) and bool(image.isfinite().all())
    assert [i.shape[2:] for i in coarse] == [i.shape[2:] for i in images[:2]]
    assert all(bool(image.isfinite().all()) for image in tiny)


@pytest.mark.parametrize("name", FEATURES)
def test_each_scan_is_seen_alone(name):
    network = light(name, 2)
    scans = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        both, second = network(scans), network(scans[1:])
        coarse = network(scans[1:], finest=4)
    assert all(torch.allclose(b[1:], s, atol=1e-5) for b, s in zip(both, second))
    assert torch.allclose(coarse[0], second[0], atol=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_every_used_weight_trains(name):
    network = light(name, 2)
    unused = "head.0" if name == "lku" else "none"  # of the resolution beyond the coarsest that comes out
    sum(f.square().sum() for f in network(torch.rand(1, 1, 32, 24))).backward()
    for part, parameter in network.named_parameters():
        if part.startswith(unused):
            assert parameter.grad is None
            continue
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_untrained_mind_net_compares_as_mind_does_and_no_training_tells_negatives(ndim):
    kind = FEATURES.load("mind-net")
    network, scan = kind(kind.variant(ndim=ndim)).eval(), torch.rand(1, 1, *(16,) * ndim)
    pairs = 12 if ndim == 3 else 4
    with torch.no_grad():
        for image, stride in zip(network(scan), network.strides):
            coarse = scan if stride == 1 else network_average(scan, stride)
            expected = MIND(distance_voxels=1).features(coarse, (1.0,) * ndim)
            assert torch.allclose(image[:, :pairs], 2 * expected, atol=1e-5)
            assert not bool(image[:, pairs:].any())
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for own, negative in zip(network(scan), network(1 - scan)):
            assert torch.allclose(own, negative, atol=1e-3)
            assert float(own.std()) > 0.01


def network_average(scan: torch.Tensor, stride: int) -> torch.Tensor:
    """Means of blocks, written out."""
    for axis in range(2, scan.ndim):
        scan = scan.unflatten(axis, (-1, stride)).mean(axis + 1)
    return scan


@pytest.mark.parametrize("name", ["unet-e", "lku-e"])
def test_features_lie_where_the_network_says(name):
    """What a voxel of a feature image depends on most lies around its place, at all resolutions."""
    network, grid = light(name, 2), Geometry.identity((64, 64))
    for number, stride in enumerate(network.strides):
        places, seen, at = strided(grid, stride, network.offset_voxels(stride)), 0.0, 32 // stride
        for _ in range(12):
            scan = torch.rand(1, 1, 64, 64, requires_grad=True)
            image = network(scan)[number]
            (slope,) = torch.autograd.grad(image[:, :, at, at].sum(), scan)
            seen = seen + slope[0, 0].abs()
        seen = torch.where(seen > 0.05 * seen.max(), seen, 0.0).numpy()
        points = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1))
        center = (points * seen[..., None]).sum((0, 1)) / seen.sum()
        assert np.abs(center - places.to_world((at, at))).max() < 0.25 * stride + 0.25


@pytest.mark.parametrize("name", FEATURES)
def test_architectures_survive_json(name):
    kind = FEATURES.load(name)
    for variant in kind.VARIANTS.values():
        assert type(variant).from_dict(json.loads(json.dumps(variant.to_dict()))) == variant


@pytest.mark.parametrize("name", FEATURES)
def test_models_survive_files(name, tmp_path):
    network = light(name, 2)
    path = tmp_path / "model.safetensors"
    save_model(path, network, ModelCard(name, {}, "none", "generated"))
    scan = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected, found = network(scan), load_model(path).network(scan)
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


def test_names_are_of_one_table_or_the_other():
    assert not set(NETWORKS) & set(FEATURES)
    assert network_class("lku") is FEATURES.load("lku") and network_class("voxelmorph1") is NETWORKS.load("voxelmorph1")
    with pytest.raises(ConfigError, match="did you mean 'voxelmorph"):
        network_class("voxelmorph")


def test_wrong_scans_and_architectures_are_refused(tmp_path):
    network = light("unet", 2)
    with pytest.raises(ShapeError, match="2 axes"):
        network(torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ShapeError, match="scan"):
        network(torch.rand(1, 2, 8, 8))
    for name, changes in (("unet", {"scales": 6}), ("lku", {"scales": 5}), ("lku-e", {"width": 0})):
        with pytest.raises(ConfigError, match=r"scales|positive"):
            FEATURES.load(name).variant(**changes)
    path = tmp_path / "model.safetensors"
    card = save_model(path, network, ModelCard("lku", {}, "none", "generated"))
    assert card.sha256
    with pytest.raises(InputError, match="LKUArchitecture"):
        load_model(path)


@pytest.mark.parametrize("name", ["unet", "unet-e"])
def test_with_statistics_of_the_training_a_crop_has_the_features_of_the_whole(name, tmp_path):
    """Far from the borders; with statistics of the scan nothing stays. While training, both normalize alike."""
    torch.manual_seed(0)
    kind = FEATURES.load(name)
    scans = torch.rand(6, 1, 96, 32) * torch.linspace(0.2, 1, 96).reshape(-1, 1)
    own, kept = (
        kind(kind.variant("light", ndim=2, levels=(4, 8, 8), statistics=s, **HEADS[name])) for s in ("scan", "training")
    )
    kept.load_state_dict(own.state_dict(), strict=False)
    for scan in scans.split(1):
        for image, other in zip(own(scan), kept(scan)):
            assert torch.allclose(image, other, atol=1e-6)
    save_model(tmp_path / "kept.safetensors", kept, ModelCard(name, {}, "none", "noise"))
    kept = load_model(tmp_path / "kept.safetensors").network
    with torch.no_grad():
        for network, stays in ((own.eval(), False), (kept, True)):
            for image, part, stride in zip(network(scans[:1]), network(scans[:1, :, :64]), network.strides):
                far = slice(0, 64 // stride - 24 // stride)
                distance = (image[..., far, :] - part[..., far, :]).abs().max()
                assert bool(distance < 1e-5) == stays
        for image, other in zip(own(scans), kept(scans)):
            assert 0.5 < float(image.std() / other.std()) < 2, "on scans like those of the training"
    with pytest.raises(ConfigError, match="did you mean 'training'"):
        kind.variant("light", ndim=2, statistics="trainings")
