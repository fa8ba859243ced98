"""A wrong result is called wrong: 20 failed registrations are flagged, 20 good ones are not.

Only the two scans and the transform are shown to the checks: no labels, no landmarks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import load_preset
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair
from DeepDiffRegLib.data.phantoms import PhantomPair, make_other_organ, make_pair
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.pipeline import register
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.verdict import assess, run_checks
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.warp.image import warp_image

SIZE = (48, 42, 40)
SIZE_2D = (96, 84)
MAP = Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=8)
def phantom(seed: int, ndim: int = 3, **options) -> PhantomPair:
    return make_pair(seed, SIZE if ndim == 3 else SIZE_2D, ndim=ndim, **options)


def judge(pair: Pair, mapping: MAP):
    """The overall verdict on a map given as a function of points (N, d) in mm."""
    grid = pair.fixed.geometry
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)[..., ::-1]
    points = grid.to_world(index.reshape(-1, grid.ndim))
    u = (mapping(points) - points).T.reshape(1, grid.ndim, *grid.shape)
    transform = DisplacementTransform(torch.from_numpy(u.astype(np.float32)), grid)
    warped = warp_image(pair.moving, transform, grid)
    return assess(run_checks(Context.build(pair, transform, transform.inverse(), warped)))


def judge_registered(pair: Pair):
    """The overall verdict on what the library's own solver makes of a pair."""
    return assess(register(pair, load_preset("default")).findings)


