"""Result nodes, applying a map to other nodes, files and the run record: on a real MRML scene, against the library."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import rotation
from scene_bed import (  # noqa: F401
    add_linear,
    add_points,
    add_volume_on,
    bed,
    close_bed,
    reopened,
    scene,
    segmentation_of,
    smooth_field,
)  # fmt: skip

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Map, Scan
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import grid_points
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.warp.image import warp_image

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
import vtk
from DeepDiffRegScene import apply, convert, export, maps, outputs, record, spaces
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

WORLD = np.eye(4)
WORLD[:3, :3] = rotation((3.0, 4.0, -5.0)) * 1.03
WORLD[:3, 3] = (3.0, -2.0, 5.0)


@pytest.fixture
def grid() -> Geometry:
    """Oblique, flipped, anisotropic: the fixed scan and the displacement."""
    direction = rotation((12.0, -20.0, 35.0)) @ np.diag([1.0, -1.0, 1.0])
    return Geometry((30, 28, 22), (1.6, 1.5, 2.5), (-31.0, 12.5, 7.25), direction.tolist())


@pytest.fixture
def moving_grid(grid) -> Geometry:
    """Another grid that holds everything the map looks at."""
    center = grid.center_mm @ WORLD[:3, :3].T + WORLD[:3, 3]
    return Geometry((44, 44, 44), (2.0, 2.0, 2.0), tuple(center - 43), np.eye(3).tolist())


@pytest.fixture
def map_(grid) -> Map:
    """Affine after a smooth displacement."""
    return Map(WORLD, smooth_field(grid, 3.0), grid)


@pytest.fixture
def reference(map_):
    """The same map, by the library."""
    field = DisplacementTransform(torch.from_numpy(map_.displacement)[None], map_.geometry)
    return CompositeTransform([field, AffineTransform(WORLD[:3, :3], WORLD[:3, 3])])


@pytest.fixture
def nodes(scene, map_):  # noqa: F811
    """The map in the scene."""
    made = maps.MapNodes(scene=scene)
    made.update(map_)
    return made


def ramp(geometry: Geometry) -> np.ndarray:
    """A linear function of the position: a difference of 0.01 in it is about 0.01 mm."""
    return (grid_points(geometry) @ (0.6, -0.5, 0.6)).reshape(geometry.shape).astype(np.float32)


def voxel_points(grid: Geometry, rng, count=300) -> np.ndarray:
    """Voxel centers of the fixed grid, well inside: there the library and Slicer read the same displacement."""
    index = 4 + np.floor(rng.uniform(0, 1, (count, 3)) * (np.array(grid.size) - 8))
    return grid.to_world(index)


def ball(geometry: Geometry) -> np.ndarray:
    """A ball with label 3 around the middle of a grid."""
    distance = np.linalg.norm(grid_points(geometry) - geometry.center_mm, axis=1)
    return np.where(distance < 12, 3, 0).reshape(geometry.shape).astype(np.int16)


def cloud(scene, points_ras, name="model"):  # noqa: F811
    """A model of vertices with normals."""
    poly = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.asarray(points_ras, dtype=np.float64), deep=True))
    poly.SetPoints(points)
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObserveMesh(poly)
    node.CreateDefaultDisplayNodes()
    return node


def model_points(node) -> np.ndarray:
    """(N, 3) of a model's own points."""
    return vtk_to_numpy(node.GetMesh().GetPoints().GetData()).astype(float)


def control_points(node) -> np.ndarray:
    """(N, 3) world positions of a list."""
    return np.array([node.GetNthControlPointPositionWorld(i) for i in range(node.GetNumberOfControlPoints())])


def test_everything_under_the_transform_agrees(scene, nodes, grid, moving_grid, reference, rng):  # noqa: F811
    """Volume, model, segmentation and markups as children of the output transform, against the library."""
    fixed = voxel_points(grid, rng)
    partners = convert.ras(reference.map_points(fixed))
    markups = add_points(scene, partners[:40], [str(i) for i in range(40)])
    model = cloud(scene, partners)
    volume = add_volume_on(scene, ramp(moving_grid), moving_grid)
    segments = segmentation_of(scene, ball(moving_grid), moving_grid, {3: "ball"})
    for node in (markups, model, volume, segments):
        node.SetAndObserveTransformNodeID(nodes.transform.GetID())
    assert np.abs(control_points(markups) - convert.ras(fixed[:40])).max() < 1e-2
    slicer.vtkSlicerTransformLogic.hardenTransform(model)
    assert np.abs(model_points(model) - convert.ras(fixed)).max() < 1e-2
    image = spaces.resliced(volume.GetImageData(), spaces.local_index_to_ras(volume), spaces.from_world(volume), grid)
    expected = (reference.map_points(grid_points(grid)) @ (0.6, -0.5, 0.6)).reshape(grid.shape)
    assert np.abs(spaces.voxels_of(image) - expected).max() < 1e-3
    labels = Image(torch.from_numpy(ball(moving_grid).astype(np.int32))[None, None], moving_grid, "labels")
    warped = warp_image(labels, reference, grid).tensor[0, 0].numpy() > 0
    mask = convert.mask_scan_of(segments, reference=grid).array > 0
    assert (mask != warped).sum() <= 3 and warped.sum() > 500


