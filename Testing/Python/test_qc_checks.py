"""Each quality check against numbers known beforehand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import LabelPair, Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.qc import CHECKS
from DeepDiffRegLib.qc.base import Context, Finding, graded
from DeepDiffRegLib.qc.jacobian import sd_log
from DeepDiffRegLib.qc.overlap import label_boxes, surface_distances
from DeepDiffRegLib.qc.similarity import normalized_mutual_information
from DeepDiffRegLib.qc.verdict import assess, run_checks
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import Inverse, ResidualMm
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.warp.image import warp_image

GRIDS = {
    "3-D": Geometry((20, 18, 16), (1.5, 1.0, 2.0), (5.0, -7.0, 3.0), np.diag([1.0, -1.0, 1.0]).tolist()),
    "2-D": Geometry((30, 26), (1.5, 1.0), (5.0, -7.0), [[0.0, -1.0], [1.0, 0.0]]),
}


def scan(grid: Geometry, seed: int = 0) -> Image:
    """A blob with texture in dark air."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    middle, reach = (np.array(grid.shape) - 1) / 2, np.array(grid.shape) / 2.8
    inside = (np.square((index - middle) / reach).sum(-1) < 1).astype(np.float32)
    texture = np.random.default_rng(seed).uniform(0.5, 1.0, grid.shape).astype(np.float32)
    return Image.from_array(inside * texture * 100, grid)


def context(grid: Geometry, transform, **prompts) -> Context:
    pair = Pair(scan(grid), scan(grid), Prompts(**prompts))
    return Context.build(pair, transform, transform.inverse(), warp_image(pair.moving, transform, grid))


