"""The stand-in's MRML widgets and views: selectors follow the scene, pictures show the right thing in the right place."""

from __future__ import annotations

import numpy as np
import pytest

GREEN = 100


@pytest.fixture
def gestures(slicer_app):
    """What a user does."""
    from slicer_standin import gestures

    return gestures


@pytest.fixture
def cube(scene):
    """Volume of 60 x 50 x 40 voxels of 2 mm with a bright cube centered at RAS (-43, -23, 17); and that center."""
    import slicer

    values = np.random.default_rng(0).uniform(0.0, 20.0, (40, 50, 60))
    values[26:31, 11:16, 6:11] = 100.0
    to_ras = np.diag([2.0, 2.0, 2.0, 1.0])
    to_ras[:3, 3] = (-59.0, -49.0, -39.0)
    node = slicer.util.addVolumeFromArray(values, ijkToRAS=to_ras, name="cube")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0.0, 100.0)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node, (-43.0, -23.0, 17.0)


def combo(kind="qMRMLNodeComboBox", **properties):
    import slicer

    widget = getattr(slicer, kind)()
    for name, value in properties.items():
        setattr(widget, name, value)
    widget.setMRMLScene(slicer.mrmlScene)
    return widget


def test_combo_box_offers_the_right_nodes(scene):
    add = scene.AddNewNodeByClass
    volume, labels, model = (add(f"vtkMRML{kind}Node") for kind in ("ScalarVolume", "LabelMapVolume", "Model"))
    both = combo(nodeTypes=["vtkMRMLScalarVolumeNode"], noneEnabled=True)
    assert both.nodes() == [volume, labels] and both.currentNode() is None
    plain = combo(
        nodeTypes=["vtkMRMLScalarVolumeNode"], noneEnabled=True, hideChildNodeTypes=["vtkMRMLLabelMapVolumeNode"]
    )
    assert plain.nodes() == [volume]
    exact = combo(nodeTypes=["vtkMRMLScalarVolumeNode"], noneEnabled=True, showChildNodeTypes=False)
    assert exact.nodes() == [volume]
    marked = combo(nodeTypes=["vtkMRMLModelNode"], noneEnabled=True)
    assert model in marked.nodes()
    marked.addAttribute("vtkMRMLModelNode", "Mine", "1")
    assert marked.nodes() == []
    assert marked.addNode().GetAttribute("Mine") == "1"
    assert marked.nodeCount() == 1 and marked.currentNode() is marked.nodes()[0]
    plain.setCurrentNode(model)
    assert plain.currentNode() is None
    volume.SetHideFromEditors(1)
    assert combo(nodeTypes=["vtkMRMLScalarVolumeNode"]).nodes() == [labels]


def test_combo_box_follows_the_scene_at_once(scene):
    seen = []
    box = combo(nodeTypes=["vtkMRMLTransformNode"])
    box.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    box.connect("currentNodeChanged(bool)", seen.append)
    first = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "first")
    assert box.currentNode() is first and seen == [first, True]
    second = scene.AddNewNodeByClass("vtkMRMLTransformNode", "second")
    assert box.currentNode() is first
    first.SetName("renamed")
    assert box.currentText == "renamed"
    scene.RemoveNode(first)
    assert box.currentNode() is second and box.currentNodeID == second.GetID()
    scene.Clear(0)
    assert box.currentNode() is None and seen[-2:] == [None, False]


def test_combo_box_waits_for_the_end_of_a_batch(scene):
    box = combo(nodeTypes=["vtkMRMLTextNode"])
    scene.StartState(scene.BatchProcessState)
    node = scene.AddNewNodeByClass("vtkMRMLTextNode")
    assert box.nodeCount() == 0
    scene.EndState(scene.BatchProcessState)
    assert box.currentNode() is node


def test_a_dead_widget_leaves_the_scene_alone(slicer_app, scene):
    box = combo(nodeTypes=["vtkMRMLTextNode"])
    box.deleteLater()
    slicer_app.app.processEvents()
    scene.AddNewNodeByClass("vtkMRMLTextNode")
    assert slicer_app.errors == []


def test_checkable_combo_box(scene):
    seen = []
    box = combo("qMRMLCheckableNodeComboBox", nodeTypes=["vtkMRMLModelNode"])
    box.connect("checkedNodesChanged()", lambda: seen.append(len(box.checkedNodes())))
    nodes = [scene.AddNewNodeByClass("vtkMRMLModelNode", name) for name in "ab"]
    offered = [box.nodeFromIndex(index) for index in range(box.nodeCount())]
    assert set(nodes) <= set(offered)
    for node in nodes:
        box.setCheckState(node, 2)
    assert box.checkedNodes() == nodes and seen == [1, 2]
    scene.RemoveNode(nodes[0])
    assert box.checkedNodes() == [nodes[1]] and seen[-1] == 1


