"""Experiments that train 2-D networks, on tiny plans: what they measure is true, and training with the idea beats training without."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.errors import Cancelled, InputError
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.networks.base import Prediction
from DeepDiffRegLib.progress import Progress, Step
from DeepDiffRegLib.reproduce import lambda_sweep, surface, tvf
from DeepDiffRegLib.reproduce._published import SLICES
from DeepDiffRegLib.reproduce.trained import Part, Recipe, trained


def by_name(outcome) -> dict:
    return {criterion.name: criterion for criterion in outcome.criteria}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def noise(step: int) -> dict:
    drawn = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(step))
    return {"moving": drawn[0], "fixed": drawn[1]}


def test_a_recipe_gives_the_same_network_again():
    recipe = Recipe("voxelmorph2", ("lncc", "diffusion"), 2)
    first, again, other = (trained(recipe, noise, seed).state_dict() for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)


def test_training_is_cancelled_and_reports_its_share():
    class Told(Progress):
        def report(self, step: Step) -> None:
            fractions.append(step.fraction)

    fractions, progress = [], Told()
    trained(Recipe("voxelmorph2", ("lncc",), 4), noise, 0, Part(progress, (0.5, 0.7)))
    assert fractions[-1] == pytest.approx(0.7) and min(fractions) > 0.5
    progress.cancel()
    with pytest.raises(Cancelled):
        trained(Recipe("voxelmorph2", ("lncc",), 4), noise, 0, Part(progress))


# surface


def test_the_border_of_the_structures_is_not_in_the_picture():
    for number in range(5):
        scene = surface.Scene.drawn(0, surface.TRAIN, number, 48)
        front, behind = (scene.labels == label for label in surface.STRUCTURES)
        assert front.sum() > 50 and behind.sum() > 20
        touching = front[:, :-1] & behind[:, 1:]
        touching[1:] &= touching[:-1]  # without its upper end, where the outline is near
        middle = np.argwhere(touching)[len(np.argwhere(touching)) // 2]
        assert scene.image[middle[0], middle[1]] == scene.image[middle[0], middle[1] + 1] == 1
        points = scene.surfaces.points[scene.surfaces.structure == 0]
        radius = np.sqrt(front.sum() / np.pi)
        center = np.argwhere(front).mean(0)[::-1]
        assert np.abs(np.linalg.norm(points - center, axis=1) - radius).max() < 1.2


def test_surface_batches_depend_on_the_step_alone():
    plan = surface.Plan(size=32, scenes=6, batch=2, points=16)
    draw = surface.Pairs(plan)
    assert same(draw(3), surface.Pairs(plan)(3)) and not same(draw(3), draw(4))
    assert draw(0)["moving_points"].shape == (2, 16, 2) and draw(0)["fixed_distance"].shape == (2, 2, 32, 32)
    tested = surface.held_out(surface.Plan(size=32, pairs=3))
    assert not any(np.array_equal(s.image, p["moving"][0, 0]) for s in draw.scenes for p in tested)


def test_surface_distance_of_shifted_and_missing_structures():
    band = np.zeros((20, 30), bool)
    band[:, 10:20] = True
    assert surface.surface_mm(band, np.roll(band, 0, 1)) == 0
    thin = np.zeros((20, 30), bool)
    thin[:, 5] = True
    assert surface.surface_mm(thin, np.roll(thin, 3, 1)) == pytest.approx(3.0)
    assert surface.surface_mm(thin & ~thin, thin) == pytest.approx(np.hypot(20, 30))


def test_the_surface_term_brings_structures_together(tmp_path):
    sigmas = (surface.NONE, 0.5, surface.PUBLISHED)
    plan = surface.Plan(sigmas, 32, scenes=40, pairs=16, steps=120, points=64, learning_rate=2e-3)
    outcome = surface.SurfaceTerm().judge(plan, tmp_path, Progress())
    rows, before = outcome.details["by_sigma_mm"], outcome.details["before"]
    without, steered = rows["without"], rows["0.5"]
    assert np.mean(steered["dice"]) > np.mean(without["dice"]) + 0.01 > np.mean(before["dice"]) + 0.05
    assert np.mean(steered["surface_mm"]) < 0.95 * np.mean(without["surface_mm"])
    assert steered["folds"] < 0.001 and steered["removed"] > 0.95 * without["removed"]
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


# lambda-sweep


def phantom(rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """A head of three gray values: bright, a darker rim of changing width and a dark ellipse inside."""
    y, x = (np.indices((size, size)) - (size - 1) / 2) / size
    outer = np.hypot(x / rng.uniform(0.36, 0.46), y / rng.uniform(0.36, 0.46))
    inner = np.hypot(x / rng.uniform(0.08, 0.16), y / rng.uniform(0.08, 0.16))
    image = np.where(outer < 1, 0.5, 0.0)
    image[outer < rng.uniform(0.6, 0.8)] = 0.9
    image[inner < 1] = 0.1
    return image.astype(np.float32)


def phantoms(count: int) -> lambda_sweep.Slices:
    images = np.stack([phantom(np.random.default_rng(number)) for number in range(count)])
    found = [np.select([image > 0.7, image > 0.3, image > 0.05], [3, 2, 1]) for image in images]
    smooth = np.stack([gaussian(torch.from_numpy(image)[None, None], 0.7)[0, 0].numpy() for image in images])
    return lambda_sweep.Slices(smooth, np.stack(found).astype(np.int32))


def test_classes_of_gray_values():
    values = np.repeat([0.1, 0.5, 0.9], (50, 80, 100)) + np.random.default_rng(0).normal(0, 0.02, 230)
    assert lambda_sweep.three_means(values) == pytest.approx([0.1, 0.5, 0.9], abs=0.02)
    image = phantom(np.random.default_rng(1), 96)
    labels = lambda_sweep.tissue(image)
    truth = np.select(
        [image > 0.7, image > 0.3, image > 0.05], [lambda_sweep.WHITE, lambda_sweep.GRAY, lambda_sweep.CSF]
    )
    inner = minimum_filter(truth, 11) == maximum_filter(truth, 11)
    assert np.array_equal(labels[inner], truth[inner]) and set(truth[inner]) == {0, 1, 2, 3}, (
        "all that is dark lies deep"
    )
    assert (labels == truth).mean() > 0.95, "only borders move, as little as the Gaussian is wide"
    assert np.array_equal(labels == 0, truth == 0)
    image[:, 45:50] *= image[:, 45:50] > 0.3
    shallow = image.copy()
    shallow[np.argwhere(image > 0)[0][0] + 4 :][:3] = 0.1
    assert not (lambda_sweep.tissue(shallow)[:12] == lambda_sweep.CSF).any()


def test_training_and_held_out_slices_are_apart():
    plan = lambda_sweep.Plan(slices=(4, 3), pairs=50, batch=3)
    slices = phantoms(7)
    tested = lambda_sweep.held_out(slices, plan)
    assert len(tested) == 6
    draw = lambda_sweep.Pairs(slices, plan)
    seen = {image.numpy().tobytes() for step in range(20) for image in draw(step)["moving"]}
    assert len(seen) == 4 and not seen & {pair["moving"].numpy().tobytes() for pair in tested}
    assert same(draw(2), lambda_sweep.Pairs(slices, plan)(2))


def test_networks_beat_affine_and_lambda_smooths(tmp_path):
    plan = lambda_sweep.Plan((0.0, lambda_sweep.CHOSEN, 15.0), "light", (20, 4), 12, 80, 2, 5e-3)
    outcome = lambda_sweep.LambdaSweep().judge(plan, phantoms(24), tmp_path, Progress())
    rows, found = outcome.details, by_name(outcome)
    second = rows["voxelmorph2"]
    assert (
        second["1.5"]["dice"] > rows["affine"]["dice"] + 0.04
        and rows["voxelmorph1"]["dice"] > rows["affine"]["dice"] + 0.04
    )
    assert second["15"]["sdlogj"] < 0.8 * second["0"]["sdlogj"]
    order = found["the same, VM-2 less VM-1"]
    assert order.value == pytest.approx(second["1.5"]["dice"] - rows["voxelmorph1"]["dice"], abs=1e-3)
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(rows, allow_nan=False)


def test_without_slices_it_says_what_is_needed(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DEEPDIFFREG_DATA", str(tmp_path))
    assert main(["reproduce", "lambda-sweep", "-o", str(tmp_path / "out"), "--quiet", "--quick"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "DEEPDIFFREG_DATA" in error and "60 slices" in error
    assert not (tmp_path / "out").exists()


def test_real_slices_have_all_classes(data_folder, monkeypatch):
    if not list(data_folder.glob(SLICES)):
        pytest.skip(f"needs the slices of brains among the real scans: {SLICES}")
    monkeypatch.setenv("DEEPDIFFREG_DATA", str(data_folder))
    slices = lambda_sweep.Slices.read(4)
    assert slices.images.shape == slices.labels.shape == (4, 128, 128) and slices.images.max() <= 1
    for image, labels in zip(slices.images, slices.labels):
        means = [image[labels == label].mean() for label in (1, 2, 3)]
        assert means == sorted(means) and all((labels == label).sum() > 100 for label in (1, 2, 3))
    with pytest.raises(InputError, match="found"):
        lambda_sweep.Slices.read(10_000)


# tvf


def velocities(count: int = 6, n: int = 48) -> tuple[torch.Tensor, ...]:
    drawn = torch.randn(count, 1, 2, n, n, generator=torch.Generator().manual_seed(1))
    return tuple(20 * gaussian(v, 5.0) for v in drawn)


def test_inverses_in_the_published_order():
    fields = velocities()
    prediction = Prediction(fields, "time_varying", 2.0, (2.0, 2.0))
    errors = tvf.inverse_errors(prediction)
    assert errors[tvf.REVERSED] < 0.5 * errors[tvf.NAIVE] and errors[tvf.REVERSED] < errors[tvf.SAME]
    assert errors[tvf.MIDPOINT] < 0.5 * errors[tvf.REVERSED]
    fine = tvf.inverse_errors(Prediction(fields, "time_varying", 1.0, (1.0, 1.0)))
    assert errors[tvf.NAIVE] == pytest.approx(2 * fine[tvf.NAIVE], rel=1e-4), "pixels of the scans"


def test_constant_velocities_add_up_and_have_an_exact_inverse():
    constant = torch.tensor([0.5, -0.25]).reshape(1, 2, 1, 1).expand(1, 2, 16, 16)
    assert torch.allclose(tvf.euler([constant] * 4), 4 * constant, atol=1e-6)
    errors = tvf.inverse_errors(Prediction((constant,) * 4, "time_varying", 2.0, (2.0, 2.0)))
    assert max(errors.values()) < 1e-5


def test_shape_batches_depend_on_the_step_alone():
    plan = tvf.Plan(size=32, shapes=3, batch=2)
    draw = tvf.Pairs(plan)
    assert same(draw(1), tvf.Pairs(plan)(1)) and not same(draw(1), draw(2))
    tested = tvf.held_out(tvf.Plan(size=32, pairs=2))
    assert {t.dtype for pair in tested for name, t in pair.items() if "labels" in name} == {torch.int32}


def test_velocities_beat_one_displacement(tmp_path):
    plan = tvf.Plan(velocities=4, shapes=20, pairs=6, steps=60)
    outcome = tvf.TimeVarying().judge(plan, tmp_path, Progress())
    rows = outcome.details
    assert rows[tvf.TVF]["lncc"] > max(rows[tvf.BASE]["lncc"], rows["before"]["lncc"]) + 0.02
    assert rows[tvf.LDDMM]["mse"] < 0.8 * rows["before"]["mse"] and rows[tvf.LDDMM]["folds"] < 0.001
    errors = rows[tvf.TVF]["inverse_pixels"]
    assert errors[tvf.MIDPOINT] < errors[tvf.REVERSED] < errors[tvf.NAIVE]
    assert all(path.stat().st_size > 3000 for path in outcome.figures)
    json.dumps(rows, allow_nan=False)
