"""Landmark pairs over two lists of control points."""

from __future__ import annotations

import numpy as np
import pytest
from scene_bed import add_linear, add_points, bed, scene  # noqa: F401

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import Map

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
from DeepDiffRegScene.landmarks import COLORS, LandmarkTable
from DeepDiffRegScene.maps import MapNodes


@pytest.fixture
def table(scene):  # noqa: F811
    """Two empty lists."""
    return LandmarkTable(add_points(scene, [], [], "fixed"), add_points(scene, [], [], "moving"))


def test_points_alternate_and_share_labels(table):
    sides = []
    for n in range(4):
        sides.append(table.next_side())
        table.add(sides[-1], (n, n, n))
    assert sides == ["fixed", "moving", "fixed", "moving"]
    assert [(r.label, r.fixed_index, r.moving_index) for r in table.rows()] == [("F-1", 0, 0), ("F-2", 1, 1)]
    assert table.unpaired() == []
    assert table.next_label() == "F-3"


def test_several_on_one_side_first_are_matched_in_order(table):
    for n in range(3):
        table.add("moving", (n, 0, 0))
    assert table.next_side() == "fixed"
    assert [table.add("fixed", (0, n, 0)) for n in range(4)] == ["F-1", "F-2", "F-3", "F-4"]
    assert table.unpaired() == [("F-4", "fixed")]
    assert table.next_side() == "moving"


def test_a_point_placed_in_a_view_is_adopted(table):
    table.add("fixed", (0, 0, 0))
    table.add("fixed", (1, 0, 0))
    index = table.lists["moving"].AddControlPointWorld(5.0, 5.0, 5.0)
    assert table.adopt("moving", index) == "F-1"
    index = table.lists["moving"].AddControlPointWorld(6.0, 5.0, 5.0)
    assert table.adopt("moving", index) == "F-2"
    index = table.lists["fixed"].AddControlPointWorld(6.0, 5.0, 5.0, "F-1")
    assert table.adopt("fixed", index) == "F-3", "a label in use is not used again"


def test_pairs_are_lps_world_and_carry_enabled(scene, table):  # noqa: F811
    table.add("fixed", (1, 2, 3))
    table.add("moving", (4, 5, 6))
    table.add("fixed", (7, 7, 7))
    shift = np.eye(4)
    shift[:3, 3] = (10, 0, 0)
    table.lists["moving"].SetAndObserveTransformNodeID(add_linear(scene, shift).GetID())
    table.enable("F-1", False)
    (pair,) = table.pairs(sd_mm=2.0)
    assert (pair.label, pair.enabled, pair.sd_mm) == ("F-1", False, 2.0)
    assert np.allclose(pair.fixed_mm, (-1, -2, 3)) and np.allclose(pair.moving_mm, (-14, -5, 6))
    table.enable("F-1", True)
    assert table.pairs()[0].enabled and table.rows()[0].enabled


def test_delete_rename_and_renumber_keep_pairs(table):
    for n in range(3):
        table.add("fixed", (n, 0, 0))
        table.add("moving", (n, 1, 0))
    table.rename("F-2", "carina")
    assert [r.label for r in table.rows()] == ["F-1", "carina", "F-3"] and all(r.complete for r in table.rows())
    with pytest.raises(InputError, match="in use"):
        table.rename("F-1", "carina")
    with pytest.raises(InputError, match="no label"):
        table.rename("F-1", " ")
    table.delete("F-1")
    assert table.lists["fixed"].GetNumberOfControlPoints() == table.lists["moving"].GetNumberOfControlPoints() == 2
    table.lists["moving"].RemoveNthControlPoint(0)
    table.add("fixed", (9, 0, 0))
    table.renumber()
    rows = table.rows()
    assert [(r.label, r.complete) for r in rows] == [("F-1", False), ("F-2", True), ("F-3", False)]
    assert rows[1].fixed_ras == (2, 0, 0) and rows[1].moving_ras == (2, 1, 0)
    assert table.unpaired() == [("F-1", "fixed"), ("F-3", "fixed")]


def test_labels_used_twice_are_reported(table):
    for label in ("a", "b", "b"):
        table.lists["fixed"].AddControlPointWorld(0.0, 0.0, 0.0, label)
    for label in ("b", "a"):
        table.lists["moving"].AddControlPointWorld(0.0, 0.0, 0.0, label)
    assert table.unpaired() == [("b", "fixed")]
    assert [p.label for p in table.pairs()] == ["a", "b"]
    with pytest.raises(InputError, match="twice"):
        table.renumber()


def test_residuals_and_their_colors(scene, table):  # noqa: F811
    world = np.eye(4)
    world[:3, 3] = (-5, 0, 0)
    transform = MapNodes(scene=scene).update(Map(world))
    for miss in (0.0, 3.0, 8.0):
        table.add("fixed", (1, 2, 3))
        table.add("moving", (1 + 5, 2 + miss, 3))
    found = table.update_residuals(transform)
    assert np.allclose(list(found.values()), (0, 3, 8), atol=1e-9)
    assert [r.verdict for r in table.rows()] == ["good", "fair", "bad"]
    assert [r.color for r in table.rows()] == [COLORS[v] for v in ("good", "fair", "bad")]
    table.update_residuals(None)
    assert all(r.residual_mm is None and r.verdict == "" and r.color is None for r in table.rows())


def test_snapshot_and_restore(table):
    table.add("fixed", (1, 2, 3))
    table.add("moving", (4, 5, 6))
    table.enable("F-1", False)
    before = table.snapshot()
    table.delete("F-1")
    table.add("fixed", (0, 0, 0))
    table.restore(before)
    assert table.snapshot() == before
    assert not table.rows()[0].enabled
    stamp = table.lists["fixed"].GetMTime()
    table.restore(before)
    assert table.lists["fixed"].GetMTime() == stamp, "nothing to do, nothing touched"


def test_jump_moves_only_its_slices(bed, table):  # noqa: F811
    table.add("fixed", (1, 2, 3))
    table.add("moving", (4, 5, 60))
    views = [bed.view(name).node for name in ("Red", "Green")]
    table.jump("F-1", [views[0]], [views[1]])
    assert [view.GetSliceOffset() for view in views] == pytest.approx([3, 60])
    with pytest.raises(InputError, match="does not exist"):
        table.jump("F-9")


def test_two_lists_are_needed(scene):  # noqa: F811
    node = add_points(scene, [], [])
    with pytest.raises(InputError, match="two different lists"):
        LandmarkTable(node, node)
