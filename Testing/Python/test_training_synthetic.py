"""Generated training pairs: a function of seed and step, the known map is true, and everything that goes wrong goes as wrong as
it says."""

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.sampling import identity_index, sample
from DeepDiffRegLib.geometry.vector_fields import compose, jacobian_determinant
from DeepDiffRegLib.training import _synthetic_fields as fields
from DeepDiffRegLib.training import _synthetic_scans as scans
from DeepDiffRegLib.training._synthetic_anatomy import KINDS
from DeepDiffRegLib.training.synthetic import Synthetic, SyntheticPairs, between

SMALL = (28, 28, 28)
SHAPES = {"3-D": SMALL, "2-D": (48, 40)}


def _source(*counters):
    return fields.Source(7, *counters)


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_depends_on_seed_and_step_alone(name):
    options = Synthetic(shape=SHAPES[name])
    pairs = SyntheticPairs(options, seed=3, count=2)
    later = SyntheticPairs(options, seed=3, count=2)
    first = pairs(5)
    later(4)
    again = later(5)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(first["fixed"][1:], pairs.pair(5, 1)["fixed"])
    assert not torch.equal(first["fixed"][:1], first["fixed"][1:])
    assert not torch.equal(first["fixed"], pairs(6)["fixed"])
    assert not torch.equal(first["fixed"], SyntheticPairs(options, seed=4, count=2)(5)["fixed"])
    assert not torch.equal(first["fixed"], SyntheticPairs(options, seed=3, count=2, stream=99)(5)["fixed"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_pairs_of_every_kind_are_scans_in_range_with_labels(kind, name):
    shape = SHAPES[name]
    varied = 0
    for step in range(3):
        batch = SyntheticPairs(Synthetic(shape=shape, kinds=((kind, 1.0),)), seed=1)(step)
        for role in ("moving", "fixed"):
            scan, labels = batch[role], batch[f"{role}_labels"]
            assert scan.shape == labels.shape == (1, 1, *shape)
            assert scan.dtype == torch.float32
            assert not labels.dtype.is_floating_point
            assert bool(scan.isfinite().all())
            assert 0 <= float(scan.min()) <= float(scan.max()) <= 1
            assert int(labels.min()) >= 0
            varied += len(labels.unique()) > 1 and float(scan.std()) > 0.01
        assert batch["displacement"].shape == (1, len(shape), *shape)
        assert batch["known"].dtype == torch.bool
    assert varied >= 4


@pytest.mark.parametrize("name", SHAPES)
def test_labels_agree_along_the_known_map(name):
    """Where voxels of two nearest-neighbor label maps touch a border they may differ; inside of structures they may not."""
    shape = SHAPES[name]
    for step in range(3):
        batch = SyntheticPairs(Synthetic(shape=shape, kinds=(("cells", 1.0),)), seed=2)(step)
        index = identity_index(shape) + batch["displacement"]
        carried = sample(batch["moving_labels"], index, mode="nearest")
        labels = batch["fixed_labels"].float()
        pool = torch.nn.functional.max_pool3d if len(shape) == 3 else torch.nn.functional.max_pool2d
        inside = pool(labels, 5, 1, 2) == -pool(-labels, 5, 1, 2)
        inside &= batch["known"]
        assert float(batch["known"].float().mean()) > 0.5
        assert float((carried == batch["fixed_labels"])[inside].float().mean()) > 0.99
        alike, unmoved = carried == batch["fixed_labels"], batch["moving_labels"] == batch["fixed_labels"]
        assert float(alike[batch["known"]].float().mean()) > float(unmoved[batch["known"]].float().mean())


@pytest.mark.parametrize("name", SHAPES)
def test_natural_images_do_not_depend_on_the_contrast_and_agree_along_the_known_map(name):
    shape, missed, unmoved = SHAPES[name], 0.0, 0.0
    for step in range(4):
        one, other = (
            SyntheticPairs(Synthetic(shape, (("brain", 1.0),), remap=remap, contrasts={"unrelated": 1.0}), 3)(step)
            for remap in (0.0, 1.0)
        )
        assert torch.equal(one["fixed_natural"], other["fixed_natural"])
        assert not torch.equal(one["fixed"], other["fixed"])
        known = one["known"].float()
        carried = sample(one["moving_natural"], identity_index(shape) + one["displacement"], padding="border")
        missed += float((known * (carried - one["fixed_natural"]).abs()).sum())
        unmoved += float((known * (one["moving_natural"] - one["fixed_natural"]).abs()).sum())
    assert missed < 0.35 * unmoved  # what is left is interpolation


def test_contrasts_are_related_as_asked_for():
    """Clean scans without texture show their tables: natural ones twice, or a natural one beside any other."""

    def likeness(kind: str) -> np.ndarray:
        options = Synthetic((40, 40), (("chest", 1.0),), texture=0.0, clean=True, contrasts={kind: 1.0})
        rows = []
        for step in range(8):
            batch = SyntheticPairs(options, 5)(step)
            away = [float((batch[r] - batch[f"{r}_natural"]).abs().mean()) for r in ("fixed", "moving")]
            rows.append(sorted(away))
        return np.mean(rows, 0)

    assert likeness("natural").max() < 0.09
    nearer, farther = likeness("one natural")
    assert nearer < 0.09 < 0.12 < farther
    assert likeness("unrelated").max() > 0.12


@pytest.mark.parametrize("name", SHAPES)
def test_deformations_do_not_fold_and_the_known_map_leads_from_one_to_the_other(name):
    shape = SHAPES[name]
    for number in range(4):
        velocities = [fields.velocity(_source(number, role), shape, 1.0) for role in range(2)]
        moving, fixed = (fields.diffeomorphism(v) for v in velocities)
        u, known = between(velocities[0], moving, fixed)
        for displacement in (moving, fixed):
            determinant = jacobian_determinant(displacement, (1.0,) * len(shape))
            assert float(determinant.min()) > 0
            assert float(displacement.abs().max()) > 0.5
        missed = torch.linalg.vector_norm(compose(moving, u) - fixed, dim=1, keepdim=True)
        assert float(missed[known].max()) < 0.5
        assert float(missed[known].mean()) < 0.1


def test_smooth_noise_has_unit_spread_and_the_size_that_was_asked_for():
    values = torch.stack([fields.noise(_source(k), (40, 44), 5.0)[0] for k in range(30)])
    assert abs(float(values.mean())) < 0.1
    assert float(values.std()) == pytest.approx(1.0, abs=0.1)

    def roughness(cell):
        field = fields.noise(_source(1), (64, 64), cell)[0]
        return float(field.diff(dim=0).std() / field.std())

    assert roughness(2.0) > 1.5 * roughness(4.0) > 2 * roughness(8.0)
    bands = fields.waves(_source(3), (60, 60), 4.0)
    assert float(bands.std()) == pytest.approx(1.0, abs=0.01)
    wide = torch.nn.functional.avg_pool2d(bands[None, None], 20)
    plain = torch.nn.functional.avg_pool2d(fields.noise(_source(3), (60, 60), 4.0)[None], 20)
    assert float(wide.square().mean()) < float(plain.square().mean())


def test_spline_weights_sum_to_one_and_reproduce_lines():
    weights = fields._weights(17, fields._lattice((17,), 3.0)[0], 3.0)
    lattice = torch.arange(weights.shape[1]) - 1.0
    assert torch.allclose(weights.sum(1), torch.ones(17), atol=1e-6)
    assert torch.allclose(weights @ lattice, torch.arange(17) / 3.0, atol=1e-5)


def test_noise_has_the_sd_it_says():
    flat = torch.full((1, 1, 32, 32, 32), 0.5)
    found = scans.with_noise(_source(), flat, 0.05)
    assert float(found.std()) == pytest.approx(0.05, rel=0.03)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.002)
    magnitude = scans.with_noise(_source(), torch.zeros_like(flat), 0.05, rician=True)
    assert float(magnitude.min()) >= 0
    assert float(magnitude.mean()) == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.02)


