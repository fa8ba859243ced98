"""Networks that give features, trained through the solver: exact derivatives, one side at a time, scale by scale, exact resume."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from dataclasses import dataclass

import feature_bed as bed
import numpy as np
import pytest
import torch
from test_training_data import write_scans, write_table

from DeepDiffRegLib.config import Choice
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import pull_gradient, warp, warp_index, warped_gradient
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.methods.implicit import Layer
from DeepDiffRegLib.networks.base import Architecture, FeatureNetwork
from DeepDiffRegLib.networks.weights import load_model
from DeepDiffRegLib.result import Status
from DeepDiffRegLib.similarity.mean_squares import MeanSquares
from DeepDiffRegLib.training.checkpoint import read_checkpoint
from DeepDiffRegLib.training.devices import LossModule
from DeepDiffRegLib.training.feature_task import clamped, nearest
from DeepDiffRegLib.training.loop import fit
from DeepDiffRegLib.training.structure_losses import _one_by_one, _together
from DeepDiffRegLib.training.tasks import make_terms

KILLS = 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def in_double():
    """Differences of losses need all digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass(frozen=True)
class WavesArchitecture(Architecture):
    scales: int = 1


class Waves(FeatureNetwork):
    """One convolution and a sine: smooth in its weights."""

    centered = True
    multiple = 1

    def __init__(self, architecture=None):
        super().__init__()
        self.architecture = architecture or WavesArchitecture(ndim=2)
        self.convolution = torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="replicate")

    def features(self, scan, finest):
        return (torch.sin(3 * self.convolution(scan)),)


