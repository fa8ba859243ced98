"""Layers over rendered slice views: what is drawn, where, and that it goes away again."""

from __future__ import annotations

import numpy as np
import pytest
from scene_bed import add_points, add_volume_on, assert_looks_like, bed, coarse, segmentation_of, smooth_field  # noqa: F401

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import Map, Scan

slicer = pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")
from DeepDiffRegScene import colors, convert, grids, layers, maps, outputs, regions, spaces
from DeepDiffRegScene.fields import determinants

GRID = Geometry((48, 48, 24), (4.0, 4.0, 8.0), (-94.0, -94.0, -92.0), np.eye(3).tolist())
POINTS = spaces.grid_points(GRID)
SHIFT = np.eye(4)
SHIFT[:3, 3] = (6.0, 0.0, 0.0)


def ellipse(center, radius) -> np.ndarray:
    """Voxels of an ellipsoid, RAS."""
    return (((POINTS - center) / radius) ** 2).sum(1).reshape(GRID.shape) < 1


def body() -> np.ndarray:
    """A trunk with two lungs, a spine and a heart; all generated."""
    array = np.zeros(GRID.shape, np.float32)
    array[ellipse((0, 0, 0), (80, 62, 300))] = 60
    for side in (-32, 32):
        array[ellipse((side, 5, 0), (25, 38, 70))] = 15
    array[ellipse((0, -42, 0), (10, 10, 300))] = 110
    array[ellipse((5, 10, -10), (15, 18, 20))] = 80
    return array


def displacement(folded: bool = False) -> np.ndarray:
    """A smooth displacement; ``folded`` turns space inside out in the left lung."""
    u = smooth_field(GRID, 9.0)
    if folded:
        x = POINTS.reshape(*GRID.shape, 3) - (30, 0, 0)
        u[0] += 26 * np.exp(-(x**2).sum(-1) / (2 * 14**2)) * np.sin(x[..., 0] / 9)
    return u


@pytest.fixture
def desk(bed):  # noqa: F811
    """Scan, map, layers and an axial view."""
    return make_desk(bed)


class Desk:
    """What the tests look at."""

    def __init__(self, bed):  # noqa: F811
        self.bed, self.scene = bed, bed.scene
        self.fixed = add_volume_on(bed.scene, body(), GRID, "fixed")
        self.maps = maps.MapNodes(scene=bed.scene)
        self.maps.update(Map(SHIFT, displacement(), GRID))
        self.view = bed.view("Red", size=256)
        self.view.composite.SetBackgroundVolumeID(self.fixed.GetID())
        self.view.fit()
        self.view.node.SetSliceOffset(4.0)
        self.layers = layers.LayerSet(self.maps, self.fixed, bed.scene)

    def fold(self) -> None:
        """Replace the map by a folded one."""
        self.maps.update(Map(SHIFT, displacement(folded=True), GRID))


make_desk = Desk


