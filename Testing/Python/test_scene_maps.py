"""Maps as transform nodes: direction, agreement with the library and SimpleITK, borders, files, updates in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import rotation
from scene_bed import add_linear, add_points, add_volume, add_volume_on, bed, close_bed, reopened, scene, smooth_field  # noqa: F401

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Map
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
import vtk
from DeepDiffRegScene import convert, fields, maps, spaces

WORLD = np.eye(4)
WORLD[:3, :3] = rotation((3.0, 4.0, -5.0)) * 1.05
WORLD[:3, 3] = (3.0, -2.0, 5.0)


@pytest.fixture
def grid() -> Geometry:
    """Oblique, flipped, anisotropic."""
    direction = rotation((12.0, -20.0, 35.0)) @ np.diag([1.0, -1.0, 1.0])
    return Geometry((34, 30, 24), (1.6, 1.5, 2.5), (-31.0, 12.5, 7.25), direction.tolist())


@pytest.fixture
def map_(grid) -> Map:
    """Affine after a smooth displacement that moves the border too."""
    return Map(WORLD, smooth_field(grid), grid)


def library(map_: Map):
    """The same map as the library's transform: the independent reference."""
    affine = AffineTransform(map_.world[:3, :3], map_.world[:3, 3])
    if map_.displacement is None:
        return affine
    return CompositeTransform([DisplacementTransform(torch.from_numpy(map_.displacement)[None], map_.geometry), affine])


def through(node, points_lps, inverse=False) -> np.ndarray:
    """Points (LPS) through a transform node."""
    return convert.lps(maps.follow(node, convert.ras(points_lps), inverse))


def inside(geometry: Geometry, rng, count=2000, border=0.0) -> np.ndarray:
    """Random points (LPS) in a grid, ``border`` voxels away from its outermost voxels."""
    span = np.array(geometry.size) - 1 - 2 * border
    return geometry.to_world(border + rng.uniform(0, 1, (count, 3)) * span)


def test_direction(scene):  # noqa: F811
    """A pull-back of -6 mm along R moves data by +6 mm; a point at index 32 shows up 6 mm further."""
    geometry = Geometry((40, 40, 40), (1.0, 1.0, 1.0), (-39.0, -39.0, 0.0), np.eye(3).tolist())
    u = np.zeros((3, 40, 40, 40), np.float32)
    u[0] = 6.0
    node = maps.MapNodes(scene=scene).update(Map(np.eye(4), u, geometry))
    to_parent = node.GetTransformToParent().TransformPoint(10, 20, 30)
    assert np.allclose(to_parent, (16, 20, 30), atol=1e-2)
    array = np.zeros((40, 40, 40), np.float32)
    array[10, 20, 20] = 100
    moving = add_volume_on(scene, array, geometry)
    reference = np.argwhere(
        spaces.voxels_of(
            spaces.resliced(
                moving.GetImageData(), spaces.local_index_to_ras(moving), node.GetTransformFromParent(), geometry
            )
        )
        > 50
    )
    assert reference.tolist() == [[10, 20, 14]]


def test_agrees_with_library_and_simpleitk(scene, map_, rng):  # noqa: F811
    """Exact at the voxels; in between cubic and linear reading differ by about curvature * spacing^2 / 8."""
    node = maps.MapNodes(scene=scene).update(map_)
    reference = library(map_)
    size = np.array(map_.geometry.size)
    voxels = map_.geometry.to_world(np.floor(rng.uniform(0, 1, (2000, 3)) * size))
    itk = reference.to_itk()
    assert np.allclose(through(node, voxels), reference.map_points(voxels), atol=1e-4)
    itk_points = np.array([itk.TransformPoint(p) for p in voxels])
    assert np.allclose(through(node, voxels), itk_points, atol=1e-3)
    between = inside(map_.geometry, rng)
    difference = np.linalg.norm(through(node, between) - reference.map_points(between), axis=1)
    u = map_.displacement
    bend = sum(np.abs(np.diff(u, 2, axis)).max(axis=(1, 2, 3)) for axis in (1, 2, 3)) / 8
    assert difference.max() < 1.5 * np.linalg.norm(WORLD[:3, :3], 2) * np.linalg.norm(bend)
    assert difference.max() < 0.1 and difference.mean() < 0.02


def test_inverse_agrees(scene, map_, rng):  # noqa: F811
    """VTK's own inverse to its tolerance; the worker's explicit inverse to its stated error."""
    nodes = maps.MapNodes(scene=scene)
    node = nodes.update(map_)
    points = inside(map_.geometry, rng, border=6)
    there = through(node, points)
    assert np.linalg.norm(through(node, there, inverse=True) - points, axis=1).max() < 2e-2
    geometry = Geometry((30, 30, 30), (2.0,) * 3, tuple(map_.geometry.center_mm - 29), np.eye(3).tolist())
    pure = Map(np.eye(4), smooth_field(geometry), geometry)
    result = library(pure).transforms[0].inverse()
    node = nodes.update(pure)
    inverse = nodes.update_inverse(Map(np.eye(4), result.transform.tensor[0].numpy(), geometry))
    points = inside(geometry, rng, border=6)
    back = through(inverse, through(node, points))
    assert np.linalg.norm(back - points, axis=1).max() < max(0.1, 3 * result.error.max)
    assert maps.MapNodes.of(node).inverse is inverse
    nodes.forget_inverse()
    assert nodes.inverse is None and maps.MapNodes.of(node).inverse is None


