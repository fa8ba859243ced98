"""Every loss against its formula and, in float64, against finite differences."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.sampling import identity_index, sample
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.base import Kernels, Prediction
from DeepDiffRegLib.networks.posterior import dirichlet_energy
from DeepDiffRegLib.similarity.lncc import LNCC
from DeepDiffRegLib.training import LOSSES
from DeepDiffRegLib.training.base import Deformed
from DeepDiffRegLib.training.mapping import Mapping, warped
from DeepDiffRegLib.training.tasks import make_terms

SHAPES = {2: (11, 13), 3: (7, 8, 9)}
KINDS = ("displacement", "velocity", "time_varying", "momentum", "affine")


def bumps(shape, seed: int, count: int = 2) -> torch.Tensor:
    """(count, 1, *shape) smooth scans in [0, 1], float64."""
    rng = np.random.default_rng(seed)
    axes = np.moveaxis(np.indices(shape), 0, -1)
    scans = []
    for _ in range(count):
        centers = rng.uniform(0.2, 0.8, (4, len(shape))) * np.array(shape)
        scans.append(sum(np.exp(-((axes - c) ** 2).sum(-1) / 8) for c in centers))
    values = torch.tensor(np.stack(scans)[:, None])
    return values / values.amax()


def case_of(kind: str, ndim: int, seed: int = 0, fields=None, log_variance=None, weights=None, **batch) -> Deformed:
    """Two pairs with random fields on a half grid (full for displacements)."""
    shape = SHAPES[ndim]
    half = kind != "displacement"
    grid = tuple((n + 1) // 2 for n in shape) if half else shape
    spacing = tuple((n - 1) / (m - 1) for n, m in zip(shape, grid))[::-1]
    generator = torch.Generator().manual_seed(seed)
    if fields is None:
        count = 3 if kind == "time_varying" else 1
        size, scale = ((ndim + 1,), 0.05) if kind == "affine" else (grid, 2.0 if kind == "momentum" else 0.4)
        fields = tuple(
            scale * torch.randn(2, ndim, *size, generator=generator, dtype=torch.float64) for _ in range(count)
        )
        if kind == "affine":
            fields = (fields[0] + torch.eye(ndim, ndim + 1, dtype=torch.float64),)
    if kind == "affine":
        spacing = (1.0,) * ndim
    prediction = Prediction(fields, kind, 2.0 if half else 1.0, spacing, log_variance)
    if kind == "momentum":
        kernels = Kernels((0.15, 0.3), (0.4, 0.6), 0.1 if weights is not None else None)
        spacing = (2.0,) * ndim
        prediction = replace(
            prediction, spacing_voxels=spacing, offset_voxels=0.5, kernels=kernels, pre_weights=weights
        )
    scans = {"moving": bumps(shape, seed + 1), "fixed": bumps(shape, seed + 2)}
    return Deformed({**scans, **batch}, prediction, Mapping(prediction, shape))


def structures(ndim: int) -> dict[str, torch.Tensor]:
    shape, rng = SHAPES[ndim], np.random.default_rng(5)
    batch = {}
    for role, seed in (("moving", 3), ("fixed", 4)):
        scans = bumps(shape, seed)
        batch[f"{role}_labels"] = (scans > 0.3).int() + (scans > 0.6).int()
        points = rng.uniform(1, np.array(shape[::-1]) - 2, (2, 20, ndim)) + 0.013
        batch[f"{role}_points"] = torch.tensor(points)
        batch[f"{role}_structure"] = torch.tensor(rng.integers(0, 2, (2, 20)))
        batch[f"{role}_distance"] = torch.cat((bumps(shape, seed + 5), bumps(shape, seed + 6)), 1) * 4
    batch["displacement"] = torch.tensor(rng.normal(size=(2, ndim, *shape)))
    batch["known"] = torch.tensor(rng.random((2, 1, *shape)) < 0.7)
    return batch


OPTIONS = {
    "mse": {"image_sigma": 0.5, "symmetric": True},
    "lncc": {"radius_voxels": 2, "symmetric": True},
    "kl": {"precision": 3.0, "mode": "paper"},
}


OF_MAPS = [name for name in LOSSES if not LOSSES.load(name).of_features]
"""The others have a file of their own."""


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize(("name", "kind"), list(itertools.product(OF_MAPS, KINDS)))
def test_gradients_are_those_of_finite_differences(name, kind, ndim):
    loss_kind = LOSSES.load(name)
    if kind not in loss_kind.kinds:
        return
    options = dict(OPTIONS.get(name, {}))
    if kind in ("displacement", "momentum", "affine"):
        options.pop("symmetric", None)
    loss, batch = loss_kind(**options), structures(ndim)
    start = case_of(kind, ndim, **batch).prediction.fields
    parameters = [f.clone().requires_grad_() for f in start]
    variance = None
    if loss.probabilistic:
        variance = torch.full_like(start[0], -2.0).requires_grad_()
        parameters.append(variance)

    weights = None
    if loss.local:
        grid = (2, 2, *start[0].shape[2:])
        weights = torch.nn.functional.normalize(
            torch.rand(grid, generator=torch.Generator().manual_seed(4)).double(), dim=1
        )
        parameters.append(weights.requires_grad_())

    def energy(values) -> torch.Tensor:
        fields = tuple(values[: len(start)])
        variance, weights = (values[-1] if wanted else None for wanted in (loss.probabilistic, loss.local))
        return loss(case_of(kind, ndim, 0, fields, variance, weights, **batch))

    gradients = torch.autograd.grad(energy(parameters), parameters, materialize_grads=True)
    generator, step = torch.Generator().manual_seed(9), 1e-6
    for number, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [p.detach() + (sign * step * direction if i == number else 0) for i, p in enumerate(parameters)]
            ends.append(float(energy(moved)))
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-4, abs=1e-9)


def laplacian(shape) -> np.ndarray:
    """Degree minus adjacency of the grid's neighbor graph, as a matrix."""
    places = {p: i for i, p in enumerate(np.ndindex(*shape))}
    matrix = np.zeros((len(places),) * 2)
    for place, i in places.items():
        for axis in range(len(shape)):
            other = tuple(v + (a == axis) for a, v in enumerate(place))
            if other in places:
                j = places[other]
                matrix[i, i] += 1
                matrix[j, j] += 1
                matrix[i, j] -= 1
                matrix[j, i] -= 1
    return matrix


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("precision", (1.0, 20.0))
def test_kl_of_the_paper_is_the_matrix_formula(ndim, precision):
    log_variance = torch.randn(case_of("velocity", ndim).prediction.field.shape, dtype=torch.float64) - 2
    case = case_of("velocity", ndim, log_variance=log_variance)
    mean, grid = case.prediction.field, tuple(case.prediction.field.shape[2:])
    graph = precision * laplacian(grid)
    total = 0.0
    for field, logs in zip(mean.flatten(0, 1), log_variance.flatten(0, 1)):
        m, s = field.numpy().ravel(), np.exp(logs.numpy().ravel())
        total += 0.5 * (np.trace(graph @ np.diag(s)) - np.log(s).sum() + m @ graph @ m)
    loss = LOSSES.build("kl", precision=precision, mode="paper")
    assert float(loss(case)) * case.batch["fixed"].numel() == pytest.approx(total, rel=1e-5)


