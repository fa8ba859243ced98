"""A predicted velocity with its variance as the prior of the refinement: its limits, its derivative, who moves first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import rotation

from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.methods._belief import Belief, LevelPrior, VelocityPrior
from DeepDiffRegLib.methods._prior_svf import PriorSVFModel
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.networks.weights import ModelCard, save_model
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.svf import SVFModel, SVFTransform

GRID = Geometry((16, 14, 12), (1.0, 1.5, 2.0), (3.0, -2.0, 1.0), rotation((10.0, 5.0, -20.0)).tolist())


def smooth(seed: int, shape=GRID.shape, dtype=torch.float32) -> torch.Tensor:
    coarse = torch.randn(1, len(shape), *(4,) * len(shape), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True).to(dtype)


def model_at(mean_mm, variance, strength=1.0, roughness=0.0, **options) -> PriorSVFModel:
    """The model on its first level, at the mean."""
    prior = VelocityPrior(mean_mm, torch.as_tensor(variance).expand(mean_mm.shape), GRID, strength, roughness)
    model = PriorSVFModel(prior, **options)
    model.resume(SVFTransform(mean_mm, GRID), GRID, "cpu")
    model.enter(GRID, "cpu")
    return model


def push(model, force: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        model.step(force.clone())
    return model.finish().velocity


def test_without_variance_the_result_stays_at_the_mean():
    model = model_at(smooth(0), 1e-20)
    assert torch.allclose(push(model, smooth(1), 10), smooth(0), atol=1e-5)


def test_with_infinite_variance_it_is_the_refinement_without_prior():
    free = SVFModel(sigma_warp_voxels=0.0)
    free.resume(SVFTransform(smooth(0), GRID), GRID, "cpu")
    free.enter(GRID, "cpu")
    model = model_at(smooth(0), 1e30, sigma_warp_voxels=0.0)
    expected = push(free, smooth(1), 10)
    assert (expected - smooth(0)).abs().max() > 0.5
    assert torch.allclose(push(model, smooth(1), 10), expected, atol=1e-5)


def test_without_a_force_it_stays_at_the_mean_whatever_the_variance():
    """The elastic Gaussian blurs what was added, not what the network said."""
    model = model_at(smooth(0), 1e30, sigma_warp_voxels=1.0)
    assert torch.allclose(push(model, torch.zeros_like(smooth(1)), 10), smooth(0), atol=1e-5)


def test_at_rest_the_prior_balances_a_constant_force():
    """z - mean = - variance * force / (2 strength / N), in voxels, per component."""
    variance, push_by = 0.04, 1e-4 * torch.tensor([1.0, -0.5, 0.25]).reshape(1, 3, 1, 1, 1)
    model = model_at(smooth(0), variance, sigma_warp_voxels=0.0)
    force = push_by.expand(1, 3, *GRID.shape).contiguous()
    push(model, force, 300)
    per_mm = torch.tensor(GRID.spacing_mm).square().reshape(1, 3, 1, 1, 1)
    expected = -push_by * variance * GRID.voxels / (2 * per_mm)
    assert torch.allclose(model._u - model._held.mean, expected.expand_as(model._u), rtol=1e-3, atol=1e-6)


def test_the_uncertain_side_moves_more_under_the_same_force():
    variance = torch.full((1, 3, *GRID.shape), 1e-4)
    variance[..., 8:] = 1e-2
    model = model_at(smooth(0), variance, sigma_warp_voxels=0.0)
    moved = (push(model, torch.full_like(variance, 1e-3), 20) - smooth(0)).norm(dim=1)[0]
    assert float(moved[..., 8:].min()) > 20 * float(moved[..., :8].max())
    one = model_at(smooth(0), variance, sigma_warp_voxels=0.0)
    first = (push(one, torch.full_like(variance, 1e-3), 1) - smooth(0)).norm(dim=1)[0]
    assert float(first[..., 8:].mean()) > 5 * float(first[..., :8].mean()), "it moves first"


@pytest.mark.parametrize("part", ["distance", "smoothness"])
def test_derivatives_against_finite_differences(part):
    z, mean, weight = (smooth(i, dtype=torch.float64) for i in range(3))
    prior = LevelPrior(mean, weight.exp(), 0.7, GRID)
    function = getattr(prior, part)
    _, slope = function(z)
    direction = smooth(3, dtype=torch.float64)
    step = 1e-5
    numeric = (function(z + step * direction)[0] - function(z - step * direction)[0]) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-7)


def test_the_implicit_step_is_the_minimum_it_says():
    z, mean, weight = (smooth(i, dtype=torch.float64) for i in range(3))
    prior, step = LevelPrior(mean, weight.exp(), 0.0, GRID), torch.full((1, 1, *GRID.shape), 0.3, dtype=torch.float64)
    found = prior.drawn(z.clone(), step)
    assert torch.allclose((found - z) / step + prior.distance(found)[1], torch.zeros_like(z), atol=1e-12)


def predicted_on(grid: Geometry, mean=0.0, variance=0.01) -> Prediction:
    shape = tuple(n // 2 for n in grid.shape)
    field = torch.full((1, grid.ndim, *shape), mean)
    spacing = tuple((n - 1) / (m - 1) for n, m in zip(grid.size, shape[::-1]))
    return Prediction((field,), "velocity", 2.0, spacing, torch.full_like(field, float(np.log(variance))))


def test_the_energy_is_that_of_the_paper():
    """On the network's own grid, times N / (2 s^2): 1/2 sum (z - mu)^2 / sigma^2 + 1/2 lambda z^T L z over its voxels."""
    grid = Geometry.identity((32, 24, 28), 1.5)
    precision, variance, image_sigma = 8.0, 0.01, 0.05
    prediction = predicted_on(grid, 0.3, variance)
    belief = Belief(prediction, grid, precision)
    prior = belief.prior(grid, image_sigma)
    own = belief.geometry
    rest = smooth(0, own.shape)
    z = prediction.field + 0.1 * rest
    mm = 2.0 * 1.5
    level = LevelPrior(
        prediction.field * mm / torch.tensor(own.spacing_mm).reshape(1, 3, 1, 1, 1),
        (2 * prior.strength / own.voxels) * torch.tensor(own.spacing_mm).square().reshape(1, 3, 1, 1, 1)
        / (variance * mm**2 * torch.ones(1, 3, *own.shape)),
        prior.roughness, own,
    )  # fmt: skip
    voxels = z * mm / torch.tensor(own.spacing_mm).reshape(1, 3, 1, 1, 1)
    scale = own.voxels * float(np.prod(prediction.spacing_voxels)) / (2 * image_sigma**2)
    assert scale * level.distance(voxels)[0] == pytest.approx(
        float(0.5 * (0.1 * rest).square().sum() / variance), rel=1e-4
    )
    neighbours = sum(
        float((z.narrow(a, 1, z.shape[a] - 1) - z.narrow(a, 0, z.shape[a] - 1)).square().sum()) for a in (2, 3, 4)
    )
    assert scale * level.smoothness(voxels)[0] == pytest.approx(0.5 * precision * neighbours, rel=0.03)
    on = prior.on(own, "cpu")
    inner = (slice(None), slice(None), *(slice(2, -2),) * 3)
    assert torch.allclose(on.weight[inner], level.weight[inner], rtol=1e-3)
    assert torch.allclose(on.mean[inner], level.mean[inner], rtol=1e-3)