def test_segment_selector_and_table(scene):
    import slicer

    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    liver, spleen = (segmentation.GetSegmentation().AddEmptySegment(name, name) for name in ("liver", "spleen"))
    selector = combo("qMRMLSegmentSelectorWidget")
    nodes, segments = [], []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", nodes.append)
    selector.connect("currentSegmentChanged(QString)", segments.append)
    selector.setCurrentNode(segmentation)
    assert nodes == [segmentation] and selector.currentSegmentID() == liver
    selector.setCurrentSegmentID(spleen)
    assert segments == [liver, spleen]
    table = slicer.qMRMLSegmentsTableView()
    table.setSegmentationNode(segmentation)
    table.setSelectedSegmentIDs([spleen])
    assert table.displayedSegmentIDs() == [liver, spleen] and table.selectedSegmentIDs() == [spleen]
    segmentation.GetSegmentation().RemoveSegment(spleen)
    assert selector.currentSegmentID() == liver and table.segmentCount() == 1
    scene.RemoveNode(segmentation)
    assert selector.currentNode() is None and selector.currentSegmentID() == ""


def test_subject_hierarchy_combo_box(scene):
    hierarchy = scene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    box = combo("qMRMLSubjectHierarchyComboBox", noneEnabled=True)
    box.setLevelFilter(["Study"])
    box.setCurrentItem(study)
    assert box.currentItem() == study
    box.clearSelection()
    assert box.currentItem() == 0


def test_place_widget_uses_the_interaction_node(slicer_app, scene, gestures):
    import slicer

    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    other = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "other")
    widget, seen = combo("qSlicerSimpleMarkupsWidget"), []
    widget.connect("activeMarkupsPlaceModeChanged(bool)", seen.append)
    widget.setCurrentNode(points)
    place = widget.markupsPlaceWidget()
    place.placeModeEnabled = True
    assert place.placeModeEnabled and seen == [True]
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert gestures.place_control_point((1.0, 2.0, 3.0)) == 0
    assert not place.placeModeEnabled and seen == [True, False]
    assert widget.tableWidget().rowCount == 1 and points.GetNumberOfControlPoints() == 1
    slicer.modules.markups.logic().StartPlaceMode(True)
    slicer.modules.markups.logic().SetActiveList(other)
    assert not place.placeModeEnabled
    with pytest.raises(RuntimeError, match="place mode"):
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        gestures.place_control_point((0.0, 0.0, 0.0))


def test_simulated_drag_sends_the_events_of_a_drag(scene, gestures):
    points, seen = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode"), []
    points.AddControlPointWorld(0.0, 0.0, 0.0)
    for name in ("PointStartInteractionEvent", "PointModifiedEvent", "PointEndInteractionEvent"):
        points.AddObserver(getattr(points, name), lambda caller, event, name=name: seen.append(name[5:-5]))
    gestures.drag_control_point(points, 0, (3.0, 6.0, 9.0))
    assert seen == ["StartInteraction", "Modified", "Modified", "Modified", "EndInteraction"]
    assert tuple(points.GetNthControlPointPositionWorld(0)) == (3.0, 6.0, 9.0)


def test_crosshair(scene, gestures):
    node, seen = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode"), []

    def moved(caller, event):
        seen.append(caller.GetCursorPositionRAS([0.0] * 3))

    tag = node.AddObserver(node.CursorPositionModifiedEvent, moved)
    gestures.move_crosshair((1.0, 2.0, 3.0))
    gestures.move_crosshair(None)
    node.RemoveObserver(tag)  # the crosshair node outlives the scene's content
    assert seen == [True, False]


@pytest.mark.parametrize("name", ["Red", "Yellow", "Green"])
def test_a_bright_cube_is_where_it_should_be(slicer_app, cube, name):
    _, center = cube
    widget = slicer_app.layout_manager.sliceWidget(name)
    view = widget.sliceView()
    view.resize_view(300, 200)
    widget.fitSliceToBackground()
    widget.mrmlSliceNode().JumpSliceByCentering(*center)
    picture = view.picture()
    assert picture.shape == (200, 300, 3)
    rows, columns = np.nonzero(picture[:, :, 1] > GREEN)
    x, y, _ = view.convertRASToXYZ(center)
    assert abs(columns.mean() - x) < 1.5 and abs((199 - rows.mean()) - y) < 1.5
    assert np.allclose(view.convertXYZToRAS((x, y, 0.0)), center, atol=1e-6)


