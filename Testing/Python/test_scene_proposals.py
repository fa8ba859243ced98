"""Proposed partners in the point lists: they wait, are accepted or rejected, and a saved scene keeps what they are."""

from __future__ import annotations

import numpy as np
import pytest
from scene_bed import bed, scene  # noqa: F401

pytest.importorskip("slicer", reason="needs the MRML scene of the slicer-core package")

from DeepDiffRegScene.landmarks import LandmarkTable
from DeepDiffRegScene.proposals import Proposal, accepted, proposal_of, sd_of

ROW = {
    "fixed_mm": [1.0, 2.0, 3.0], "moving_mm": [2.0, 2.0, 3.0], "confidence": 0.72, "tolerance_mm": 3.0, "error_mm": 2.1,
    "shift_mm": 1.0, "note": "two places\nlook alike", "score": 0.0,
}  # fmt: skip


@pytest.fixture
def table(scene) -> LandmarkTable:  # noqa: F811
    lists = []
    for side in ("fixed", "moving"):
        lists.append(scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side))
        lists[-1].CreateDefaultDisplayNodes()
    found = LandmarkTable(*lists)
    found.add("fixed", (10, 0, 0))
    return found


def test_a_description_says_all_that_is_known_of_a_proposal():
    made = Proposal.of(ROW)
    assert made == Proposal(0.72, 3.0, 2.1, "two places look alike") and made.verdict == "good"
    assert proposal_of(made.description) == made and sd_of(made.description) is None
    assert proposal_of(accepted(made)) is None and sd_of(accepted(made)) == 2.1
    for text in ("", None, "my tip of the nose", "proposed: yes"):
        assert proposal_of(text) is None and sd_of(text) is None
    bare = Proposal.of({**ROW, "error_mm": None, "note": "", "confidence": 0.31})
    assert (bare.sd_mm, bare.verdict) == (1.0, "fair") and proposal_of(bare.description) == bare
    assert Proposal.of({**ROW, "error_mm": 0.2}).sd_mm == 1.0 and Proposal(0.1, 2.0).verdict == "bad"


def test_a_proposal_acts_only_when_it_is_accepted(table):
    table.propose("F-1", "moving", (11, 1, 0), Proposal.of(ROW))
    row = table.rows()[0]
    assert row.complete and row.proposal == Proposal.of(ROW) and (row.proposed_side, row.enabled) == ("moving", False)
    assert table.pairs() == [] and table.next_side() == "fixed" and not table.unpaired()
    assert table.accept("F-1") and not table.accept("F-1")
    pair = table.pairs()[0]
    assert pair.enabled and pair.sd_mm == 2.1 and np.allclose(pair.moving_mm, (-11, -1, 0))
    table.add("fixed", (0, 5, 0))
    table.propose("F-2", "moving", (0, 6, 0), Proposal.of(ROW))
    assert table.accept("F-2", moved=True) and table.pairs()[1].sd_mm == 1.0


def test_a_rejected_proposal_leaves_the_users_own_point(table):
    table.propose("F-1", "moving", (11, 1, 0), Proposal.of(ROW))
    assert table.reject("F-1") and not table.reject("F-1")
    assert table.unpaired() == [("F-1", "fixed")] and table.next_side() == "moving"
    assert table.lists["fixed"].GetNthControlPointSelected(0)


def test_a_suggested_place_becomes_a_pair_beside_a_point_that_waits(table):
    label = table.add_pair((1, 2, 3), (4, 5, 6), Proposal.of(ROW))
    assert label == "F-2" and [pair.label for pair in table.pairs()] == ["F-2"] and table.pairs()[0].enabled
    assert table.unpaired() == [("F-1", "fixed")]


def test_undo_brings_a_proposal_back_as_one(table):
    table.propose("F-1", "moving", (11, 1, 0), Proposal.of(ROW))
    before = table.snapshot()
    table.accept("F-1")
    table.restore(before)
    assert table.rows()[0].proposal == Proposal.of(ROW) and table.pairs() == []