def test_variances_turn_with_the_grid():
    grid = Geometry((20, 20, 20), (1.0,) * 3, (0.0,) * 3, ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)))
    prediction = predicted_on(grid)
    prediction.log_variance[:] = torch.tensor([0.01, 0.02, 0.03]).log().reshape(1, 3, 1, 1, 1)
    prior = Belief(prediction, grid).prior(Geometry.identity((20, 20, 20)), 0.02)
    # axes x, y, z of the network point along -y, -z, x of the scan
    assert torch.allclose(prior.variance[0, :, 5, 5, 5], 4 * torch.tensor([0.03, 0.01, 0.02]), rtol=1e-4)
    assert prior.roughness == 0.0


def test_levels_keep_what_was_added_and_take_the_mean_anew():
    model = model_at(smooth(0), 1e3, sigma_warp_voxels=0.0)
    push(model, torch.ones(1, 3, *GRID.shape), 3)
    added = model._u - model._held.mean
    coarse = GRID.resized((8, 7, 6))
    model.enter(coarse, "cpu")
    rest = model._u - model._held.mean
    assert torch.allclose(rest.mean((2, 3, 4)) * 2, added.mean((2, 3, 4)), rtol=0.05)
    fresh = model_at(smooth(0), 1e3)
    fresh.enter(coarse, "cpu")
    fresh.enter(GRID, "cpu")
    assert torch.allclose(fresh.finish().velocity, smooth(0), atol=1e-5), (
        "a coarse level blurs nothing that was predicted"
    )


