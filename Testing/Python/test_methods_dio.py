"""Learned features in the place of intensities: the one solver, any transform, prompts, nothing computed twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from DeepDiffRegLib.budget import Voxels, estimate_bytes, plan
from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.io import write_image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.points import Landmarks, Points
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.methods import dio, features
from DeepDiffRegLib.methods._scans import filled
from DeepDiffRegLib.methods.features import network_grid, scan_features
from DeepDiffRegLib.networks import FEATURES, NETWORKS
from DeepDiffRegLib.networks.base import Architecture, FeatureNetwork
from DeepDiffRegLib.networks.weights import CanonicalGrid, Intensities, Model, ModelCard, load_model, save_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform

WHOLE = Preprocess((0.0, 100.0))
SCHEDULE = Schedule((2, 1), (25, 15), minimum_size=8)


def scene(geometry: Geometry, shift_mm=(0.0, 0.0, 0.0), seed: int = 0) -> Image:
    """Smooth bumps inside the grid, given in mm."""
    rng = np.random.default_rng(seed)
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1))
    points = points - np.array(shift_mm)[: geometry.ndim]
    values = np.zeros(geometry.shape)
    for _ in range(8):
        center = rng.uniform(8, 20, geometry.ndim)
        values += rng.uniform(0.4, 1.0) * np.exp(-((points - center) ** 2).sum(-1) / (2 * rng.uniform(2.5, 4.5) ** 2))
    return Image.from_array(values.astype(np.float32), geometry)


GRID = Geometry.identity((28, 28, 28))


def pair(ndim: int = 3, **prompts) -> Pair:
    grid = Geometry.identity((28,) * ndim)
    return Pair(scene(grid), scene(grid, (1.5, -1.0, 0.5)), Prompts(**prompts))


@dataclass(frozen=True)
class IdentityArchitecture(Architecture):
    scales: int = 1


class Identity(FeatureNetwork):
    """The scan as its own only feature, at full resolution."""

    centered, multiple = True, 1
    VARIANTS: ClassVar[dict[str, Architecture]] = {"only": IdentityArchitecture()}

    def __init__(self, architecture: IdentityArchitecture | None = None):
        super().__init__()
        self.architecture = architecture or self.variant()

    def features(self, scan, finest):
        return (scan,)


def card(network: str = "unet", ndim: int = 3, **changes) -> ModelCard:
    return ModelCard(network, {"ndim": ndim}, "none", "generated", preprocessing=Intensities((0.0, 100.0)), **changes)


@pytest.fixture
def identity(monkeypatch) -> str:
    """A model file that gives the scan itself."""
    monkeypatch.setattr(dio, "load_model", lambda path, *_: Model(Identity().eval(), card(sha256="identity")))
    return "models/identity.safetensors"


def untrained(tmp_path, name: str = "unet-e", ndim: int = 3, **changes) -> str:
    """A model file with random weights."""
    torch.manual_seed(1)
    kind = FEATURES.load(name)
    path = tmp_path / f"{name}{ndim}.safetensors"
    save_model(path, kind(kind.variant("light", ndim=ndim)), card(name, ndim, **changes))
    return str(path)


def config(model: str | None = None, transform: str | Choice = "diffeomorphic", **changes) -> Config:
    chosen = transform if isinstance(transform, Choice) else Choice(transform)
    return Config(**{
        "method": "dio" if model else "iterative", "model": model, "transform": chosen, "similarity": Choice("mse"),
        "schedule": SCHEDULE, "start": Start("identity", "none"), "preprocess": WHOLE, "device": "cpu", **changes,
    })  # fmt: skip


def moved(session: RegistrationSession, points: np.ndarray) -> np.ndarray:
    return session.transform.map_points(points)


def folds(transform, grid: Geometry = GRID) -> int:
    u = transform.displacement(grid)
    return int((jacobian_determinant(u, grid.spacing_mm, grid.rotation) <= 0).sum())


@pytest.mark.parametrize("transform", ["displacement", "diffeomorphic", "affine"])
def test_scans_as_features_give_the_map_of_the_scans(identity, transform):
    ours, theirs = (
        RegistrationSession(pair(), config(identity, transform)),
        RegistrationSession(pair(), config(None, transform)),
    )
    ours.run(), theirs.run()
    points = np.random.default_rng(0).uniform(6, 22, (40, 3))
    assert np.abs(moved(ours, points) - moved(theirs, points)).max() < 0.02
    assert np.abs(moved(theirs, points) - points).max() > 0.5


class Blind(Identity):
    """A feature that shows nothing."""

    def features(self, scan, finest):
        return (torch.zeros_like(scan),)


@pytest.mark.parametrize("further", [(), (Choice("lncc"),), (Choice("mind"),)], ids=["alone", "lncc", "mind"])
def test_further_similarities_see_the_scans_themselves(monkeypatch, further):
    """Where the features show nothing, the map is the one that the scans give; without them nothing moves."""
    monkeypatch.setattr(dio, "load_model", lambda path, *_: Model(Blind().eval(), card(sha256="blind")))
    session = RegistrationSession(pair(), config("models/blind.safetensors", further_similarities=further))
    session.run()
    points = np.random.default_rng(0).uniform(6, 22, (40, 3))
    expected = points
    if further:
        plain = RegistrationSession(pair(), config(similarity=further[0]))
        plain.run()
        expected = moved(plain, points)
        assert np.abs(expected - points).max() > 0.5
    assert np.abs(moved(session, points) - expected).max() < 0.02


@pytest.mark.parametrize("transform", ["diffeomorphic", "affine"])
def test_further_similarities_act_by_their_weight(transform):
    """Squared differences shrink what is darker in the moving scan; correlation leaves it alone, the more the heavier it is."""
    fixed = scene(GRID)
    both = Pair(fixed, Image(fixed.tensor * 0.6, fixed.geometry), Prompts())
    points = np.random.default_rng(0).uniform(8, 20, (60, 3))
    lengths = []
    for further in ((), (Choice("ncc", weight=0.5),), (Choice("ncc", weight=4.0),)):
        preprocess = Preprocess((0.0, 100.0), window=(0.0, 3.0))
        session = RegistrationSession(
            both, config(None, transform, further_similarities=further, preprocess=preprocess)
        )
        session.run()
        lengths.append(np.linalg.norm(moved(session, points) - points, axis=1).mean())
        terms = session.result().history[-1].terms
        assert set(terms) == ({"scans", "scans: ncc"} if further else {"scans"})
    assert lengths[2] < 0.8 * lengths[1] < 0.8 * lengths[0]


def test_further_similarities_are_checked():
    with pytest.raises(ConfigError, match="further_similarities: weights must be positive"):
        Config(further_similarities=(Choice("lncc", weight=0.0),))
    with pytest.raises(ConfigError, match="relative to that of similarity, whose weight is 0"):
        Config(similarity=Choice("lncc", weight=0.0), further_similarities=(Choice("mind"),))
    plain, more = (Config(further_similarities=f) for f in ((), (Choice("mind"),)))
    assert estimate_bytes(Voxels(*(10**6,) * 3), more) > estimate_bytes(Voxels(*(10**6,) * 3), plain) + 8 * 12 * 10**6
    assert Config.from_dict(more.to_dict()) == more


def test_transforms_and_prompts_change_with_the_same_features(tmp_path, monkeypatch):
    """The network is asked once per scan; every transform brings the scans together, the diffeomorphic ones without folds."""
    asked = []
    compute = features.scan_features
    monkeypatch.setattr(dio, "scan_features", lambda image, *rest: asked.append(image) or compute(image, *rest))
    model = untrained(tmp_path)
    session = RegistrationSession(pair(), config(model))
    before = float((session.problem.fixed - session.problem.moving).square().mean())
    plain = Choice("displacement", {"optimizer": "sgd"})
    for transform in ("diffeomorphic", "svf", "affine", plain, "lddmm"):
        few = Schedule((2,), (8,), minimum_size=8) if transform == "lddmm" else SCHEDULE
        session.configure(config(model, transform, schedule=few))
        session.run()
        warped = session.warped().tensor
        fixed = session.pair.fixed.tensor
        assert float((warped - fixed).square().mean()) < 0.6 * before * float(fixed.max()) ** 2
        if transform in ("diffeomorphic", "svf", "lddmm"):
            assert folds(session.transform) == 0
    assert len(asked) == 2
    session.configure(config(model))
    session.run()
    place = np.array([[14.0, 14.0, 14.0], [10.0, 17.0, 12.0]])
    target = moved(session, place) + [[2.0, 1.5, 0.0], [0.0, 0.0, 1.5]]
    session.update(Prompts(landmarks=Landmarks(Points(place), Points(target))))
    assert np.linalg.norm(moved(session, place) - target, axis=1).max() < 1.0
    assert folds(session.transform) == 0 and len(asked) == 2


def test_scans_are_shown_alike_however_they_are_stored(tmp_path):
    """Exchanged and reversed axes change neither the features nor their places; a model's own spacing is met."""
    torch.manual_seed(0)
    kind = FEATURES.load("lku-e")
    model = Model(kind(kind.variant("light")).eval(), card("lku-e"))
    grid = Geometry((20, 16, 24), (1.0, 1.5, 0.8), (3.0, -4.0, 5.0), np.eye(3).tolist())
    plain = scene(grid)
    direction = np.eye(3)[:, [2, 0, 1]] * [-1.0, 1.0, -1.0]
    origin = grid.to_world((0, 15, 23))
    turned = Image(
        plain.tensor.permute(0, 1, 3, 4, 2).flip(2, 4).contiguous(),
        Geometry((24, 20, 16), (0.8, 1.0, 1.5), tuple(origin), direction.tolist()),
    )
    index = np.array([[3.0, 5.0, 7.0]])
    back = turned.geometry.to_index(grid.to_world(index)).round().astype(int)[0]
    assert float(turned.tensor[(0, 0, *back[::-1])]) == float(plain.tensor[0, 0, 7, 5, 3])
    for (a, g), (b, h) in zip(scan_features(plain, model).images, scan_features(turned, model).images):
        assert g.same_grid(h) and torch.allclose(a, b, atol=1e-3)
    canonical = CanonicalGrid((10, 10, 10), (2.0, 2.0, 2.0), tuple(map(tuple, direction.tolist())))
    shown = network_grid(grid, canonical)
    assert np.allclose(shown.rotation, direction) and np.allclose(shown.spacing_mm, 2.0, rtol=0.1)
    assert np.allclose(shown.center_mm, grid.center_mm)


