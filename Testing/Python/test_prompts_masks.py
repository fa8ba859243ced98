"""Masks on level grids, and the checks that every prompt passes before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import LabelPair, Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.prompts.checks import check_prompts
from DeepDiffRegLib.prompts.masks import MaskPrompt, level_weight


def box_mask(geometry: Geometry, start, stop, value=1.0, kind="mask") -> Image:
    array = np.zeros(geometry.shape, dtype=np.float32)
    array[tuple(slice(a, b) for a, b in zip(start[::-1], stop[::-1]))] = value
    return Image.from_array(array, geometry, kind)


@pytest.mark.parametrize("d", [2, 3])
def test_coarsening_keeps_the_share_of_the_volume(d):
    geometry = Geometry.identity((48, 40, 32)[:d])
    mask = box_mask(geometry, (10, 9, 7)[:d], (33, 28, 20)[:d])
    level = geometry.coarsened(4)
    weight = level_weight(mask, level)
    assert weight.shape == (1, 1, *level.shape)
    assert 0 <= float(weight.min()) <= float(weight.max()) <= 1
    assert float(weight.mean()) == pytest.approx(float(mask.tensor.mean()), rel=0.03)
    inner = level.to_index(np.array([21.0, 18, 13])[:d]).round().astype(int)
    assert weight[(0, 0, *inner[::-1])] == pytest.approx(1, abs=0.02)


def test_a_single_voxel_survives_coarsening():
    geometry = Geometry.identity((48, 48, 48))
    mask = box_mask(geometry, (21, 22, 23), (22, 23, 24))
    weight = level_weight(mask, geometry.coarsened(4))
    assert float(weight.sum()) == pytest.approx(1 / 64, rel=0.5)


def test_oblique_mask_of_another_grid_lies_where_it_should(oblique_geometry):
    fine = Geometry((80, 80, 80), (0.5,) * 3, tuple(oblique_geometry.center_mm - 19.75), np.eye(3).tolist())
    world = fine.to_world(np.moveaxis(np.indices(fine.shape)[::-1], 0, -1))
    normal = np.array([0.6, 0.0, 0.8])
    half = ((world - oblique_geometry.center_mm) @ normal > 0).astype(np.float32)
    weight = level_weight(Image.from_array(half, fine, "mask"), oblique_geometry)[0, 0].numpy()
    centers = oblique_geometry.to_world(np.moveaxis(np.indices(weight.shape)[::-1], 0, -1))
    depth = (centers - oblique_geometry.center_mm) @ normal
    known = fine.contains(centers)
    assert (weight[known & (depth > 4)] > 0.95).all()
    assert (weight[known & (depth < -4)] < 0.05).all()


def test_exclude_is_the_complement_and_files_with_255_or_labels_are_masks():
    geometry = Geometry.identity((20, 16))
    mask = box_mask(geometry, (4, 4), (9, 9))
    inside = level_weight(mask, geometry)
    assert torch.equal(level_weight(mask, geometry, exclude=True), 1 - inside)
    assert torch.equal(level_weight(box_mask(geometry, (4, 4), (9, 9), 255.0), geometry), inside)
    assert torch.equal(level_weight(box_mask(geometry, (4, 4), (9, 9), 3, "labels"), geometry), inside)
    soft = box_mask(geometry, (4, 4), (9, 9), 0.25)
    assert float(level_weight(soft, geometry).max()) == 0.25
    small = geometry.cropped((4, 4), (5, 5))
    assert torch.equal(level_weight(box_mask(small, (0, 0), (5, 5)), geometry, exclude=True), 1 - inside)
    prompt = MaskPrompt(fixed=mask, exclude_fixed=True)
    assert torch.equal(prompt.fixed_weight(geometry), 1 - inside)
    assert prompt.moving_weight(geometry) is None


def test_empty_masks_are_refused_in_one_line():
    geometry = Geometry.identity((20, 16))
    with pytest.raises(InputError, match="empty"):
        level_weight(box_mask(geometry, (0, 0), (0, 0)), geometry)
    with pytest.raises(InputError, match="covers the whole scan"):
        level_weight(box_mask(geometry, (0, 0), (20, 16)), geometry, exclude=True)
    elsewhere = replace(geometry, origin_mm=(500.0, 0.0))
    with pytest.raises(InputError, match="empty"):
        level_weight(box_mask(elsewhere, (4, 4), (9, 9)), geometry)
    with pytest.raises(InputError, match="NaN"):
        level_weight(box_mask(geometry, (4, 4), (9, 9), np.nan), geometry)
    with pytest.raises(InputError, match="3-D"):
        level_weight(box_mask(Geometry.identity((4, 4, 4)), (0, 0, 0), (4, 4, 4)), geometry)


@pytest.fixture
def scans(rng) -> Pair:
    fixed, moving = (
        Geometry.identity((20, 16, 12)),
        Geometry((16, 16, 16), (1.5,) * 3, (100.0, 0, 0), np.eye(3).tolist()),
    )
    return Pair(*(Image.from_array(rng.random(g.shape), g) for g in (fixed, moving)))


def prompted(pair: Pair, **prompts) -> Pair:
    return replace(pair, prompts=Prompts(**prompts))


def test_good_prompts_pass(scans):
    fixed, moving = scans.fixed.geometry, scans.moving.geometry
    landmarks = Landmarks(Points([[19.4, 3, 3], [-0.5, 0, 0]]), Points([[101.0, 3, 3], [110, 4, 4]]))
    labels = [box_mask(g, (3, 3, 3), (8, 8, 8), 2, "labels") for g in (fixed, moving)]
    check_prompts(scans)
    check_prompts(prompted(scans, landmarks=landmarks, fixed_mask=box_mask(fixed, (3, 3, 3), (6, 6, 6))))
    check_prompts(prompted(scans, fixed_labels=labels[0], moving_labels=labels[1], label_pairs=(LabelPair(2, 2),)))
    check_prompts(prompted(scans, moving_labels=labels[1]))


def test_prompts_that_do_not_belong_are_refused(scans):
    fixed, moving = scans.fixed.geometry, scans.moving.geometry
    labels = [box_mask(g, (3, 3, 3), (8, 8, 8), 2, "labels") for g in (fixed, moving)]
    inside = Points([[3.0, 3, 3], [5, 5, 5]])
    swapped = Landmarks(inside, Points([[110.0, 3, 3], [5.0, 5, 5]], ("tip", "notch")))
    elsewhere = replace(fixed, origin_mm=(0.0, 400.0, 0.0))
    cases = {
        "1 of 2 moving landmarks lie outside the moving scan: notch": {"landmarks": swapped},
        "2 coordinates": {"landmarks": Landmarks(Points([[3.0, 3]]), Points([[3.0, 3]]))},
        "label 5 is absent from the moving": {
            "fixed_labels": labels[0],
            "moving_labels": labels[1],
            "label_pairs": (LabelPair(2, 5),),
        },
        "without a moving label map": {"fixed_labels": labels[0], "label_pairs": (LabelPair(2, 2),)},
        "fixed label map does not overlap": {"fixed_labels": box_mask(elsewhere, (3, 3, 3), (8, 8, 8), 2, "labels")},
        "moving mask is empty: no voxel": {"moving_mask": box_mask(moving, (0, 0, 0), (0, 0, 0))},
        "fixed mask is empty inside the fixed scan": {"fixed_mask": box_mask(elsewhere, (3, 3, 3), (8, 8, 8))},
        "fixed mask: is 2-D": {"fixed_mask": box_mask(Geometry.identity((9, 9)), (3, 3), (8, 8))},
    }
    for message, prompts in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            check_prompts(prompted(scans, **prompts))
        assert "\n" not in str(caught.value)
