"""Nodes of a real MRML scene to scans, labels and points, in world space, LPS."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import rotation
from scene_bed import add_linear, add_points, add_volume, add_volume_on, bed, scene, segmentation_of  # noqa: F401

from DeepDiffRegLib.errors import GeometryError, InputError
from DeepDiffRegLib.geometry.grid import Geometry

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
import vtk
from DeepDiffRegScene import convert, spaces


def values(geometry: Geometry) -> np.ndarray:
    """A linear function of the world position (LPS) at the voxels: reading it anywhere tells where one is."""
    return (convert.lps(spaces.grid_points(geometry)) @ (0.5, -1.0, 2.0)).reshape(geometry.shape).astype(np.float32)


def moved(rows=(0, 0, 0), turn=(0, 0, 0), scale=(1, 1, 1)) -> np.ndarray:
    """(4, 4) rotation * scale with a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(turn) * np.array(scale)
    matrix[:3, 3] = rows
    return matrix


def test_oblique_flipped_anisotropic_grid_is_kept(scene, oblique_geometry):  # noqa: F811
    array = np.arange(oblique_geometry.voxels, dtype=np.int16).reshape(oblique_geometry.shape)
    node = add_volume_on(scene, array, oblique_geometry)
    scan = convert.scan_of(node)
    assert scan.geometry.same_grid(oblique_geometry, 1e-5)
    assert np.array_equal(scan.array, array)
    assert np.shares_memory(scan.array, spaces.voxels_of(node.GetImageData())), "voxels should not be copied"
    assert not scan.array.flags.writeable
    assert (scan.kind, scan.name) == ("intensity", "volume")


def test_round_trip_to_a_new_node(scene, oblique_geometry):  # noqa: F811
    scan = convert.scan_of(add_volume_on(scene, values(oblique_geometry), oblique_geometry))
    node = convert.scan_to_volume(scan, "again", scene)
    again = convert.scan_of(node)
    assert again.geometry.same_grid(scan.geometry, 1e-5)
    assert np.array_equal(again.array, scan.array)
    count = scene.GetNumberOfNodes()
    assert convert.scan_to_volume(scan, "", node=node) is node
    assert scene.GetNumberOfNodes() == count


@pytest.mark.parametrize(
    "parent",
    [
        moved((5, -3, 8)),
        moved((1, 2, 3), (20, -10, 40)),
        moved((0, 4, 0), (5, 5, 5), (-1, 1, 1)),
        moved(scale=(2, 2, 2)),
    ],
    ids=["shift", "turn", "reflect", "scale"],
)
def test_linear_parents_go_into_the_grid(scene, oblique_geometry, parent):  # noqa: F811
    node = add_volume_on(scene, values(oblique_geometry), oblique_geometry)
    outer = add_linear(scene, moved((7, 0, 0), (0, 30, 0)))
    inner = add_linear(scene, parent)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    before = node.GetMTime()
    scan = convert.scan_of(node)
    index = np.array([[0, 0, 0], [13, 11, 8], [3, 5, 2]])
    world = moved((7, 0, 0), (0, 30, 0)) @ parent
    expected = convert.ras(oblique_geometry.to_world(index)) @ world[:3, :3].T + world[:3, 3]
    assert np.allclose(convert.ras(scan.geometry.to_world(index)), expected, atol=1e-9)
    assert np.shares_memory(scan.array, spaces.voxels_of(node.GetImageData()))
    assert node.GetMTime() == before and node.GetTransformNodeID() == inner.GetID()


def check_resampled(node, scan, to_world, original) -> None:
    """The private copy holds, at a world point, what the node shows there."""
    inner = np.array(scan.geometry.size) // 2
    lattice = inner + np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [-2, 0, 1]])
    world = convert.ras(scan.geometry.to_world(lattice))
    local = np.array([to_world.GetInverse().TransformPoint(p) for p in world])
    expected = convert.lps(local) @ (0.5, -1.0, 2.0)
    got = scan.array[tuple(lattice.T[::-1])]
    assert np.allclose(got, expected, atol=0.05)
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in original.size), indexing="ij"), -1).reshape(-1, 3)
    reached = [to_world.TransformPoint(p) for p in convert.ras(original.to_world(corners))]
    assert scan.geometry.contains(convert.lps(reached)).all(), "the copy must hold the whole scan"


def test_sheared_parent_gives_a_resampled_copy(scene, oblique_geometry):  # noqa: F811
    node = add_volume_on(scene, values(oblique_geometry), oblique_geometry)
    shear = np.eye(4)
    shear[0, 1] = 0.25
    shear[:3, 3] = (4, 5, 6)
    node.SetAndObserveTransformNodeID(add_linear(scene, shear).GetID())
    with pytest.raises(GeometryError, match="sheared"):
        convert.geometry_of(node)
    count, before = scene.GetNumberOfNodes(), spaces.voxels_of(node.GetImageData()).copy()
    scan = convert.scan_of(node)
    transform = vtk.vtkTransform()
    transform.SetMatrix(spaces.vtk_matrix(shear))
    check_resampled(node, scan, transform, oblique_geometry)
    assert scene.GetNumberOfNodes() == count
    assert np.array_equal(before, spaces.voxels_of(node.GetImageData()))