def test_radiological_orientation(slicer_app, cube):
    """In the axial view the patient's right is at the left and anterior is at the top."""
    view = slicer_app.layout_manager.sliceWidget("Red").sliceView()
    right, left = (view.convertRASToXYZ((r, 0.0, 0.0))[0] for r in (40.0, -40.0))
    front, back = (view.convertRASToXYZ((0.0, a, 0.0))[1] for a in (30.0, -30.0))
    assert right < left and front > back


def test_mouse_drag_and_click_in_a_view(slicer_app, cube, gestures):
    import slicer

    _, center = cube
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.CreateDefaultDisplayNodes()
    points.AddControlPointWorld(*center)
    widget, seen = slicer_app.layout_manager.sliceWidget("Red"), []
    widget.mrmlSliceNode().JumpSliceByOffsetting(*center)
    points.AddObserver(points.PointEndInteractionEvent, lambda *_: seen.append("end"))
    target = (center[0] + 20.0, center[1] + 10.0, center[2])
    gestures.drag_in_view(widget, center, target)
    assert np.allclose(points.GetNthControlPointPositionWorld(0), target, atol=1.0)
    assert seen == ["end"]
    slicer.modules.markups.logic().SetActiveList(points)
    slicer.modules.markups.logic().StartPlaceMode(False)
    gestures.click_in_view(widget, (0.0, 0.0, center[2]))
    assert points.GetNumberOfControlPoints() == 2
    assert np.allclose(points.GetNthControlPointPositionWorld(1), (0.0, 0.0, center[2]), atol=1.0)


def test_layouts(slicer_app, cube):
    manager = slicer_app.layout_manager
    assert sorted(manager.sliceViewNames()) == ["Green", "Red", "Yellow"] and manager.threeDViewCount == 1
    four_up = manager.picture()
    assert four_up.shape == (644, 644, 3) and four_up.std() > 1.0
    view = '<item><view class="vtkMRMLSliceNode" singletontag="{0}"><property name="orientation" action="default">{1}</property></view></item>'
    xml = f'<layout type="horizontal">{view.format("Left9", "Axial")}{view.format("Right9", "Coronal")}</layout>'
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(5021, xml)
    manager.setLayout(5021)
    assert manager.sliceViewNames() == ["Left9", "Right9"] and manager.threeDViewCount == 0
    assert manager.sliceWidget("Right9").mrmlSliceNode().GetOrientation() == "Coronal"
    assert manager.picture().shape == (320, 644, 3)
    assert manager.mrmlSliceLogics().GetNumberOfItems() >= 5
    slicer_app.main_window.show()
    slicer_app.app.processEvents()
    image = slicer_app.main_window.grab().toImage()
    assert (image.width(), image.height()) == (1400, 900)


def test_nodes_go_through_files(scene, cube, tmp_path):
    import slicer

    node, _ = cube
    file = str(tmp_path / "cube.nrrd")
    assert slicer.util.saveNode(node, file)
    again = slicer.util.loadVolume(file)
    assert np.allclose(slicer.util.arrayFromVolume(again), slicer.util.arrayFromVolume(node))
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.AddControlPointWorld(1.0, 2.0, 3.0)
    assert slicer.util.saveNode(points, str(tmp_path / "F.mrk.json"))
    loaded = slicer.util.loadMarkups(str(tmp_path / "F.mrk.json"))
    assert tuple(loaded.GetNthControlPointPositionWorld(0)) == (1.0, 2.0, 3.0)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([2.0, 1.0, 1.0, 1.0])))
    assert slicer.util.saveNode(transform, str(tmp_path / "t.h5"))
    assert np.allclose(
        slicer.util.arrayFromTransformMatrix(slicer.util.loadTransform(str(tmp_path / "t.h5"))), np.diag([2, 1, 1, 1])
    )
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    segment = segmentation.GetSegmentation().AddEmptySegment("one")
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (slicer.util.arrayFromVolume(node) > 50).astype("uint8"), segmentation, segment, node
    )
    assert slicer.util.saveNode(segmentation, str(tmp_path / "S.seg.nrrd"))
    loaded = slicer.util.loadSegmentation(str(tmp_path / "S.seg.nrrd"))
    count = slicer.util.arrayFromSegmentBinaryLabelmap(loaded, loaded.GetSegmentation().GetNthSegmentID(0), node).sum()
    assert count == 125
    with pytest.raises(RuntimeError, match="Failed to load"):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))