@pytest.mark.parametrize(("network", "left"), [("scan", 0.25), ("unet", 0.8)])
def test_two_dimensions_and_different_grids(tmp_path, monkeypatch, network, left):
    """What is left of the difference: little with the scans as features; random features know nothing of the other voxel size."""
    model = untrained(tmp_path, "unet", 2)
    if network == "scan":
        flat = Model(Identity(IdentityArchitecture(2)).eval(), card(ndim=2))
        monkeypatch.setattr(dio, "load_model", lambda path, *_: flat)
    fine = Geometry((40, 37), (0.7, 0.75), (0.5, 0.3), np.eye(2).tolist())
    scans = Pair(scene(Geometry.identity((28, 28))), scene(fine, (1.5, -1.0)), Prompts())
    session = RegistrationSession(scans, config(model))
    session.run()
    result = session.result()
    errors = (result.warped.tensor - scans.fixed.tensor).abs().mean()
    still = RegistrationSession(scans, config(model))
    still.resume(AffineTransform.identity(2))
    assert float(errors) < left * float((still.warped().tensor - scans.fixed.tensor).abs().mean())
    assert result.config.method == "dio" and result.status in (Status.CONVERGED, Status.MAX_STEPS)


def test_only_the_resolutions_that_are_looked_at_are_computed(tmp_path):
    model = untrained(tmp_path)
    session = RegistrationSession(pair(), config(model, schedule=Schedule((4, 2), (3, 3), minimum_size=6)))
    session.run()
    kept = session.problem.cache[dio.KEPT]
    assert kept.finest == 2 and [i.shape[2:] for i, _ in kept.both[0].images] == [(7,) * 3, (14,) * 3]
    session.configure(config(model, schedule=Schedule((1,), (2,))))
    session.run()
    assert session.problem.cache[dio.KEPT].finest == 1


