"""A real MRML scene and off-screen slice views for tests: the logic classes that Slicer's application would set up.

Import the fixtures by name: ``from scene_bed import scene``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[2]
REFERENCES = Path(__file__).with_name("references")
sys.path.insert(0, str(PROJECT_ROOT / "DeepDiffReg"))

MODULES = (
    "vtkSlicerVolumesLogic",
    "vtkSlicerTransformLogic",
    "vtkSlicerModelsLogic",
    "vtkSlicerMarkupsLogic",
    "vtkSlicerSegmentationsModuleLogic",
    "vtkSlicerSubjectHierarchyModuleLogic",
    "vtkSlicerTextsLogic",
    "vtkSlicerTablesLogic",
    "vtkSlicerColorLogic",
)
MANAGERS_2D = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
)


@dataclass
class Bed:
    """One scene with its application logic; keeps every VTK object alive that the scene only observes."""

    scene: object
    application: object
    logics: dict = field(default_factory=dict)
    views: dict = field(default_factory=dict)
    before: tuple = (None, True)

    def view(self, name: str, orientation: str = "Axial", size: int = 256) -> SliceView:
        """An off-screen slice view; the same one for the same name."""
        if name not in self.views:
            self.views[name] = SliceView(self, name, orientation, size)
        return self.views[name]


def make_bed() -> Bed:
    """A fresh scene, also put in place as ``slicer.mrmlScene``, with the logics of the modules that its nodes need."""
    import slicer
    import vtk

    before = getattr(slicer, "mrmlScene", None), bool(vtk.vtkObject.GetGlobalWarningDisplay())
    vtk.vtkObject.GlobalWarningDisplayOff()
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetColorLogic(colors)
    bed = Bed(scene, application, {"colors": colors}, before=before)
    for kind in ("Slice", "View"):
        collection = vtk.vtkCollection()
        bed.logics[kind] = collection
        getattr(application, f"Set{kind}Logics")(collection)
    for name in MODULES:
        logic = getattr(slicer, name)()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.removeprefix("vtkSlicer").removesuffix("Logic").removesuffix("Module"), logic)
        bed.logics[name] = logic
    slicer.mrmlScene = scene
    return bed


def close_bed(bed: Bed) -> None:
    """Take views and scene apart in an order that leaves no observer behind; the scene before it is in place again."""
    import slicer
    import vtk

    for view in bed.views.values():
        view.close()
    bed.views.clear()
    bed.scene.Clear(True)
    scene, warnings = bed.before
    vtk.vtkObject.SetGlobalWarningDisplay(warnings)
    if scene is not None:
        slicer.mrmlScene = scene
    elif getattr(slicer, "mrmlScene", None) is bed.scene:
        del slicer.mrmlScene


@pytest.fixture
def bed():
    """A fresh bed for one test."""
    made = make_bed()
    yield made
    close_bed(made)


@pytest.fixture
def scene(bed):
    """The scene of a fresh bed."""
    return bed.scene


class SliceView:
    """A slice view rendered off-screen: volume layers as an image actor, everything else by Slicer's own managers."""

    def __init__(self, bed: Bed, name: str, orientation: str, size: int):
        import slicer
        import vtk

        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(bed.application)
        self.logic.SetMRMLScene(bed.scene)
        existing = bed.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        self.node = existing or self.logic.AddSliceNode(name)
        self.logic.SetSliceNode(self.node) if existing else None
        self.node.SetOrientation(orientation)
        bed.logics["Slice"].AddItem(self.logic)
        self.composite = self.logic.GetSliceCompositeNode()
        self.mapper = vtk.vtkImageMapper()
        self.mapper.SetColorWindow(255)
        self.mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self.mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer = vtk.vtkRenderer()
        self.renderer.AddViewProp(actor)
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(size, size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        for manager in MANAGERS_2D:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        factory.SetMRMLApplicationLogic(bed.application)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(self.node)
        self.logic.ResizeSliceNode(size, size)
        self.size = size

    def fit(self) -> None:
        """Show the whole background volume."""
        self.logic.FitSliceToAll(self.size, self.size)

    def render(self) -> None:
        """Bring the view up to date."""
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        if connection is not None:
            self.mapper.SetInputConnection(connection)
        self.window.Render()

    def picture(self) -> np.ndarray:
        """Render: (rows, columns, 3) uint8, first row on top."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        self.render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].copy()

    def close(self) -> None:
        """Detach from the scene."""
        self.group.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)
        self.window.Finalize()


def add_volume(scene, array, matrix_ras=None, name="volume", labels=False):
    """A volume node from (Z, Y, X) values and a (4, 4) IJK-to-RAS matrix."""
    import slicer
    from DeepDiffRegScene.spaces import image_from, vtk_matrix

    kind = "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode"
    node = scene.AddNewNodeByClass(kind, name)
    node.SetAndObserveImageData(image_from(np.asarray(array)))
    node.SetIJKToRASMatrix(vtk_matrix(np.eye(4) if matrix_ras is None else matrix_ras))
    node.CreateDefaultDisplayNodes()
    assert isinstance(node, slicer.vtkMRMLVolumeNode)
    return node


def add_volume_on(scene, array, geometry, name="volume", labels=False):
    """A volume node from (Z, Y, X) values on a Geometry."""
    from DeepDiffRegScene.spaces import index_to_ras

    return add_volume(scene, array, index_to_ras(geometry), name, labels)


def add_linear(scene, matrix_ras, name="parent"):
    """A linear transform node; the matrix acts to parent."""
    from DeepDiffRegScene.spaces import vtk_matrix

    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(matrix_ras))
    return node


def add_points(scene, points_ras, labels, name="points"):
    """A list of control points."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point, label in zip(points_ras, labels):
        node.AddControlPoint(*(float(v) for v in point), label)
    return node


def smooth_field(geometry, peak_mm=4.0, bumps=(1, 2, 1), seed=0) -> np.ndarray:
    """(3, Z, Y, X) float32 mm: low-frequency sines over the grid, not zero at the border, no folds for small peaks."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(0, 1, n) for n in geometry.shape), indexing="ij")
    waves = [
        np.prod([np.sin(np.pi * b * a + phase) for a, b, phase in zip(axes, bumps, rng.uniform(0.3, 1.2, 3))], axis=0)
        for _ in range(3)
    ]
    return np.stack([peak_mm * w / np.abs(w).max() for w in waves]).astype(np.float32)


def reopened(bed: Bed, folder: Path) -> Bed:
    """The scene saved as a bundle (.mrb) and opened again in a second bed; the caller closes that."""
    import slicer

    path, cache = folder / "scene.mrb", folder / "cache"
    cache.mkdir(exist_ok=True)
    assert bed.scene.WriteToMRB(str(path), None)
    other = make_bed()
    remote, manager = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
    remote.SetMRMLScene(other.scene)
    remote.AddDataIOToScene()
    manager.SetMRMLApplicationLogic(other.application)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    other.logics["remote"], other.logics["manager"] = remote, manager
    assert other.scene.ReadFromMRB(str(path), True, None)
    return other


def segmentation_of(scene, array, geometry, names):
    """A segmentation node with one segment per value of (Z, Y, X) labels; names: {value: name}."""
    from DeepDiffRegScene.outputs import oriented_image

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segments")
    node.CreateDefaultDisplayNodes()
    for value, name in names.items():
        mask = oriented_image((array == value).astype(np.uint8), geometry)
        node.AddSegmentFromBinaryLabelmapRepresentation(mask, name, [value / (value + 1), 0.5, 0.0])
    return node


CELL = 8
"""Pixels along the edge of the blocks whose mean colors are compared."""
MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 3.0, 45.0
"""Of 255, between block means: other Mesa versions place lines and letters half a pixel off; another picture differs by more."""


def coarse(picture: np.ndarray) -> np.ndarray:
    """Mean colors of blocks of 8 x 8 pixels, float64."""
    rows, columns = (n // CELL * CELL for n in picture.shape[:2])
    blocks = picture[:rows, :columns].reshape(rows // CELL, CELL, columns // CELL, CELL, 3)
    return blocks.mean(axis=(1, 3))


def assert_looks_like(picture: np.ndarray, name: str) -> None:
    """Compare with ``references/<name>.png``; ``DEEPDIFFREG_NEW_REFERENCES=1`` in the environment stores it anew."""
    from PIL import Image

    path = REFERENCES / f"{name}.png"
    if os.environ.get("DEEPDIFFREG_NEW_REFERENCES"):
        REFERENCES.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path, optimize=True)
    difference = np.abs(coarse(picture) - coarse(np.asarray(Image.open(path).convert("RGB"))))
    assert difference.mean() < MEAN_DIFFERENCE, f"{name}: block means differ by {difference.mean():.1f} on average"
    assert difference.max() < LARGEST_DIFFERENCE, f"{name}: one block differs by {difference.max():.1f}"