CASES = {
    "grid_resampling": ("grid", {}, False),
    "grid_forward": ("grid", {"direction": "forward"}, False),
    "grid_in_the_body": ("grid", {"region": "body", "spacing_mm": 8.0}, False),
    "grid_by_slicer": ("grid", {"direction": "slicer"}, False),
    "grid_folded": ("grid", {"spacing_mm": 8.0}, True),
    "glyphs": ("glyphs", {"spacing_mm": 10.0}, False),
    "magnitude": ("magnitude", {}, False),
    "jacobian": ("jacobian", {"span": 2.0}, False),
    "jacobian_folded": ("jacobian", {}, True),
    "folds": ("folds", {}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_each_layer_looks_like_its_reference_and_leaves_nothing(desk, case):
    name, options, folded = CASES[case]
    if folded:
        desk.fold()
    plain, count = desk.view.picture(), desk.scene.GetNumberOfNodes()
    layer = desk.layers[name]
    layer.set(**options)
    layer.show(True)
    shown = desk.view.picture()
    assert_looks_like(shown, case)
    assert np.abs(coarse(shown) - coarse(plain)).max() > 20
    layer.show(False)
    assert layer.legend is None
    assert np.array_equal(desk.view.picture(), plain)
    layer.show(True)
    desk.layers.close()
    assert np.array_equal(desk.view.picture(), plain)
    tables = [n for n in range(desk.scene.GetNumberOfNodes()) if desk.scene.GetNthNode(n).IsA("vtkMRMLColorTableNode")]
    left = [desk.scene.GetNthNode(n) for n in range(desk.scene.GetNumberOfNodes()) if n not in tables]
    assert not [node.GetName() for node in left if node.GetAttribute(layers.OUTPUT_ATTRIBUTE) == "layer"]
    assert desk.scene.GetNumberOfNodes() <= count + 3, "only color tables and a volume's display properties may stay"


def test_landmarks_and_grid_together(desk):
    """What the user sees while placing pairs."""
    points = add_points(desk.scene, [(-32, 5, 4), (32, 5, 4), (0, -42, 4)], ["F-1", "F-2", "F-3"])
    points.GetDisplayNode().SetGlyphScale(6)
    points.GetDisplayNode().SetTextScale(6)
    desk.layers["grid"].set(region="body")
    desk.layers["grid"].show(True)
    assert_looks_like(desk.view.picture(), "landmarks")


def test_layers_do_not_disturb_each_other(desk):
    plain = desk.view.picture()
    for name in ("magnitude", "jacobian"):
        desk.layers[name].show(True)
    assert desk.view.composite.GetNumberOfAdditionalLayers() == 2
    desk.layers["magnitude"].show(False)
    alone = desk.view.picture()
    desk.layers["jacobian"].show(False)
    assert np.array_equal(desk.view.picture(), plain)
    desk.layers["jacobian"].show(True)
    bars = 128
    assert np.array_equal(desk.view.picture()[:, :bars], alone[:, :bars]), "only its color bar may stand elsewhere"


def test_lines_follow_map_and_view(desk):
    layer = desk.layers["grid"]
    layer.show(True)
    count = desk.scene.GetNumberOfNodes()
    first = desk.view.picture()
    desk.view.node.SetSliceOffset(36.0)
    scrolled = desk.view.picture()
    assert np.abs(coarse(scrolled) - coarse(first)).max() > 20
    desk.maps.update(Map(np.eye(4), np.zeros((3, *GRID.shape), np.float32), GRID))
    desk.layers.update()
    straight = grids.points_of(next(iter(layer._models.values())).GetPolyData())
    assert np.allclose(straight[:, 2], 36.0)
    assert desk.scene.GetNumberOfNodes() == count
    layer.show(False)
    drawn = len(layer._planes)
    desk.view.node.SetSliceOffset(-20.0)
    assert len(layer._planes) == drawn == 0, "a hidden layer must not observe the view"


def test_every_view_has_its_own_lines(desk):
    other = desk.bed.view("Green", "Coronal")
    other.composite.SetBackgroundVolumeID(desk.fixed.GetID())
    other.fit()
    desk.layers["grid"].show(True)
    for view in (desk.view, other):
        model = desk.layers["grid"]._models[view.node.GetID()]
        assert model.GetDisplayNode().GetNthViewNodeID(0) == view.node.GetID()
        normal = np.array([view.node.GetSliceToRAS().GetElement(i, 2) for i in range(3)])
        distance = (grids.points_of(model.GetPolyData()) @ normal).round(3)
        assert len(set(distance.tolist())) == 1


def test_lines_are_where_the_map_says(desk):
    """Resampling: at phi(x). Forward: phi takes the drawn point back to the grid. Deformable: without the matrix."""
    region = regions.Region(desk.fixed)
    plane = spaces.numpy_matrix(desk.view.node.GetSliceToRAS())
    lines = grids.plane_lines(plane, region.geometry, 16.0, region.contains)
    there = grids.mover(desk.maps, "resampling")(lines.points)
    assert np.allclose(there, maps.follow(desk.maps.transform, lines.points))
    forward = grids.mover(desk.maps, "forward")(lines.points)
    inside = region.contains(forward)
    back = maps.follow(desk.maps.transform, forward[inside])
    assert np.abs(back - lines.points[inside]).max() < 2e-2
    bent = grids.mover(desk.maps, "resampling", "deformable")(lines.points)
    assert np.allclose(there - bent, convert.ras(SHIFT[:3, 3]), atol=1e-4)
    spaced = np.unique(np.round(lines.points[lines.segments].mean(1)[:, :2], 3))
    assert len(lines.segments) > 500 and region.contains(lines.points).all() and spaced.size > 10


def test_lines_end_at_a_segment(desk):
    labels = np.where(ellipse((-32, 5, 0), (25, 38, 70)), 1, 0).astype(np.int16)
    node = segmentation_of(desk.scene, labels, GRID, {1: "lung"})
    identity = node.GetSegmentation().GetNthSegmentID(0)
    region = regions.Region(desk.fixed, (node, identity))
    plane = spaces.numpy_matrix(desk.view.node.GetSliceToRAS())
    lines = grids.plane_lines(plane, region.geometry, 8.0, region.contains)
    index = np.rint(GRID.to_index(convert.lps(lines.points))).astype(int)
    assert len(lines.segments) > 50
    assert (labels[tuple(index.T[::-1])] == 1).all()
    with pytest.raises(InputError, match="segment"):
        regions.Region(desk.fixed, "elsewhere")


def test_the_body_includes_the_lungs(desk):
    mask = regions.body_mask(convert.scan_of(desk.fixed))
    assert np.array_equal(mask.array > 0, body() > 0)


def test_folds_are_found_where_they_are(desk):
    desk.fold()
    u = displacement(folded=True)
    expected = determinants(u, GRID) <= 0
    assert expected.sum() > 20
    desk.layers["folds"].show(True)
    mask = convert.mask_scan_of(desk.layers["folds"]._shown, reference=GRID)
    assert np.array_equal(mask.array > 0, expected)
    lines = grids.Lines(POINTS, np.zeros((0, 2), int))
    poly = grids.line_model(
        lines, grids.mover(desk.maps, "resampling"), 10.0, grids.fold_test(desk.maps, "resampling", 4.0)
    )
    marked = (
        convert.np.array([poly.GetPointData().GetScalars().GetValue(i) for i in range(len(POINTS))]) == grids.FOLDED
    )
    inner = np.zeros(GRID.shape, bool)
    inner[2:-2, 2:-2, 2:-2] = True
    agree = (marked.reshape(GRID.shape) == expected)[inner].mean()
    assert agree > 0.998, "the derivative over 4 mm in z differs a little from the one over a voxel of 8 mm"


def test_a_pure_matrix_has_layers_too(desk):
    desk.maps.update(Map(np.diag([1.2, 1.0, 1.0, 1.0])))
    for layer in desk.layers:
        layer.show(True)
    desk.view.picture()
    shown = convert.scan_of(desk.layers["jacobian"]._shown).array
    assert np.allclose(shown, 1.2, atol=1e-4)
    assert (
        not desk.layers["folds"]
        ._shown.GetSegmentation()
        .GetNthSegment(0)
        .GetRepresentation(convert.BINARY)
        .GetScalarRange()[1]
    )
    desk.layers.close()


def test_uncertainty_is_shown_with_its_unit_and_hidden_without_a_volume(desk):
    layer, plain = desk.layers["uncertainty"], desk.view.picture()
    layer.show(True)
    assert layer.legend is None and np.array_equal(desk.view.picture(), plain), "nothing to show"
    half = GRID.coarsened((2.0, 2.0, 2.0), 2)
    x = np.linspace(0, 0.4, half.size[0], dtype=np.float32)
    scan = Scan(np.broadcast_to(x, half.shape).copy(), half, "intensity", "displacement_sd_mm")
    volume = outputs.uncertainty_volume(scan, "Uncertainty of the displacement", "mm", desk.fixed, scene=desk.scene)
    assert volume.GetName() == "Uncertainty of the displacement (mm)"
    assert outputs.uncertainty_volume(scan, "other", "mm", desk.fixed, volume) is volume
    layer.set(volume=volume)
    assert layer.unit == "mm" and "(mm)" in layer.legend.title
    assert [text for *_, text in layer.legend.lines] == ["0", "0.125", "0.25", "0.375", "0.5"]
    assert np.abs(coarse(desk.view.picture()) - coarse(plain)).max() > 20
    ratio = outputs.uncertainty_volume(scan, "Variance relative to the prior", "", desk.fixed, scene=desk.scene)
    layer.set(volume=ratio)
    assert layer.unit == "ratio" and layer.legend.title == "Uncertainty (ratio)"
    assert volume.GetScene() is desk.scene, "the worker's volumes are not the layer's to remove"
    desk.scene.RemoveNode(ratio)
    desk.layers.update()
    assert layer.legend is None and np.array_equal(desk.view.picture(), plain)
    layer.set(volume=volume)
    layer.show(False)
    assert np.array_equal(desk.view.picture(), plain)


def test_colors_of_determinants():
    assert np.allclose(colors.jacobian_color([-1, 0], 4), colors.FOLD_COLOR)
    half, none, twice = colors.jacobian_color([0.5, 1, 2], 4)
    assert half[2] > half[0] and twice[0] > twice[2] and none.min() > 0.9
    low, high = colors.jacobian_window(4)
    assert low + (high - low) / colors.ENTRIES == pytest.approx(0, abs=0.001), "the first entry holds the folds only"
    legend = colors.jacobian_legend(4)
    assert [text for _, _, text in legend.lines] == ["<= 0", "0.25", "0.5", "1", "2", "4"]
    assert [colors.nice(v) for v in (0.1, 0.7, 1.3, 3, 17)] == [0.5, 1, 2, 5, 20]


def test_wrong_names_are_refused(desk):
    with pytest.raises(InputError, match="unknown layer"):
        desk.layers["nonsense"]
    for layer in desk.layers:
        with pytest.raises(InputError, match="unknown option"):
            layer.set(nonsense=1)
    with pytest.raises(InputError, match="direction"):
        desk.layers["grid"].set(direction="sideways")
    with pytest.raises(InputError, match="spacing_mm"):
        desk.layers["grid"].set(spacing_mm=0)


def test_kernel_widths_lie_over_the_scan_they_belong_to(desk):
    """t = 1 in every view; in the views that are named as the moving scan's t = 0 instead."""
    grid = GRID.resized((24, 24, 12))
    wide = np.where(np.arange(24) < 12, 10.0, 40.0).astype(np.float32) * np.ones(grid.shape, np.float32)
    fixed, moving = (
        outputs.sigma_volume(Scan(a, grid), desk.fixed, scene=desk.scene) for a in (wide, wide[..., ::-1].copy())
    )
    assert fixed is not moving and "mm" in fixed.GetName()
    plain, composite = desk.view.picture(), desk.view.composite
    layer = desk.layers["sigma"]
    layer.set(volume=fixed, moving_volume=moving)
    layer.show(True)
    assert composite.GetNthLayerVolumeID(3) == fixed.GetID() and layer.legend.title.endswith("(mm)")
    over = desk.view.picture()
    assert np.abs(coarse(over) - coarse(plain)).max() > 20
    layer.set(moving_views=(desk.view.node.GetLayoutName(),))
    assert composite.GetNumberOfAdditionalLayers() == 1 and composite.GetNthLayerVolumeID(3) == moving.GetID()
    assert np.abs(coarse(desk.view.picture()) - coarse(over)).max() > 20
    layer.show(False)
    assert composite.GetNumberOfAdditionalLayers() == 0 and np.array_equal(desk.view.picture(), plain)
    again = outputs.sigma_volume(Scan(2 * wide, grid), desk.fixed, fixed, desk.scene)
    assert again is fixed
    desk.scene.RemoveNode(fixed)
    layer.show(True)
    assert composite.GetNumberOfAdditionalLayers() == 0


def test_a_map_on_its_way_has_nodes_of_its_own(desk):
    from DeepDiffRegScene.animation import Animation

    held = desk.maps.map()
    count = desk.scene.GetNumberOfNodes()
    film = Animation(desk.fixed, desk.scene)
    film.show(Map(held.world, 0.5 * held.displacement, held.geometry))
    point = np.array([[-30.0, 5.0, 4.0]])
    placed = point + spaces.matrix_ras(held.world)[:3, 3]
    half, whole = (maps.follow(m.transform, point) - placed for m in (film.maps, desk.maps))
    assert np.allclose(half, whole / 2, atol=0.2) and np.linalg.norm(whole) > 1
    assert film.volume.GetImageData() is desk.fixed.GetImageData() and not film.volume.GetSaveWithScene()
    node = film.maps.transform
    film.show(held)
    assert film.maps.transform is node and np.allclose(maps.follow(node, point) - placed, whole, atol=0.2)
    film.end()
    film.end()
    assert desk.scene.GetNumberOfNodes() == count and node.GetScene() is None
    np.testing.assert_array_equal(desk.maps.map().displacement, held.displacement)