def found(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_volume_change_of_a_linear_map_is_its_determinant(grid):
    matrix = np.eye(grid.ndim) * [1.2, 0.9, 1.1][: grid.ndim]
    matrix[0, 1] = 0.1
    rows = found(CHECKS.load("jacobian")(context(grid, AffineTransform(matrix, np.zeros(grid.ndim)))))
    expected = np.linalg.det(matrix)
    assert rows["jacobian_median"].value == pytest.approx(expected, abs=1e-3)
    assert rows["jacobian_low"].details["minimum"] == pytest.approx(expected, abs=1e-4)
    assert rows["jacobian_high"].details["maximum"] == pytest.approx(expected, abs=1e-4)
    assert rows["sdlogj"].value == pytest.approx(0, abs=1e-3)
    assert rows["folds"].value == rows["strict_folds"].value == 0


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_folded_place_is_counted_and_found(grid):
    """u_x falls by twice the spacing over one step around one voxel: det < 0 there and nowhere else inside."""
    tensor = torch.zeros((1, grid.ndim, *grid.shape))
    at = tuple(n // 2 for n in grid.shape)
    axis = grid.rotation[:, 0] * grid.spacing_mm[0]
    field = tensor.numpy()
    before, after = list(at), list(at)
    before[-1] -= 1
    after[-1] += 1
    field[(0, slice(None), *before)] = 1.5 * axis
    field[(0, slice(None), *after)] = -1.5 * axis
    transform = DisplacementTransform(tensor, grid)
    pair = Pair(scan(grid), scan(grid))
    inverse = Inverse(transform, ResidualMm(0, 0, 0))
    rows = found(CHECKS.load("jacobian")(Context.build(pair, transform, inverse, pair.moving)))
    assert rows["folds"].value == 1
    assert rows["folds"].verdict == "bad"
    np.testing.assert_allclose(rows["folds"].worst_mm, grid.to_world(np.array(at)[::-1]), atol=0.06)
    assert rows["strict_folds"].value >= 1


def test_sd_log_agrees_with_numpy(rng):
    values = np.exp(rng.normal(0.1, 0.4, (9, 8, 7))).astype(np.float32)
    values[0, 0, 0] = -1.0
    assert sd_log(values) == pytest.approx(np.log(np.clip(values.astype(float), 1e-9, 1e9)).std(), rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_overlap_of_shifted_boxes(grid):
    """Boxes of six voxels along x, two voxels apart: Dice 2 * 4 / 12, all outlines within two steps."""
    labels = [np.zeros(grid.shape, np.int32) for _ in range(2)]
    box = tuple(slice(4, 14) for _ in grid.shape[:-1])
    labels[0][(*box, slice(5, 11))] = 7
    labels[1][(*box, slice(7, 13))] = 3
    fixed, moving = (Image.from_array(v, grid, "labels") for v in labels)
    prompts = {"fixed_labels": fixed, "moving_labels": moving, "label_pairs": (LabelPair(7, 3),)}
    rows = found(
        CHECKS.load("overlap")(context(grid, AffineTransform(np.eye(grid.ndim), np.zeros(grid.ndim)), **prompts))
    )
    row = rows["dice_mean"].details["labels"][0]
    assert row["dice"] == row["dice_before"] == pytest.approx(2 / 3, abs=1e-4)
    assert rows["hd95_mean"].value == pytest.approx(2 * grid.spacing_mm[0])
    step = grid.rotation[:, 0] * grid.spacing_mm[0] * 2
    rows = found(CHECKS.load("overlap")(context(grid, AffineTransform(np.eye(grid.ndim), step), **prompts)))
    assert rows["dice_mean"].value == 1
    assert rows["hd95_mean"].value == 0


def test_surface_distances_agree_with_brute_force(rng):
    spacing = (2.0, 1.0, 1.5)
    from scipy.ndimage import binary_erosion

    masks = [np.zeros((12, 13, 14), bool) for _ in range(2)]
    masks[0][2:8, 3:9, 2:10] = True
    masks[1][3:11, 2:7, 4:12] = True
    rims = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in masks]
    distances = np.linalg.norm(rims[0][:, None] - rims[1][None], axis=-1)
    one, two = surface_distances(*masks, spacing)
    np.testing.assert_allclose(np.sort(one), np.sort(distances.min(1)), atol=1e-9)
    np.testing.assert_allclose(np.sort(two), np.sort(distances.min(0)), atol=1e-9)


def test_label_boxes_of_large_values():
    labels = np.zeros((5, 6), np.int32)
    labels[1:3, 2:5] = 70_000
    labels[4, 0] = 3
    boxes = label_boxes(labels)
    assert boxes[70_000] == (slice(1, 3), slice(2, 5))
    assert boxes[3] == (slice(4, 5), slice(0, 1))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_landmark_error_is_exact(grid):
    fixed = grid.to_world(np.array([[4.0] * grid.ndim, [9.0] * grid.ndim]))
    shift = np.arange(1.0, grid.ndim + 1)
    off = np.array([[0.0] * grid.ndim, [3.0] + [0.0] * (grid.ndim - 1)])
    landmarks = Landmarks(Points(fixed, ("a", "b")), Points(fixed + shift + off, ("a", "b")))
    rows = found(
        CHECKS.load("landmarks")(context(grid, AffineTransform(np.eye(grid.ndim), shift), landmarks=landmarks))
    )
    assert rows["tre_mean"].value == pytest.approx(1.5, abs=1e-6)
    assert rows["tre_max"].value == pytest.approx(3.0, abs=1e-6)
    np.testing.assert_allclose(rows["tre_max"].worst_mm, fixed[1], atol=0.06)
    assert [r["name"] for r in rows["tre_mean"].details["landmarks"]] == ["a", "b"]


@pytest.mark.parametrize("steered", [False, True])
def test_landmarks_that_steered_are_said_to_be_no_test(steered):
    grid = next(iter(GRIDS.values()))
    points = grid.to_world(np.array([[4.0] * grid.ndim, [9.0] * grid.ndim]))
    landmarks = Landmarks(Points(points, ("a", "b")), Points(points, ("a", "b")))
    still = context(grid, AffineTransform.identity(grid.ndim), landmarks=landmarks)
    rows = found(CHECKS.load("landmarks")(dataclasses.replace(still, steered=steered)))
    assert ("by construction" in rows["tre_mean"].explanation) is steered


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_displacement_of_a_translation(grid):
    shift = np.array([3.0, 4.0, 0.0])[: grid.ndim]
    rows = found(CHECKS.load("displacement")(context(grid, AffineTransform(np.eye(grid.ndim), shift))))
    assert rows["displacement"].value == pytest.approx(5.0, abs=0.01)
    assert rows["deformation"].value == pytest.approx(0.0, abs=0.01)


def test_coverage_counts_what_leaves_the_moving_scan():
    grid = Geometry.identity((32, 32, 32), 2.0)
    image = Image.from_array(np.pad(np.ones((24, 24, 24)), 4), grid)
    half = Image(image.tensor[..., :16].contiguous(), grid.cropped((0, 0, 0), (16, 32, 32)))
    pair = Pair(image, half)
    transform = AffineTransform.identity(3)
    warped = warp_image(half, transform, grid)
    rows = found(CHECKS.load("coverage")(Context.build(pair, transform, transform.inverse(), warped)))
    assert rows["coverage"].value == pytest.approx(50.0, abs=3.0)
    assert rows["coverage"].verdict == "bad"
    assert rows["coverage"].worst_mm[0] > 32
    assert rows["outline_overlap"].value > 0.95


def test_inverse_error_is_passed_on():
    grid = GRIDS["3-D"]
    base = context(grid, AffineTransform.identity(3))
    stated = dataclasses.replace(base, inverse=Inverse(base.transform, ResidualMm(0.3, 3.0, 4.5)))
    finding = CHECKS.load("inverse_consistency")(stated)[0]
    assert (finding.value, finding.details["mean_mm"], finding.details["max_mm"]) == (3.0, 0.3, 4.5)
    assert finding.details["p99_voxels"] == pytest.approx(3.0 / 1.5)
    assert finding.verdict == "check"


def test_normalized_mutual_information_limits(rng):
    values = rng.uniform(size=200_000).astype(np.float32)
    assert normalized_mutual_information(values, 1 - values) == pytest.approx(1.0, abs=0.01)
    assert normalized_mutual_information(values, rng.permutation(values)) < 0.01


def test_graded_in_both_directions():
    assert [graded(v, 1, 2) for v in (0.5, 1.5, 2.5)] == ["good", "check", "bad"]
    assert [graded(v, 0.5, 0.2) for v in (0.6, 0.3, 0.1)] == ["good", "check", "bad"]


def test_every_finding_is_complete():
    for grid in GRIDS.values():
        findings = run_checks(context(grid, AffineTransform.identity(grid.ndim)))
        assert len({f.name for f in findings}) == len(findings)
        for finding in findings:
            assert finding.label and finding.explanation.endswith(".")
            assert finding.limit or finding.verdict == "info"
            assert finding.worst_mm is None or len(finding.worst_mm) == grid.ndim


def test_the_worst_finding_decides():
    good = Finding("a", "A", 1.0, "", "at most 2", "good", "Fine.")
    info, bad = dataclasses.replace(good, verdict="info"), dataclasses.replace(good, name="b", verdict="bad")
    assert assess([good, info]).verdict == "good"
    assert assess([good, bad, info]).verdict == "bad"
    assert len(assess([good, bad]).warnings) == 1
    assert assess([info]).verdict == "check"
