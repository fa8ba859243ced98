"""A real worker process: run, steer, walk through the history, judge, save, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
from interactive_bed import FrontEnd, endless, labels, landmarks, mapped, phantom, prompts, quick, scans

from DeepDiffRegLib.data.io import read_image
from DeepDiffRegLib.export.itk_transform import read_transform
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.interactive.messages import LandmarkPair, Map, PromptSet, Scan


@pytest.fixture(scope="module")
def made():
    return phantom()


@pytest.fixture(scope="module")
def line(made):
    """One worker for all tests of this file, with the pair loaded."""
    front = FrontEnd().start(made)
    yield front
    front.client.close()


@pytest.fixture
def front(line, made):
    """The worker with one finished run as the whole history."""
    line.fresh(made)
    line.client.run(quick())
    line.map = line.wait("map")
    return line


def inside(made) -> np.ndarray:
    return made.pair.fixed.geometry.to_world(np.argwhere(made.fixed_labels.numpy() > 0)[::37, ::-1])


def test_ready_says_what_there_is(line):
    data = line.of("ready")[0].data
    assert data["devices"][-1]["name"] == "cpu" and data["devices"][-1]["free_gb"] > 0
    assert {"torch", "numba", "python"} <= set(data["versions"]) and data["threads"] >= 1
    assert line.client.devices == data["devices"]


def test_run_reports_previews_and_a_map_that_fits(front, made):
    points = inside(made)
    before = np.linalg.norm(points - made.truth(points), axis=1).mean()
    after = np.linalg.norm(mapped(front.map.data["map"], points) - made.truth(points), axis=1).mean()
    assert after < 0.6 * before
    assert (front.map.data["step"], front.map.data["steps"]) == (0, 1)
    assert front.map.data["status"] in ("converged", "max_steps")
    own = [event for event in front.events if event.generation == front.map.generation]
    kinds = [event.kind for event in own]
    assert "preview" in kinds and "progress" in kinds and kinds.index("preview") < kinds.index("map")
    fractions = [event.data["fraction"] for event in own if event.kind == "progress"]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    stages = {stage for stage, *_ in front.client.curve}
    assert stages == {"start", "deformable"} and all(np.isfinite(loss) for *_, loss in front.client.curve)


def test_judged_says_how_good_it_is(front, made):
    judged = front.wait("judged")
    assert judged.generation == front.map.generation and judged.data["step"] == 0
    data = judged.data
    assert data["verdict"] in ("good", "check", "bad")
    for row in data["findings"]:
        assert set(row) == {"name", "label", "value", "unit", "limit", "verdict", "text", "where_mm"}
    grid = made.pair.fixed.geometry
    assert data["warped"].geometry.same_grid(grid) and data["jacobian"].geometry.same_grid(grid)
    assert data["folded_voxels"] == int((data["jacobian"].array[1:-1, 1:-1, 1:-1] <= 0).sum())
    assert data["record"]["config"]["name"] == "quick" and data["record"]["provenance"]["inputs"]["fixed"]["sha256"]
    points = inside(made)
    back = mapped(data["inverse"], mapped(front.map.data["map"], points))
    assert np.linalg.norm(back - points, axis=1).mean() < 0.5
    assert front.wait("history").data["steps"][0]["verdict"] == data["verdict"]


def test_an_update_brings_the_landmarks_home(front, made):
    front.client.update(prompts(made, 3, off_mm=2.0))
    after = front.wait("map")
    rows = after.data["landmarks"]
    assert [row["label"] for row in rows] == [pair.label for pair in landmarks(made, 3)]
    assert all(row["after_mm"] < 1.1 for row in rows) and max(row["before_mm"] for row in rows) > 2
    pairs = landmarks(made, 3, 2.0)
    reached = mapped(after.data["map"], [pair.fixed_mm for pair in pairs])
    misses = np.linalg.norm(reached - [pair.moving_mm for pair in pairs], axis=1)
    np.testing.assert_allclose(misses, [row["after_mm"] for row in rows], atol=0.02)
    assert any(event.kind == "preview" and event.generation == after.generation for event in front.events)


def test_a_landmark_that_is_switched_off_does_not_pull(front, made):
    pair = landmarks(made, 1, 3.0)[0]
    front.client.update(PromptSet((LandmarkPair(pair.label, pair.fixed_mm, pair.moving_mm, enabled=False),)))
    assert front.wait("map").data["landmarks"] == []


def test_history_is_walked_back_forth_and_across(front, made):
    first = front.map.data["map"]
    front.client.update(prompts(made, 2, 2.0))
    second = front.wait("map").data
    assert (second["step"], second["steps"]) == (1, 2)
    front.client.undo()
    back = front.wait("map").data
    np.testing.assert_array_equal(back["map"].displacement, first.displacement)
    assert (back["step"], back["steps"]) == (0, 2)
    front.client.redo()
    np.testing.assert_array_equal(front.wait("map").data["map"].displacement, second["map"].displacement)
    front.client.select(0)
    np.testing.assert_array_equal(front.wait("map").data["map"].displacement, first.displacement)
    front.until("ready")
    history = front.of("history")[-1].data
    assert history["current"] == 0 and [step["name"] for step in history["steps"]] == ["registration", "update"]
    assert history["steps"][1]["prompts"]["landmarks"] == 2
    front.client.update(prompts(made, 1))
    third = front.wait("map").data
    assert (third["step"], third["steps"]) == (1, 2), "a new step replaces those that were undone"
    front.client.select(7)
    assert front.wait("error").data["kind"] == "input"


def test_only_the_newest_of_many_updates_is_carried_out(front, made):
    for number in range(12):
        newest = front.client.update(prompts(made, 2, 0.2 * number))
    done = front.wait("map")
    while done.generation != newest:
        done = front.wait("map")
    front.until("ready")
    assert len(front.of("history")[-1].data["steps"]) <= 3


def test_undo_while_an_update_runs_only_drops_that(front, made):
    front.client.update(prompts(made, 2, 2.0))
    front.wait("map")
    front.client.update(prompts(made, 3, 1.0))
    generation = front.client.undo()
    shown = front.wait("map")
    while shown.generation != generation:
        shown = front.wait("map")
    assert shown.data["step"] == 1


def test_structures_are_judged_one_by_one(front, made):
    fixed, moving = labels(made)
    front.client.update(PromptSet(fixed_labels=fixed, moving_labels=moving, label_pairs=((1, 1, 1.0), (2, 2, 1.0))))
    front.wait("map")
    judged = front.wait("judged").data
    rows = {row["value"]: row for row in judged["segments"]}
    assert set(rows) == set(np.unique(fixed.array[fixed.array > 0]).tolist())
    determinants = judged["jacobian"].array[fixed.array == 1]
    assert rows[1]["volume_change_percent"] == pytest.approx(100 * (determinants.mean() - 1), abs=0.02)
    assert rows[1]["jacobian_p50"] == pytest.approx(np.median(determinants), abs=1e-3)
    assert 0 < rows[1]["dice"] <= 1 and rows[1]["folded"] == int((determinants <= 0).sum())


def test_a_cancelled_update_leaves_the_earlier_map(front, made):
    config = endless()
    config["prompts"] |= {"update_iterations": [100_000, 1], "far_iterations": [100_000, 1, 1]}
    front.client.resume(front.map.data["map"], config)
    front.wait("map")
    front.client.update(prompts(made, 2, 2.0))
    front.wait("preview")
    front.client.cancel(deadline_s=60)
    assert front.client.state == "cancelling"
    assert front.wait("cancelled").data == {"kept": False, "restarted": False}
    shown = front.wait("map").data
    np.testing.assert_array_equal(shown["map"].displacement, front.map.data["map"].displacement)
    front.until("ready")
    assert front.of("history")[-1].data["current"] == 1


def test_a_first_run_that_is_cancelled_keeps_what_it_reached(line):
    line.fresh(phantom(24))
    line.client.run(endless())
    line.wait("preview")
    line.client.cancel(deadline_s=60)
    assert line.wait("map").data["status"] == "cancelled"
    assert line.wait("cancelled").data["kept"] is True


def test_resume_takes_a_map_over_as_it_is(front, made):
    given = front.map.data["map"]
    front.fresh(made)
    front.client.resume(given, quick(), prompts(made, 1))
    back = front.wait("map").data
    np.testing.assert_array_equal(back["map"].displacement, given.displacement)
    np.testing.assert_allclose(back["map"].world, given.world)
    assert (back["step"], back["steps"]) == (0, 1) and len(back["landmarks"]) == 1
    front.client.update(prompts(made, 2, 1.0))
    assert front.wait("map").data["step"] == 1


def test_the_same_pair_again_keeps_the_history(front, made):
    front.client.load(*scans(made))
    front.wait("loaded")
    front.until("ready")
    assert len(front.of("history")[-1].data["steps"]) == 1


def test_a_given_start_skips_the_alignment(front, made):
    start = np.eye(4)
    start[:3, 3] = (1, 2, 3)
    front.client.run(quick(), PromptSet(), Map(start))
    np.testing.assert_allclose(front.wait("map").data["map"].world, start)
    assert {stage for stage, *_ in front.client.curve} == {"deformable"}


def test_another_transform_model_gives_a_map_too(front):
    for name in ("svf", "bspline", "affine"):
        front.client.run({**quick(2), "transform": {"name": name}})
        shown = front.wait("map", "error")
        assert shown.kind == "map", shown.data
        assert (shown.data["map"].displacement is None) == (name == "affine")


def test_saved_files_hold_the_current_map(front, made, tmp_path):
    front.client.save(tmp_path / "out", ("transform", "inverse", "jacobian", "result", "report"))
    paths = front.wait("saved").data["paths"]
    points = inside(made)
    transform = read_transform(paths["transform"])
    np.testing.assert_allclose(transform.map_points(points), mapped(front.map.data["map"], points), atol=1e-3)
    back = read_transform(paths["inverse"]).map_points(transform.map_points(points))
    assert np.linalg.norm(back - points, axis=1).mean() < 0.5
    assert read_image(paths["jacobian"]).geometry.same_grid(made.pair.fixed.geometry)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["config"]["name"] == "quick"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "transform.h5", "inverse.h5", "jacobian.nii.gz", "result.json", "report.html"
    }  # fmt: skip


@pytest.mark.parametrize("transform", ["svf", "diffeomorphic"])
def test_frames_lead_from_the_affine_part_to_the_map(line, made, transform):
    line.fresh(made)
    line.client.run(quick(transform={"name": transform}))
    shown, points = line.wait("map"), inside(made)
    line.wait("judged")
    line.client.frames(5)
    frames = [line.wait("frame") for _ in range(5)]
    line.until("ready")
    assert [f.data["number"] for f in frames] == [0, 1, 2, 3, 4] and {f.data["count"] for f in frames} == {5}
    assert [f.data["time"] for f in frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {f.data["flows"] for f in frames} == {transform == "svf"}
    ends = [mapped(f.data["map"], points) for f in frames]
    np.testing.assert_allclose(ends[-1], mapped(shown.data["map"], points), atol=1e-3)
    world = shown.data["map"].world
    np.testing.assert_allclose(ends[0], points @ world[:3, :3].T + world[:3, 3], atol=1e-3)
    ways = [np.linalg.norm(b - a, axis=1).mean() for a, b in zip(ends, ends[1:])]
    assert min(ways) > 0.5 * max(ways)
    kinds = [event.kind for event in line.events if event.generation > shown.generation]
    assert not {"judged", "history", "map"} & set(kinds), "looking at the way changes nothing"


def test_a_later_command_ends_the_frames(front, made):
    front.wait("judged")
    front.client.frames(101)
    front.wait("frame")
    front.client.update(prompts(made))
    update = front.wait("map")
    assert update.data["step"] == 1
    front.wait("judged")
    front.until("ready")
    late = [e for e in front.events[front.events.index(update) :] if e.kind == "frame"]
    assert not late


def test_kernel_widths_come_with_the_judgement(line, made):
    line.fresh(made)
    local = {
        "name": "rdmm", "sigma_unit": "mm", "sigmas": [6, 12, 24, 60], "weights": [0.25] * 4, "blur": 4, "background": "soft"
    }  # fmt: skip
    stiff = PromptSet(stiffness={2: "stiff"}, stiffness_labels=labels(made)[1])
    line.client.run(quick(transform=local), stiff)
    line.wait("judged")
    sigma = line.wait("sigma").data
    for side, scan in (("moving", made.pair.moving), ("fixed", made.pair.fixed)):
        values = sigma[side].array
        assert 6 <= values.min() < 0.6 * values.max() and values.max() <= 60
        assert sigma[side].geometry.overlap_fraction(scan.geometry) > 0.9
    where = np.argwhere(labels(made)[1].array == 2)[:, ::-1]
    index = np.rint(sigma["moving"].geometry.to_index(made.pair.moving.geometry.to_world(where))).astype(int)
    index = index.clip(0, np.array(sigma["moving"].geometry.size) - 1)
    assert sigma["moving"].array[tuple(index.T[::-1])].mean() > 1.3 * sigma["moving"].array.mean()
    line.client.run(quick())
    line.wait("judged")
    assert line.wait("sigma").data["moving"] is None


def test_only_so_many_frames(front):
    front.client.frames(1)
    error = front.wait("error").data
    assert error["kind"] == "input" and "frames" in error["message"]


def broken(**changes) -> Scan:
    array = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    array[0, 0, 0] = changes.get("value", 0)
    return Scan(array * changes.get("factor", 1), Geometry.identity((8, 8, 8)))


@pytest.mark.parametrize(
    "give, text",
    [
        (lambda c, made: c.load(broken(value=np.nan), broken()), "NaN"),
        (lambda c, made: c.load(broken(), broken(factor=0)), "nothing to align"),
        (lambda c, made: c.run("defalt"), "did you mean"),
        (lambda c, made: c.run({"colour": 1}), "unknown key"),
        (lambda c, made: c.run({**quick(), "max_memory_gb": 0.01}), "memory"),
        (lambda c, made: c.update(PromptSet((LandmarkPair("far", (9e3, 0, 0), (0, 0, 0)),))), "outside"),
        (lambda c, made: c.update(PromptSet(label_pairs=((1, 1, 1.0),))), "label"),
        (lambda c, made: c.update(PromptSet(stiffness={1: "stiff"})), "stiff"),
        (lambda c, made: c.save("/dev/null/folder"), "folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_changes_nothing(front, made, give, text):
    give(front.client, made)
    error = front.wait("error")
    assert text in error.data["message"] and "\n" not in error.data["message"]
    assert error.data["kind"] == ("memory" if text == "memory" else "input")
    front.client.undo()
    np.testing.assert_array_equal(front.wait("map").data["map"].displacement, front.map.data["map"].displacement)
