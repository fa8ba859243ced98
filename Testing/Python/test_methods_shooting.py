"""Predicted momenta and matrices in a registration: carried to the scans' grid, looked at again, refined, written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_methods_feedforward import CANONICAL, OBLIQUE, PREDICT_ONLY, blob, centered, problem_of
from test_training_shooting import TINY, TINY_AFFINE

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, NetworkOptions, Preprocess, Schedule, Start
from DeepDiffRegLib.data.io import read_image, write_image
from DeepDiffRegLib.data.pair import Pair
from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.sampling import per_component
from DeepDiffRegLib.interactive import _outputs as outputs
from DeepDiffRegLib.methods.feedforward import canonical_geometry, canonical_scans, told, told_matrix
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import Model, ModelCard, save_model
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.training.mapping import looked
from DeepDiffRegLib.transforms import TRANSFORMS
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.shooting import ShootingTransform
from DeepDiffRegLib.warp.image import warp_image

FLAT = centered((32, 28), (1.0, 1.0), np.eye(2))
MOMENTUM = ("vsvf-net", "lddmm-net", "rdmm-net")
REFINED = {"vsvf-net": "vsvf", "lddmm-net": "lddmm", "rdmm-net": "rdmm"}
KERNELS = {"sigmas": (0.1, 0.2), "weights": (0.4, 0.6)}


def model(name: str, ndim: int = 2, canonical=None, sd: float = 0.02, **card) -> Model:
    """A tiny network with a random head."""
    kind = NETWORKS.load(name)
    torch.manual_seed(3)
    sizes = TINY_AFFINE if name == "affine-net" else TINY
    network = kind(kind.variant("light", ndim=ndim, **sizes)).eval().requires_grad_(False)
    head = network.matrix if name == "affine-net" else network.momentum.merges[-1][-1]
    head.weight.normal_(0.0, sd)
    return Model(network, ModelCard(name, network.architecture.to_dict(), "none", "generated", canonical, **card))


def pair_of(geometry, shift_mm=1.0) -> Pair:
    return Pair(blob(geometry), blob(geometry, shift_mm=shift_mm))


def stored(tmp_path, name: str, **options) -> str:
    made = model(name, **options)
    path = tmp_path / f"{name}.safetensors"
    save_model(path, made.network, made.card)
    return str(path)


def settings(path: str, transform: str = "diffeomorphic", schedule=PREDICT_ONLY, **changes) -> Config:
    options = {**KERNELS, "map_factor": 2.0} if transform in REFINED.values() else {}
    return Config(
        method="feedforward", model=path, preprocess=Preprocess((0.0, 100.0), crop=False), start=Start("identity", "none"),
        transform=Choice(transform, options), similarity=Choice("mse"), schedule=schedule, device="cpu", **changes,
    )  # fmt: skip


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", MOMENTUM)
def test_the_map_is_that_of_the_training(name, ndim):
    """On the network's own grid, with one look and with two; sizes are odd, so that the flow's grid is coarser by less than two."""
    geometry = centered((31, 28, 18)[:ndim], (1.2,) * ndim, np.eye(ndim))
    problem, net = problem_of(pair_of(geometry)), model(name, ndim)
    fixed, moving = canonical_scans(problem, geometry, np.eye(ndim + 1), net.card.preprocessing)
    for looks, tolerance in ((1, 0.1), (2, 0.2)):
        found, belief = told(problem, net, np.eye(ndim + 1), looks)
        expected = looked(net.network, moving, fixed, looks, spacing_mm=geometry.spacing_mm, steps=6).forward
        u = found.displacement(geometry) / per_component(geometry.spacing_mm, expected)
        assert float(expected.abs().max()) > 1.0 and belief is None
        inside = (..., *(slice(3, -3),) * ndim)
        assert float((u - expected)[inside].abs().max()) < tolerance * float(expected.abs().max())
    assert isinstance(found, CompositeTransform) and all(isinstance(t, ShootingTransform) for t in found.transforms)


@pytest.mark.parametrize("name", MOMENTUM)
def test_even_grids_lose_nothing(name):
    problem, net = problem_of(pair_of(FLAT)), model(name)
    fixed, moving = canonical_scans(problem, FLAT, np.eye(3), net.card.preprocessing)
    found, _ = told(problem, net, np.eye(3))
    expected = looked(net.network, moving, fixed, spacing_mm=FLAT.spacing_mm, steps=6).forward
    assert float((found.displacement(FLAT) - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_model_of_other_axes_gives_the_same_flow():
    """The scan's axes are oblique to the network's: the map is that of the network's own grid, in mm."""
    net = model("lddmm-net", 3, CANONICAL)
    problem = problem_of(pair_of(OBLIQUE))
    grid = canonical_geometry(problem, CANONICAL)
    found, _ = told(problem, net, np.eye(4))
    fixed, moving = canonical_scans(problem, grid, np.eye(4), net.card.preprocessing)
    u = looked(net.network, moving, fixed, spacing_mm=grid.spacing_mm, steps=6).forward
    points = grid.to_world(np.array([(14.0, 12.0, 10.0), (18.0, 16.0, 13.0), (12.0, 15.0, 9.0)]))
    index = np.round(grid.to_index(points)).astype(int)
    moved = np.stack([u[0, :, z, y, x].numpy() for x, y, z in index]) * np.array(grid.spacing_mm) @ grid.rotation.T
    assert np.abs(moved).max() > 0.3
    assert np.abs(found.map_points(points) - points - moved).max() < 0.25 * np.abs(moved).max()