def blob(grid: Geometry, shift=0.0) -> Image:
    points = grid.to_world(np.moveaxis(np.indices(grid.shape)[::-1], 0, -1)) - shift
    values = sum(
        np.exp(-((points - c) ** 2).sum(-1) / (2 * s**2))
        for c, s in (((-3, 0, 1), 3.0), ((4, 3, -2), 4.0), ((0, -5, 3), 3.0))
    )
    return Image.from_array(values.astype(np.float32), grid)


@pytest.fixture
def session_of(tmp_path):
    """Sessions with a network that says a shift of (1, 0, 0) mm with a given variance; the truth is (2, 0, 0)."""
    n = 30
    grid = Geometry((n, n, n), (1.0,) * 3, (-(n - 1) / 2,) * 3, np.eye(3).tolist())
    pair = Pair(blob(grid), blob(grid, np.array((2.0, 0.0, 0.0))))

    def make(variance: float, prior="posterior", **options) -> RegistrationSession:
        kind = NETWORKS.load("voxelmorph-diff")
        network = kind(kind.variant("light")).requires_grad_(False)
        for part, bias in ((network.flow, torch.tensor((0.5, 0.0, 0.0))), (network.log_sigma, float(np.log(variance)))):
            part.weight.zero_()
            part.bias.copy_(torch.as_tensor(bias).expand(3))
        path = tmp_path / "model.safetensors"
        save_model(path, network, ModelCard("voxelmorph-diff", {}, "none", "generated", prior={"precision": 10.0}))
        values = {"prior": prior, "samples": 0, **options}
        config = Config.from_dict(
            {"method": "feedforward", "model": str(path), "network": values, "transform": "svf", "similarity": "mse"}
        ).replace(
            schedule=Schedule((2, 1), (20, 10)), start=Start("identity", "none"), preprocess=Preprocess(crop=False)
        )
        session = RegistrationSession(pair, config)
        session.run(AffineTransform.identity(3))
        return session

    return make


def shift(session) -> float:
    points = np.random.default_rng(0).uniform(-4, 4, (40, 3))
    return float((session.transform.map_points(points) - points)[:, 0].mean())


def test_refinement_from_sure_to_unsure(session_of):
    sure, unsure, free = session_of(1e-9), session_of(1.0), session_of(1.0, prior="none")
    assert shift(sure) == pytest.approx(1.0, abs=0.01)
    assert shift(unsure) > 1.5 and shift(free) > 1.5
    terms = sure.result().history[-1].terms
    assert {"scans", "posterior", "smoothness"} <= set(terms)
    assert "posterior" not in free.result().history[-1].terms
    inverse = unsure.result().inverse
    assert torch.equal(inverse.transform.transforms[-1].velocity, -unsure.transform.transforms[0].velocity)


def test_prompts_act_beside_the_prior_which_stays_for_updates(session_of):
    session = session_of(1 / 60)
    before = shift(session)
    fixed = np.array([[0.0, 0.0, 0.0]])
    wanted = session.transform.map_points(fixed) + np.array([[0.0, 2.0, 0.0]])
    session.update(Prompts(landmarks=Landmarks(Points(fixed), Points(wanted))))
    assert "posterior" in session.result().history[-1].terms
    assert np.abs(session.transform.map_points(fixed) - wanted).max() < 0.5
    assert shift(session) == pytest.approx(before, abs=0.6)


def test_unknown_and_impossible_options_are_refused():
    for values, text in (
        ({"prior": "postterior"}, "did you mean 'posterior'"),
        ({"samples": 1}, "samples"),
        ({"image_sigma": 0}, "image_sigma"),
        ({"sigma": 1}, "unknown key"),
    ):
        with pytest.raises(ConfigError, match=text):
            Config.from_dict({"network": values})
    assert Config.from_dict(Config().to_dict()) == Config()


def test_other_models_refine_a_residual(session_of):
    session = session_of(1e-9)
    session.configure(session.config.replace(transform=Choice("diffeomorphic"), schedule=Schedule((2,), (20,))))
    session.run(AffineTransform.identity(3))
    assert shift(session) > 1.4
