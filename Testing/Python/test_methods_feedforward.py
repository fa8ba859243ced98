"""A network's prediction reaches any pair of grids through the geometries, and the one solver continues from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import rotation

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.io import write_image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.methods import feedforward
from DeepDiffRegLib.methods.feedforward import as_trained, canonical_geometry, canonical_scans, told
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import CanonicalGrid, Intensities, Model, ModelCard, card_path, save_model
from DeepDiffRegLib.problem import Problem
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.svf import SVFTransform
from DeepDiffRegLib.transforms.tvf import TVFTransform

PREDICT_ONLY = Schedule((1,), (0,))
FORWARD_DOWN_LEFT = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
SHIFT = (1.5, -0.75, 2.0)
"""In voxels of the model's grid."""


def model(name="voxelmorph1", canonical=None, bias=None, sd=0.3, ndim=3, **card) -> Model:
    """A light network with random heads, or with heads that say ``bias`` everywhere."""
    kind = NETWORKS.load(name)
    network = kind(kind.variant("light", ndim=ndim)).eval().requires_grad_(False)
    for part, parameter in network.named_parameters():
        if "flow" in part and part.endswith("weight"):
            parameter.normal_(0.0, sd) if bias is None else parameter.zero_()
        if "flow" in part and part.endswith("bias") and bias is not None:
            parameter.copy_(torch.tensor(bias[:ndim]))
    return Model(network, ModelCard(name, network.architecture.to_dict(), "none", "generated", canonical, **card))


def blob(geometry: Geometry, seed: int = 0, shift_mm=0.0) -> Image:
    """Smooth bumps inside the grid, given in mm, so that the same scene can be put on any grid."""
    rng = np.random.default_rng(seed)
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1)) - shift_mm
    values = np.zeros(geometry.shape)
    for _ in range(6):
        center = rng.uniform(-8, 8, geometry.ndim)
        values += rng.uniform(0.4, 1.0) * np.exp(-((points - center) ** 2).sum(-1) / (2 * rng.uniform(3, 6) ** 2))
    return Image.from_array(values.astype(np.float32), geometry)


def centered(size, spacing, direction) -> Geometry:
    origin = -np.array(direction) @ (np.array(spacing) * (np.array(size) - 1) / 2)
    return Geometry(size, spacing, tuple(origin), np.array(direction).tolist())


def problem_of(pair: Pair) -> Problem:
    return Problem.prepare(pair, Config(preprocess=Preprocess((0.0, 100.0))), torch.device("cpu"))


OBLIQUE = centered((26, 30, 18), (1.1, 0.9, 1.6), rotation((12.0, -20.0, 35.0)) @ np.diag([1.0, -1.0, 1.0]))
CANONICAL = CanonicalGrid((32, 28, 24), (1.2, 1.2, 1.2), FORWARD_DOWN_LEFT)


def test_the_models_grid_lies_around_the_anatomy():
    problem = problem_of(Pair(blob(OBLIQUE), blob(OBLIQUE, 1)))
    grid = canonical_geometry(problem, CANONICAL)
    box = problem.fixed_box_mm
    assert np.allclose(grid.center_mm, (box.min(0) + box.max(0)) / 2)
    off = canonical_geometry(
        problem, CanonicalGrid(CANONICAL.size, CANONICAL.spacing_mm, FORWARD_DOWN_LEFT, (10.0, 9.0, 8.0))
    )
    assert np.allclose(off.to_world((10.0, 9.0, 8.0)), grid.center_mm)
    own = centered(CANONICAL.size, CANONICAL.spacing_mm, FORWARD_DOWN_LEFT)
    there = problem_of(Pair(blob(own), blob(OBLIQUE)))
    assert canonical_geometry(there, CANONICAL) is own and canonical_geometry(there, None) is own


def test_scans_reach_the_models_grid_as_simpleitk_resamples_them():
    """The moving one through the affine part, from its own voxels; 0 where there is none."""
    moving_grid = centered((20, 24, 28), (1.3, 1.2, 1.25), rotation((5.0, 10.0, -8.0)))
    problem = problem_of(Pair(blob(OBLIQUE), blob(moving_grid, 1)))
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation((3.0, -4.0, 6.0)) * 1.05, (1.0, -2.0, 0.5)
    grid = canonical_geometry(problem, CANONICAL)
    fixed, moving = canonical_scans(problem, grid, world, Intensities((0.0, 100.0)))

    def resampled(image: Image, matrix: np.ndarray) -> np.ndarray:
        scan = sitk.GetImageFromArray(image.numpy() - image.numpy().min())
        scan.SetSpacing(image.geometry.spacing_mm)
        scan.SetOrigin(image.geometry.origin_mm)
        scan.SetDirection(image.geometry.rotation.ravel().tolist())
        affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
        out = sitk.Resample(
            scan,
            grid.size,
            affine,
            sitk.sitkLinear,
            grid.origin_mm,
            grid.spacing_mm,
            grid.rotation.ravel().tolist(),
            0.0,
        )
        values = sitk.GetArrayFromImage(out)
        return values / values.max()

    # axes within 1 % of the grid's spacing or coarser are not blurred; finer ones of the fixed scan are
    assert np.corrcoef(fixed[0, 0].numpy().ravel(), resampled(problem.pair.fixed, np.eye(4)).ravel())[0, 1] > 0.995
    assert np.abs(moving[0, 0].numpy() - resampled(problem.pair.moving, world)).max() < 1e-4


