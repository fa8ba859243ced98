"""The study of integration steps on a generated velocity: it measures what it says, and refuses what it cannot use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import Cancelled, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import Model, ModelCard, save_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.reproduce import _published
from DeepDiffRegLib.reproduce.integration_steps import (
    NAMES,
    PEAK_VOXELS,
    Case,
    IntegrationSteps,
    cheapest,
    measure,
    predicted_case,
    smooth_warp,
)
from DeepDiffRegLib.transforms.integrate import rk4


def bump_case(strength: float = 18.0, n: int = 24) -> Case:
    """A velocity that shrinks the middle along x, so much that a single step folds; the scans' grid is twice as fine."""
    own = Geometry((n, n, n), (2.0,) * 3, (0.0,) * 3, np.eye(3).tolist())
    grid = Geometry((2 * n - 1,) * 3, (1.0,) * 3, (0.0,) * 3, np.eye(3).tolist())
    x = torch.from_numpy(((np.indices(own.shape)[::-1] - (n - 1) / 2) / (n / 2)).astype(np.float32))
    window = torch.exp(-4 * (x**2).sum(0))
    velocity = strength * torch.stack((-x[0], 0.3 * x[2], 0.2 * x[0]))[None] * window
    scan = Image(torch.rand(1, 1, *grid.shape), grid)
    return Case(velocity, own, scan, scan, grid)


def test_the_criteria_of_a_tiny_case_and_its_figures(tmp_path):
    outcome = IntegrationSteps().judge(bump_case(), 6, tmp_path, Progress())
    found = {criterion.name: criterion for criterion in outcome.criteria}
    assert len(found) == 4 and all(c.passed for name, c in found.items() if not name.startswith("time"))
    rows = outcome.details["rows"]
    assert len(rows) == 7 * len(NAMES) and rows[0]["folds"] > 50 and rows[6]["folds"] == 0
    assert rows[0]["inverse_p99"] > 3 * rows[6]["inverse_p99"]
    assert all(path.stat().st_size > 5000 for path in outcome.figures)
    json.dumps(outcome.details, allow_nan=False)


def test_errors_and_folds_are_counted_in_voxels_of_the_scans():
    case = bump_case(4.0)
    row = measure(case, "scaling_squaring", 0, rk4(case.velocity, 16))
    # T = 0: u = v and its inverse -v, so that the miss at x is v(x - v(x)) - v(x), twice as many fine voxels
    inverse = case.velocity[0].numpy()
    index = np.indices(case.own.shape).astype(float)
    from scipy.ndimage import map_coordinates

    there = np.stack([map_coordinates(c, index - inverse[::-1], order=1, mode="nearest") for c in inverse])
    misses = 2 * np.linalg.norm(there - inverse, axis=0)
    assert row.inverse_mean == pytest.approx(misses.mean(), rel=0.02)
    assert row.inverse_p99 == pytest.approx(np.percentile(misses, 99), rel=0.03)
    strong = bump_case()
    determinants = jacobian_determinant(strong.full(strong.velocity), (1.0,) * 3)[0, 0, 1:-1, 1:-1, 1:-1]
    assert measure(strong, "quadrature", 0, strong.velocity).folds == int((determinants <= 0).sum()) > 0


def test_equally_good_means_fold_free_with_a_close_inverse():
    rows = [measure(bump_case(), "scaling_squaring", t, bump_case().velocity) for t in range(6)]
    assert cheapest(rows).good and not rows[0].good
    assert cheapest(rows[:1]) is rows[0], "none is good enough: the one with most steps"


def test_a_block_in_the_middle_keeps_places_and_units():
    case = bump_case()
    block = case.middle(10)
    assert block.own.size == (10, 10, 10) and block.velocity.shape[2:] == (10, 10, 10)
    assert torch.equal(block.velocity, case.velocity[:, :, 7:17, 7:17, 7:17])
    assert np.allclose(block.own.origin_mm, 14.0) and np.allclose(block.grid.origin_mm, 14.0)
    assert torch.allclose(block.full(block.velocity), case.full(case.velocity)[:, :, 14:33, 14:33, 14:33], atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_network_and_a_scan_become_a_case(ndim):
    kind = NETWORKS.load("voxelmorph-diff")
    network = kind(kind.variant("light", ndim=ndim)).requires_grad_(False).eval()
    network.flow.weight.normal_(0.0, 0.1)
    scan = make_pair(2, (40, 36, 32)[:ndim], ndim=ndim).pair.moving
    case = predicted_case(Model(network, ModelCard("voxelmorph-diff", {}, "", "")), scan, np.random.default_rng(0))
    assert case.grid.same_grid(scan.geometry) and case.velocity.abs().max() > 0
    assert case.target.shape == scan.tensor.shape
    ratio = case.scaled(case.velocity) / case.velocity.where(case.velocity != 0, torch.ones(()))
    assert float(ratio.max()) == pytest.approx(2.0, abs=0.1)
    with pytest.raises(InputError, match="predicts a velocity"):
        plain = NETWORKS.load("voxelmorph1")
        model = Model(plain(plain.variant("light", ndim=ndim)).eval(), ModelCard("voxelmorph1", {}, "", ""))
        predicted_case(model, scan, np.random.default_rng(0))


def test_the_warp_is_smooth_and_has_its_peak():
    grid = Geometry.identity((96, 80, 88))
    u = smooth_warp(grid, np.random.default_rng(2018))
    assert float(u.norm(dim=1).max()) == pytest.approx(PEAK_VOXELS, rel=1e-4)
    assert float(jacobian_determinant(u, (1.0,) * 3).min()) > 0


def test_without_weights_it_says_what_is_needed(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DEEPDIFFREG_DATA", str(tmp_path))
    for arguments in ([], ["--model", str(tmp_path / "absent.h5")], ["--model", str(tmp_path / "absent.safetensors")]):
        assert main(["reproduce", "integration-steps", "-o", str(tmp_path / "out"), "--quiet", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ("DEEPDIFFREG_DATA" in error or "no such" in error)
        assert not (tmp_path / "out").exists()
    kind = NETWORKS.load("voxelmorph-diff")
    save_model(
        tmp_path / "m.safetensors", kind(kind.variant("light")), ModelCard("voxelmorph-diff", {}, "none", "none")
    )
    assert (
        main(["reproduce", "integration-steps", "-o", str(tmp_path / "o"), "--model", str(tmp_path / "m.safetensors")])
        == 2
    )
    assert "brain scan is needed" in capsys.readouterr().err
    assert main(["reproduce", "rdmm-energy", "-o", str(tmp_path / "o"), "--model", "m.h5"]) == 2
    assert "does not take" in capsys.readouterr().err


def test_the_published_files_are_read(data_folder, monkeypatch):
    if not (data_folder / _published.WEIGHTS).is_file():
        pytest.skip(f"needs the authors' weights among the real scans: {_published.WEIGHTS}")
    monkeypatch.setenv("DEEPDIFFREG_DATA", str(data_folder))
    model = _published.published_model()
    assert model.card.network == "voxelmorph-diff" and sum(p.numel() for p in model.network.parameters()) == 266_374
    assert _published.brain().geometry.size == (224, 192, 160)
    monkeypatch.setattr(_published, "SCAN", "absent.npz")
    assert _published.brain().ndim == 3, "another brain takes its place"


def test_cancelling_ends_it(tmp_path):
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        IntegrationSteps().judge(bump_case(), 2, tmp_path, progress)