def test_half_precision_gives_nearly_the_same(tmp_path):
    model = untrained(tmp_path)
    points = np.random.default_rng(0).uniform(8, 20, (30, 3))
    found = []
    for half in (False, True):
        session = RegistrationSession(pair(), config(model, half_precision=half))
        session.run()
        found.append(moved(session, points))
    stored = session.features()[0].images[0][0]
    assert stored.dtype == torch.float16
    assert np.abs(found[0] - found[1]).max() < 0.1


def test_memory_of_features_is_planned():
    voxels = Voxels(10**6, 10**6, 10**6)
    ours, plain = (config(m) for m in ("model.safetensors", None))
    assert estimate_bytes(voxels, ours) > estimate_bytes(voxels, plain) + 300 * 10**6
    limited = ours.replace(max_memory_gb=None)
    assert estimate_bytes(voxels, limited.replace(half_precision=True)) < estimate_bytes(voxels, limited)
    assert plan(Voxels(1000, 1000, 1000), ours, torch.device("cpu")).message == ""


def test_unfit_models_are_refused_before_any_work(tmp_path):
    kind = NETWORKS.load("voxelmorph1")
    other = tmp_path / "vm.safetensors"
    save_model(other, kind(kind.variant("light")), card("voxelmorph1"))
    flat, good = untrained(tmp_path, ndim=2), untrained(tmp_path)
    for wanted, error, says in (
        (config(None).replace(method="dio"), ConfigError, "needs a model"),
        (config(str(tmp_path / "none.safetensors")), InputError, "no such model"),
        (config(str(other)), InputError, "feedforward"),
        (config(flat), InputError, "2-D"),
        (config(good, similarity=Choice("mind")), ConfigError, "descriptors"),
        (config(good).replace(method="feedforward"), ConfigError, "method 'dio'"),
        (config(good).replace(method="iterative"), ConfigError, "'feedforward' and 'dio'"),
    ):
        with pytest.raises(error, match=says):
            RegistrationSession(pair(), wanted)