def test_bias_is_smooth_positive_and_of_the_spread_it_says():
    flat = torch.ones((1, 1, 40, 40))
    logs = torch.stack([scans.with_bias(_source(k), flat, 0.2, 10.0).log() for k in range(20)])
    assert float(logs.std()) == pytest.approx(0.2, rel=0.15)
    assert float(logs.diff(dim=-1).abs().max()) < 0.15


def test_thick_slices_blur_their_axis_only():
    step = torch.zeros((1, 1, 32, 32))
    step[..., 15:] = 1.0  # along x, not between two thick slices
    assert torch.allclose(scans.thick_slices(step, 0, 4.0), step, atol=1e-6)
    seen = scans.thick_slices(step, 1, 4.0)
    assert float(seen.diff(dim=-1).max()) < 0.3
    assert float(seen[..., 0].max()) == 0
    assert float(seen[..., -1].min()) == 1


def test_painting_gives_labels_their_intensities_with_soft_edges():
    anatomy = KINDS["cells"](_source(4), (40, 40), 1.0)
    table = torch.linspace(0.1, 0.9, anatomy.count)
    texture = torch.ones((40, 40))
    plain = scans.painted(anatomy, table, torch.zeros(anatomy.count), texture)[0, 0]
    raised = scans.painted(anatomy, table, torch.full((anatomy.count,), 0.05), texture)[0, 0]
    labels = anatomy.labels.float()[None, None]
    pool = torch.nn.functional.max_pool2d
    inside = (pool(labels, 5, 1, 2) == -pool(-labels, 5, 1, 2))[0, 0]
    assert bool(inside.any())
    wanted = table[anatomy.labels.long()]
    assert torch.allclose(plain[inside], wanted[inside], atol=1e-5)
    assert torch.allclose(raised - plain, torch.full((40, 40), 0.05), atol=1e-5)
    assert not torch.allclose(plain, wanted, atol=1e-2)