@pytest.mark.parametrize("parent", [None, "linear"])
def test_apply_to_the_fixed_space(scene, nodes, grid, moving_grid, reference, rng, parent):  # noqa: F811
    """Warped copies agree with the library to 1e-3 mm; the originals are as they were."""
    place = np.eye(4)
    if parent:
        place[:3, :3], place[:3, 3] = rotation((0, 0, 25.0)), (5, -8, 2)
    above = add_linear(scene, place) if parent else None
    fixed_volume = add_volume_on(scene, np.zeros(grid.shape, np.float32), grid, "fixed")
    fixed = voxel_points(grid, rng)
    partners = convert.ras(reference.map_points(fixed))
    local = (partners - place[:3, 3]) @ np.linalg.inv(place[:3, :3]).T
    inner = place_grid(moving_grid, np.linalg.inv(place))
    volume = add_volume_on(scene, ramp(moving_grid), inner, "scan")
    labels = add_volume_on(scene, ball(moving_grid), inner, "labels", labels=True)
    segments = segmentation_of(scene, ball(moving_grid), inner, {3: "ball"})
    originals = [volume, labels, segments, cloud(scene, local), add_points(scene, local, map(str, range(len(local))))]
    if parent:
        for node in originals:
            node.SetAndObserveTransformNodeID(above.GetID())
    stamps = [node.GetMTime() for node in originals]
    made = apply.apply_to(originals, nodes.transform, reference=fixed_volume)
    assert [node.GetMTime() for node in originals] == stamps
    assert all(node.GetParentTransformNode() is None for node in made)
    warped, warped_labels, warped_segments, model, markups = made
    expected = (reference.map_points(grid_points(grid)) @ (0.6, -0.5, 0.6)).reshape(grid.shape)
    assert convert.geometry_of(warped).same_grid(grid)
    assert np.abs(spaces.voxels_of(warped.GetImageData()) - expected).max() < 2e-3
    image = Image(torch.from_numpy(ball(moving_grid).astype(np.int32))[None, None], moving_grid, "labels")
    truth = warp_image(image, reference, grid).tensor[0, 0].numpy()
    assert (spaces.voxels_of(warped_labels.GetImageData()) != truth).sum() <= 3
    assert ((convert.mask_scan_of(warped_segments, reference=grid).array > 0) != (truth > 0)).sum() <= 3
    assert warped_segments.GetSegmentation().GetNthSegment(0).GetName() == "ball"
    assert np.abs(model_points(model) - convert.ras(fixed)).max() < 2e-3
    assert np.abs(control_points(markups) - convert.ras(fixed)).max() < 2e-3
    assert markups.GetNthControlPointLabel(7) == "7"


def place_grid(geometry: Geometry, matrix_ras: np.ndarray) -> Geometry:
    """A grid moved by a rigid RAS matrix."""
    return spaces.geometry_from_ras(geometry.size, matrix_ras @ spaces.index_to_ras(geometry))


def test_apply_to_the_moving_space(scene, nodes, grid, moving_grid, reference, rng):  # noqa: F811
    """The other way: points by the map itself, volumes by its inverse."""
    fixed = voxel_points(grid, rng)
    target = add_volume_on(scene, np.zeros(moving_grid.shape, np.float32), moving_grid, "moving")
    points = add_points(scene, convert.ras(fixed), map(str, range(len(fixed))))
    volume = add_volume_on(scene, ramp(grid), grid, "scan")
    moved_points, moved_volume = apply.apply_to([points, volume], nodes.transform, inverse=True, reference=target)
    partners = reference.map_points(fixed)
    assert np.abs(control_points(moved_points) - convert.ras(partners)).max() < 1e-4
    index = np.rint(moving_grid.to_index(partners)).astype(int)
    values = spaces.voxels_of(moved_volume.GetImageData())[tuple(index.T[::-1])]
    world = convert.ras(moving_grid.to_world(index))
    expected = convert.lps(apply.move_points(nodes.transform, world, to_moving=False)) @ (0.6, -0.5, 0.6)
    assert np.abs(values - expected).max() < 0.02