def test_kl_of_the_smoothed_covariance_has_the_kernels_energy():
    log_variance = torch.full_like(case_of("velocity", 3).prediction.field, -1.0)
    case = case_of("velocity", 3, log_variance=log_variance)
    with_smoothing = LOSSES.build("kl", precision=20.0, mode="paper", covariance="smoothed", smoothing_voxels=1.0)
    steps = 20 * sum(case.prediction.field.diff(dim=a).square().sum() for a in (2, 3, 4))
    spread = 20 * dirichlet_energy(1.0, 3) * math.exp(-1) + 1
    expected = (spread * log_variance.numel() + float(steps)) / 2 / case.batch["fixed"].numel()
    assert float(with_smoothing(case)) == pytest.approx(expected, rel=1e-5)
    assert dirichlet_energy(1.0, 3) == pytest.approx(0.030, abs=0.001)
    assert LOSSES.build("kl", precision=20.0, covariance="smoothed").smoothing_voxels(3) == pytest.approx(
        1.97, abs=0.01
    )
    assert LOSSES.build("kl").smoothing_voxels(3) == 0.0


def test_released_kl_smooths_six_times_less_than_the_paper():
    """In 3-D, per voxel of the velocity's grid; the term of the variance is the same."""
    grid = (20, 22, 24)
    mean = torch.randn(1, 3, *grid, dtype=torch.float64)
    flat = torch.full_like(mean, -3.0)
    shape = tuple(2 * n for n in grid)
    batch = {"fixed": torch.zeros(1, 1, *shape)}

    def values(field):
        prediction = Prediction((field,), "velocity", 2.0, (2.0, 2.0, 2.0), flat)
        case = Deformed(batch, prediction, Mapping(prediction, shape))
        scale = {"paper": math.prod(shape) / math.prod(grid), "released": 1.0}
        return {m: scale[m] * float(LOSSES.build("kl", precision=10.0, mode=m)(case)) for m in ("paper", "released")}

    still, moving = values(torch.zeros_like(mean)), values(mean)
    assert still["paper"] == pytest.approx(still["released"], rel=1e-5)
    smoothing = {m: moving[m] - still[m] for m in still}
    assert smoothing["paper"] / smoothing["released"] == pytest.approx(5.73, abs=0.03)