def test_remapping_follows_its_curve():
    knots, heights = torch.linspace(0, 1, 3), torch.tensor([1.0, 0.5, 0.0])
    values = torch.rand((1, 1, 9, 9))
    assert torch.allclose(scans.remapped(values, knots, heights), 1 - values, atol=1e-6)
    for number in range(20):
        knots, heights = scans.curve(_source(number))
        assert len(knots) == len(heights)
        assert -1e-6 < float(heights.min()) <= float(heights.max()) < 1 + 1e-6


def test_whole_scans_are_remapped_as_often_as_asked_for_and_air_may_stay():
    scan = torch.rand((1, 1, 20, 20)) * (torch.arange(20) > 9)
    kept = [scans.wholly_remapped(_source(number), scan) for number in range(12)]
    assert all(0 <= float(k.min()) <= float(k.max()) <= 1 + 1e-6 for k in kept)
    assert 0 < sum(bool((k[scan <= scans.AIR] == 0).all()) for k in kept) < 13
    for k in kept:  # one value in, one value out
        order = scan[scan > scans.AIR].argsort()
        assert float(k[scan > scans.AIR][order].diff().abs().max()) < 0.5
    plain, changed = (SyntheticPairs(Synthetic((32, 32), remap=remap), seed=1) for remap in (0.0, 1.0))
    assert all(not torch.equal(plain(step)["fixed"], changed(step)["fixed"]) for step in range(3))


def test_lesions_and_cropping_change_what_they_should_and_nothing_else():
    scan = torch.full((1, 1, 32, 32, 32), 0.5)
    changed = scans.with_lesions(_source(1), scan, 2) != scan
    assert 0 < float(changed.float().mean()) < 0.3
    empty = torch.zeros_like(scan)
    assert torch.equal(scans.with_lesions(_source(1), empty, 2), empty)
    cut = scans.cropped(_source(2), scan, 0.25)
    kept = cut[cut != 0]
    assert 0.1 < len(kept) / scan.numel() < 1
    assert bool((kept == 0.5).all())
    assert float(cut[..., 9:23, 9:23, 9:23].min()) == 0.5


def test_the_range_ends_at_percentiles():
    scan = torch.linspace(-3, 9, 10_000).reshape(1, 1, 100, 100)
    found = scans.in_range(scan)
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    assert float(found.median()) == pytest.approx(0.5, abs=0.01)


def test_contrasts_of_a_pair_differ():
    anatomy = KINDS["organs"](_source(5), (24, 24), 2.0)
    apart = []
    for number in range(12):
        first, second = scans.contrasts(_source(number), anatomy)
        assert first.shape == second.shape == (anatomy.count,)
        assert 0 <= float(min(first.min(), second.min())) <= float(max(first.max(), second.max())) <= 1
        apart.append(float((first - second).abs().mean()))
    assert np.mean(np.array(apart) > 0.1) > 0.5


def test_clean_pairs_show_the_same_tissue_alike():
    """Without anything going wrong, a label has one intensity wherever it is."""
    options = Synthetic(shape=(32, 32), kinds=(("cells", 1.0),), texture=0.0, clean=True)
    batch = SyntheticPairs(options, seed=2)(0)
    for role in ("moving", "fixed"):
        labels = batch[f"{role}_labels"].float()
        pool = torch.nn.functional.max_pool2d
        inside = pool(labels, 9, 1, 4) == -pool(-labels, 9, 1, 4)
        for label in labels[inside].unique():
            values = batch[role][inside & (labels == label)]
            assert float(values.std(correction=0)) < 1e-3


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"shape": (4, 40)}, "shape"),
        ({"shape": (40,)}, "shape"),
        ({"kinds": (("brian", 1.0),)}, "brain"),
        ({"kinds": (("brain", 0.0),)}, "positive"),
        ({"voxel_mm": (2.0, 1.0)}, "voxel_mm"),
        ({"strength": -1}, "strength"),
    ],
)
def test_wrong_options_are_refused_by_name(wrong, named):
    with pytest.raises(ConfigError, match=named):
        Synthetic(**wrong)
