"""Uncertainty of a probabilistic network on its way to the user: findings, files with units, pictures, once per prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.config import Config, Schedule, Start
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.errors import Cancelled
from DeepDiffRegLib.export.folder import FILES, write_result
from DeepDiffRegLib.export.report import render_report
from DeepDiffRegLib.methods import uncertainty as module
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import ModelCard, save_model
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms.affine import AffineTransform

VARIANCE = 0.01
KEYS = ["uncertainty", "uncertainty_jacobian", "uncertainty_prior", "uncertainty_labels"]


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def case(request):
    ndim = request.param
    return make_pair(1, (28, 26, 24) if ndim == 3 else (44, 40), ndim=ndim, deformation_mm=4.0)


@pytest.fixture
def model(case, tmp_path) -> str:
    """A network that is sure to within 0.1 of its units everywhere."""
    kind = NETWORKS.load("voxelmorph-diff")
    network = kind(kind.variant("light", ndim=case.pair.fixed.ndim)).requires_grad_(False)
    network.log_sigma.weight.zero_()
    network.log_sigma.bias.fill_(float(np.log(VARIANCE)))
    path = tmp_path / "model.safetensors"
    save_model(path, network, ModelCard("voxelmorph-diff", {}, "none", "generated", prior={"precision": 10.0}))
    return str(path)


def config_of(model, **network) -> Config:
    values = {"method": "feedforward", "model": model, "network": {"samples": 6, **network}}
    return Config.from_dict(values).replace(schedule=Schedule((1,), (0,)), start=Start("identity", "none"))


def session_of(case, model, progress=None, **network) -> RegistrationSession:
    prompts = Prompts(fixed_labels=case.fixed_labels, moving_labels=case.moving_labels)
    pair = Pair(case.pair.fixed, case.pair.moving, prompts)
    session = RegistrationSession(pair, config_of(model, **network), progress)
    session.run(AffineTransform.identity(pair.fixed.ndim))
    return session


def test_findings_files_and_report(case, model, tmp_path):
    result = session_of(case, model).result()
    findings = {finding.name: finding for finding in result.findings if finding.name in KEYS}
    assert list(findings) == KEYS and all(f.verdict == "info" and f.worst_mm for f in findings.values())
    assert [findings[key].unit for key in KEYS] == ["mm", "", "", "nat"]
    grid, d = case.pair.fixed.geometry, case.pair.fixed.ndim
    # unit of the velocity: 2 voxels; small against the grid, so that the linear rule holds (6 samples)
    linear = 2 * np.sqrt(VARIANCE * np.square(grid.spacing_mm).sum())
    assert findings["uncertainty"].value == pytest.approx(linear, rel=0.25)
    assert findings["uncertainty_prior"].value == pytest.approx(VARIANCE * 10 * 2 * d, rel=0.05)
    assert 0 < findings["uncertainty_labels"].value < 0.7
    write_result(result, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    names = [f"{key}.nii.gz" for key in KEYS]
    assert set(names) <= set(written["files"]) and sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*FILES, *names]
    )
    told = written["uncertainty"]
    assert told["samples"] == 6 and [row["unit"] for row in told["maps"].values()] == ["mm", "", "", "nat"]
    image = sitk.ReadImage(str(tmp_path / "out" / told["maps"]["displacement_sd_mm"]["file"]))
    assert image.GetSize()[:d] == grid.size and sitk.GetArrayFromImage(image).mean() == pytest.approx(linear, rel=0.25)
    page = render_report(result)
    for text in ("Uncertainty of the network", "Entropy of the propagated label", ">mm<", ">nat<"):
        assert text in page
    write_result(result, tmp_path / "out", overwrite=True)


def test_a_later_plain_result_may_take_its_place(case, model, tmp_path):
    session = session_of(case, model)
    write_result(session.result(), tmp_path / "out")
    plain = session_of(case, model, samples=0).result()
    assert plain.uncertainty is None and not {f.name for f in plain.findings} & set(KEYS)
    write_result(plain, tmp_path / "out", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["uncertainty"] is None
    assert "Uncertainty of the network" not in render_report(plain)


def test_steps_of_one_prediction_are_sampled_once(case, model, monkeypatch):
    session = session_of(case, model)
    first = session.result().uncertainty
    monkeypatch.setattr(module, "uncertainty", lambda *_: pytest.fail("sampled again"))
    session.configure(session.config.replace(schedule=Schedule((2,), (3,))))
    session.update(session.prompts)
    assert session.result().uncertainty is first


def test_the_seed_decides_and_labels_are_optional(case, model):
    session = session_of(case, model)
    again = session_of(case, model)
    assert torch.equal(session.result().uncertainty.displacement_sd_mm, again.result().uncertainty.displacement_sd_mm)
    bare = RegistrationSession(Pair(case.pair.fixed, case.pair.moving), config_of(model).replace(seed=5))
    bare.run(AffineTransform.identity(case.pair.fixed.ndim))
    found = bare.result().uncertainty
    assert found.label_entropy is None and found.seed == 5
    assert not torch.equal(found.displacement_sd_mm, session.result().uncertainty.displacement_sd_mm)


class Listener(Progress):
    """Remembers the stages it is told."""

    def __init__(self):
        super().__init__()
        self.stages = []

    def report(self, step) -> None:
        self.stages.append(step.stage)


def test_sampling_is_reported_and_stops_when_asked(case, model):
    listener = Listener()
    session, told = session_of(case, model, listener), listener.stages
    with pytest.raises(Cancelled):
        session.result(lambda: told.count("uncertainty") >= 3)
    assert told.count("uncertainty") == 3 and "quality checks" not in told