@pytest.mark.parametrize("name", MOMENTUM)
def test_the_optimisation_continues_the_momentum_itself(name):
    problem, net = problem_of(pair_of(FLAT)), model(name)
    found, _ = told(problem, net, np.eye(3))
    continued = TRANSFORMS.build(REFINED[name], **KERNELS)
    continued.resume(found, FLAT, "cpu")
    continued.enter(FLAT, "cpu")
    u = continued.displacement()
    assert float((u - found.displacement(FLAT)).abs().max()) < 0.05 * float(u.abs().max())


@pytest.mark.parametrize(("name", "transform"), [("rdmm-net", "rdmm"), ("lddmm-net", "lddmm"), ("vsvf-net", "svf")])
def test_a_prediction_is_refined(tmp_path, name, transform):
    pair, path = pair_of(FLAT), stored(tmp_path, name, sd=0.01)
    misses = []
    for schedule in (PREDICT_ONLY, Schedule((2, 1), (10, 10))):
        session = RegistrationSession(pair, settings(path, transform, schedule))
        warped = warp_image(pair.moving, session.run(), FLAT).numpy()
        misses.append(float(np.square(warped - pair.fixed.numpy()).mean()))
    assert misses[1] < 0.5 * misses[0]


@pytest.mark.parametrize("looks", [1, 2])
def test_learned_stiffness_is_written(tmp_path, looks):
    """sigma(x) at both ends and the weights, as of the optimised model; after two looks those of the first flow."""
    path = stored(tmp_path, "rdmm-net", looks=looks)
    for role, image in (("fixed", pair_of(FLAT).fixed), ("moving", pair_of(FLAT).moving)):
        write_image(image, tmp_path / f"{role}.nii.gz")
    choices = tmp_path / "choices.json"
    choices.write_text(json.dumps({"method": "feedforward", "start": {"initial": "identity", "transform": "none"},
                                   "schedule": {"factors": [1], "iterations": [0]}}))  # fmt: skip
    out = tmp_path / "out"
    code = main(["register", str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"), "-o", str(out),
                 "--preset", str(choices), "--model", path, "--quiet"])  # fmt: skip
    assert code == 0
    widths = [read_image(out / f"sigma_{t}.nii.gz", ndim=2).numpy() for t in (0, 1)]
    low, high = (s * 32 for s in KERNELS["sigmas"])
    assert all(low - 1e-3 <= w.min() < w.max() <= high + 1e-3 for w in widths)
    flow = json.loads((out / "result.json").read_text())["flow"]
    assert flow["sigma_mm"][0] < flow["sigma_mm"][1] and (out / "momentum.nii.gz").is_file()
    assert "kernel width at t = 0" in (out / "report.html").read_text(encoding="utf-8")