def test_where_vtk_fails_the_explicit_inverse_helps(scene):  # noqa: F811
    """In a folded map VTK's iteration misses by millimeters; the nearer of both answers is used."""
    geometry = Geometry((32, 32, 32), (2.0,) * 3, (-31.0,) * 3, np.eye(3).tolist())
    x = grid_points(geometry)
    u = np.zeros((3, 32, 32, 32), np.float32)
    bump = np.exp(-((x / 14) ** 2).sum(1)) * 22
    for c in range(3):
        u[c] = (bump * np.sin(x[:, (c + 1) % 3] / 5)).reshape(geometry.shape)
    made = maps.MapNodes(scene=scene)
    node = made.update(Map(np.eye(4), u, geometry))
    inverse = DisplacementTransform(torch.from_numpy(u)[None], geometry).inverse().transform
    points = x[np.linalg.norm(x, axis=1) < 18][::3]
    alone = apply.move_points(node, points, to_moving=False)
    made.update_inverse(Map(np.eye(4), inverse.tensor[0].numpy(), geometry))
    helped = apply.move_points(node, points, to_moving=False)
    miss = [np.linalg.norm(maps.follow(node, found) - points, axis=1) for found in (alone, helped)]
    assert (miss[1] <= miss[0] + 1e-9).all() and miss[1].sum() < miss[0].sum()


def test_apply_refuses_what_it_cannot_do(scene, nodes):  # noqa: F811
    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    points = add_points(scene, [(0, 0, 0)], ["a"])
    count = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="vtkMRMLMarkupsROINode"):
        apply.apply_to([points, box], nodes.transform)
    assert scene.GetNumberOfNodes() == count, "nothing is made when one of the nodes cannot be used"


def test_undefined_points_stay_undefined(scene, nodes):  # noqa: F811
    points = add_points(scene, [(0, 0, 0), (1, 1, 1), (2, 2, 2)], "abc")
    points.UnsetNthControlPointPosition(1)
    (made,) = apply.apply_to([points], nodes.transform)
    states = [made.GetNthControlPointPositionStatus(i) == made.PositionDefined for i in range(3)]
    assert states == [True, False, True]


def test_outputs_are_made_once_and_updated_in_place(scene, grid, rng):  # noqa: F811
    fixed = add_volume_on(scene, np.zeros(grid.shape, np.float32), grid, "fixed")
    moving = add_volume_on(scene, np.zeros(grid.shape, np.float32), grid, "moving")
    moving.GetDisplayNode().SetAutoWindowLevel(False)
    moving.GetDisplayNode().SetWindowLevel(321, 12)
    scans = [Scan(rng.normal(size=grid.shape).astype(np.float32), grid) for _ in range(2)]
    makers = (
        lambda scan, node=None: outputs.warped_volume(scan, fixed, moving, node),
        lambda scan, node=None: outputs.jacobian_volume(scan, fixed, node),
        lambda scan, node=None: outputs.folded_segmentation(scan, fixed, node),
    )
    for make in makers:
        node = make(scans[0])
        count = scene.GetNumberOfNodes()
        assert make(scans[1], node) is node and scene.GetNumberOfNodes() == count
        if node.IsA("vtkMRMLVolumeNode"):
            assert np.array_equal(convert.scan_of(node).array, scans[1].array)
            assert convert.geometry_of(node).same_grid(grid)
        else:
            assert np.array_equal(convert.mask_scan_of(node, reference=grid).array, scans[1].array <= 0)
        with pytest.raises(InputError, match="not made by this module"):
            make(scans[0], fixed)
    warped = makers[0](scans[0])
    assert (warped.GetDisplayNode().GetWindow(), warped.GetDisplayNode().GetLevel()) == (321, 12)


def test_no_fold_gives_an_empty_segment(scene, grid):  # noqa: F811
    fixed = add_volume_on(scene, np.zeros(grid.shape, np.float32), grid, "fixed")
    node = outputs.folded_segmentation(Scan(np.ones(grid.shape, np.float32), grid), fixed)
    assert convert.mask_scan_of(node, reference=grid).array.sum() == 0


