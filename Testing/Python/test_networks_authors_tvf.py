"""The authors' way to follow TM-TVF's velocities, against the formulas written down once more, voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks._authors_tvf import half_displacement, look_up
from DeepDiffRegLib.networks._transmorph_parts import enlarged, half_size
from DeepDiffRegLib.transforms.displacement import DisplacementTransform, to_world
from DeepDiffRegLib.warp.image import warp_image

KIND = NETWORKS.load("transmorph-tvf")


def authors_sample(values: np.ndarray, u: np.ndarray) -> np.ndarray:
    """values (C, *shape), u (d, *shape) x first. Normalized by n - 1, read by the rule of edges, zeros outside."""
    shape = values.shape[1:]
    out = np.zeros_like(values)
    for voxel in np.ndindex(*shape):
        place = []
        for axis, n in enumerate(shape):
            told = 2 * (voxel[axis] + u[(len(shape) - 1 - axis, *voxel)]) / (n - 1) - 1
            place.append(((told + 1) * n - 1) / 2)
        low = np.floor(place).astype(int)
        for corner in itertools.product((0, 1), repeat=len(shape)):
            at = low + corner
            if (at >= 0).all() and (at < shape).all():
                weight = np.prod([1 - abs(p - a) for p, a in zip(place, at)])
                out[(slice(None), *voxel)] += weight * values[(slice(None), *at)]
    return out


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)])
def test_the_sampler(shape):
    values, u = (
        torch.randn(1, 2, *shape, dtype=torch.float64),
        2 * torch.randn(1, len(shape), *shape, dtype=torch.float64),
    )
    assert np.allclose(look_up(values, u)[0].numpy(), authors_sample(values[0].numpy(), u[0].numpy()), atol=1e-12)
    still = look_up(values, torch.zeros_like(u))
    assert not torch.allclose(still, values, atol=1e-2), "even the identity moves the picture"


def test_both_directions_of_the_half_displacement():
    fields = [torch.randn(1, 2, 6, 8, dtype=torch.float64) for _ in range(3)]
    for sign, backward in ((1, False), (-1, True)):
        expected = sum(authors_sample(sign * v[0].numpy(), sign * v[0].numpy()) for v in fields)
        assert np.allclose(half_displacement(fields, backward)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_whole_prediction(ndim):
    size = (32, 24) if ndim == 2 else (16, 16, 24)
    network = KIND(KIND.variant("light", ndim=ndim, steps=3, depths=(2, 2), heads=(2, 2), authors_exact=True)).eval()
    with torch.no_grad():
        for step in network.steps:
            step.flow.weight.normal_(0.0, 0.1)
    moving, fixed = torch.rand(2, 1, 1, *size)
    with torch.no_grad():
        prediction = network(moving, fixed)
        features = enlarged(network.trunk(torch.cat((moving, fixed), 1)))
        half = half_size(torch.cat((moving, fixed), 1))
        warped, u = half[:, :1], np.zeros((ndim, *half.shape[2:]))
        for step in network.steps:
            v = step(features, torch.cat((warped, half[:, 1:]), 1))[0].double().numpy()
            u = u + authors_sample(v, v)
            warped = torch.from_numpy(authors_sample(half[0, :1].double().numpy(), u))[None].float()
        full = enlarged(torch.from_numpy(u)[None])[0].numpy()  # not doubled
    assert prediction.kind == "displacement" and prediction.unit_voxels == 1.0
    assert prediction.spacing_voxels == (1.0,) * ndim and prediction.field.shape == (1, ndim, *size)
    expected = authors_sample(moving[0].double().numpy(), full)
    grid = Geometry.identity(size[::-1])
    transform = DisplacementTransform(to_world(prediction.field, grid), grid)
    ours = warp_image(Image(moving, grid), transform, grid).numpy()
    there = np.indices(size) + prediction.field[0].numpy()[::-1]
    inside = ((there >= 0) & (there <= np.array(size).reshape(-1, *(1,) * ndim) - 1)).all(0)
    assert np.abs(u).max() > 0.3 and inside.mean() > 0.7
    assert np.allclose(ours[inside], expected[0][inside], atol=2e-4), (
        "applied by the library, it is the authors' picture"
    )


def test_the_switch_is_part_of_the_architecture():
    stored = KIND.variant("light", authors_exact=True).to_dict()
    assert stored["authors_exact"] is True and type(KIND.variant()).from_dict(stored).authors_exact
    plain = KIND(KIND.variant("light", ndim=2))
    assert plain.kind == "time_varying" and plain.stride == 2
    exact = KIND(KIND.variant("light", ndim=2, authors_exact=True))
    assert {k: v.shape for k, v in exact.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    loss = exact(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)).field.square().mean()
    loss.backward()
    assert all(p.grad is not None for p in exact.steps[0].parameters()), "it trains"