def test_non_linear_parent_gives_a_resampled_copy(scene):  # noqa: F811
    geometry = Geometry((20, 18, 16), (2.0, 2.0, 2.0), (-19.0, -17.0, -15.0), np.eye(3).tolist())
    node = add_volume_on(scene, values(geometry), geometry)
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for p in np.stack(np.meshgrid(*([-25.0, 0.0, 25.0],) * 3, indexing="ij"), -1).reshape(-1, 3):
        source.InsertNextPoint(p)
        target.InsertNextPoint(p + 2 * np.sin(p[[1, 2, 0]] / 15))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    parent.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(parent.GetID())
    check_resampled(node, convert.scan_of(node), spline, geometry)


def test_unusable_volumes_are_refused(scene):  # noqa: F811
    with pytest.raises(InputError, match="single slice"):
        convert.scan_of(add_volume(scene, np.zeros((1, 8, 8), np.float32)))
    with pytest.raises(InputError, match="3 components"):
        convert.scan_of(add_volume(scene, np.zeros((4, 4, 4, 3), np.uint8)))
    with pytest.raises(InputError, match="no node"):
        convert.scan_of(None)
    with pytest.raises(InputError, match="voxels"):
        convert.scan_of(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))


def blocks(geometry: Geometry) -> np.ndarray:
    """A label image with 2 and 5 in two boxes."""
    array = np.zeros(geometry.shape, np.int16)
    array[2:6, 2:7, 1:6] = 2
    array[3:7, 6:11, 7:12] = 5
    return array


def test_label_map_and_segmentation_agree(scene, oblique_geometry):  # noqa: F811
    array = blocks(oblique_geometry)
    labels = add_volume_on(scene, array, oblique_geometry, "labels", labels=True)
    segments = segmentation_of(scene, array, oblique_geometry, {2: "two", 5: "five"})
    from_map = convert.label_scan_of(labels)
    from_segments = convert.label_scan_of(segments, reference=oblique_geometry)
    assert from_map.kind == from_segments.kind == "labels"
    assert np.array_equal(from_map.array, array)
    assert np.array_equal(from_segments.array, np.select([array == 2, array == 5], [1, 2], 0))
    assert [(row.name, row.value) for row in convert.segment_table(segments)] == [("two", 1), ("five", 2)]
    assert [row.value for row in convert.segment_table(labels)] == [2, 5]
    for node, chosen, value in ((labels, ["5"], 5), (segments, [convert.segment_table(segments)[1].segment_id], 5)):
        mask = convert.mask_scan_of(node, chosen, oblique_geometry)
        assert mask.kind == "mask" and np.array_equal(mask.array, array == value)
    with pytest.raises(InputError, match="reference"):
        convert.label_scan_of(segments)
    with pytest.raises(InputError, match="existing"):
        convert.label_scan_of(segments, ["nonsense"], oblique_geometry)


@pytest.mark.parametrize("matrix", [moved((3, -2, 1), (15, 25, -5)), moved((1, 0, 0), (0, 0, 10), (-1, 1, 1))])
def test_labels_under_a_parent_on_another_grid(scene, oblique_geometry, matrix):  # noqa: F811
    """Under the same parent as their scan, labels land on the scan's world grid exactly."""
    array = blocks(oblique_geometry)
    parent = add_linear(scene, matrix)
    volume = add_volume_on(scene, array.astype(np.float32), oblique_geometry)
    nodes = [
        add_volume_on(scene, array, oblique_geometry, "labels", labels=True),
        segmentation_of(scene, array, oblique_geometry, {2: "two", 5: "five"}),
    ]
    for node in (volume, *nodes):
        node.SetAndObserveTransformNodeID(parent.GetID())
    for node in nodes:
        mask = convert.mask_scan_of(node, reference=volume)
        assert mask.geometry.same_grid(convert.geometry_of(volume))
        assert np.array_equal(mask.array, array > 0)
    finer = convert.geometry_of(volume).resized((28, 24, 18))
    doubled = convert.label_scan_of(nodes[1], reference=finer).array
    assert (doubled > 0).mean() == pytest.approx((array > 0).mean(), rel=0.02)


def test_a_segmentation_of_surfaces_is_turned_into_labels(scene):  # noqa: F811
    geometry = Geometry((30, 30, 30), (1.0, 1.0, 1.0), (-15.0, -15.0, -15.0), np.eye(3).tolist())
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(9.0)
    sphere.SetThetaResolution(48)
    sphere.SetPhiResolution(48)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1, 0, 0])
    mask = convert.mask_scan_of(node, reference=geometry)
    assert mask.array.sum() == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)
    assert not node.GetSegmentation().ContainsRepresentation(convert.BINARY), "the user's node must stay as it was"


def test_points_are_world_and_defined_only(scene):  # noqa: F811
    node = add_points(scene, [(1, 2, 3), (4, 5, 6), (7, 8, 9)], ["a", "b", "c"])
    node.SetNthControlPointSelected(2, False)
    node.UnsetNthControlPointPosition(1)
    node.SetAndObserveTransformNodeID(add_linear(scene, moved((10, 0, 0))).GetID())
    labels, points = convert.points_of(node)
    assert labels == ["a", "c"]
    assert np.allclose(points, [(-11, -2, 3), (-17, -8, 9)])
    assert convert.points_of(node, enabled_only=True)[0] == ["a"]


def test_flips_and_matrices():
    matrix = moved((1, 2, 3), (10, 20, 30))
    points = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
    there = convert.ras(points) @ convert.matrix_ras(matrix)[:3, :3].T + convert.matrix_ras(matrix)[:3, 3]
    assert np.allclose(convert.lps(there), points @ matrix[:3, :3].T + matrix[:3, 3])
    assert np.allclose(convert.matrix_lps(convert.matrix_ras(matrix)), matrix)
    assert np.allclose(convert.numpy_matrix(convert.vtk_matrix(matrix)), matrix)