@pytest.mark.parametrize("ndim", (2, 3))
def test_image_losses_are_the_similarities_averaged_over_pairs(ndim):
    case = case_of("displacement", ndim)
    squares = (case.sent("moving") - case.batch["fixed"]).square().mean()
    assert float(LOSSES.build("mse", image_sigma=0.1)(case)) == pytest.approx(float(squares) * 100, rel=1e-6)
    half = LOSSES.build("mse", image_sigma=0.1, scaling="paper")(case)
    assert float(half) == pytest.approx(float(squares) * 50, rel=1e-6)
    own = [LNCC(4).value(f[None], w[None]) for f, w in zip(case.batch["fixed"], case.sent("moving"))]
    assert float(LOSSES.build("lncc")(case)) == pytest.approx(np.mean(own), rel=1e-6)


@pytest.mark.parametrize("name", ["mse", "lncc", "ncc", "mk-lncc"])
def test_networks_that_see_any_contrast_can_be_judged_by_natural_images(name):
    shape = SHAPES[2]
    natural = {"moving_natural": bumps(shape, 11), "fixed_natural": bumps(shape, 12)}
    case = case_of("velocity", 2, **natural)
    shown = case_of("velocity", 2, moving=natural["moving_natural"], fixed=natural["fixed_natural"])
    for symmetric in (False, True):
        loss = LOSSES.build(name, images="natural", symmetric=symmetric)
        assert float(loss(case)) == float(LOSSES.build(name, symmetric=symmetric)(shown))
        assert float(loss(case)) != float(LOSSES.build(name, symmetric=symmetric)(case))
    with pytest.raises(ConfigError, match="images of a loss must be one of"):
        LOSSES.build(name, images="naturals")


def test_diffusion_of_a_shear_is_known():
    """u_x = 0.3 y, u_y = -0.2 x: squared steps 0.09 along y and 0.04 along x, each for one of two components."""
    x, y = identity_index((8, 9), dtype=torch.float64)[0]
    field = torch.stack((0.3 * y, -0.2 * x))[None]
    prediction = Prediction((field,), "displacement", 1.0, (1.0, 1.0))
    case = Deformed({"fixed": torch.zeros(1, 1, 8, 9)}, prediction, Mapping(prediction, (8, 9)))
    assert float(LOSSES.build("diffusion")(case)) == pytest.approx((0.09 / 2 + 0.04 / 2) / 2)


def test_distance_to_the_known_map_is_looked_at_where_it_is_known():
    case = case_of("displacement", 2)
    true = case.mapping.forward + torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    known = torch.zeros(2, 1, *SHAPES[2], dtype=torch.bool)
    case.batch.update(displacement=true, known=known)
    assert float(LOSSES.build("known-map")(case)) == 0.0
    known[0, :, 2:5], true[:, :, 6:] = True, float("inf")
    case.batch["displacement"] = true.nan_to_num(posinf=1e3)
    assert float(LOSSES.build("known-map")(case)) == pytest.approx(25.0)


def test_lddmm_norm_is_that_of_the_operator_applied_in_space():
    """(-alpha Laplacian + gamma) twice with replicated borders, the matrix of the grid's neighbors; cosines are its modes."""
    fields = case_of("time_varying", 2).prediction.fields
    case = case_of("time_varying", 2, fields=fields)
    operator = 0.2 * laplacian(tuple(fields[0].shape[2:])) + 0.05 * np.eye(fields[0][0, 0].numel())
    expected = 0.0
    for field in fields:
        sent = field.flatten(2).numpy() @ (operator @ operator).T
        expected += (sent**2).sum(1).mean()
    assert float(LOSSES.build("lddmm", alpha=0.2, gamma=0.05)(case)) == pytest.approx(expected, rel=1e-8)


def test_dice_of_labels_is_that_of_soft_masks():
    batch = structures(2)
    case = case_of("displacement", 2, **batch)
    expected = []
    for pair in range(2):
        u = case.mapping.forward[pair : pair + 1]
        index = identity_index(SHAPES[2], dtype=torch.float64) + u
        for label in batch["fixed_labels"][pair].unique():
            if label > 0:
                soft = sample((batch["moving_labels"][pair : pair + 1] == label).double(), index)[0]
                hard = (batch["fixed_labels"][pair] == label).double()
                value = (2 * (soft * hard).sum() + 1e-5) / (soft.square().sum() + hard.square().sum() + 1e-5)
                expected.append(1 - float(value))
    assert len(expected) == 4
    assert float(LOSSES.build("dice")(case)) == pytest.approx(np.mean(expected), rel=1e-6)
    assert float(LOSSES.build("dice", labels=(2,))(case)) == pytest.approx(np.mean(expected[1::2]), rel=1e-6)