def test_intensities_are_those_of_the_training():
    scan = torch.linspace(100.0, 300.0, 1001).reshape(1, 1, 7, 11, 13)
    trained = as_trained(scan, Intensities((10.0, 90.0), top=0.8))
    assert float(trained.flatten()[500]) == pytest.approx(0.4, abs=1e-3)
    assert float(trained.flatten()[900]) == pytest.approx(0.8, abs=1e-3)
    assert float(trained.min()) == 0.0 and float(trained.max()) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("name", ["voxelmorph1", "voxelmorph-diff", "transmorph-tvf"])
def test_directions_and_units_survive_an_oblique_grid(name):
    """A network that always says the same vector moves every point by it, in mm along the axes of its own grid."""
    problem = problem_of(Pair(blob(OBLIQUE), blob(OBLIQUE, 1)))
    found, _ = told(problem, model(name, CANONICAL, bias=SHIFT), np.eye(4))
    times = {"voxelmorph1": 1.0, "voxelmorph-diff": 2.0, "transmorph-tvf": 2.0 * 8}[name]
    expected = np.array(FORWARD_DOWN_LEFT) @ (1.2 * times * np.array(SHIFT))
    points = OBLIQUE.to_world(np.random.default_rng(0).uniform(5, 12, (20, 3)))
    assert np.allclose(found.map_points(points) - points, expected, atol=1e-3)
    inverse = found.inverse().transform
    inner = points[OBLIQUE.contains(points - expected)]
    if len(inner):
        assert np.allclose(inverse.map_points(inner) - inner, -expected, atol=1e-3)


def test_differing_grids_agree_with_the_network_on_its_own_grid():
    """Axes exchanged and flipped, so that voxels coincide: the same displacement comes back, whatever the scan's grid."""
    own = centered((32, 28, 24), (1.2, 1.2, 1.2), FORWARD_DOWN_LEFT)
    turned = centered((24, 32, 28), (1.2, 1.2, 1.2), np.diag([1.0, -1.0, 1.0]))
    predictor = model(canonical=CanonicalGrid(own.size, own.spacing_mm, own.direction))
    moving = blob(OBLIQUE, 1)
    grid = canonical_geometry(problem_of(Pair(blob(turned), moving)), predictor.card.canonical)
    moved = Geometry(own.size, own.spacing_mm, grid.origin_mm, own.direction)
    here, _ = told(problem_of(Pair(blob(moved), moving)), predictor, np.eye(4))
    there, _ = told(problem_of(Pair(blob(turned), moving)), predictor, np.eye(4))
    inside = moved.to_world(np.random.default_rng(1).integers(6, 18, (200, 3)))
    u, v = (t.map_points(inside) - inside for t in (here, there))
    assert np.abs(u).max() > 0.3
    assert np.abs(u - v).max() < 0.35 * np.abs(u).max()  # interpolated once more between the grids' voxels
    assert np.corrcoef(u.ravel(), v.ravel())[0, 1] > 0.95
    with torch.no_grad():
        scans = canonical_scans(problem_of(Pair(blob(moved), moving)), moved, np.eye(4), predictor.card.preprocessing)
        direct = predictor.network(scans[1], scans[0]).field
    index = np.rint(moved.to_index(inside)).astype(int)
    mm = direct[0].numpy()[:, index[:, 2], index[:, 1], index[:, 0]].T * 1.2 @ moved.rotation.T
    assert np.abs(u - mm).max() < 1e-3


def test_kinds_of_predictions_become_their_transforms():
    problem = problem_of(Pair(blob(OBLIQUE), blob(OBLIQUE, 1)))
    svf, _ = told(problem, model("voxelmorph-diff", CANONICAL, sd=0.05), np.eye(4))
    assert isinstance(svf, SVFTransform) and np.allclose(svf.geometry.rotation, OBLIQUE.rotation)
    inverse = svf.inverse()
    assert torch.equal(inverse.transform.velocity, -svf.velocity) and inverse.error.mean < 0.1 * float(
        svf.finished.tensor.norm(dim=1).mean()
    )
    tvf, _ = told(problem, model("transmorph-tvf", CANONICAL, sd=0.005), np.eye(4))
    assert isinstance(tvf, TVFTransform) and len(tvf.velocities) == 8
    moved = float(tvf.finished.tensor.norm(dim=1).mean())
    assert tvf.inverse().error.mean < 0.1 * moved


