"""What a scene keeps of a large map, and what the worker says that costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive import _thinning
from DeepDiffRegLib.interactive.messages import Map

GRID = Geometry((23, 20, 17), (1.0, 1.5, 2.0), (-4.0, 5.5, 6.0), ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


def smooth(grid: Geometry = GRID) -> Map:
    z, y, x = np.meshgrid(*(np.linspace(0, np.pi, n) for n in grid.shape), indexing="ij")
    u = np.stack([np.sin(x) * np.sin(y), np.cos(2 * z) * x, y * z]).astype(np.float32)
    return Map(np.eye(4), u, grid)


def test_every_second_voxel_stays_where_it_is():
    whole, kept = smooth(), smooth().every(2)
    assert kept.geometry.size == (12, 10, 9)
    index = np.array([[3, 2, 1], [0, 0, 0], [11, 9, 8]])
    np.testing.assert_allclose(kept.geometry.to_world(index), GRID.to_world(2 * index))
    np.testing.assert_array_equal(kept.displacement, whole.displacement[:, ::2, ::2, ::2])
    assert whole.every(1) is whole and Map(np.eye(4)).every(2).displacement is None


def test_cubic_convolution_repeats_quadratics():
    """Keys' kernel is exact for polynomials of degree two away from the ends."""
    values = (np.arange(31.0) ** 2 - 7 * np.arange(31.0)).astype(np.float32)
    read = _thinning.between(values[::2], 0, 31)
    np.testing.assert_allclose(read[3:-3], values[3:-3], rtol=1e-6)
    np.testing.assert_array_equal(read[::2], values[::2])


def test_the_cost_is_the_distance_to_what_is_kept(monkeypatch):
    """Small for a smooth map, the worst of several, in mm of the moving scan."""
    whole = smooth()
    monkeypatch.setattr(_thinning, "WHOLE_VOXELS", 100)
    cost = _thinning.cost_mm(whole)
    assert 0 < cost["mean"] < 0.05 and cost["mean"] < cost["p99"] <= cost["max"] < 0.6
    rough = Map(np.eye(4), whole.displacement + torch.randn(3, *GRID.shape).numpy(), GRID)
    assert _thinning.cost_mm(whole, rough)["max"] == _thinning.cost_mm(rough)["max"] > 1.0
    doubled = Map(np.diag([2.0, 2.0, 2.0, 1.0]), whole.displacement, GRID)
    assert _thinning.cost_mm(doubled)["max"] == pytest.approx(2 * cost["max"])


def test_small_maps_are_passed_on_whole():
    whole = smooth()
    assert _thinning.for_a_scene(whole) is whole
    assert _thinning.cost_mm(whole, Map(np.eye(4))) == {"mean": 0.0, "p99": 0.0, "max": 0.0}
