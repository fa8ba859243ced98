"""``deepdiffreg train``: from files to a model that registers, stopped and continued, and every bad input in one line."""

from __future__ import annotations

import json

import pytest
import SimpleITK as sitk
from test_training_data import write_scans, write_table

from DeepDiffRegLib.networks.weights import load_model

SMALL = {"ndim": 2, "encoder": [4, 4], "bottom": [4], "decoder": [4], "half": [4]}


@pytest.fixture
def config(tmp_path):
    """Writes a configuration for four small scans with labels; keyword arguments replace its sections."""
    rows = write_scans(tmp_path / "scans")
    write_table(tmp_path / "scans" / "table.csv", rows)

    def write(**sections) -> str:
        values = {
            "network": {"name": "voxelmorph-diff", "architecture": SMALL},
            "data": {"scans": "scans/table.csv", "validation": 2, "batch": 2, "description": "generated disks"},
            "losses": ["mse", {"name": "kl", "precision": 10}, {"name": "dice", "weight": 0.5}],
            "augmentation": {"flip": ["x"], "rotation_deg": 5},
            "optimization": {
                "steps": 12,
                "learning_rate": 1e-3,
                "validate_every": 6,
                "checkpoint_every": 4,
                "log_every": 4,
                "device": "cpu",
            },
            "licence": "CC0-1.0",
        }
        for name, section in sections.items():
            merge = isinstance(section, dict)
            values[name] = {**values[name], **section} if merge else section
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return str(path)

    return write


def test_a_trained_model_registers_a_pair(config, tmp_path, command):
    outdir = tmp_path / "out"
    code, out, _ = command("train", config(), "-o", str(outdir), "--threads", "1", "--json")
    found = json.loads(out)
    assert code == 0 and found["status"] == "max_steps" and found["steps"] == 12
    model = load_model(found["model"])
    card = model.card
    assert (card.network, card.licence, card.seed) == ("voxelmorph-diff", "CC0-1.0", 0)
    assert card.prior == {"precision": 10.0, "smoothing_voxels": 0.0}
    assert {"dice", "lncc", "folds_percent", "sdlogj", "steps"} <= card.metrics.keys()
    assert card.data == "generated disks; 2 scans trained on, 2 held out, mode all"
    assert {p.name for p in outdir.iterdir()} >= {
        "model.json",
        "checkpoint.safetensors",
        "history.jsonl",
        "tensorboard",
        "config.json",
    }
    scans = [str(tmp_path / "scans" / f"scan{number}.mha") for number in (0, 1)]
    code, out, _ = command(
        "register",
        *scans,
        "-o",
        str(tmp_path / "registered"),
        "--method",
        "feedforward",
        "--model",
        found["model"],
        "--json",
    )
    assert code == 0
    assert (
        sitk.ReadImage(str(tmp_path / "registered" / "warped.nii.gz")).GetSize()[:2]
        == sitk.ReadImage(scans[0]).GetSize()
    )


def test_a_longer_run_resumed_equals_one_that_was_not_stopped(config, tmp_path, command):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert command("train", config(), "-o", str(whole), "--threads", "1")[0] == 0
    short = config(optimization={"steps": 6})
    assert command("train", short, "-o", str(part), "--threads", "1")[0] == 0
    assert command("train", config(), "-o", str(part), "--resume", "--threads", "1")[0] == 0
    ends = [load_model(folder / "model.safetensors").card for folder in (whole, part)]
    assert ends[0].sha256 == ends[1].sha256


def test_a_run_killed_before_its_first_checkpoint_is_resumed_from_the_start(config, tmp_path, command):
    outdir = tmp_path / "out"
    assert command("train", config(), "-o", str(outdir), "--quiet", "--threads", "1")[0] == 0
    first = load_model(outdir / "model.safetensors").card.sha256
    for name in ("checkpoint.safetensors", "model.safetensors", "model.json"):
        (outdir / name).unlink()
    assert command("train", config(), "-o", str(outdir), "--quiet", "--threads", "1", "--resume")[0] == 0
    assert load_model(outdir / "model.safetensors").card.sha256 == first
    assert len((outdir / "history.jsonl").read_text().splitlines()) == 5


def test_a_training_on_an_atlas_with_surfaces(config, tmp_path, command):
    path = config(
        data={"mode": "atlas", "atlas": "scans/scan0.mha", "atlas_labels": "scans/labels0.mha", "surface_points": 40},
        losses=["lncc", {"name": "kl", "covariance": "smoothed"}, {"name": "surface", "weight": 0.1}],
        augmentation={"rotation_deg": 0, "flip": ["y"]},
    )
    code, out, _ = command("train", path, "-o", str(tmp_path / "out"), "--threads", "1")
    assert code == 0 and "weights of step" in out
    assert load_model(tmp_path / "out" / "model.safetensors").card.prior["smoothing_voxels"] > 1