def test_beyond_the_border_the_displacement_fades(scene, grid, rng):  # noqa: F811
    """Whole within half a voxel of the border voxels, zero far outside, monotone and free of folds in between."""
    u = smooth_field(grid, 6.0)
    node = maps.MapNodes(scene=scene).update(Map(np.eye(4), u, grid))
    faces = np.abs(np.concatenate([u[:, 0].ravel(), u[:, -1].ravel()])).max()
    assert faces > 1, "the test needs a moving border"
    half = grid.to_world(np.array([[-0.4, 15, 12], [33.4, 15, 12], [15, -0.4, 12], [15, 15, 23.4]]))
    expected = library(Map(np.eye(4), u, grid)).map_points(half)
    assert np.allclose(through(node, half), expected, atol=0.1)
    far = grid.to_world(np.array([[-200.0, 10, 10], [300, 300, 10], [10, 10, 400]]))
    assert np.allclose(through(node, far), far, atol=1e-6)
    frame = fields.padded(grid, fields.margins_needed(u, grid))
    stored = np.zeros((*frame.geometry.shape, 3), np.float32)
    fields.fill(stored, u, frame)
    whole = np.moveaxis(stored * fields.FLIP.astype(np.float32), -1, 0)
    assert fields.determinants(whole, frame.geometry).min() > 0
    line = np.linalg.norm(whole[:, frame.inner[0].stop - 1 :, 15, 15], axis=0)
    assert (np.diff(line) <= 1e-6).all() and line[-1] == 0


def test_a_resting_border_needs_no_margin(grid):
    u = smooth_field(grid)
    u[:, [0, -1]] = u[:, :, [0, -1]] = u[:, :, :, [0, -1]] = 0
    assert fields.margins_needed(u, grid) == ((0, 0),) * 3


def test_updates_happen_in_place(scene, map_, grid, rng):  # noqa: F811
    nodes = maps.MapNodes(scene=scene)
    nodes.update(Map(WORLD))
    node = nodes.update(map_)
    events = []
    node.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: events.append(1))
    count, image = scene.GetNumberOfNodes(), node.GetTransformFromParent()
    points = inside(grid, rng)
    for scale in (0.5, 0.25, 1.0):
        other = Map(WORLD, (map_.displacement * np.float32(scale)), grid)
        assert nodes.update(other) is node
        index = grid.to_world(np.round(grid.to_index(points)))
        assert np.allclose(through(node, index), library(other).map_points(index), atol=1e-4)
    assert scene.GetNumberOfNodes() == count
    assert node.GetTransformFromParent() is image
    assert len(events) == 3


@pytest.mark.parametrize("live", [True, False])
def test_a_thinned_map_is_exact_where_it_has_voxels(scene, map_, grid, rng, live):  # noqa: F811
    """Exact at every second voxel, near in between; the whole map then has its own grid again, in the same node."""
    nodes = maps.MapNodes(scene=scene)
    node = nodes.update(map_.every(2), live)
    assert nodes.map().geometry.size == (17, 15, 12)
    kept = grid.to_world(2 * np.floor(rng.uniform(0, 1, (300, 3)) * (17, 15, 12)))
    assert np.allclose(through(node, kept), library(map_).map_points(kept), atol=1e-4)
    points = inside(grid, rng, border=2)
    assert np.abs(through(node, points) - library(map_).map_points(points)).max() < 0.2
    assert nodes.update(map_) is node
    assert np.array_equal(nodes.map().displacement, map_.displacement)


@pytest.mark.parametrize("with_field", [True, False])
def test_the_map_is_read_back(scene, map_, with_field):  # noqa: F811
    sent = map_ if with_field else Map(WORLD)
    nodes = maps.MapNodes(scene=scene)
    nodes.update(sent)
    got = nodes.map()
    assert np.allclose(got.world, sent.world)
    if with_field:
        assert got.geometry.same_grid(sent.geometry)
        assert np.array_equal(got.displacement, sent.displacement), "margins are cut off again"
    else:
        assert got.displacement is None


def test_map_of_other_transforms(scene, grid, rng):  # noqa: F811
    """Linear chains, B-splines and chains with parents: the sampled map agrees at the reference's voxels."""
    outer, inner = add_linear(scene, convert.matrix_ras(WORLD)), add_linear(scene, np.diag([1.1, 1, 1, 1]))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    points = inside(grid, rng, 200)
    affine = maps.map_of(inner)
    assert affine.displacement is None
    got = points @ affine.world[:3, :3].T + affine.world[:3, 3]
    assert np.allclose(got, through(inner, points), atol=1e-8)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for p in convert.ras(inside(grid, rng, 12)):
        source.InsertNextPoint(p)
        target.InsertNextPoint(p + rng.normal(size=3))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformFromParent(spline)
    with pytest.raises(InputError, match="reference"):
        maps.map_of(node)
    node.SetAndObserveTransformNodeID(outer.GetID())
    sampled = maps.map_of(node, grid)
    index = grid.to_world(np.floor(rng.uniform(0, 1, (300, 3)) * grid.size))
    assert np.allclose(library(sampled).map_points(index), through(node, index), atol=1e-3)