def smooth_error(grid: Geometry, mm: float, seed: int) -> MAP:
    """A smooth random displacement of root-mean-square length ``mm``: what a solver leaves."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(6, grid.ndim)) * 2 * np.pi / (0.5 * grid.extent_mm.max())
    phases, heights = rng.uniform(0, 6.3, 6), rng.normal(size=(6, grid.ndim)) * mm / np.sqrt(3 * grid.ndim)
    return lambda points: np.sin(points @ waves.T + phases) @ heights


def body_middle(image: Image) -> np.ndarray:
    values = image.numpy()
    return image.geometry.to_world(np.argwhere(values > values.mean()).mean(0)[::-1])


def with_moving(pair: Pair, values: np.ndarray, geometry: Geometry | None = None) -> Pair:
    return dataclasses.replace(pair, moving=Image.from_array(values, geometry or pair.moving.geometry))


def identity(points: np.ndarray) -> np.ndarray:
    return points


# --- 20 failures: each returns the pair and the wrong map --------------------------------------------------------------


def mirrored_scan(ndim: int, seed: int):
    case = phantom(seed, ndim)
    return with_moving(case.pair, np.flip(case.pair.moving.numpy(), -1)), case.truth


def upside_down(seed: int):
    case = phantom(seed)
    return with_moving(case.pair, np.flip(case.pair.moving.numpy(), 0)), case.truth


def turned_by_180_degrees(seed: int):
    case = phantom(seed)
    return with_moving(case.pair, np.flip(case.pair.moving.numpy(), (1, 2))), case.truth


def other_organ(ndim: int, seed: int):
    case = phantom(seed, ndim)
    return dataclasses.replace(
        case.pair, moving=make_other_organ(seed, SIZE if ndim == 3 else SIZE_2D, ndim=ndim)
    ), identity


def shifted(ndim: int, seed: int, mm: float, axis: int = 0):
    case = phantom(seed, ndim)
    return case.pair, lambda points: case.truth(points) + mm * np.eye(ndim)[axis]


def folded(seed: int):
    case = phantom(seed)
    return case.pair, lambda points: case.truth(points) + 9.0 * np.sin(points[:, ::-1] * 2 * np.pi / 24.0)


def half_blanked(seed: int):
    case = phantom(seed)
    values = case.pair.moving.numpy().copy()
    values[: values.shape[0] // 2] = 0
    return with_moving(case.pair, values), case.truth


def half_field_of_view(seed: int):
    case = phantom(seed)
    grid = case.pair.moving.geometry
    size = (grid.size[0] // 2, *grid.size[1:])
    values = case.pair.moving.numpy()[..., : size[0]]
    return with_moving(case.pair, values, grid.cropped((0, 0, 0), size)), case.truth


def transform_of_another_pair(seed: int):
    return phantom(seed).pair, phantom(seed + 1, deformation_mm=14.0, rotation_deg=15.0).truth


def nothing_done(ndim: int, seed: int):
    return phantom(seed, ndim, deformation_mm=16.0, rotation_deg=10.0, translation_mm=12.0).pair, identity


def collapsed(seed: int):
    case = phantom(seed)
    middle = body_middle(case.pair.moving)
    return case.pair, lambda points: middle + 0.05 * (case.truth(points) - middle)


def wrong_scale(seed: int, factor: float):
    case = phantom(seed)
    middle = body_middle(case.pair.moving)
    return case.pair, lambda points: middle + factor * (case.truth(points) - middle)


def inverse_applied(seed: int):
    case = phantom(seed, deformation_mm=14.0)
    return case.pair, lambda points: 2 * points - case.truth(points)


def noise_only(ndim: int, seed: int):
    case = phantom(seed, ndim)
    values = np.random.default_rng(seed).uniform(0, 1000, case.pair.moving.geometry.shape)
    return with_moving(case.pair, values), case.truth


def one_organ_missed(seed: int):
    """Right everywhere but around one inner structure, which is 18 mm off."""
    case = phantom(seed)
    inner = case.landmarks.fixed.positions_mm.mean(0)
    away = np.array([18.0, 0.0, 0.0])
    return (
        case.pair,
        lambda points: case.truth(points) + away * np.exp(-np.square(points - inner).sum(1) / (2 * 28.0**2))[:, None],
    )


def slices_out_of_order(seed: int):
    case = phantom(seed)
    return with_moving(case.pair, np.roll(case.pair.moving.numpy(), SIZE[2] // 3, 0)), case.truth


def out_of_view(seed: int):
    case = phantom(seed)
    return case.pair, lambda points: case.truth(points) + np.array([0.0, 0.0, 130.0])


FAILURES = {
    "mirrored": lambda: mirrored_scan(3, 0),
    "mirrored, 2-D": lambda: mirrored_scan(2, 1),
    "upside down": lambda: upside_down(1),
    "turned by 180 degrees": lambda: turned_by_180_degrees(2),
    "another organ": lambda: other_organ(3, 0),
    "another organ, 2-D": lambda: other_organ(2, 2),
    "start off, 40 mm": lambda: shifted(3, 2, 40.0),
    "start off, 40 mm, 2-D": lambda: shifted(2, 3, 40.0, 1),
    "15 mm left over": lambda: shifted(3, 0, 15.0, 1),
    "folded": lambda: folded(1),
    "half the anatomy blank": lambda: half_blanked(0),
    "half the field of view": lambda: half_field_of_view(2),
    "another pair's transform": lambda: transform_of_another_pair(0),
    "nothing done": lambda: nothing_done(3, 4),
    "collapsed": lambda: collapsed(1),
    "wrong voxel size": lambda: wrong_scale(2, 1.25),
    "inverse applied": lambda: inverse_applied(0),
    "noise instead of a scan": lambda: noise_only(3, 1),
    "one organ missed": lambda: one_organ_missed(0),
    "slices out of order": lambda: slices_out_of_order(1),
}

# --- 20 good results: the true map plus what a good solver leaves -----------------------------------------------------

GOOD = {
    "torso": dict(seed=0),
    "torso, error 2 mm": dict(seed=1, error=2.0),
    "torso, strongly deformed": dict(seed=2, deformation_mm=14.0),
    "torso, inverted contrast": dict(seed=3, contrast="inverted"),
    "torso, inverted contrast, another": dict(seed=0, contrast="inverted", error=1.5),
    "torso, noisy": dict(seed=4, noise=0.05),
    "torso, far apart": dict(seed=5, translation_mm=25.0),
    "torso, turned": dict(seed=6, rotation_deg=20.0),
    "torso, smaller patient": dict(seed=7, scale=1.12),
    "torso, straight grids": dict(seed=8, oblique=False),
    "torso, rigid": dict(seed=9, deformation_mm=0.0, scale=1.0),
    "head": dict(seed=0, anatomy="head"),
    "head, error 1.5 mm": dict(seed=1, anatomy="head", error=1.5),
    "head, inverted contrast": dict(seed=2, anatomy="head", contrast="inverted"),
    "2-D torso": dict(seed=0, ndim=2),
    "2-D torso, another": dict(seed=1, ndim=2, error=1.5),
    "2-D torso, inverted contrast": dict(seed=2, ndim=2, contrast="inverted"),
    "2-D torso, noisy": dict(seed=3, ndim=2, noise=0.04),
    "2-D head": dict(seed=4, ndim=2, anatomy="head"),
    "2-D head, deformed": dict(seed=5, ndim=2, anatomy="head", deformation_mm=12.0),
}


def good_case(seed: int, ndim: int = 3, error: float = 1.0, **options):
    case = phantom(seed, ndim, **options)
    left_over = smooth_error(case.pair.fixed.geometry, error, seed)
    return case.pair, lambda points: case.truth(points) + left_over(points)


def test_twenty_of_each():
    assert len(FAILURES) == 20 and len(GOOD) == 20


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_flagged(name):
    assessment = judge(*FAILURES[name]())
    assert assessment.verdict != "good"
    assert assessment.warnings


@pytest.mark.parametrize("name", GOOD)
def test_good_result_is_not_flagged(name):
    assessment = judge(*good_case(**GOOD[name]))
    assert assessment.verdict == "good", assessment.warnings


@pytest.mark.parametrize("name", ["mirrored, 2-D", "another organ, 2-D", "upside down"])
def test_a_solver_that_bends_the_wrong_scan_into_place_is_flagged(name):
    """The pictures look alike afterwards; orientation and the violence of the deformation give it away."""
    pair, _ = FAILURES[name]()
    assert judge_registered(pair).verdict != "good"


@pytest.mark.parametrize("name", ["2-D torso", "2-D head, deformed", "torso"])
def test_a_solver_that_succeeds_is_not_flagged(name):
    options = {key: value for key, value in GOOD[name].items() if key != "error"}
    assessment = judge_registered(phantom(**options).pair)
    assert assessment.verdict == "good", assessment.warnings
