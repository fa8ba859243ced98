"""Networks have the published sizes, take any grid, and move with what they are shown."""

from __future__ import annotations

import json

import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, ShapeError
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.base import Architecture

PUBLISHED = [
    ("voxelmorph1", "paper", 259_675),
    ("voxelmorph2", "paper", 300_547),
    ("voxelmorph-diff", "released", 266_374),
    ("voxelmorph-diff", "journal", 1_063_206),
    ("transmorph", "paper", 46_771_251),
    ("transmorph-tvf", "base", 47_067_192),
    ("transmorph-tvf", "paper", 108_611_336),
    ("transmorph-tvf", "lddmm", 108_611_336),
    ("transmorph-tvf", "released", 108_989_780),
]
FIELDS = [name for name in NETWORKS if NETWORKS.load(name).kind != "affine"]
ODD = {3: (17, 36, 33), 2: (37, 50)}
TINY_SWIN = dict(channels=8, depths=(2, 2), heads=(2, 2), window=(2, 3, 3))


def small(name: str, ndim: int, **changes):
    """The light variant in evaluation mode, with heads that say something."""
    kind = NETWORKS.load(name)
    network = kind(kind.variant("light", ndim=ndim, **changes)).eval()
    with torch.no_grad():
        for part, parameter in network.named_parameters():
            if "flow" in part:
                parameter.normal_(0.0, 0.05)
    return network


@pytest.mark.parametrize(("name", "variant", "count"), PUBLISHED)
def test_parameter_counts_are_those_of_the_papers(name, variant, count):
    kind = NETWORKS.load(name)
    with torch.device("meta"):
        assert kind(kind.variant(variant)).count_parameters() == count