def test_bad_input_is_one_line(config, tmp_path, command):
    cases = [
        ({"network": {"architecture": {**SMALL, "ndim": 3}}}, (), "ndim is 3, but the scans are 2-D"),
        ({"losses": ["lncc", "lddmmm"]}, (), "unknown loss 'lddmmm'"),
        ({"network": {"name": "voxelmorph2"}}, (), "loss 'kl' does not fit this network"),
        ({"data": {"patch": [10, 10]}}, (), "data.patch must be multiples of 4"),
        ({"optimization": {"patience": 3, "validate_every": 0}}, (), "patience needs validate_every"),
        ({"losses": ["surface"]}, (), "loss 'surface' allows neither"),
        ({"losses": ["known-map"]}, (), "which only generated pairs have: train with a recipe"),
        ({"losses": [{"name": "lncc", "images": "natural"}]}, (), "needs moving_natural and fixed_natural"),
        ({"optimization": {"device": "tpu"}}, (), "unknown device 'tpu'"),
        ({"data": {"scans": "none.csv"}}, (), "none.csv does not exist"),
        ({}, ("--resume",), "no training to resume"),
    ]
    for number, (sections, extra, said) in enumerate(cases):
        outdir = tmp_path / f"out{number}"
        code, out, err = command("train", config(**sections), "-o", str(outdir), "--quiet", *extra)
        assert (code, out) == (2, ""), (said, err)
        assert err.count("\n") == 1 and said in err
        assert not (outdir / "model.safetensors").exists()


def test_a_folder_with_something_in_it_is_not_written_to(config, tmp_path, command):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, _, err = command("train", config(), "-o", str(tmp_path / "out"), "--quiet")
    assert code == 2 and "is not empty" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_another_configuration_does_not_resume(config, tmp_path, command):
    outdir = str(tmp_path / "out")
    assert command("train", config(), "-o", outdir, "--quiet", "--threads", "1")[0] == 0
    code, _, err = command("train", config(data={"batch": 1}), "-o", outdir, "--quiet")
    assert code == 2 and "is not empty; --resume continues" in err
    code, _, err = command("train", config(data={"batch": 1}), "-o", outdir, "--quiet", "--resume")
    assert code == 2 and "had another data.batch" in err


TINY_MOMENTUM = {"ndim": 2, "first": 4, "encoder": [4, 6, 6], "decoder": [6], "last": 4, "stiffness": [4, 4, 4],
                 "sigmas": [0.1, 0.2], "weights": [0.4, 0.6]}  # fmt: skip
CURRICULUM = [{"name": "ncc", "until_step": 3}, {"name": "mk-lncc", "from_step": 3}, "kinetic", {"name": "omt", "weight": 0.1},
              {"name": "inverse", "weight": 10, "from_step": 4}]  # fmt: skip
SHORT = {
    "steps": 6,
    "learning_rate": 1e-3,
    "validate_every": 6,
    "checkpoint_every": 2,
    "device": "cpu",
    "tensorboard": False,
}


def test_a_momentum_network_is_trained_stopped_and_used(config, tmp_path, command):
    """One command trains through the flow; stopped and resumed it ends with the same file; it looks as often as it was trained to."""
    network = {"name": "rdmm-net", "architecture": TINY_MOMENTUM, "looks": 2, "looks_from": 2}
    hashes = []
    for name, steps in (("whole", (6,)), ("parts", (3, 6))):
        for number, count in enumerate(steps):
            path = config(network=network, losses=CURRICULUM, optimization={**SHORT, "steps": count})
            more = ["--resume"] if number else []
            assert command("train", path, "-o", str(tmp_path / name), "--threads", "1", *more)[0] == 0
        hashes.append(load_model(tmp_path / name / "model.safetensors").card)
    assert hashes[0].sha256 == hashes[1].sha256 and hashes[0].looks == 2
    scans = [str(tmp_path / "scans" / f"scan{number}.mha") for number in (0, 1)]
    code, _, said = command(
        "register", *scans, "-o", str(tmp_path / "out"), "--method", "feedforward",
        "--model", str(tmp_path / "whole" / "model.safetensors"), "--set", "schedule.iterations=[0,0,0]", "--quiet",
    )  # fmt: skip
    assert code == 0, said
    assert (tmp_path / "out" / "sigma_0.nii.gz").is_file()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"network": {"looks": 0}}, "network.looks must be a whole number"),
        ({"network": {"looks": 2}}, "looked at once"),
        ({"network": {"name": "lddmm-net", "architecture": TINY_MOMENTUM}}, "does not fit this network"),
        (
            {"network": {"name": "lddmm-net", "architecture": TINY_MOMENTUM}, "losses": ["ncc", "omt"]},
            "does not fit this network",
        ),
        (
            {
                "network": {"name": "vsvf-net", "architecture": TINY_MOMENTUM},
                "losses": ["ncc"],
                "data": {"patch": [16, 16]},
            },
            "needs whole scans",
        ),
        (
            {"network": {"name": "affine-net", "architecture": {"ndim": 2}}, "losses": ["kinetic"]},
            "does not fit this network",
        ),
        ({"losses": [{"name": "mse", "until_step": 0}]}, "the second one larger"),
    ],
)
def test_what_does_not_fit_a_momentum_is_refused(config, tmp_path, command, sections, says):
    code, _, said = command("train", config(**sections), "-o", str(tmp_path / "out"))
    assert code == 2 and says in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
