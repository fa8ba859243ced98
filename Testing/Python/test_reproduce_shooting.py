"""The experiments on momentum and affine networks, on tiny plans: what they measure is true, and every criterion is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.shapes import make_shapes
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce import affine_net, rdmm_net, shape_networks
from DeepDiffRegLib.reproduce.shape_population import LOWEST, near_edges
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image

TINY = rdmm_net.Plan(32, 3, 2, 1, (4, 2, 2), 4, (2, 2, 2), 1)
TINY_AFFINE = affine_net.Plan((2, 2), 2, 1, 2, 2)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def untrained(name: str):
    kind = NETWORKS.load(name)
    torch.manual_seed(0)
    return kind(kind.variant("light", ndim=2, **rdmm_net.architecture("rdmm"))).eval()


def test_batches_depend_on_the_step_alone():
    draw = rdmm_net.pairs(TINY, rdmm_net.EASY)
    assert same(draw(3), rdmm_net.pairs(TINY, rdmm_net.EASY)(3)) and not same(draw(0), draw(1))
    held_out = [shape_networks.scans(shapes) for shapes in rdmm_net.held_out(TINY, rdmm_net.EASY)]
    assert not any(torch.equal(a[1], b[1]) for a in draw.pairs for b in held_out)


def test_networks_see_dim_pictures_as_bright_ones():
    shapes = rdmm_net.held_out(TINY, rdmm_net.EASY)
    grays = [float(one.pair.moving.tensor.max()) for one in shapes]
    assert max(grays) != min(grays)
    for one in shapes:
        for scan in shape_networks.scans(one):
            assert (float(scan.min()), float(scan.max())) == (0.0, 1.0)


def test_a_network_that_says_nothing_changes_nothing():
    network, shapes = untrained("rdmm-net"), rdmm_net.held_out(TINY, rdmm_net.EASY)
    torch.nn.init.zeros_(network.momentum.merges[-1][-1].weight)
    torch.nn.init.zeros_(network.stiffness.norm.weight)
    row = shape_networks.measured(network, shapes)
    assert row.dice == row.before and row.folds == 0 and row.seconds > 0
    expected = 200 * np.sqrt(sum(w * s**2 for w, s in zip(rdmm_net.WEIGHTS, rdmm_net.SIGMAS)))
    assert row.sigma_mm == pytest.approx(expected, rel=1e-4)


def test_softness_at_edges_is_recognized():
    shapes = rdmm_net.held_out(replace(TINY, size=64), rdmm_net.HARD)[0]
    near = near_edges(shapes.moving_labels.numpy())
    assert near.mean() > LOWEST
    for sigma, density, ratio in ((2.0 - near, 1 / near.mean(), 0.5), (1.0 + near, 0.0, 2.0)):
        values = sigma + 1e-6 * np.random.default_rng(0).random(near.shape)
        found = shape_networks.softness(values, shapes)
        assert found == pytest.approx((density, values.mean(), ratio), rel=1e-5)


def test_everything_is_measured(tmp_path):
    outcome = rdmm_net.RDMMNet().judge(TINY, tmp_path, Progress())
    assert len(outcome.criteria) == 9 and len(outcome.details["networks"]) == 3
    assert all(path.stat().st_size > 5000 for path in outcome.figures)


def test_shapes_of_one_kind_and_size():
    shapes = make_shapes(0, 0, 64, inner=1, outer=0, scale=(0.3, 0.4), kinds=("ellipse",))
    assert set(np.unique(shapes.fixed_labels.numpy())) == {0, 1, 2}
    assert (shapes.fixed_labels.numpy() == 2).sum() > (
        make_shapes(0, 0, 64, inner=1, outer=0).fixed_labels.numpy() == 2
    ).sum()
    for wrong, says in (({"kinds": ("star",)}, "must be among"), ({"scale": (0.4, 0.3)}, "must rise")):
        with pytest.raises(InputError, match=says):
            make_shapes(0, 0, 64, **wrong)


def slices(count: int) -> list[Image]:
    """Invented slices of 64 x 64 pixels that differ a little."""
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    scans = []
    for number in range(count):
        wide = 0.5 + 0.02 * number
        scans.append(0.5 * (x**2 / wide**2 + y**2 / 0.7**2 < 1) + 0.5 * ((x - 0.1) ** 2 + (y + 0.2) ** 2 < 0.1))
    return [Image.from_array(scan.astype(np.float32), Geometry.identity((64, 64), 1.5)) for scan in scans]


def test_the_known_map_undoes_the_random_position():
    images = slices(4)
    for start in range(3):
        pair, truth = affine_net.drawn_pair(images, TINY_AFFINE, start)
        back = warp_image(pair.moving, truth, pair.fixed.geometry).numpy()
        best = min(float(np.abs(back - image.numpy()).mean()) for image in images[2:])
        assert best < 0.03 < 2 * float(np.abs(pair.moving.numpy() - pair.fixed.numpy()).mean())
        assert affine_net.distance_mm(truth, truth, pair.fixed) == 0
    moved = AffineTransform(np.eye(2), np.array([3.0, 4.0])).after(truth)
    assert affine_net.distance_mm(moved, truth, pair.fixed) == pytest.approx(5.0)


def test_every_way_to_align_is_measured(tmp_path):
    outcome = affine_net.AffineNetwork().judge(TINY_AFFINE, slices(4), tmp_path, Progress())
    assert set(outcome.details["mean_mm"]) == set(affine_net.WAYS)
    assert outcome.details["mean_mm"]["descent from moments"] < 0.5 * outcome.details["mean_mm"]["as it is"]
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
