"""Momentum, stiffness and matrices from networks: their sizes, their maps, and the derivative through the flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.sampling import identity_index, sample
from DeepDiffRegLib.geometry.vector_fields import compose
from DeepDiffRegLib.methods.shot import Shot, metric_of
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.affine_net import displaced, joined
from DeepDiffRegLib.networks.base import Kernels, Prediction
from DeepDiffRegLib.networks.momentum_net import MomentumArchitecture
from DeepDiffRegLib.transforms._shooting_path import Shooting

MOMENTUM = ("vsvf-net", "lddmm-net", "rdmm-net")
KERNELS = {
    "vsvf-net": Kernels((0.1, 0.25), (0.3, 0.7), stationary=True),
    "lddmm-net": Kernels((0.1, 0.25), (0.3, 0.7)),
    "rdmm-net": Kernels((0.1, 0.25), (0.3, 0.7), 0.08),
}


def network(name: str, ndim: int = 2, variant: str = "light", **changes):
    kind = NETWORKS.load(name)
    torch.manual_seed(0)
    return kind(kind.variant(variant, ndim=ndim, **changes)).eval()


def predicted(name: str, grid=(6, 7), count: int = 2, dtype=torch.float64, scale: float = 6.0) -> Prediction:
    """A random smooth momentum on half of a grid."""
    generator = torch.Generator().manual_seed(1)
    ndim = len(grid)
    field = scale * torch.randn((count, ndim, *grid), generator=generator, dtype=dtype)
    weights = None
    if KERNELS[name].blur is not None:
        weights = torch.nn.functional.normalize(torch.rand((count, 2, *grid), generator=generator, dtype=dtype), dim=1)
    return Prediction((field,), "momentum", 1.0, (2.0,) * ndim, None, 0.5, KERNELS[name], weights)


def convolution(inputs: int, outputs: int, ndim: int, groups: int = 1, taps: int = 3) -> int:
    return inputs // groups * outputs * taps**ndim + outputs


@pytest.mark.parametrize("ndim", [2, 3])
def test_sizes_are_those_of_the_published_layers(ndim):
    def c(inputs, outputs, groups=1, taps=3):
        return convolution(inputs, outputs, ndim, groups, taps)

    encoder = c(2, 16, 2) + c(16, 32, 2) + c(32, 32, 2) + c(32, 32)
    encoder += sum(c(a, b) + 2 * c(b, b) for a, b in ((32, 64), (64, 128))) + c(128, 256) + c(256, 256)
    decoder = c(256, 128, taps=2) + c(256, 128) + c(128, 128) + c(128, 64, taps=2) + c(128, 32) + c(32, 32)
    decoder += c(32, 32, taps=2) + c(64, 16) + c(16, ndim)
    weights = c(2, 8) + c(8, 16) + c(16, 16) + c(16, 32)
    weights += c(32, 16, taps=2) + c(32, 16) + c(16, 16, taps=2) + c(32, 16) + c(16, 4) + 2 * 4
    affine = c(1, 16) + 4 * c(32, 32) + c(32, 16) + c(16, 16) + c(16, 4)
    head = (4 * 4**ndim + 1) * 32 + 33 * ndim * (ndim + 1)
    counts = {
        name: network(name, ndim, "paper").count_parameters() for name in NETWORKS if name in (*MOMENTUM, "affine-net")
    }
    assert counts["lddmm-net"] == counts["vsvf-net"] == encoder + decoder
    assert counts["rdmm-net"] == encoder + decoder + weights
    assert counts["affine-net"] == affine + head


def test_pre_weights_start_at_their_prior_and_have_length_one():
    net = network("rdmm-net")
    said = net(*torch.rand(2, 2, 1, 32, 24)).pre_weights
    assert said.shape == (2, 4, 16, 12)
    assert torch.allclose(said.square().sum(1), torch.ones(2, 16, 12), atol=1e-5)
    with torch.no_grad():
        net.stiffness.norm.weight.zero_()
        prior = torch.tensor(net.architecture.weights)
        said = net(*torch.rand(2, 1, 1, 32, 24)).pre_weights
    assert torch.allclose(said.square().mean((0, 2, 3)), prior, atol=1e-5)


@pytest.mark.parametrize("name", MOMENTUM)
def test_no_momentum_is_no_map(name):
    prediction = predicted(name)
    still = replace(prediction, fields=(torch.zeros_like(prediction.field),))
    shot = Shot(still, (12, 14), (1.0, 1.0))
    assert float(shot.displacement.abs().max()) == 0 and float(shot.energy) == 0


@pytest.mark.parametrize("grid", [(6, 7), (5, 6, 7)])
@pytest.mark.parametrize("name", MOMENTUM)
def test_the_flow_is_differentiable(name, grid):
    """In float64 against finite differences, for the momentum and for the pre-weights."""
    prediction = predicted(name, grid, count=2 if len(grid) == 2 else 1)
    shape, spacing = tuple(2 * n for n in grid), (1.0, 1.2, 0.9)[: len(grid)]
    parts = [prediction.field, *([] if prediction.pre_weights is None else [prediction.pre_weights])]
    wanted = torch.randn(prediction.field.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def energy(values) -> torch.Tensor:
        weights = values[1] if len(values) > 1 else None
        shot = Shot(replace(prediction, fields=(values[0],), pre_weights=weights), shape, spacing, steps=4)
        return (shot.displacement * wanted).sum() + 30 * shot.energy

    leaves = [p.clone().requires_grad_() for p in parts]
    found = torch.autograd.grad(energy(leaves), leaves)
    generator = torch.Generator().manual_seed(3)
    for number, gradient in enumerate(found):
        direction, ends = torch.randn(gradient.shape, generator=generator, dtype=torch.float64), []
        for step in (1e-5, -1e-5):
            ends.append(float(energy([p + (step * direction if i == number else 0) for i, p in enumerate(parts)])))
        assert float((gradient * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", MOMENTUM)
def test_a_batch_is_shot_as_each_pair_alone(name):
    """The batch in one go, the optimised models' integrator pair by pair; and volumes through the fused kernels."""
    prediction = predicted(name, count=3)
    metric = metric_of(prediction.kernels, 14.0)
    flow = metric.on((6, 7), (2.0, 2.0), ((False, False),) * 2, "cpu", torch.float64)
    alone = Shooting(flow, (2.0, 2.0), metric.stationary)
    whole = Shot(prediction, (12, 14), (1.0, 1.0), steps=4).displacement
    for row in range(3):
        state = (prediction.field[row], *(() if prediction.pre_weights is None else (prediction.pre_weights[row],)))
        assert torch.allclose(whole[row], alone.trace(alone.run(state, 4))[0], atol=1e-12)
    volumes = predicted(name, (6, 7, 5), dtype=torch.float32)
    weights = None if volumes.pre_weights is None else volumes.pre_weights.double()
    exact = replace(volumes, fields=(volumes.field.double(),), pre_weights=weights)
    found, expected = (Shot(p, (12, 14, 10), (1.0,) * 3).displacement for p in (volumes, exact))
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_matrices_join_like_their_maps():
    rng = np.random.default_rng(0)
    outer, inner = (
        torch.tensor(np.concatenate((np.eye(2), np.zeros((2, 1))), 1) + rng.normal(0, 0.1, (3, 2, 3))) for _ in range(2)
    )
    shape = (9, 12)
    points = identity_index(shape, dtype=torch.float64) + displaced(inner, shape)
    field = displaced(outer, (60, 60))
    there = sample(field, points + torch.tensor([24.0, 25.5]).reshape(1, 2, 1, 1))  # the middles of both grids meet
    assert torch.allclose(displaced(joined(outer, inner), shape), displaced(inner, shape) + there, atol=1e-9)