def test_works_in_2d():
    angle = np.deg2rad(25.0)
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = centered((40, 36), (0.9, 1.1), turn)
    canonical = CanonicalGrid((32, 32), (1.0, 1.0), ((0.0, -1.0), (1.0, 0.0)))
    problem = problem_of(Pair(blob(grid), blob(grid, 1)))
    found, _ = told(problem, model(canonical=canonical, bias=SHIFT, ndim=2), np.eye(3))
    point = np.zeros((1, 2))
    assert np.allclose(found.map_points(point), np.array([[0.75, 1.5]]), atol=1e-4)


@pytest.fixture
def shifted(tmp_path):
    """(pair, path of a model): the moving scan is the fixed one moved by what the model always says."""
    grid = centered((32, 30, 28), (1.0, 1.0, 1.0), np.eye(3))
    pair = Pair(blob(grid), blob(grid, shift_mm=np.array(SHIFT)))
    path = tmp_path / "model.safetensors"
    predictor = model(bias=SHIFT)
    save_model(path, predictor.network, predictor.card)
    return pair, str(path)


def config_of(path, schedule=PREDICT_ONLY, **changes) -> Config:
    return Config(method="feedforward", model=path, schedule=schedule, start=Start("identity", "none"), **changes)


def test_the_prediction_alone(shifted):
    pair, path = shifted
    session = RegistrationSession(pair, config_of(path))
    session.run(AffineTransform.identity(3))
    assert session.status is Status.CONVERGED
    points = np.random.default_rng(0).uniform(-6, 6, (30, 3))
    assert np.allclose(session.transform.map_points(points) - points, SHIFT, atol=1e-4)
    result = session.result()
    assert "predicted by the network" in result.message
    assert result.provenance["model"] == {"file": "model.safetensors", "sha256": load_sha(path)}


def load_sha(path: str) -> str:
    return json.loads(card_path(path).read_text())["sha256"]


@pytest.mark.parametrize("transform", ["diffeomorphic", "svf"])
def test_refining_starts_from_the_prediction(shifted, transform):
    """The first loss is already that of the right map; from the affine start alone it is far higher (the faces of the box do not move)."""
    pair, path = shifted
    config = config_of(path, Schedule((2,), (5,)), transform=Choice(transform), similarity=Choice("mse"))
    session = RegistrationSession(pair, config)
    session.run(AffineTransform.identity(3))
    alone = RegistrationSession(pair, config.replace(method="iterative", model=None))
    alone.run(AffineTransform.identity(3))
    first, without = session.result().history[0].loss, alone.result().history[0].loss
    assert first < 0.2 * without
    assert session.result().history[-1].loss <= first + 1e-6


def test_prompts_continue_without_asking_the_network_again(shifted, monkeypatch):
    pair, path = shifted
    session = RegistrationSession(pair, config_of(path))
    session.run(AffineTransform.identity(3))
    monkeypatch.setattr(feedforward, "load_model", lambda *_: pytest.fail("the network was asked again"))
    fixed = np.array([[0.0, 0.0, 0.0]])
    wanted = fixed + SHIFT + np.array([[1.5, 0.0, 0.0]])
    session.update(Prompts(landmarks=Landmarks(Points(fixed), Points(wanted))))
    assert np.abs(session.transform.map_points(fixed) - wanted).max() < 1.0


def test_cancelled_before_the_network_keeps_the_start(shifted):
    pair, path = shifted
    progress = Progress()
    session = RegistrationSession(pair, config_of(path), progress)
    progress.cancel()
    session.run(AffineTransform.identity(3))
    assert session.status is Status.CANCELLED
    assert np.allclose(session.transform.map_points(np.ones((1, 3))), 1.0)


def test_unfit_models_are_refused_before_any_work(shifted, tmp_path):
    pair, path = shifted
    with pytest.raises(ConfigError, match="--model"):
        RegistrationSession(pair, config_of(None))
    with pytest.raises(InputError, match="no such model"):
        RegistrationSession(pair, config_of(str(tmp_path / "absent.safetensors")))
    with pytest.raises(ConfigError, match="feedforward"):
        RegistrationSession(pair, config_of(path).replace(method="iterative"))
    flat = model(bias=SHIFT, ndim=2)
    save_model(tmp_path / "flat.safetensors", flat.network, flat.card)
    with pytest.raises(InputError, match="2-D scans"):
        RegistrationSession(pair, config_of(str(tmp_path / "flat.safetensors")))


def test_from_the_command_line(shifted, tmp_path, capsys):
    pair, path = shifted
    files = [str(tmp_path / f"{role}.nii.gz") for role in ("fixed", "moving")]
    for file, image in zip(files, (pair.fixed, pair.moving)):
        write_image(image, file)
    options = ["--start", "none", "--set", "schedule.iterations=[0,0,0]", "--json", "--quiet"]
    assert main(["register", *files, "-o", str(tmp_path / "out"), "--model", path, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["method"] == "feedforward" and printed["config"]["model"] == path
    assert printed["provenance"]["model"]["file"] == "model.safetensors"
    assert main(["register", *files, "-o", str(tmp_path / "no"), "--method", "feedforward"]) == 2
    assert "--model" in capsys.readouterr().err and not (tmp_path / "no").exists()