def test_composite_survives_h5(scene, map_, tmp_path, rng):  # noqa: F811
    node = maps.MapNodes(scene=scene).update(map_)
    points = np.concatenate([inside(map_.geometry, rng), inside(map_.geometry, rng, border=-4)])
    again = write_and_read(scene, node, tmp_path / "t.h5")
    difference = maps.follow(again, convert.ras(points)) - maps.follow(node, convert.ras(points))
    assert np.abs(difference).max() < 1e-4


def test_map_and_inverse_survive_a_bundle(bed, map_, tmp_path, rng):  # noqa: F811
    nodes = maps.MapNodes(scene=bed.scene)
    node = nodes.update(map_)
    nodes.update_inverse(Map(np.linalg.inv(WORLD)))
    points = inside(map_.geometry, rng, border=-4)
    other = reopened(bed, tmp_path)
    again = maps.MapNodes.of(other.scene.GetFirstNodeByName(node.GetName()))
    assert np.array_equal(again.map().displacement, map_.displacement)
    assert np.allclose(maps.map_of(again.inverse).world, np.linalg.inv(WORLD))
    difference = maps.follow(again.transform, convert.ras(points)) - maps.follow(node, convert.ras(points))
    assert np.abs(difference).max() < 1e-4
    node_before = again.transform
    assert again.update(Map(WORLD)) is node_before
    assert again.map().displacement is None and np.allclose(again.map().world, WORLD)
    close_bed(other)


def write_and_read(scene, node, path):  # noqa: F811
    """A second node read from the file that the first one's storage node wrote."""
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    other = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert storage.ReadData(other)
    return other


@pytest.mark.parametrize("parent", ["none", "linear", "thin plate"])
def test_the_preview_shares_voxels_and_leaves_the_moving_scan_alone(scene, map_, grid, parent, rng):  # noqa: F811
    """Where the preview shows a voxel is where the map says, whatever the moving scan's own parents."""
    moving = add_volume_on(scene, rng.normal(size=grid.shape).astype(np.float32), grid, "moving")
    if parent != "none":
        above = add_linear(scene, np.diag([1.0, -1.0, 1.0, 1.0])) if parent == "linear" else bent(scene)
        moving.SetAndObserveTransformNodeID(above.GetID())
    before = (moving.GetTransformNodeID(), moving.GetMTime())
    nodes = maps.MapNodes(scene=scene)
    shown = nodes.preview(moving)
    nodes.update(map_)
    count = scene.GetNumberOfNodes()
    assert nodes.preview(moving) is shown and scene.GetNumberOfNodes() == count
    assert shown.GetImageData() is moving.GetImageData()
    assert (moving.GetTransformNodeID(), moving.GetMTime()) == before
    points = convert.ras(inside(grid, rng, 300, border=4))
    in_preview = read_index(shown, points)
    in_moving = read_index(moving, maps.follow(nodes.transform, points))
    assert np.allclose(in_preview, in_moving, atol=1e-3)
    nodes.end_preview()
    assert shown.GetScene() is None
    assert not [
        n
        for n in range(scene.GetNumberOfNodes())
        if scene.GetNthNode(n).GetHideFromEditors() and maps.is_output(scene.GetNthNode(n))
    ]


def bent(scene):  # noqa: F811
    """A non-linear parent."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for p in np.stack(np.meshgrid(*([-60.0, 0.0, 60.0],) * 3, indexing="ij"), -1).reshape(-1, 3):
        source.InsertNextPoint(p)
        target.InsertNextPoint(p + 3 * np.sin(p[[1, 2, 0]] / 30))
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    return node


def read_index(volume, world) -> np.ndarray:
    """Voxel index at which a volume node, with all its parents, is read for world points."""
    local = spaces.transformed(spaces.from_world(volume), world)
    matrix = np.linalg.inv(spaces.local_index_to_ras(volume))
    return local @ matrix[:3, :3].T + matrix[:3, 3]


def test_somebody_elses_transform_is_refused(scene):  # noqa: F811
    with pytest.raises(InputError, match="not made by this module"):
        maps.MapNodes(transform=add_linear(scene, np.eye(4)), scene=scene)


def test_determinants_agree_with_the_library(grid):
    from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant

    u = smooth_field(grid)
    expected = jacobian_determinant(torch.from_numpy(u)[None], grid.spacing_mm, grid.rotation)[0, 0].numpy()
    assert np.allclose(fields.determinants(u, grid), expected, atol=1e-5)
    assert np.allclose(fields.determinants(u, grid, WORLD), expected * np.linalg.det(WORLD), atol=1e-5)
    assert np.allclose(fields.whole_lengths_mm(u, grid), np.linalg.norm(u, axis=0), atol=1e-5)