def test_the_affine_network_takes_any_size():
    """Enlarged four times, a scene asks for about the same matrix: the head sees shares of the grid."""
    net = network("affine-net")
    with torch.no_grad():
        net.matrix.weight.normal_(0.0, 0.5)
        for size in ((17, 9), (64, 80), (5, 40)):
            assert net(*torch.rand(2, 1, 1, *size)).field.shape == (1, 2, 3)
        scene = torch.nn.functional.interpolate(torch.rand(2, 1, 5, 6), size=(64, 64), mode="bicubic")
        same = net(scene[:1], scene[1:]).field
        longer = net(*(torch.nn.functional.pad(s, (0, 8, 0, 8), mode="replicate") for s in scene.split(1))).field
    assert not torch.allclose(same, torch.eye(2, 3)[None], atol=1e-3)
    assert torch.allclose(same[:, :, :2], longer[:, :, :2], atol=0.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"decoder": (8,)}, "two entries less"),
        ({"first": 7}, "must be even"),
        ({"weights": (0.5, 0.4, 0.3, 0.2)}, "sum 1"),
        ({"sigmas": (0.1, 0.2)}, "one positive weight per sigma"),
        ({"stiffness": (8,)}, "two levels"),
        ({"blur": -1.0}, "must not be negative"),
    ],
)
def test_wrong_architectures_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        MomentumArchitecture().replace(**changes)


def test_maps_of_two_flows_compose():
    """x -> phi_1(phi_2(x)) read from fields is what following points through both gives."""
    first, second = (
        Shot(
            replace(predicted("lddmm-net", (24, 24), 1), fields=(torch.randn(1, 2, 24, 24).double() * 8,)),
            (48, 48),
            (1.0, 1.0),
        )
        for _ in range(2)
    )
    u1, u2 = first.displacement, second.displacement
    points = identity_index((24, 24), dtype=torch.float64)
    followed = points + u2
    followed = followed + sample(u1, followed, padding="border")
    assert torch.allclose(points + compose(u1, u2), followed, atol=1e-12)