def test_cancelled_before_the_features(tmp_path):
    progress = Progress()
    session = RegistrationSession(pair(), config(untrained(tmp_path)), progress)
    progress.cancel()
    session.run()
    assert session.status is Status.CANCELLED and not session.problem.cache


def test_on_the_command_line(tmp_path, capsys):
    files = []
    for name, image in zip(("fixed", "moving"), (pair().fixed, pair().moving)):
        files.append(str(tmp_path / f"{name}.nii.gz"))
        write_image(image, files[-1])
    model = untrained(tmp_path)
    arguments = ["--method", "dio", "--model", model, "--similarity", "mse", "--set", "schedule.factors=[4]"]
    arguments += ["--set", "schedule.iterations=[5]", "--json"]
    assert main(["register", *files, "-o", str(tmp_path / "out"), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["method"] == "dio" and printed["config"]["model"] == model
    assert main(["register", *files, "-o", str(tmp_path / "no"), "--method", "dio"]) == 2
    assert "needs a model" in capsys.readouterr().err


def test_the_border_of_a_mask_is_no_edge_for_the_network(tmp_path):
    """Voxels outside take the nearest value inside; a mask that is sent again changes nothing, another one does."""
    grid = Geometry((12, 10, 8), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), np.eye(3).tolist())
    values = np.arange(960, dtype=np.float32).reshape(grid.shape)
    inside = np.zeros(grid.shape, np.float32)
    inside[2:6, 3:8, 4:9] = 1
    scan = Image.from_array(values, grid)
    found = filled(scan, torch.from_numpy(inside)[None, None])
    clipped = np.meshgrid(
        *(np.clip(np.arange(n), a, b) for n, a, b in zip(grid.shape, (2, 3, 4), (5, 7, 8))), indexing="ij"
    )
    assert np.array_equal(found.numpy(), values[tuple(clipped)])
    assert filled(scan, None) is scan and filled(scan, torch.ones(1, 1, *grid.shape)) is scan

    mask = Image.from_array(np.pad(np.ones((16,) * 3, np.float32), 6), GRID, "mask")
    plain = pair().fixed
    spoiled = Image(torch.where(mask.tensor > 0, plain.tensor, 7.0), GRID)
    model = load_model(untrained(tmp_path))
    seen = [scan_features(image, model, weight=mask.tensor) for image in (plain, spoiled)]
    for (a, _), (b, _) in zip(*(pyramid.images for pyramid in seen)):
        assert torch.equal(a, b)
    session = RegistrationSession(pair(fixed_mask=mask), config(untrained(tmp_path), schedule=Schedule((4,), (2,))))
    session.run()
    first = session.features()
    session.update(Prompts(fixed_mask=Image(mask.tensor.clone(), GRID, "mask")))
    assert session.features() is first
    session.update(Prompts())
    assert session.features() is not first and session.result().features is session.features()


def test_features_belong_to_the_map_that_is_shown(tmp_path):
    """A run on the scans has none; undone, the one on features is shown with what it compared, though nothing is solved."""
    session = RegistrationSession(pair(), config(untrained(tmp_path), schedule=Schedule((4,), (2,))))
    session.resume(AffineTransform.identity(3))
    assert session.result().features is None
    seen = session.features()
    assert [image.shape[1] for image, _ in seen[0].images] == [8]
    session.configure(config(None, schedule=Schedule((4,), (2,))))
    session.run()
    assert session.features() is None and session.result().features is None
    session.undo()
    assert session.features() is seen and session.result().features is seen
