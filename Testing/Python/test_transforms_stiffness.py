"""Stiff and soft tissue: values that check themselves, weights from labels, what a stiff region does, the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.io import write_image
from DeepDiffRegLib.data.pair import Pair, Prompts, Stiffness, Tissue
from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.prompts.checks import check_prompts
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.transforms import TRANSFORMS
from DeepDiffRegLib.transforms.stiffness import GivenWeights, LabelWeights, check_tissues

N = 48
GRID = Geometry.identity((N, N), 2.0)
Y, X = np.mgrid[:N, :N]
TISSUES = {"soft": (0.2, 0.5, 0.3, 0.0), "stiff": (0.0, 0.0, 0.0, 1.0)}


def disc(cx, cy, r, edge=0.7):
    return 1 / (1 + np.exp((np.hypot(X - cx, Y - cy) - r) / edge))


def pair() -> Pair:
    """A disc that grows beside a small one that stays."""
    fixed = 0.8 * disc(28, 26, 11) + 0.5 * disc(8, 8, 3)
    moving = 0.8 * disc(27, 26, 8) + 0.5 * disc(8, 8, 3)
    return Pair(*(Image.from_array(a.astype(np.float32), GRID) for a in (fixed, moving)))


def region(radius=15.0) -> Image:
    """Label 1: the moving disc and some room to grow."""
    return Image.from_array((np.hypot(X - 27, Y - 26) < radius).astype(np.int16), GRID, "labels")


def run(prompts: Prompts, **options):
    config = Config(
        start=Start(initial="identity", transform="none"),
        similarity=Choice("mse", weight=100.0),
        transform=Choice("rdmm", {"blur": 0.02, **options}),
        schedule=Schedule((2, 1), (20, 12), tolerance=0.0),
        preprocess=Preprocess(crop=False),
        threads=1,
    )
    session = RegistrationSession(Pair(pair().fixed, pair().moving, prompts), config)
    session.run()
    return session._states[-1].solution.inner


# --- weights -----------------------------------------------------------------------------------------------------------


def test_label_weights_are_those_of_the_tissue_and_have_norm_one():
    source = LabelWeights(Stiffness(region(), (Tissue(1, "soft"),)), TISSUES, "stiff", np.eye(3))
    h = source.pre_weights(GRID.coarsened(2), "cpu")
    assert h.shape == (4, 24, 24)
    torch.testing.assert_close(h.square().sum(0), torch.ones(24, 24))
    for place, tissue in (((13, 13), "soft"), ((3, 3), "stiff")):
        torch.testing.assert_close(h[:, place[0], place[1]].square(), torch.tensor(TISSUES[tissue]), atol=3e-3, rtol=0)


def test_label_weights_lie_where_the_affine_part_puts_them():
    """The flow's space is the moving scan's before A: a shift of 20 mm in A moves the region back by as much."""
    world = np.eye(3)
    world[0, 2] = 20.0
    stiffness = Stiffness(region(), (Tissue(1, "soft"),))
    here, there = (LabelWeights(stiffness, TISSUES, "stiff", w).pre_weights(GRID, "cpu") for w in (np.eye(3), world))
    torch.testing.assert_close(there[..., :30], here[..., 10:40], atol=1e-4, rtol=0)


def test_a_given_field_is_read_on_any_grid():
    field = torch.rand(1, 4, *GRID.shape) + 0.6
    h = GivenWeights(field, GRID).pre_weights(GRID.coarsened(2), "cpu")
    torch.testing.assert_close(h.square().sum(0), torch.ones(24, 24))
    field *= 0.5 / field.norm(dim=1, keepdim=True)
    h = GivenWeights(field, GRID).pre_weights(GRID.coarsened(2), "cpu")
    torch.testing.assert_close(h.square().sum(0), torch.full((24, 24), 0.25))
    model = TRANSFORMS.build("rdmm")
    model.set_stiffness(GivenWeights(field[:, :3], GRID))
    with pytest.raises(ConfigError, match="shape"):
        model.enter(GRID, "cpu")


def test_heavy_tissue_keeps_its_small_norm_also_where_weights_are_free():
    stiffness = Stiffness(region(), (Tissue(1, "soft"),))
    for free in (False, True):
        model = TRANSFORMS.build("rdmm", background="still", optimise_weights=free)
        model.set_stiffness(stiffness)
        model.enter(GRID, "cpu")
        h = model._state()[1]
        assert float(h[:, 3, 3].square().sum()) == pytest.approx(0.01, rel=1e-3)
        assert float(h[:, 13, 13].square().sum()) == pytest.approx(1.0, abs=1e-3)


# --- what it does ------------------------------------------------------------------------------------------------------


def test_a_stiff_surrounding_moves_less_and_sigma_travels_with_the_region():
    """Against the soft kernel everywhere: at most half the motion outside; sigma at t = 1 marks the grown region."""
    local = run(Prompts(stiffness=Stiffness(region(), (Tissue(1, "soft"),))))
    soft = TISSUES["soft"]
    uniform = run(Prompts(), weights=soft, optimise_weights=False)
    around, outside, moved = np.hypot(X - 28, Y - 26), np.hypot(X - 28, Y - 26) > 16, {}
    for name, flow in (("local", local), ("uniform", uniform)):
        u = flow.displacement(GRID)[0].norm(dim=0).numpy()
        moved[name] = u[outside].mean()
        assert u[around < 9].mean() > 3.0
        assert ((disc_at(flow) > 0.4) == (pair().fixed.numpy() > 0.4)).mean() > 0.99
    assert moved["local"] < 0.5 * moved["uniform"]
    start, end = (local.sigma_mm(t)[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1).numpy() for t in (0.0, 1.0))
    assert end[around < 10].max() < 0.8 * end[around > 20].min()
    threshold = (end.min() + end.max()) / 2
    assert (end < threshold).sum() > 1.1 * (start < threshold).sum()  # the region grew with the disc


def disc_at(transform) -> np.ndarray:
    points = transform.map_points(GRID.to_world(np.stack([X.ravel(), Y.ravel()], -1)))
    x, y = (points / 2.0).T.reshape(2, N, N)
    return 0.8 / (1 + np.exp((np.hypot(x - 27, y - 26) - 8) / 0.7)) + 0.5 / (
        1 + np.exp((np.hypot(x - 8, y - 8) - 3) / 0.7)
    )


# --- bad input ---------------------------------------------------------------------------------------------------------


def test_overlapping_and_empty_segments_are_refused():
    one, two = (Image.from_array((np.hypot(X - c, Y - 20) < 8).astype(np.int16), GRID, "labels") for c in (18, 26))
    with pytest.raises(InputError, match=r"segments 1 \(soft\) and 2 \(stiff\) overlap in \d+ voxels"):
        Stiffness.from_masks([(one, "soft"), (two, "stiff")])
    nothing = Image.from_array(np.zeros(GRID.shape, dtype=np.int16), GRID, "labels")
    with pytest.raises(InputError, match=r"segment 2 \(stiff\) is empty"):
        Stiffness.from_masks([(one, "soft"), (nothing, "stiff")])
    elsewhere = Image.from_array(one.numpy(), Geometry.identity((N, N), 3.0), "labels")
    with pytest.raises(InputError, match="one grid"):
        Stiffness.from_masks([(one, "soft"), (elsewhere, "stiff")])
    merged = Stiffness.from_masks(
        [(one, "soft"), (Image.from_array((X > 40).astype(np.int16), GRID, "labels"), "stiff")]
    )
    assert sorted(np.unique(merged.labels.numpy())) == [0, 1, 2]


def test_impossible_values_are_refused():
    with pytest.raises(InputError, match="named twice"):
        Stiffness(region(), (Tissue(1, "soft"), Tissue(1, "stiff")))
    with pytest.raises(InputError, match="no segment"):
        Stiffness(region(), ())
    scans = pair()
    with pytest.raises(InputError, match=r"segment 7 is empty.*it has 1"):
        check_prompts(Pair(scans.fixed, scans.moving, Prompts(stiffness=Stiffness(region(), (Tissue(7, "soft"),)))))
    far = Image.from_array(region().numpy(), Geometry((N, N), (2.0, 2.0), (900.0, 0.0), np.eye(2)), "labels")
    with pytest.raises(InputError, match="does not overlap"):
        check_prompts(Pair(scans.fixed, scans.moving, Prompts(stiffness=Stiffness(far, (Tissue(1, "soft"),)))))
    with pytest.raises(ConfigError, match="did you mean 'soft'"):
        TRANSFORMS.build("rdmm").set_stiffness(Stiffness(region(), (Tissue(1, "sofft"),)))
    for name in ("lddmm", "diffeomorphic"):
        with pytest.raises(ConfigError, match="needs transform 'rdmm'"):
            TRANSFORMS.build(name).set_stiffness(Stiffness(region(), (Tissue(1, "soft"),)))
    with pytest.raises(ConfigError, match="tissue 'soft'"):
        check_tissues({"soft": (0.5, 0.6)}, 2)
    with pytest.raises(ConfigError, match="tissue 'soft'"):
        check_tissues({"soft": (0.0, 0.0)}, 2)
    with pytest.raises(ConfigError, match="tissue 'soft'"):
        TRANSFORMS.build("rdmm", tissues={"soft": (1.0,)})
    with pytest.raises(ConfigError, match="omt_power"):
        TRANSFORMS.build("rdmm", omt_power=0.5)


# --- command line ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    scans = pair()
    images = {"fixed": scans.fixed, "moving": scans.moving, "labels": region()}
    paths = {name: str(tmp_path / f"{name}.nii.gz") for name in images}
    for name, image in images.items():
        write_image(image, paths[name])
    return paths


COMMON = ["--ndim", "2", "--start", "none", "--similarity", "mse", "--quiet", "--threads", "1"]
COMMON += ["--set", "schedule.factors=[2]", "--set", "schedule.iterations=[4]"]


def test_the_command_line_names_tissue_and_the_result_remembers(files, tmp_path):
    out = tmp_path / "out"
    options = ["--transform", "rdmm", "--stiffness", "1:soft", "--stiffness-labels", files["labels"]]
    assert main(["register", files["fixed"], files["moving"], "-o", str(out), *COMMON, *options]) == 0
    provenance = json.loads((out / "result.json").read_text())["provenance"]
    assert provenance["stiffness"] == {"1": "soft"}
    assert provenance["inputs"]["stiffness_labels"]["file"] == "labels.nii.gz"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--transform", "rdmm", "--stiffness", "1:soft"], "--stiffness-labels"),
        (["--transform", "rdmm", "--stiffness-labels", "labels"], "--stiffness too"),
        (["--transform", "rdmm", "--stiffness", "soft", "--stiffness-labels", "labels"], "LABEL:TISSUE"),
        (["--transform", "rdmm", "--stiffness", "1:sofft", "--stiffness-labels", "labels"], "did you mean 'soft'"),
        (["--transform", "rdmm", "--stiffness", "1:soft,1:stiff", "--stiffness-labels", "labels"], "named twice"),
        (["--transform", "rdmm", "--stiffness", "3:soft", "--stiffness-labels", "labels"], "segment 3 is empty"),
        (["--transform", "svf", "--stiffness", "1:soft", "--stiffness-labels", "labels"], "needs transform 'rdmm'"),
    ],
)
def test_bad_stiffness_ends_with_one_line(files, tmp_path, capsys, options, words):
    options = [files.get(o, o) for o in options]
    out = tmp_path / "out"
    assert main(["register", files["fixed"], files["moving"], "-o", str(out), *COMMON, *options]) == 2
    message = capsys.readouterr().err
    assert words in message and len(message.strip().splitlines()) == 1 and not out.exists()
