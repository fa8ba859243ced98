"""The report: self-contained, complete, and with pictures the right way round."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from DeepDiffRegLib.config import Config
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair, Prompts
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.export._report_charts import curves
from DeepDiffRegLib.export.report import format_number, render_report
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.qc._planes import standard_planes
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.figures import FOLD_COLOR, checkerboard, overlay, volume_change
from DeepDiffRegLib.qc.verdict import run_checks
from DeepDiffRegLib.result import HistoryEntry, Result, Status
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image

VOID = {"meta", "br", "img", "link", "hr", "input", "image", "rect", "line", "path"}


def make_result(ndim: int) -> Result:
    case = make_pair(0, (28, 24, 22) if ndim == 3 else (48, 40), ndim=ndim, deformation_mm=4.0)
    prompts = Prompts(landmarks=case.landmarks, fixed_labels=case.fixed_labels, moving_labels=case.moving_labels)
    pair = dataclasses.replace(case.pair, prompts=prompts)
    transform = AffineTransform(case.truth.matrix, case.truth.offset_mm)
    warped = warp_image(pair.moving, transform, pair.fixed.geometry)
    context = Context.build(pair, transform, transform.inverse(), warped)
    history = [HistoryEntry("affine", level, i, 1.0 / (i + 1)) for level in range(2) for i in range(5)]
    provenance = {"versions": {"torch": torch.__version__}, "seed": 0, "fixed": "<script>alert(1)</script>"}
    return Result(
        pair, Config(), transform, transform.inverse(), warped, run_checks(context), tuple(history),
        Status.CONVERGED, "done", {"affine": 1.0, "checks": 0.5}, 512.0, provenance,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def rendered(request) -> tuple[Result, str]:
    result = make_result(request.param)
    return result, render_report(result)


class _Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_nothing_is_loaded_from_elsewhere(rendered):
    text = rendered[1]
    assert not re.search(r"https?://|src=|@import|<link|<script", text)
    assert set(re.findall(r'href="([a-z:]+)', text)) == {"data:image"}


def test_markup_is_balanced_and_escaped(rendered):
    parser = _Balanced()
    parser.feed(rendered[1])
    parser.close()
    assert parser.open == []
    assert "&lt;script&gt;" in rendered[1]


def test_every_finding_and_row_is_in(rendered):
    result, text = rendered
    plain = html.unescape(text)
    for finding in result.findings:
        assert f'data-finding="{finding.name}"' in text
        assert finding.label in plain and finding.explanation in plain
    for name in result.pair.prompts.landmarks.fixed.names:
        assert f"<td>{name}</td>" in plain
    for word in (
        "not a medical device",
        "Convergence",
        "converged",
        "512 MB",
        "Checkerboard",
        "Resolved configuration",
    ):
        assert word in text


def test_pictures_decode(rendered):
    result, text = rendered
    encoded = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert len(encoded) == 7 * (3 if result.pair.fixed.ndim == 3 else 1)
    for data in encoded:
        picture = Pillow.open(io.BytesIO(base64.b64decode(data)))
        assert min(picture.size) >= 8
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_views_are_radiological_on_flipped_and_oblique_grids():
    """A bright ball at the patient's left, back and top lies right, below and above in the standard views."""
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for direction in (np.eye(3), np.diag([-1.0, -1.0, 1.0]), turn @ np.diag([1.0, -1.0, -1.0])):
        size, spacing = np.array([20, 24, 12]), np.array([2.0, 1.5, 4.0])
        origin = -direction @ (spacing * (size - 1) / 2)
        grid = Geometry(tuple(size), tuple(spacing), tuple(origin), direction.tolist())
        index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)[..., ::-1]
        place = np.array([8.0, 6.0, 9.0])
        ball = np.exp(-np.square(grid.to_world(index) - place).sum(-1) / (2 * 4.0**2))
        tensor = Image.from_array(ball, grid).tensor
        for plane in standard_planes(grid, place):
            picture = plane.look_up(tensor, grid)
            row, column = np.unravel_index(picture.argmax(), picture.shape)
            np.testing.assert_allclose(plane.points_mm[row, column], place, atol=2.0)
            np.testing.assert_allclose(plane.pixels(plane.points_mm[row, column]), (column, row), atol=1e-6)
            if plane.name == "axial":
                assert column > picture.shape[1] / 2 and row > picture.shape[0] / 2
            if plane.name == "coronal":
                assert column > picture.shape[1] / 2 and row < picture.shape[0] / 2


def test_pixels_are_square_in_mm():
    grid = Geometry((10, 40, 8), (4.0, 1.0, 5.0), (0.0, 0.0, 0.0), np.eye(3).tolist())
    for plane in standard_planes(grid, grid.center_mm):
        steps = np.diff(plane.points_mm, axis=0), np.diff(plane.points_mm, axis=1)
        for step in steps:
            np.testing.assert_allclose(np.linalg.norm(step, axis=-1), plane.pixel_mm)
        assert plane.shape[1] * plane.pixel_mm == pytest.approx(40, abs=2 * plane.pixel_mm)


def test_agreement_is_gray_and_colors_are_complementary():
    gray = np.linspace(0, 1, 12).reshape(3, 4)
    picture = overlay(gray, gray)
    np.testing.assert_allclose(picture, np.repeat(gray[..., None], 3, -1), atol=1e-12)
    assert overlay(gray, 0 * gray) + overlay(0 * gray, gray) == pytest.approx(picture)


def test_checkerboard_takes_both():
    board = checkerboard(np.zeros((14, 14)), np.ones((14, 14)))
    assert board[0, 0] == 0 and board[0, 2] == 1 and board[2, 0] == 1 and board[2, 2] == 0


def test_folded_voxels_have_their_own_color():
    picture = volume_change(np.full((1, 3), 0.5), np.array([[1.0, -0.2, 2.0]]), 2.0)
    np.testing.assert_allclose(picture[0, 0], 0.5)
    np.testing.assert_allclose(picture[0, 1], FOLD_COLOR)
    assert picture[0, 2, 0] > picture[0, 2, 2]


def test_curves_mark_stages_and_levels():
    history = [HistoryEntry("affine", 0, i, 1.0 - 0.1 * i) for i in range(5)]
    history += [HistoryEntry("deformable", level, i, float(np.exp(-i))) for level in range(3) for i in range(4)]
    panels = curves(history)
    assert [p.stage for p in panels] == ["affine", "deformable"]
    assert [text for _, _, text in panels[1].bands] == ["level 1", "level 2", "level 3"]
    assert panels[1].iterations == 12
    assert curves([HistoryEntry("affine", 0, 0, float("nan"))]) == []


def test_numbers_are_short():
    assert [format_number(v) for v in (None, 3.0, 0.123456, 12345.0)] == ["-", "3", "0.1235", "12\u202f345"]


def test_a_pair_without_prompts_renders():
    result = make_result(2)
    bare = dataclasses.replace(result, pair=Pair(result.pair.fixed, result.pair.moving), history=())
    context = Context.of(bare)
    text = render_report(dataclasses.replace(bare, findings=run_checks(context)), context)
    assert "Overlap per label" not in text and "Convergence" not in text
