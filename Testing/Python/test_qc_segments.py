"""Volume change and Jacobian percentiles per structure, against maps whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.segments import compute, segment_rows
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image

GRID = Geometry.identity((12, 11, 10), (1.0, 2.0, 1.5))


def context(labels: Image | None, matrix: np.ndarray) -> Context:
    scan = Image.from_array(np.random.default_rng(0).normal(size=GRID.shape), GRID)
    pair = Pair(scan, scan, Prompts(fixed_labels=labels))
    transform = AffineTransform(matrix, np.zeros(3))
    return Context.build(pair, transform, transform.inverse(), warp_image(scan, transform, GRID))


def two_labels() -> np.ndarray:
    labels = np.zeros(GRID.shape, dtype=np.int32)
    labels[2:5, 3:6, 2:9], labels[6:8, 3:8, 3:9] = 3, 7
    return labels


def test_a_linear_map_changes_every_structure_by_its_determinant():
    matrix = np.diag([1.1, 0.9, 1.2])
    (finding,) = compute(context(Image.from_array(two_labels(), GRID, "labels"), matrix))
    rows = finding.details["segments"]
    assert [row["label"] for row in rows] == [3, 7]
    for row in rows:
        assert row["volume_change_percent"] == pytest.approx(100 * (np.linalg.det(matrix) - 1), abs=0.02)
        assert row["jacobian_p1"] == pytest.approx(np.linalg.det(matrix), abs=1e-3) and row["folded"] == 0
    assert finding.verdict == "info" and finding.value == pytest.approx(18.8, abs=0.05)


def test_rows_are_the_statistics_inside_each_label(rng):
    labels = rng.integers(-1, 4, GRID.shape).astype(np.int32)
    jacobian = rng.normal(1.0, 0.6, GRID.shape).astype(np.float32)
    rows = {row["label"]: row for row in segment_rows(labels, jacobian)}
    assert set(rows) == {1, 2, 3}
    for label, row in rows.items():
        inside = jacobian[labels == label]
        assert row["voxels"] == inside.size and row["folded"] == int((inside <= 0).sum()) > 0
        assert row["volume_change_percent"] == pytest.approx(100 * (inside.mean() - 1), abs=0.01)
        low, middle, high = np.percentile(inside, [1, 50, 99])
        assert (row["jacobian_p1"], row["jacobian_p50"], row["jacobian_p99"]) == pytest.approx(
            (low, middle, high), abs=1e-3
        )


def test_a_label_map_on_another_grid_is_looked_up_by_position():
    fine = GRID.resized([2 * n for n in GRID.size])
    labels = torch.from_numpy(two_labels()).repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    (finding,) = compute(context(Image.from_array(labels.numpy(), fine, "labels"), np.eye(3)))
    assert {row["label"]: row["voxels"] for row in finding.details["segments"]} == {3: 63, 7: 60}


def test_nothing_is_said_without_structures():
    assert compute(context(None, np.eye(3))) == []
    assert compute(context(Image.from_array(np.zeros(GRID.shape), GRID, "labels"), np.eye(3))) == []
