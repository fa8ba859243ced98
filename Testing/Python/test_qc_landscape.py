"""The cost around a map: wide for wide structures, and the direction that one channel leaves to the force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Choice, Config, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair
from DeepDiffRegLib.export.report import render_report
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import Pyramid, strided
from DeepDiffRegLib.networks import FEATURES
from DeepDiffRegLib.networks.weights import ModelCard, save_model
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.landscape import directions, landscape, rising
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image

SHIFT = 3.0


def test_reach_ends_where_the_cost_falls_again_or_stays_flat():
    offsets = np.linspace(-10, 10, 21)
    assert rising(np.abs(offsets) / 10, offsets) == 10
    wells = np.minimum(np.abs(offsets), 12 - np.abs(offsets)) / 6
    assert rising(wells, offsets) == 6
    assert rising(np.minimum(np.abs(offsets), 4) / 4, offsets) == 4
    assert rising(np.zeros(21), offsets) == 0


def blob(geometry: Geometry, shift: float, width: float, angle: float = 0.0) -> np.ndarray:
    """A soft ball, stretched along a direction, as a channel."""
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1).astype(float)) - 16
    points[..., 0] -= shift
    turned = points[..., 0] * np.cos(angle) + points[..., 1] * np.sin(angle)
    return np.exp(-((points**2).sum(-1) + 2 * turned**2) / (2 * width**2)).astype(np.float32)


def pyramid(geometry: Geometry, shift: float, *shapes: tuple[float, float]) -> Pyramid:
    grids = [strided(geometry, s, (s - 1) / 2) for s in (2, 1)]
    return Pyramid(tuple((torch.from_numpy(np.stack([blob(g, shift, *s) for s in shapes]))[None], g) for g in grids))


def context(ndim: int, shift: float = SHIFT) -> Context:
    geometry = Geometry.identity((32,) * ndim)
    scans = [Image.from_array(blob(geometry, s, 3.0) + 0.01, geometry) for s in (0.0, SHIFT)]
    matrix = np.eye(ndim + 1)
    matrix[0, -1] = shift
    transform = AffineTransform.from_homogeneous(matrix)
    return Context.build(Pair(*scans), transform, transform.inverse(), warp_image(scans[1], transform, geometry))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_lowest_cost_lies_at_the_right_map(ndim):
    here = context(ndim)
    grid = here.pair.fixed.geometry
    wide = (pyramid(grid, 0.0, (6.0, 0.0), (6.0, 1.0)), pyramid(grid, SHIFT, (6.0, 0.0), (6.0, 1.0)))
    found = landscape(here, *wide)
    assert found.axes == (("x", "y") if ndim == 2 else ("right - left", "front - back", "feet - head"))
    assert [profile.name for profile in found.profiles] == ["scans", "features, 2 mm", "features, 1 mm"]
    middle = len(found.offsets_mm) // 2
    for profile in found.profiles:
        assert (profile.costs.argmin(1) == middle).all() and profile.costs.min() == 0 and profile.costs.max() == 1
        assert profile.reach_mm == pytest.approx(found.offsets_mm[-1])
    off = landscape(context(ndim, SHIFT + 1.0), *wide)
    lowest = off.offsets_mm[off.profiles[2].costs.argmin(1)]
    assert abs(lowest[0] + 1.0) < 0.2 and np.abs(lowest[1:]).max() < 0.5


def test_one_channel_leaves_no_choice_of_direction_and_many_do(rng):
    here = context(3, SHIFT - 1.0)
    grid = here.pair.fixed.geometry
    one = directions(here, pyramid(grid, 0.0, (5.0, 0.3)), pyramid(grid, SHIFT, (5.0, 0.3)))
    assert np.allclose(one, 1.0, atol=1e-6)
    shapes = [(float(w), float(a)) for w, a in zip(rng.uniform(2, 6, 8), rng.uniform(0, 3, 8))]
    many = directions(here, pyramid(grid, 0.0, *shapes), pyramid(grid, SHIFT, *shapes))
    assert all(0.3 < value < 0.99 for value in many)


def test_the_report_shows_what_the_network_saw(tmp_path):
    """Only where features were compared: pictures of each resolution, curves per axis, the direction of the force."""
    torch.manual_seed(0)
    kind, path = FEATURES.load("unet-e"), tmp_path / "net.safetensors"
    save_model(path, kind(kind.variant("light")), ModelCard("unet-e", {}, "none", "generated"))
    plain = Config(
        similarity=Choice("mse"), start=Start("identity", "none"), schedule=Schedule((2,), (2,)), device="cpu"
    )
    for config in (plain.replace(method="dio", model=str(path)), plain):
        session = RegistrationSession(context(3).pair, config)
        session.run()
        html = render_report(session.result())
        shown = config.method == "dio"
        assert ("What the network saw" in html) is shown
        assert html.count("cost over shifts") == (3 if shown else 0)
        assert ("mean |cos|" in html) is shown