@pytest.mark.parametrize("ndim", (2, 3))
def test_surface_loss_of_a_shift_is_its_square(ndim):
    """A plane at x = 4 in the fixed and x = 5 in the moving scan; the identity misses by 1, a shift of 1 hits."""
    shape = SHAPES[ndim]
    x = identity_index(shape, dtype=torch.float64)[:, :1]
    rng = np.random.default_rng(0)
    batch = {}
    for role, place in (("fixed", 4.0), ("moving", 5.0)):
        points = rng.uniform(2, np.array(shape[::-1]) - 3, (1, 30, ndim))
        points[..., 0] = place
        batch[f"{role}_points"] = torch.tensor(points)
        batch[f"{role}_structure"] = torch.zeros(1, 30)
        batch[f"{role}_distance"] = (x - place).abs()
    for shift, miss in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.5)):
        grid = tuple((n + 1) // 2 for n in shape)
        spacing = tuple((n - 1) / (m - 1) for n, m in zip(shape, grid))[::-1]
        field = torch.zeros(1, ndim, *grid, dtype=torch.float64)
        field[:, 0] = shift / 2
        prediction = Prediction((field,), "velocity", 2.0, spacing)
        case = Deformed({"fixed": x * 0, **batch}, prediction, Mapping(prediction, shape))
        expected = 2 * miss**2 / (4 * 2.0**2)
        assert float(LOSSES.build("surface", sigma_mm=2.0)(case)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ("velocity", "time_varying"))
def test_forward_and_backward_undo_each_other(kind):
    case = case_of(kind, 2)
    smooth = tuple(torch.ones_like(f) * torch.tensor([0.3, -0.2]).reshape(1, 2, 1, 1) for f in case.prediction.fields)
    still = case_of(kind, 2, fields=smooth).mapping
    expected = 2.0 * len(smooth) * torch.tensor([0.3, -0.2], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert torch.allclose(still.forward, expected.expand_as(still.forward))
    assert torch.allclose(still.backward, -still.forward)


def test_integrators_agree_and_intermediate_times_add_up():
    prediction = case_of("velocity", 2).prediction
    x = identity_index(tuple(prediction.field.shape[2:]), dtype=torch.float64) / 2
    smooth = Prediction((torch.sin(x).expand(2, 2, *x.shape[2:]) * 0.3,), "velocity", 2.0, prediction.spacing_voxels)
    maps = {name: Mapping(smooth, SHAPES[2], integrator=name) for name in ("scaling_squaring", "quadrature", "rk4")}
    reference = maps["rk4"].forward
    for mapping in maps.values():
        assert (mapping.forward - reference).abs().max() < 0.05
    half = maps["rk4"].at(0.5)
    twice = half + sample(half, identity_index(SHAPES[2], dtype=torch.float64) + half, padding="border")
    assert (twice - reference).abs().max() < 0.05


def test_warping_in_3d_has_the_gradient_of_torch():
    image, u = (torch.rand(2, c, 6, 7, 8) for c in (1, 3))
    double = [t.double() for t in (image, u)]
    u.requires_grad_()
    double[1].requires_grad_()
    residual = torch.rand(2, 1, 6, 7, 8)
    outs = [warped(image, u), warped(*double)]
    for out in outs:
        out.backward(residual.to(out))
    assert torch.allclose(outs[0].double(), outs[1], atol=1e-5)
    assert torch.allclose(u.grad.double(), double[1].grad, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_does_not_fit_the_network_is_refused(network, name):
    kind = NETWORKS.load(network)
    made = kind(kind.variant("light", ndim=2))
    loss = LOSSES.load(name)
    if made.kind in loss.kinds and (made.local or not loss.local) and not loss.of_features:
        assert make_terms([{"name": name, "weight": 0.5}], made)[0].weight == 0.5
    else:
        with pytest.raises(ConfigError, match="does not fit this network"):
            make_terms([name], made)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("ncl", "unknown loss"),
        ({"name": "lncc", "radius": 2}, "does not take these options"),
        ({"name": "mse", "image_sigma": 0}, "must be positive"),
        ({"name": "mse", "scaling": "released2"}, "scaling must be one of"),
        ({"name": "kl", "mode": "other"}, "mode must be one of"),
        ({"name": "dice", "labels": [0]}, "must be positive"),
        ({"name": "lncc", "from_step": 5, "until_step": 5}, "the second one larger"),
        ({"name": "lncc", "from_step": 0.5}, "must be whole numbers"),
        ({"name": "lncc", "final_weight": 0.1}, "final_weight needs until_step"),
    ],
)
def test_wrong_losses_are_refused(wanted, said):
    kind = NETWORKS.load("voxelmorph-diff")
    with pytest.raises(ConfigError, match=said):
        make_terms([wanted], kind(kind.variant("light", ndim=2)))