def test_a_time_step_has_the_published_size():
    kind = NETWORKS.load("transmorph-tvf")
    with torch.device("meta"):
        network = kind(kind.variant("paper"))
    assert sum(p.numel() for p in network.steps[0].parameters()) == 94_611
    assert sum(p.numel() for p in network.trunk.encoder.parameters()) == 70_695_536


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELDS)
def test_any_size_goes_in_and_the_prediction_covers_it(name, ndim):
    network, size = small(name, ndim), ODD[ndim]
    moving, fixed = torch.rand(2, 1, *size), torch.rand(2, 1, *size)
    with torch.no_grad():
        prediction = network(moving, fixed)
    grid = size if network.stride == 1 else tuple(-(-n // 2) if network.centered else n // 2 + 1 for n in size)
    for field in prediction.fields:
        assert field.shape == (2, ndim, *grid) and field.is_contiguous() and bool(field.isfinite().all())
    reach = 2 * prediction.offset_voxels
    for n, points, spacing in zip(size, grid, prediction.spacing_voxels[::-1]):
        assert (points - 1) * spacing + reach >= n - 1 > (points - 2) * spacing + reach
    assert len(prediction.fields) == (8 if name == "transmorph-tvf" else 1)
    assert (prediction.log_variance is not None) == (name == "voxelmorph-diff")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_image_of_a_batch_is_seen_alone(name):
    network = small(name, 2)
    moving, fixed = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        both = network(moving, fixed).fields[-1]
        second = network(moving[1:], fixed[1:]).fields[-1]
    assert torch.allclose(both[1:], second, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_network_predicts_almost_nothing(name):
    """Heads start near zero, so that training starts at the affine alignment."""
    kind = NETWORKS.load(name)
    network = kind(kind.variant("light", ndim=2)).eval()
    with torch.no_grad():
        prediction = network(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
    still = torch.eye(2, 3) if network.kind == "affine" else 0.0
    assert max(float((f - still).abs().max()) for f in prediction.fields) < 5e-2
    if prediction.log_variance is not None:
        assert torch.allclose(prediction.log_variance, torch.full_like(prediction.log_variance, -10.0), atol=1e-3)


@pytest.mark.parametrize("name", ["voxelmorph1", "voxelmorph2", "voxelmorph-diff"])
def test_convolutions_move_with_the_scans(name):
    """Shifted by the coarsest level's stride, the prediction is shifted too, away from the borders."""
    network = small(name, 2)
    stride = network.multiple
    scene = torch.zeros(1, 2, 16 * stride, 4 * stride)
    scene[:, :, 7 * stride : 9 * stride] = torch.rand(1, 2, 2 * stride, 4 * stride)
    moved = torch.roll(scene, stride, 2)
    with torch.no_grad():
        here, there = (network(s[:, :1], s[:, 1:]).field for s in (scene, moved))
    step, rows = stride // network.stride, here.shape[2] // 4
    assert torch.allclose(here[:, :, rows : -rows - step], there[:, :, rows + step : -rows], atol=1e-5)
    assert not torch.allclose(here, there, atol=1e-3)


@pytest.mark.parametrize("name", ["voxelmorph1", "voxelmorph2"])
def test_slabs_compute_what_the_whole_does(name):
    network, scans = small(name, 3), torch.rand(2, 1, 1, 48, 16, 16)
    with torch.no_grad():
        slabs = network(*scans).field
    whole = network(*scans).field.detach()
    assert torch.allclose(slabs, whole, atol=1e-5)


def test_time_steps_see_what_the_earlier_ones_left():
    """Changing the first step's velocity changes what the second one says, though its weights are the same."""
    network = small("transmorph-tvf", 2)
    moving, fixed = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        before = network(moving, fixed).fields
        network.steps[0].flow.bias += 2.0
        after = network(moving, fixed).fields
    assert torch.allclose(after[0] - before[0], torch.full_like(before[0], 2.0), atol=1e-5)
    assert float((after[1] - before[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["transmorph", "transmorph-tvf"])
def test_attention_trains(name):
    """Every weight of the windowed network gets a gradient, also where windows are padded and shifted."""
    kind = NETWORKS.load(name)
    network = kind(kind.variant("base" if name.endswith("tvf") else "paper", ndim=2, head_channels=4, **TINY_SWIN))
    prediction = network(torch.rand(1, 1, 40, 24), torch.rand(1, 1, 40, 24))
    sum(f.square().sum() for f in prediction.fields).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_architectures_survive_json(name):
    kind = NETWORKS.load(name)
    for variant in kind.VARIANTS.values():
        assert type(variant).from_dict(json.loads(json.dumps(variant.to_dict()))) == variant


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_network_that_is_shown_descriptors_does_not_see_which_scan_is_the_negative(ndim):
    described, plain = (small("voxelmorph-diff", ndim, sees=sees) for sees in ("descriptors", "scans"))
    moving, fixed = torch.rand(2, 2, 1, *(32,) * ndim)
    with torch.no_grad():
        for network, alike in ((described, True), (plain, False)):
            own, negative = network(moving, fixed).field, network(1 - moving, fixed).field
            assert torch.allclose(own, negative, atol=1e-3) == alike
            assert float(own.std()) > 1e-3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"encodr": [8]}, "did you mean 'encoder'"),
        ({"encoder": "8"}, "encoder must be like"),
        ({"encoder": [8, -8]}, "encoder must be like"),
        ({"ndim": 4}, "2 or 3"),
        ({"decoder": [8]}, "one entry less"),
        ({"padding": "reflect"}, "padding"),
        ({"sees": "descriptor"}, "sees must be one of"),
    ],
)
def test_wrong_architectures_are_refused(values, says):
    kind = NETWORKS.load("voxelmorph1")
    with pytest.raises(ConfigError, match=says):
        type(kind.variant()).from_dict(values)


def test_wrong_scans_and_names_are_refused():
    network = small("voxelmorph1", 2)
    with pytest.raises(ShapeError, match="2 axes"):
        network(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8))
    with pytest.raises(ShapeError, match="moving"):
        network(torch.rand(1, 1, 8, 9), torch.rand(1, 1, 8, 8))
    with pytest.raises(ConfigError, match="did you mean 'light'"):
        type(network).variant("lihgt")
    with pytest.raises(ConfigError, match="ndim"):
        Architecture(ndim=1)