def test_learned_stiffness_reaches_the_module(tmp_path):
    """What the worker sends as the layer of kernel widths is the network's, on both scans."""
    session = RegistrationSession(pair_of(OBLIQUE), settings(stored(tmp_path, "rdmm-net", ndim=3)))
    session.run()
    found = outputs.widths(session.result())
    low, high = (float(bound) for bound in torch.aminmax(session.transform.transforms[0].sigma_mm(0.0)))
    for side in ("fixed", "moving"):
        values = found[side].array
        assert low - 1e-2 <= values.min() < values.max() <= high + 1e-2


def test_a_matrix_is_carried_through_the_geometries():
    """A head that says one matrix, on a grid of other axes and spacing than the scans."""
    net = model("affine-net", 3, CANONICAL)
    said = np.array([[1.1, 0.05, 0.0], [-0.1, 0.95, 0.02], [0.0, 0.03, 1.05]])
    shift = np.array([0.5, -1.0, 0.25])
    scale = max(CANONICAL.size) / 2
    net.network.matrix.weight.zero_()
    wanted = np.concatenate((said - np.eye(3), shift[:, None] / scale), 1)
    net.network.matrix.bias.copy_(torch.tensor(wanted.ravel(), dtype=torch.float32))
    problem = problem_of(pair_of(OBLIQUE))
    grid = canonical_geometry(problem, CANONICAL)
    first = AffineTransform(np.eye(3), np.array([2.0, 0.0, -1.0]))
    found = told_matrix(problem, net, first)
    index = np.array([(3.0, 5.0, 7.0), (20.0, 11.0, 2.0)])
    middle = (np.array(grid.size) - 1) / 2
    moved = grid.to_world((index - middle) @ said.T + shift + middle)
    assert np.allclose(found.map_points(grid.to_world(index)), first.map_points(moved), atol=1e-4)
    twice = told_matrix(problem, net, first, looks=2)
    again = grid.to_world((((index - middle) @ said.T + shift) @ said.T + shift) + middle)
    assert np.allclose(twice.map_points(grid.to_world(index)), first.map_points(again), atol=1e-3)


def test_the_affine_descent_begins_where_the_network_says(tmp_path):
    """A network that finds the shift; the descent with no iterations keeps it, with some it improves a bad one."""
    shift = 3.0
    pair = pair_of(FLAT, shift_mm=shift)
    net = model("affine-net")
    net.network.matrix.weight.zero_()
    net.network.matrix.bias.copy_(torch.tensor([0.0, 0.0, shift / 16, 0.0, 0.0, shift / 16]))
    path = tmp_path / "net.safetensors"
    save_model(path, net.network, net.card)
    kept = RegistrationSession(pair, settings(str(path))).run()
    assert np.allclose(kept.map_points(np.zeros((1, 2))), shift, atol=1e-4)
    start = Start("identity", "affine", Choice("mse"), Schedule((2, 1), (30, 30)))
    config = settings(str(path)).replace(start=start, network=NetworkOptions(looks=2))
    found = RegistrationSession(pair, config).run().map_points(np.zeros((1, 2)))
    assert np.allclose(found, shift, atol=0.5)  # two looks go twice as far, the descent comes back


@pytest.mark.parametrize("looks", [0, -1, True, 1.5])
def test_wrong_numbers_of_looks_are_refused(looks):
    with pytest.raises(ConfigError, match="looks must be a whole number"):
        NetworkOptions(looks=looks)
