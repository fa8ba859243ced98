"""Comparing views, the second cursor and the readout, without Qt."""

from __future__ import annotations

import numpy as np
import pytest
from scene_bed import add_volume_on, assert_looks_like, bed, scene, smooth_field  # noqa: F401

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Map

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
from DeepDiffRegScene import compare, convert, maps, overlays, readout, spaces
from DeepDiffRegScene.cursor import SecondCursor
from DeepDiffRegScene.fields import determinants

GRID = Geometry((32, 32, 32), (3.0, 3.0, 3.0), (-46.5, -46.5, -46.5), np.eye(3).tolist())


@pytest.fixture
def pair(scene):  # noqa: F811
    """A disc and a square."""
    x = spaces.grid_points(GRID).reshape(*GRID.shape, 3)
    disc = (np.linalg.norm(x[..., :2], axis=-1) < 35).astype(np.float32) * 100
    square = (np.abs(x[..., :2]).max(-1) < 30).astype(np.float32) * 800
    pair = add_volume_on(scene, disc, GRID, "disc"), add_volume_on(scene, square, GRID, "square")
    for volume, high in zip(pair, (130, 2000)):
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevelMinMax(0, high)
    return pair


@pytest.fixture
def view(bed, pair):  # noqa: F811
    """A view that shows the first volume."""
    made = bed.view("Red")
    made.composite.SetBackgroundVolumeID(pair[0].GetID())
    made.fit()
    return made


def test_fade_blink_and_stop(pair, view):
    plain = view.picture()
    look = compare.Compare(*pair)
    look.fade(0.25)
    state = view.composite
    assert (state.GetBackgroundVolumeID(), state.GetForegroundVolumeID()) == tuple(v.GetID() for v in pair)
    assert state.GetForegroundOpacity() == 0.25
    shown = []
    for _ in range(4):
        look.blink()
        shown.append(state.GetForegroundOpacity())
    assert shown == [1.0, 0.0, 1.0, 0.0]
    look.stop()
    assert state.GetForegroundVolumeID() in (None, "")
    assert np.array_equal(view.picture(), plain)
    with pytest.raises(InputError, match="two volumes"):
        compare.Compare(pair[0], None)