def smooth(step: int) -> dict[str, torch.Tensor]:
    """A pair of 9 x 10 pixels with a shift of about a third of a pixel."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(10.0), indexing="ij")

    def scene(shift):
        return (0.5 + 0.2 * torch.sin(0.8 * x + shift) + 0.25 * torch.cos(0.7 * y - 0.3 * x + 0.8 * shift))[None, None]

    return {"moving": scene(0.0), "fixed": scene(0.3)}


def loss_of(task, step: int = 0) -> torch.Tensor:
    """As the loop asks for it."""
    return LossModule(task, "32")(task.batch(step) | {"row": torch.arange(1)}, step)[0]


def test_derivative_through_the_layer_is_that_of_training_again(in_double):
    """With ``ift`` and a solver that has converged, differences of the loss along any change of the weights."""
    layer = Layer(
        Choice("displacement", {"optimizer": "sgd", "learning_rate": 0.5, "sigma_warp_voxels": 0.0}),
        iterations=(600,), tolerance=0.0, regularization=(Choice("diffusion", {}, 0.3),),
        backward="ift", inverse_iterations=150, inverse_tolerance=1e-11,
    )  # fmt: skip
    torch.manual_seed(3)
    task = bed.task_of(
        layer, [{"name": "mse", "image_sigma": 1.0}], Waves().double(), smooth, one_sided=False, clamp=None
    )
    weights = list(task.network.parameters())
    exact = torch.autograd.grad(loss_of(task), weights)
    torch.manual_seed(4)
    for _ in range(2):
        along = [torch.randn_like(w) for w in weights]
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for w, a in zip(weights, along):
                    w.add_(a, alpha=sign * 1e-5)
            values.append(float(loss_of(task).detach()))
            with torch.no_grad():
                for w, a in zip(weights, along):
                    w.sub_(a, alpha=sign * 1e-5)
        expected = (values[0] - values[1]) / 2e-5
        assert float(sum((g * a).sum() for g, a in zip(exact, along))) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def asked(task, step: int) -> list[tuple[str, int, bool]]:
    """(scan, finest stride, whether its features track gradients) of every question to the network in a step."""
    batch, found = task.batch(step), []

    def ask(scan, finest):
        features = task.network(scan, finest)
        role = "fixed" if torch.equal(scan, batch["fixed"]) else "moving"
        found.append((role, finest, features[0].requires_grad))
        return features

    task.loss(ask, batch | {"row": torch.arange(2)}, step)[0].backward()
    return found


def test_each_step_learns_from_one_scan_drawn_by_a_fair_coin():
    task = bed.task_of()
    learns = [task.learns(step) for step in range(400)]
    assert 160 < sum(roles == ("fixed",) for roles in learns) < 240 and all(len(roles) == 1 for roles in learns)
    for step in (next(s for s, roles in enumerate(learns) if roles == (role,)) for role in ("fixed", "moving")):
        tracked = {role: tracks for role, _, tracks in asked(task, step)}
        assert tracked == {"fixed": learns[step] == ("fixed",), "moving": learns[step] == ("moving",)}
    both = bed.task_of(one_sided=False)
    assert all(tracks for _, _, tracks in asked(both, 0))


def test_finer_scales_join_and_do_more_and_more_iterations():
    task = bed.task_of(joins=(4,), gradual=0.5)
    assert [finest for _, finest, _ in asked(task, 3)] == [2, 2]
    assert [finest for _, finest, _ in asked(task, 4)] == [1, 1]
    found = [task.layer_of(step).iterations for step in (0, 2, 4, 8, 100)]
    assert found == [(1,), (2,), (3, 1), (5, 3), (8, 5)]
    assert bed.task_of().layer_of(0).iterations == (8, 5)


def test_loss_of_a_batch_is_the_mean_of_its_pairs():
    """Whether worked on together or in parts, and its scales count alike."""
    task = bed.task_of()
    batch = task.batch(0)
    whole, parts = task.loss(task.network, batch | {"row": torch.arange(2)}, 0)
    alone = [{k: t[row : row + 1] for k, t in batch.items()} | {"row": torch.tensor([row])} for row in range(2)]
    single = [task.loss(task.network, own, 0)[0] for own in alone]
    assert float(whole.detach()) == pytest.approx(float(sum(single).detach()) / 2, rel=1e-5)
    assert float(whole.detach()) == pytest.approx(float((parts["mse"] + parts["dice"]).detach()), rel=1e-6)


def test_training_learns_generated_pairs():
    task = bed.task_of()
    before = task.validate()
    found = fit(task, bed.bed.options(steps=60, validate_every=30, learning_rate=5e-3))
    losses = [entry["loss"] for entry in found.history if "loss" in entry]
    assert found.status is Status.MAX_STEPS and losses[-1] < 0.8 * losses[0]
    assert found.metrics["dice"] > before["dice"] and found.metrics["dice"] > found.metrics["dice_before"] + 0.03
    assert found.metrics["folds_percent"] < 1


def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["feature_bed", "lightning_fabric.strategies", "numba"])
    whole = bed.train(str(tmp_path / "whole"))
    moments, folder = random.Random(5), tmp_path / "killed"
    for _ in range(KILLS):
        begun = context.Event()
        process = context.Process(target=bed.train, args=(str(folder), begun))
        process.start()
        assert begun.wait(60)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.join()
    assert read_checkpoint(folder)[1]["step"] > 0
    found = bed.train(str(folder))
    assert found.step == whole.step and found.metrics == whole.metrics
    for (name, own), other in zip(found.network.state_dict().items(), whole.network.state_dict().values()):
        assert torch.equal(own, other), name


def test_a_large_gradient_is_clamped_among_those_that_are_not_zero():
    gradient = torch.zeros(2, 2, 10, 10)
    gradient[0, 0, 0] = torch.arange(1.0, 11.0)
    found = clamped(gradient, 0.8)
    assert found[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8] and not found[1].any()
    assert torch.equal(clamped(-gradient, 0.8), -found)


def test_labels_of_a_coarser_scale_are_those_at_its_voxels():
    labels = torch.arange(64).reshape(1, 1, 8, 8)
    fine = Geometry.identity((8, 8))
    coarse = Geometry((4, 4), (2.0, 2.0), (0.0, 0.0), np.eye(2).tolist())
    assert torch.equal(nearest(labels, fine, coarse), labels[..., ::2, ::2])
    assert nearest(labels, fine, fine) is labels


def test_wrong_choices_are_refused():
    for options, says in (
        ({"layer": Layer(iterations=(3,))}, "2 resolutions need 2 numbers"),
        ({"joins": (1, 2)}, "1 steps at which finer ones"),
        ({"joins": (-1,)}, "do not decrease"),
        ({"clamp": 2.0}, "share"),
        ({"gradual": 0.0}, "positive iterations"),
        ({"losses": ["surface"]}, "loss 'surface'"),
        ({"losses": [{"name": "mse", "symmetric": True}]}, "'symmetric' needs an inverse"),
        ({"losses": ["kl"]}, "loss 'kl' does not fit this network"),
    ):
        with pytest.raises(ConfigError, match=says):
            bed.task_of(**options)
    task = bed.task_of(draw=lambda step: {k: t for k, t in bed.pairs(step).items() if "labels" not in k})
    with pytest.raises(InputError, match="loss 'dice' needs 'moving_labels'"):
        task.batch(0)


def test_memory_that_does_not_suffice_makes_parts_and_then_patches():
    task = bed.task_of(draw=lambda step: bed.pairs(step, shape=(40, 48)))
    assert task.shrink((40, 48)) and task.patch == (40, 24)
    assert tuple(task.batch(0)["fixed"].shape) == (2, 1, 40, 24)
    loss_of(task).backward()


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("weighted", (True, False))
@pytest.mark.parametrize("derivative", ("pull", "warped"))
def test_value_and_force_at_once_are_those_of_the_single_steps(ndim, weighted, derivative):
    """Channels side by side in memory go through the compiled kernels; places outside the moving grid are among them."""
    torch.manual_seed(ndim)
    own, other = ((9, 11), (12, 10)) if ndim == 2 else ((6, 7, 9), (8, 7, 6))
    fixed, moving, u = torch.rand(1, 5, *own), torch.rand(1, 5, *other), 3 * torch.randn(1, ndim, *own)
    weight = torch.rand(1, 1, *own) if weighted else None
    matrix = np.eye(ndim, ndim + 1) * 1.1 + np.random.default_rng(0).normal(0, 0.05, (ndim, ndim + 1))
    measure = MeanSquares()
    pair = [measure.laid_out(t) for t in (fixed, moving)]
    value, force = measure.force(*pair, weight, u, matrix, derivative)
    exact = [t.double() for t in (fixed, moving, u)]
    warped = warp(exact[1], exact[2], matrix)
    assert torch.allclose(warp(pair[1], u, matrix).double(), warped, atol=1e-6)
    expected, residual = measure.value_and_gradient(exact[0], warped, weight)
    known = pull_gradient(*exact[1:], matrix, residual) if derivative == "pull" else warped_gradient(warped, residual)
    assert value == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(force.double(), known, atol=1e-6)
    assert measure.force(fixed, moving, weight, u, matrix, derivative) is None
    assert measure.force(*(t.double() for t in pair), weight, u, matrix, derivative) is None


def test_planes_are_smoothed_and_warped_as_torch_does():
    torch.manual_seed(0)
    image, u = torch.rand(1, 3, 11, 14), 3 * torch.randn(1, 2, 9, 8)
    assert torch.allclose(gaussian(image, (1.3, 0.6)), gaussian(image.double(), (1.3, 0.6)).float(), atol=1e-6)
    several = torch.rand(2, 3, 11, 14)
    assert torch.allclose(gaussian(several, 0.9), gaussian(several.double(), 0.9).float(), atol=1e-6)
    place = torch.empty_like(image)
    assert gaussian(image, 0.9, out=place) is place and torch.equal(place, gaussian(image, 0.9))
    assert torch.equal(gaussian(image.clone(), 0.9, out=image), place)
    matrix = np.eye(2, 3) * 1.2
    for padding in ("zeros", "border"):
        exact = warp(image.double(), u.double(), matrix, padding).float()
        away = (warp_index(u, matrix) % 1 - 0.5).abs().amax(1, keepdim=True) < 0.499
        assert torch.allclose(warp(image, u, matrix, padding) * away, exact * away, atol=1e-5)


def test_overlap_of_all_labels_at_once_is_that_of_one_after_the_other():
    torch.manual_seed(0)
    shape = (9, 10, 11)
    fixed = (gaussian(torch.rand(1, 1, *shape), 1.5) * 60 - 24).int()
    moving = (gaussian(torch.rand(1, 1, 9, 12, 11), 1.5) * 60 - 24).int()
    u = 2 * torch.randn(1, 3, *shape)
    wanted = sorted({int(v) for v in fixed.unique() if v > 0})[1:]
    assert len(wanted) > 4
    value, slope = _together(u, fixed, moving, wanted)
    expected, exact = _one_by_one(u, fixed, moving, wanted)
    assert value == pytest.approx(expected, rel=1e-6) and torch.allclose(slope, exact, atol=1e-7)
    assert float(exact.abs().max()) > 1e-4


@pytest.mark.parametrize("shape", [(24, 26), (12, 13, 24)])
def test_blurred_labels_pull_where_they_do_not_touch(shape):
    """Without blur there is no force; with it the derivative is that of finite differences, and leads to the partner."""
    fixed, moving = torch.zeros(1, 1, *shape, dtype=torch.int32), torch.zeros(1, 1, *shape, dtype=torch.int32)
    fixed[..., 5:8, 5:8], moving[..., 5:8, 14:17] = 1, 1
    still = torch.zeros(1, len(shape), *shape, dtype=torch.float64)

    def slope(blur_voxels: float, x: float = 0.0) -> tuple[float, float]:
        u = still.clone()
        u[:, 0] = x
        value, gradient = _one_by_one(u, fixed, moving, [1], blur_voxels)
        return value, float(gradient[:, 0].sum())

    assert abs(slope(0.0)[1]) < 1e-6 and slope(3.0)[1] < -1e-2, "u along x has to grow"
    secant = (slope(3.0, 0.301)[0] - slope(3.0, 0.299)[0]) / 0.002
    assert slope(3.0, 0.3)[1] == pytest.approx(secant, rel=1e-5)
    assert slope(3.0, 9.0)[0] < slope(3.0, 5.0)[0] < slope(3.0)[0]


@pytest.fixture
def config(tmp_path):
    """Writes a configuration for four small scans with labels; keyword arguments replace its sections."""
    write_table(tmp_path / "scans" / "table.csv", write_scans(tmp_path / "scans"))

    def write(**sections) -> str:
        values = {
            "network": {"name": "unet-e", "architecture": {"ndim": 2, "levels": [4, 8], "channels": 4}},
            "data": {"scans": "scans/table.csv", "validation": 2, "batch": 2},
            "layer": {"transform": {"name": "diffeomorphic", "learning_rate": 0.3}, "iterations": [8, 4]},
            "curriculum": {"joins": [4]},
            "losses": [{"name": "mse", "image_sigma": 0.5}, "dice"],
            "optimization": {
                "steps": 8, "learning_rate": 1e-3, "validate_every": 4, "checkpoint_every": 3, "log_every": 4, "device": "cpu",
                "tensorboard": False,
            },
        }  # fmt: skip
        values |= {name: {**values.get(name, {}), **s} if isinstance(s, dict) else s for name, s in sections.items()}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return str(path)

    return write


def test_a_trained_model_registers_a_pair_with_method_dio(config, tmp_path, command):
    outdir = tmp_path / "out"
    code, out, err = command("train", config(), "-o", str(outdir), "--threads", "1", "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    card = load_model(found["model"]).card
    assert card.network == "unet-e" and card.architecture["levels"] == [4, 8] and card.canonical is not None
    assert {"dice", "lncc", "folds_percent", "sdlogj"} <= card.metrics.keys()
    assert "through the solver with transform diffeomorphic, 8 4 iterations" in card.notes
    scans = [str(tmp_path / "scans" / f"scan{number}.mha") for number in (0, 1)]
    extra = ("--method", "dio", "--model", found["model"], "--threads", "1", "--json")
    code, out, err = command("register", *scans, "-o", str(tmp_path / "registered"), *extra)
    assert code == 0, err


def test_a_longer_run_resumed_equals_one_that_was_not_stopped(config, tmp_path, command):
    whole, part = tmp_path / "whole", tmp_path / "part"
    extra = ("--threads", "1", "--quiet")
    assert command("train", config(), "-o", str(whole), *extra)[0] == 0
    assert command("train", config(optimization={"steps": 5}), "-o", str(part), *extra)[0] == 0
    assert command("train", config(), "-o", str(part), "--resume", *extra)[0] == 0
    ends = [load_model(folder / "model.safetensors").card.sha256 for folder in (whole, part)]
    assert ends[0] == ends[1]


def test_bad_input_is_one_line(config, tmp_path, command):
    cases = [
        ({"losses": ["lncc", "kl"]}, "loss 'kl' does not fit this network"),
        ({"losses": ["lddmm"]}, "loss 'lddmm' does not fit this network"),
        ({"losses": ["surface"]}, "features are trained with 'dice'"),
        ({"layer": {"iterations": [8, 4, 2]}}, "2 resolutions need 2 numbers"),
        ({"layer": {"transform": "lddmm"}}, "transform 'lddmm'"),
        ({"layer": {"iteration": [8]}}, "layer: unknown key 'iteration'; did you mean 'iterations'"),
        ({"curriculum": {"joins": [5, 2]}}, "joins"),
        ({"network": {"name": "unet-f"}}, "unet-f"),
        (
            {"network": {"name": "voxelmorph2", "architecture": {"ndim": 2}}},
            "layer: belongs to networks that give features",
        ),
    ]
    for number, (sections, said) in enumerate(cases):
        outdir = tmp_path / f"out{number}"
        code, out, err = command("train", config(**sections), "-o", str(outdir), "--quiet")
        assert (code, out) == (2, ""), (said, err)
        assert err.count("\n") == 1 and said in err, err
        assert not (outdir / "model.safetensors").exists()


def test_terms_fit_what_the_solver_finds():
    network = bed.task_of().network
    assert [term.name for term in make_terms(["mse", "lncc", "diffusion", "dice"], network)] == [
        "mse",
        "lncc",
        "diffusion",
        "dice",
    ]
