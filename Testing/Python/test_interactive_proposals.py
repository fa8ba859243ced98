"""Proposals and suggestions of the worker: asked for beside everything else, they change nothing and spoil nothing."""

from __future__ import annotations

import numpy as np
import pytest
from interactive_bed import FrontEnd, landmarks, mapped, phantom, quick

from DeepDiffRegLib.interactive.desk import JUDGE, Desk
from DeepDiffRegLib.interactive.messages import AHEAD, BESIDE, PromptSet
from DeepDiffRegLib.prompts.suggestions import CONFIRMED

ROW = {"fixed_mm", "moving_mm", "confidence", "tolerance_mm", "error_mm", "shift_mm", "note", "score"}


@pytest.fixture(scope="module")
def made():
    return phantom()


@pytest.fixture(scope="module")
def line(made):
    """One worker with one finished and judged run."""
    front = FrontEnd().start(made)
    front.client.run(quick())
    front.map = front.wait("map")
    front.judged = front.wait("judged")
    front.until("ready")
    yield front
    front.client.close()


def names(desk: Desk) -> list[tuple[str, int]]:
    return [(job.name, job.generation) for job in desk._waiting]


def test_who_waits_with_the_mouse_in_hand_comes_before_the_judging():
    desk = Desk()
    desk.follow_up(JUDGE, 3)
    desk.submit("propose", 4)
    desk.submit("propose", 5)
    assert names(desk) == [("propose", 4), ("propose", 5), (JUDGE, 3)]


def test_a_judging_that_follows_a_map_waits_behind_them():
    desk = Desk()
    desk.submit("save", 1)
    desk.submit("propose", 2)
    desk.follow_up(JUDGE, 0)
    assert names(desk) == [("propose", 2), (JUDGE, 0), ("save", 1)]


def test_a_judging_in_progress_gives_way_and_begins_anew():
    desk = Desk()
    desk.follow_up(JUDGE, 3)
    running = desk.take()
    desk.submit("suggest", 4)
    desk.submit("propose", 5)
    assert running.stop.is_set() and names(desk) == [("suggest", 4), ("propose", 5), (JUDGE, 3)]
    desk.finish()
    assert desk.take().name == "suggest"


def test_a_new_map_makes_suggestions_pointless_but_not_proposals():
    desk = Desk()
    for number, name in enumerate(("propose", "suggest"), 1):
        desk.submit(name, number)
    dropped = desk.submit("update", 3)
    assert [job.name for job in dropped] == ["suggest"] and names(desk) == [("propose", 1), ("update", 3)]
    assert [job.name for job in desk.submit("load", 4)] == ["propose", "update"]
    assert AHEAD < BESIDE


def test_proposals_belong_to_the_clicks_and_change_nothing(line, made):
    points = made.landmarks.fixed.positions_mm[:3]
    before = len(line.of("history", "map", "judged"))
    generation = line.client.propose(points, "fixed")
    event = line.wait("proposal")
    line.until("ready")
    assert event.generation == generation and event.data["side"] == "fixed" and event.data["step"] == 0
    rows = event.data["proposals"]
    assert [set(row) for row in rows] == [ROW] * 3
    np.testing.assert_allclose([row["fixed_mm"] for row in rows], points, atol=1e-3)
    near = mapped(line.map.data["map"], points)
    assert all(np.linalg.norm(np.array(row["moving_mm"]) - q) < 15 for row, q in zip(rows, near))
    assert len(line.of("history", "map", "judged")) == before


def test_a_click_in_the_moving_scan(line, made):
    points = made.landmarks.moving.positions_mm[:1]
    line.client.propose(points, "moving", radius_mm=6.0)
    row = line.wait("proposal").data["proposals"][0]
    np.testing.assert_allclose(row["moving_mm"], points[0], atol=1e-3)


def test_suggestions_come_best_first(line):
    line.client.suggest(3)
    event = line.wait("suggestions")
    rows = event.data["suggestions"]
    assert len(rows) <= 3 and all(set(row) == ROW for row in rows)
    order = [(row["confidence"] < CONFIRMED, -row["score"]) for row in rows]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda c: c.propose([]), "1 to 64 points"),
        (lambda c: c.propose([(0.0, 0.0)]), "three coordinates"),
        (lambda c: c.propose([(0.0, 0.0, 0.0)], "left"), "side"),
        (lambda c: c.propose([(0.0, 0.0, 0.0)], radius_mm=-1), "radius_mm"),
        (lambda c: c.suggest(0), "count"),
    ],
)
def test_senseless_questions_end_with_one_line(line, give, text):
    give(line.client)
    error = line.wait("error").data
    assert error["kind"] == "input" and text in error["message"] and "\n" not in error["message"]
    line.until("ready")


def test_a_click_outside_is_an_answer_not_an_error(line):
    line.client.propose([(9e3, 0.0, 0.0)])
    row = line.wait("proposal").data["proposals"][0]
    assert row["confidence"] == 0 and row["error_mm"] is None and "outside" in row["note"]


def test_a_question_during_an_update_is_answered_with_its_map_and_the_judging_still_comes(line, made):
    line.client.update(PromptSet(landmarks(made)))
    generation = line.client.propose(made.landmarks.fixed.positions_mm[:1])
    shown = line.wait("map")
    answer = line.wait("proposal")
    judged = line.wait("judged")
    assert answer.generation == generation and answer.data["step"] == shown.data["step"] == judged.data["step"]
    line.until("ready")


def test_cancel_ends_a_question(line):
    step = line.of("map")[-1].data["step"]
    line.client.suggest(20)
    line.client.cancel(deadline_s=60)
    line.wait("cancelled")
    line.until("ready")
    line.client.propose([tuple(line.map.data["map"].world[:3, 3])])
    assert line.wait("proposal").data["step"] == step
