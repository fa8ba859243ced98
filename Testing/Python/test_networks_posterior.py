"""The distribution of the velocity: prior bounds, covariances and the spread of sampled maps, against theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import rotation

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.errors import Cancelled, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.smoothing import gaussian_taps
from DeepDiffRegLib.methods.uncertainty import LabelVotes, Welford, uncertainty
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.networks.posterior import Posterior, degree, dirichlet_energy, smoothing_for


def prediction(shape, variance, mean=0.0, unit=2.0, spacing=2.0):
    d = len(shape)
    field = torch.full((1, d, *shape), mean)
    log_variance = torch.full_like(field, float(np.log(variance)))
    return Prediction((field,), "velocity", unit, (spacing,) * d, log_variance)


def test_degree_is_the_graph_laplacians_diagonal():
    shape = (3, 4, 5)
    index = np.arange(60).reshape(shape)
    laplacian = np.zeros((60, 60))
    for axis in range(3):
        a, b = np.take(index, range(1, shape[axis]), axis).ravel(), np.take(index, range(shape[axis] - 1), axis).ravel()
        for i, j in zip(a, b):
            laplacian[i, i] += 1
            laplacian[j, j] += 1
            laplacian[i, j] = laplacian[j, i] = -1
    assert np.array_equal(degree(shape).numpy().ravel(), np.diag(laplacian))
    assert np.allclose(laplacian.sum(1), 0)


def test_variance_at_the_prior_bound_counts_as_one():
    precision = 10.0
    bound = 1 / (precision * degree((6, 7)))
    posterior = Posterior(torch.zeros(1, 2, 6, 7), bound.log().expand(1, 2, 6, 7))
    assert torch.allclose(posterior.relative_to_prior(precision), torch.ones(1, 1, 6, 7))
    with pytest.raises(InputError, match="precision"):
        posterior.relative_to_prior(0.0)


@pytest.mark.parametrize(
    ("sigma", "energy", "mass"), [(0.725, 0.143, 0.061), (1.0, 0.030, 0.022), (1.97, 0.0011, 0.0029)]
)
def test_energy_of_the_smoothing_kernel(sigma, energy, mass):
    assert dirichlet_energy(sigma, 3) == pytest.approx(energy, rel=0.06)
    assert float((gaussian_taps(sigma) ** 2).sum() ** 3) == pytest.approx(mass, rel=0.06)
    taps = gaussian_taps(sigma).astype(float)
    kernel = np.pad(np.einsum("i,j->ij", taps, taps), 1)
    direct = sum(np.diff(kernel, axis=axis).__pow__(2).sum() for axis in (0, 1))
    assert dirichlet_energy(sigma, 2) == pytest.approx(direct, rel=1e-6)


def test_smoothing_for_makes_the_kernels_peak_the_prior_bound():
    assert smoothing_for(20.0, 3) == pytest.approx(1.97, abs=0.01)
    assert smoothing_for(1.0, 3) == pytest.approx(0.72, abs=0.01)


def test_samples_have_the_covariance_they_claim():
    shape, variance, sigma = (40, 40), 0.25, 1.5
    generator = torch.Generator().manual_seed(0)
    for smoothing, expected in ((0.0, variance), (sigma, variance * float((gaussian_taps(sigma) ** 2).sum() ** 2))):
        log_variance = torch.full((1, 2, *shape), float(np.log(variance)))
        posterior = Posterior(torch.ones(1, 2, *shape), log_variance, smoothing)
        draws = torch.cat([posterior.draw(generator) for _ in range(60)])[:, :, 8:-8, 8:-8]
        assert float(draws.mean()) == pytest.approx(1.0, abs=0.01)
        assert float(draws.var()) == pytest.approx(expected, rel=0.05)


def test_running_variance_equals_numpys(rng):
    values = rng.normal(size=(7, 1, 2, 3, 4)).astype(np.float32) + 5
    running = Welford()
    for value in values:
        running.add(torch.from_numpy(value[None]))
    assert np.allclose(running.variance().numpy()[0], values.var(0, ddof=1), atol=1e-5)


def test_small_velocities_spread_as_the_linear_rule_says():
    """For |v| << 1: s.d. of u = s.d. of v in mm, per component; also on anisotropic grids."""
    variance, shape = 1e-4, (24, 30)
    grid = Geometry((60, 48), (0.5, 2.0), (3.0, 4.0), ((0.0, 1.0), (-1.0, 0.0)))
    found = uncertainty(prediction(shape, variance), grid, samples=60)
    expected = np.sqrt(variance) * 2 * np.hypot(0.5, 2.0)
    assert found.geometry.spacing_mm == (1.0, 4.0)
    inner = found.displacement_sd_mm[:, :, 4:-4, 4:-4]
    assert float(inner.square().mean().sqrt()) == pytest.approx(expected, rel=0.15)
    # det J = 1 + du/dx + dv/dy, central differences of white noise: 2 * variance / 4 per axis
    determinant = found.jacobian_sd[:, :, 4:-4, 4:-4]
    assert float(determinant.square().mean().sqrt()) == pytest.approx(np.sqrt(variance), rel=0.15)


def test_a_stronger_prior_means_less_spread_and_the_seed_decides():
    grid = Geometry.identity((24, 24, 24), 1.0)
    loose, tight = (
        uncertainty(prediction((12, 12, 12), 1 / (6 * precision)), grid, 6, precision=precision)
        for precision in (1.0, 20.0)
    )
    assert float(tight.displacement_sd_mm.mean()) < 0.5 * float(loose.displacement_sd_mm.mean())
    assert float(tight.relative_to_prior[0, 0, 5, 5, 5]) == pytest.approx(1.0)
    again = uncertainty(prediction((12, 12, 12), 1 / 6), grid, 6)
    assert torch.equal(again.displacement_sd_mm, loose.displacement_sd_mm)
    assert again.relative_to_prior is None


def box_labels(grid: Geometry) -> Image:
    """Label 7 where x is at least 0, label 0 elsewhere."""
    x = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1))[..., 0]
    return Image.from_array(7 * (x >= 0), grid, "labels")


def test_entropy_of_votes_is_that_of_their_shares():
    grid = Geometry((9, 4, 4), (1.0,) * 3, (-4.0, 0.0, 0.0), np.eye(3).tolist())
    votes = LabelVotes(box_labels(grid), grid, np.eye(4))
    for sign in (1.0, -1.0) * 5:
        votes.add(torch.tensor([2.0 * sign, 0.0, 0.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *grid.shape).contiguous())
    entropy = votes.entropy()[0, 0]
    assert torch.allclose(entropy[..., 2:6], torch.full_like(entropy[..., 2:6], float(np.log(2))))
    assert torch.equal(entropy[..., :2], torch.zeros_like(entropy[..., :2])) and float(entropy[0, 0, 6]) == 0.0
    # beyond the label map there is label 0, which differs from 7
    assert float(entropy[0, 0, 8]) == pytest.approx(np.log(2))
    shifted = np.eye(4)
    shifted[0, 3] = -50.0
    away = LabelVotes(box_labels(grid), grid, shifted)
    away.add(torch.zeros(1, 3, *grid.shape))
    away.add(torch.ones(1, 3, *grid.shape))
    assert float(away.entropy().max()) == 0.0
    unequal = LabelVotes(box_labels(grid), grid, np.eye(4))
    for step in (0.0, 0.0, 0.0, 2.0):
        unequal.add(torch.tensor([step, 0.0, 0.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *grid.shape).contiguous())
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert float(unequal.entropy()[0, 0, 0, 0, 3]) == pytest.approx(expected, rel=1e-5)


def test_entropy_is_largest_at_the_border_and_zero_within():
    """The border runs through the points of one plane: there both labels are equally likely."""
    grid = Geometry((33, 8, 8), (1.0,) * 3, (-16.0, 0.0, 0.0), np.eye(3).tolist())
    labels = box_labels(Geometry((33, 8, 8), (1.0,) * 3, (-16.5, 0.0, 0.0), np.eye(3).tolist()))
    found = uncertainty(prediction((4, 4, 17), 0.02), grid, samples=200, labels=labels)
    profile = found.label_entropy[0, 0, 1:-1, 1:-1].mean((0, 1))  # at the ends some samples leave the label map
    assert float(profile[:5].max()) == 0.0 and float(profile[-5:-1].max()) == 0.0
    assert float(profile[8]) == pytest.approx(np.log(2), abs=0.02) and float(profile[[6, 10]].max()) == 0.0
    assert {quantity.name for quantity, _ in found.maps()} == {"displacement_sd_mm", "jacobian_sd", "label_entropy"}


def test_the_affine_part_scales_what_it_should():
    grid, shape = Geometry.identity((24, 24, 24), 1.0), (12, 12, 12)
    plain = uncertainty(prediction(shape, 1e-4), grid, 8)
    turn = np.eye(4)
    turn[:3, :3] = 2 * rotation((20.0, -30.0, 50.0))
    turn[:3, 3] = (5.0, 6.0, 7.0)
    moved = uncertainty(prediction(shape, 1e-4), grid, 8, world=turn)
    assert torch.allclose(moved.displacement_sd_mm, 2 * plain.displacement_sd_mm, rtol=1e-4)
    assert torch.allclose(moved.jacobian_sd, 8 * plain.jacobian_sd, rtol=1e-4)


def test_sampling_can_be_stopped_and_says_how_far_it_is():
    grid, told = Geometry.identity((16, 16)), []

    def stop_half_way(share: float) -> None:
        told.append(share)
        if share >= 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        uncertainty(prediction((8, 8), 0.01), grid, samples=10, between=stop_half_way)
    assert told == [k / 10 for k in range(6)]


def test_what_has_no_variance_is_refused():
    field = torch.zeros(1, 2, 8, 8)
    grid = Geometry.identity((16, 16))
    with pytest.raises(InputError, match="voxelmorph-diff"):
        uncertainty(Prediction((field,), "velocity", 2.0, (2.0, 2.0)), grid)
    with pytest.raises(InputError, match="samples"):
        uncertainty(prediction((8, 8), 1.0), grid, samples=1)