def test_checkerboard(scene, pair, view):  # noqa: F811
    look = compare.Compare(*pair)
    look.checkerboard(4)
    assert_looks_like(view.picture(), "checkerboard")
    board = scene.GetNodeByID(view.composite.GetBackgroundVolumeID())
    values = convert.scan_of(board).array
    disc, square = (compare.gray(v, GRID) for v in pair)
    x, y, z = 4, 16, 16
    assert values[z, y, x] == (square if (x // 8 + y // 8 + z // 8) % 2 else disc)[z, y, x]
    count = scene.GetNumberOfNodes()
    look.checkerboard(8)
    look.update()
    assert scene.GetNumberOfNodes() == count
    look.stop()
    assert board.GetScene() is None
    assert view.composite.GetBackgroundVolumeID() == pair[0].GetID()
    with pytest.raises(InputError, match="at least 1"):
        look.checkerboard(0)


def test_checkerboard_of_a_live_preview(scene, pair):  # noqa: F811
    """The other scan may lie under the output transform: it is read where it is shown."""
    shift = np.eye(4)
    shift[0, 3] = 9.0
    nodes = maps.MapNodes(scene=scene)
    nodes.update(Map(shift))
    shown = compare.gray(nodes.preview(pair[1]), GRID)
    assert np.array_equal(shown[:, :, :-3], compare.gray(pair[1], GRID)[:, :, 3:])


def test_volumes_deleted_meanwhile_are_not_shown_again(scene, pair, view):  # noqa: F811
    look = compare.Compare(pair[1], pair[0])
    look.fade(0.5)
    scene.RemoveNode(pair[0])
    look.stop()
    assert not view.composite.GetBackgroundVolumeID()


def test_side_by_side(bed, scene, pair):  # noqa: F811
    layout = compare.layout_node(scene)
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    count = None
    for _ in range(2):
        names = compare.side_by_side(pair[0], pair[1], pair[1], scene)
        count = count or scene.GetNumberOfNodes()
        assert scene.GetNumberOfNodes() == count, "the same views are used again"
    assert list(names) == ["fixed", "warped", "moving"]
    every = [name for column in names.values() for name in column]
    nodes = {node.GetLayoutName(): node for node in overlays.slice_nodes(scene, every)}
    assert len(nodes) == 9
    groups = {column: {nodes[name].GetViewGroup() for name in names[column]} for column in names}
    assert groups["fixed"] == groups["warped"] != groups["moving"]
    for column, volume in zip(("fixed", "warped", "moving"), (pair[0], pair[1], pair[1])):
        for name in names[column]:
            composite = overlays.composite_of(nodes[name])
            assert composite.GetBackgroundVolumeID() == volume.GetID()
            assert composite.GetLinkedControl()
    assert [nodes[name].GetOrientation() for name in names["fixed"]] == ["Axial", "Coronal", "Sagittal"]
    assert layout.GetViewArrangement() == compare.LAYOUTS[3]
    assert all(f'singletontag="{name}"' in layout.GetLayoutDescription(compare.LAYOUTS[3]) for name in every)
    assert list(compare.side_by_side(pair[0], None, pair[1], scene)) == ["fixed", "moving"]
    assert layout.GetViewArrangement() == compare.LAYOUTS[2]
    compare.back(scene)
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView
    layout.SetViewArrangement(layout.SlicerLayoutOneUpRedSliceView)
    compare.back(scene)
    assert layout.GetViewArrangement() == layout.SlicerLayoutOneUpRedSliceView, "the user's own choice stays"


def test_the_arranged_views_show_the_scan(bed, scene, pair):  # noqa: F811
    names = compare.side_by_side(pair[0], None, pair[1], scene)
    shown = bed.view(names["moving"][1], "Coronal")
    assert shown.picture().max() > 100


@pytest.fixture
def nodes(scene):  # noqa: F811
    """A map with a shift and a smooth displacement."""
    world = np.eye(4)
    world[:3, 3] = (10.0, 0.0, 0.0)
    made = maps.MapNodes(scene=scene)
    made.update(Map(world, smooth_field(GRID, 4.0), GRID))
    return made


def test_second_cursor_follows_the_crosshair(bed, scene, pair, nodes):  # noqa: F811
    names = compare.side_by_side(pair[0], None, pair[1], scene)
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode", "Crosshair")
    cursor = SecondCursor(nodes.transform, names["moving"], scene)
    cursor.start()
    crosshair.SetCursorPositionRAS([6.0, -9.0, 12.0])
    expected = maps.follow(nodes.transform, (6.0, -9.0, 12.0))[0]
    assert np.allclose(cursor.moving_ras, expected)
    axial, coronal, sagittal = (overlays.slice_nodes(scene, [name])[0] for name in names["moving"])
    offsets = (sagittal.GetSliceOffset(), coronal.GetSliceOffset(), axial.GetSliceOffset())
    assert np.allclose(np.abs(offsets), np.abs(expected), atol=1e-6)
    marker = scene.GetFirstNodeByName("Corresponding point")
    assert np.allclose(marker.GetNthControlPointPositionWorld(0), expected)
    fixed = overlays.slice_nodes(scene, names["fixed"][:1])[0]
    display = marker.GetDisplayNode()
    assert display.IsDisplayableInView(axial.GetID()) and not display.IsDisplayableInView(fixed.GetID())
    crosshair.SetCursorPositionXYZ([10.0, 10.0, 0.0], axial)
    assert np.allclose(cursor.moving_ras, expected), "over the moving views nothing follows"
    cursor.stop()
    assert marker.GetScene() is None
    crosshair.SetCursorPositionRAS([0.0, 0.0, 0.0])
    assert np.allclose(cursor.moving_ras, expected)


def test_readout_agrees_with_map_and_jacobian(nodes):
    held = nodes.map()
    values = determinants(held.displacement, GRID, held.world)
    for index in ((10, 12, 14), (20, 9, 16)):
        point = convert.ras(GRID.to_world(index))
        reading = readout.readout(nodes.transform, point)
        vector = convert.ras(held.displacement[(slice(None), *index[::-1])] + held.world[:3, 3])
        assert np.allclose(reading.vector_ras, vector, atol=1e-4)
        assert reading.displacement_mm == pytest.approx(np.linalg.norm(vector), abs=1e-4)
        assert reading.jacobian == pytest.approx(values[index[::-1]], abs=1e-3)
        assert np.allclose(np.add(point, vector), reading.moving_ras, atol=1e-4)


def test_readout_text():
    reading = readout.Reading(4.16, (-1.04, 2.0, -3.5), (0, 0, 0), 0.874)
    assert reading.text == "displacement 4.2 mm (1.0 L, 2.0 A, 3.5 I), Jacobian 0.87"
    assert readout.Reading(0, (0, 0, 0), (0, 0, 0), -0.2).text.endswith("Jacobian -0.20 (folded)")