def test_outputs_stand_in_the_study_of_the_fixed_scan(scene, nodes, grid):  # noqa: F811
    fixed = add_volume_on(scene, np.zeros(grid.shape, np.float32), grid, "fixed")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    folder = hierarchy.CreateFolderItem(study, "series")
    hierarchy.CreateItem(folder, fixed)
    node = outputs.warped_volume(Scan(np.zeros(grid.shape, np.float32), grid), fixed, fixed)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert not outputs.place_in_study(node, fixed), "already there"
    assert outputs.place_in_study(nodes.transform, fixed)
    (made,) = apply.apply_to([add_points(scene, [(0, 0, 0)], ["a"])], nodes.transform, reference=fixed)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made)) == study
    assert not outputs.place_in_study(made, None)


def test_transform_files_are_read_by_simpleitk(scene, nodes, grid, map_, tmp_path, rng):  # noqa: F811
    """.h5 as it is; .nii.gz (intent 1006) and .nrrd as one displacement: same points, LPS, in SimpleITK and in Slicer."""
    points = voxel_points(grid, rng, 100)
    expected = convert.lps(maps.follow(nodes.transform, convert.ras(points)))
    export.write_transform(nodes.transform, tmp_path / "t.h5")
    itk = sitk.ReadTransform(str(tmp_path / "t.h5"))
    assert np.abs([itk.TransformPoint(p) for p in points] - expected).max() < 1e-3
    for name in ("t.nii.gz", "t.nrrd"):
        export.write_transform(nodes.transform, tmp_path / name)
        image = sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64)
        field = sitk.DisplacementFieldTransform(image)
        assert np.abs([field.TransformPoint(p) for p in points] - expected).max() < 1e-3, name
        storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
        storage.SetFileName(str(tmp_path / name))
        again = scene.AddNewNodeByClass("vtkMRMLTransformNode")
        assert storage.ReadData(again)
        assert np.abs(maps.follow(again, convert.ras(points)) - convert.ras(expected)).max() < 1e-3, name
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(tmp_path / "t.nii.gz"))
    reader.ReadImageInformation()
    assert reader.GetMetaData("intent_code") == "1006"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.h5", "t.nii.gz", "t.nrrd"], "nothing half-written stays"


def test_export_of_inverse_matrix_and_volume(scene, nodes, grid, tmp_path, rng):  # noqa: F811
    with pytest.raises(InputError, match="not there yet"):
        export.write_inverse(nodes, tmp_path / "i.h5")
    nodes.update_inverse(Map(np.linalg.inv(WORLD)))
    export.write_inverse(nodes, tmp_path / "i.h5")
    point = np.array([1.0, 2.0, 3.0])
    got = sitk.ReadTransform(str(tmp_path / "i.h5")).TransformPoint(point)
    assert np.allclose(got, np.linalg.inv(WORLD)[:3] @ (*point, 1), atol=1e-6)
    with pytest.raises(InputError, match="reference"):
        export.write_inverse(nodes, tmp_path / "i.nii.gz")
    export.write_inverse(nodes, tmp_path / "i.nii.gz", reference=grid)
    values = rng.normal(size=grid.shape).astype(np.float32)
    volume = add_volume_on(scene, values, grid)
    for name in ("j.nii.gz", "j.nrrd"):
        export.write_volume(volume, tmp_path / name)
        image = sitk.ReadImage(str(tmp_path / name))
        assert np.array_equal(sitk.GetArrayFromImage(image), values)
        assert Geometry.from_sitk(image).same_grid(grid)
    with pytest.raises(InputError, match="cannot be written"):
        export.write_volume(volume, tmp_path / "j.png")
    with pytest.raises(InputError, match="folder"):
        export.write_volume(volume, tmp_path / "nowhere" / "j.nrrd")


def test_the_record_survives_a_bundle(bed, map_, tmp_path):  # noqa: F811
    nodes = maps.MapNodes(scene=bed.scene)
    transform = nodes.update(map_)
    assert record.read(transform) is None
    value = {"config": {"method": "iterative", "text": 'quotes " < & > \n umlaut \u00e4'}, "versions": {"torch": "2"}}
    node = record.attach(transform, value)
    value["metrics"] = [1.5, None, True]
    assert record.attach(transform, value) is node
    assert record.read(transform) == value
    other = reopened(bed, tmp_path)
    again = other.scene.GetFirstNodeByName(transform.GetName())
    assert record.read(again) == json.loads(json.dumps(value))
    assert outputs.find("record", other.scene) is again.GetNodeReference(record.RECORD_ROLE)
    again.GetNodeReference(record.RECORD_ROLE).SetText("not json")
    assert record.read(again) is None and record.read(None) is None
    close_bed(other)
