"""Landmark pairs over two lists of control points: the fixed and the moving point of a pair carry the same label."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import LandmarkPair

from .maps import follow
from .proposals import Proposal, accepted, proposal_of, sd_of
from .spaces import lps

FIXED, MOVING = "fixed", "moving"
COLORS = {"good": (0.18, 0.63, 0.26), "fair": (0.95, 0.65, 0.05), "bad": (0.85, 0.16, 0.16)}
LABEL = re.compile(r"F-(\d+)$")


@dataclass(frozen=True)
class LandmarkRow:
    """One label and what is known of it; positions are RAS world, None on the side that has no such point.

    proposal: set while the point on proposed_side was proposed and not accepted yet. sd_mm: of an accepted proposal.
    """

    label: str
    fixed_index: int | None
    moving_index: int | None
    fixed_ras: tuple[float, float, float] | None
    moving_ras: tuple[float, float, float] | None
    enabled: bool
    residual_mm: float | None = None
    verdict: str = ""
    color: tuple[float, float, float] | None = None
    proposal: Proposal | None = None
    proposed_side: str = ""
    sd_mm: float | None = None

    @property
    def complete(self) -> bool:
        """Whether both points exist."""
        return self.fixed_index is not None and self.moving_index is not None


class LandmarkTable:
    """Pairs by label in two ``vtkMRMLMarkupsFiducialNode``; the lists are the only state besides the last residuals.

    good_mm, fair_mm: residuals up to these are green and amber; beyond, red.
    """

    def __init__(self, fixed_list, moving_list, good_mm: float = 2.0, fair_mm: float = 5.0):
        if fixed_list is None or moving_list is None or fixed_list is moving_list:
            raise InputError("LandmarkTable: two different lists of control points are needed")
        self.lists = {FIXED: fixed_list, MOVING: moving_list}
        self.good_mm, self.fair_mm = good_mm, fair_mm
        self._residuals: dict[str, float] = {}

    def rows(self) -> list[LandmarkRow]:
        """One row per label, in the order of the fixed list, then labels that only the moving list has.

        A label that occurs twice in a list stands for its first point; ``unpaired`` reports the others.
        """
        first = {side: self._first(side) for side in self.lists}
        labels = list(first[FIXED]) + [label for label in first[MOVING] if label not in first[FIXED]]
        return [self._row(label, first[FIXED].get(label), first[MOVING].get(label)) for label in labels]

    def pairs(self, sd_mm: float = 1.0) -> list[LandmarkPair]:
        """Complete pairs for the worker (LPS), the disabled ones too, marked as such; none that is only proposed."""
        return [
            LandmarkPair(r.label, tuple(lps(r.fixed_ras)), tuple(lps(r.moving_ras)), r.enabled, r.sd_mm or sd_mm)
            for r in self.rows()
            if r.complete and r.proposal is None
        ]

    def unpaired(self) -> list[tuple[str, str]]:
        """(label, side) of every point without a partner: the other list lacks the label, or the label is used twice."""
        first = {side: self._first(side) for side in self.lists}
        out = []
        for side, other in ((FIXED, MOVING), (MOVING, FIXED)):
            for i, label in self._points(side):
                if label not in first[other] or first[side][label] != i:
                    out.append((label, side))
        return out

    def next_side(self) -> str:
        """Where the next point goes: to the moving scan while a fixed point waits for its partner, else to the fixed."""
        waiting = {side for _, side in self._waiting()}
        return MOVING if FIXED in waiting else FIXED

    def next_label(self, side: str | None = None) -> str:
        """Label of the next point on ``side``: of the first one waiting on the other side, else the next free number."""
        side = self.next_side() if side is None else side
        waiting = [label for label, where in self._waiting() if where != side]
        return waiting[0] if waiting else self._free_label()

    def add(self, side: str, ras) -> str:
        """Add a point at a world position; returns the label it got."""
        label = self.next_label(side)
        self.lists[side].AddControlPointWorld(*(float(v) for v in ras), label)
        return label

    def add_pair(self, fixed_ras, moving_ras, proposal: Proposal) -> str:
        """Add both points of a proposal that is accepted at once; returns their label."""
        label = self._free_label()
        self.lists[FIXED].AddControlPointWorld(*(float(v) for v in fixed_ras), label)
        self.propose(label, MOVING, moving_ras, proposal)
        self.accept(label)
        return label

    def adopt(self, side: str, index: int) -> str:
        """Label a point that was placed in a view as ``add`` would have; returns the label. Kept where it already fits."""
        node = self.lists[side]
        current = node.GetNthControlPointLabel(index)
        others = [label for i, label in self._points(side) if i != index]
        waiting = [label for label in self._first(_other(side)) if label not in others]
        label = waiting[0] if waiting else self._free_label(besides=(side, index))
        if label != current:
            node.SetNthControlPointLabel(index, label)
        return label

    def rename(self, old: str, new: str) -> None:
        """Give both points of a pair another label. Raises InputError for an empty one or one in use."""
        new = new.strip()
        if old == new:
            return
        if not new or any(new == label for side in self.lists for _, label in self._points(side)):
            raise InputError(
                f"landmark {old!r} cannot be called {new!r}: {'the label is in use' if new else 'no label'}"
            )
        for side in self.lists:
            for i, label in self._points(side):
                if label == old:
                    self.lists[side].SetNthControlPointLabel(i, new)
        if old in self._residuals:
            self._residuals[new] = self._residuals.pop(old)

    def propose(self, label: str, side: str, ras, proposal: Proposal) -> None:
        """Add the partner of a point as one that waits for the user's word: it rests (is not selected) until then."""
        node = self.lists[side]
        modified = node.StartModify()
        i = node.AddControlPointWorld(*(float(v) for v in ras), label)
        node.SetNthControlPointSelected(i, False)
        node.SetNthControlPointDescription(i, proposal.description)
        node.EndModify(modified)

    def accept(self, label: str, moved: bool = False) -> bool:
        """Let a proposed pair act; moved: the user has put it where it belongs. False for a pair that is not proposed."""
        found = self._proposed(label)
        for side, i, proposal in found:
            self.lists[side].SetNthControlPointDescription(i, "" if moved else accepted(proposal))
        if found:
            self.enable(label, True)
        return bool(found)

    def reject(self, label: str) -> bool:
        """Take a proposed point away; its partner stays. False for a pair that is not proposed."""
        found = self._proposed(label)
        for side, i, _ in reversed(found):
            self.lists[side].RemoveNthControlPoint(i)
        return bool(found)

    def _proposed(self, label: str) -> list[tuple[str, int, Proposal]]:
        return [
            (side, i, proposal)
            for side in self.lists
            for i, name in self._points(side)
            if name == label and (proposal := proposal_of(self.lists[side].GetNthControlPointDescription(i)))
        ]

    def enable(self, label: str, enabled: bool) -> None:
        """Let a pair act or rest; kept as the selected state of its points."""
        for side in self.lists:
            for i, name in self._points(side):
                if name == label:
                    self.lists[side].SetNthControlPointSelected(i, bool(enabled))

    def delete(self, label: str) -> None:
        """Remove every point with this label from both lists."""
        for side in self.lists:
            for i in reversed([i for i, name in self._points(side) if name == label]):
                self.lists[side].RemoveNthControlPoint(i)
        self._residuals.pop(label, None)

    def renumber(self) -> None:
        """Labels F-1, F-2, ... in the order of the rows; pairs stay pairs."""
        rows = self.rows()
        extra = set(self.unpaired()) & {(row.label, side) for row in rows if row.complete for side in self.lists}
        if extra:
            raise InputError(
                f"landmarks: {sorted(extra)[0][0]!r} is used twice in one list; rename or delete one first"
            )
        self._residuals = {
            f"F-{n}": self._residuals[row.label] for n, row in enumerate(rows, 1) if row.label in self._residuals
        }
        for n, row in enumerate(rows, 1):
            for side, index in ((FIXED, row.fixed_index), (MOVING, row.moving_index)):
                if index is not None and self.lists[side].GetNthControlPointLabel(index) != f"F-{n}":
                    self.lists[side].SetNthControlPointLabel(index, f"F-{n}")

    def jump(self, label: str, fixed_slices=(), moving_slices=()) -> None:
        """Move slice nodes to the points of a pair: ``fixed_slices`` to the fixed point, ``moving_slices`` to the moving."""
        row = next((row for row in self.rows() if row.label == label), None)
        if row is None:
            raise InputError(f"landmark {label!r} does not exist")
        for point, slices in ((row.fixed_ras, fixed_slices), (row.moving_ras, moving_slices)):
            for node in slices if point is not None else ():
                node.JumpSlice(*point)

    def update_residuals(self, transform) -> dict[str, float]:
        """|phi(fixed) - moving| in mm per complete pair under a transform node; None forgets them."""
        rows = [row for row in self.rows() if row.complete]
        self._residuals = {}
        if transform is not None and rows:
            reached = follow(transform, [row.fixed_ras for row in rows])
            missed = np.linalg.norm(reached - np.array([row.moving_ras for row in rows]), axis=1)
            self._residuals = {row.label: float(mm) for row, mm in zip(rows, missed)}
        return dict(self._residuals)

    def verdict(self, residual_mm: float) -> str:
        """``good``, ``fair`` or ``bad``."""
        return "good" if residual_mm <= self.good_mm else "fair" if residual_mm <= self.fair_mm else "bad"

    def snapshot(self) -> dict:
        """Both lists as plain values (JSON), for undo."""
        return {side: [self._point(side, i) for i, _ in self._points(side)] for side in self.lists}

    def restore(self, snapshot: dict) -> None:
        """Bring both lists back to a snapshot; one modification per list."""
        for side, points in snapshot.items():
            node = self.lists[side]
            if [self._point(side, i) for i, _ in self._points(side)] == points:
                continue
            modified = node.StartModify()
            node.RemoveAllControlPoints()
            for point in points:
                i = node.AddControlPointWorld(*point["ras"], point["label"])
                node.SetNthControlPointSelected(i, point["enabled"])
                node.SetNthControlPointDescription(i, point["description"])
            node.EndModify(modified)

    def _points(self, side: str) -> list[tuple[int, str]]:
        """(index, label) of the points whose position is defined."""
        node = self.lists[side]
        count = range(node.GetNumberOfControlPoints())
        defined = [i for i in count if node.GetNthControlPointPositionStatus(i) == node.PositionDefined]
        return [(i, node.GetNthControlPointLabel(i)) for i in defined]

    def _first(self, side: str) -> dict[str, int]:
        out: dict[str, int] = {}
        for i, label in self._points(side):
            out.setdefault(label, i)
        return out

    def _waiting(self) -> list[tuple[str, str]]:
        """Points whose label the other list lacks; labels used twice do not wait for anything."""
        first = {side: self._first(side) for side in self.lists}
        return [(label, side) for side in self.lists for label in first[side] if label not in first[_other(side)]]

    def _free_label(self, besides: tuple[str, int] | None = None) -> str:
        used = [
            int(match[1])
            for side in self.lists
            for i, label in self._points(side)
            if (side, i) != besides and (match := LABEL.match(label))
        ]
        return f"F-{max(used, default=0) + 1}"

    def _position(self, side: str, index: int) -> tuple[float, float, float]:
        return tuple(self.lists[side].GetNthControlPointPositionWorld(index))

    def _point(self, side: str, index: int) -> dict:
        node = self.lists[side]
        return {
            "label": node.GetNthControlPointLabel(index),
            "ras": list(self._position(side, index)),
            "enabled": bool(node.GetNthControlPointSelected(index)),
            "description": node.GetNthControlPointDescription(index) or "",
        }

    def _row(self, label: str, fixed: int | None, moving: int | None) -> LandmarkRow:
        ends = ((FIXED, fixed), (MOVING, moving))
        positions = [None if i is None else self._position(side, i) for side, i in ends]
        enabled = all(i is None or self.lists[side].GetNthControlPointSelected(i) for side, i in ends)
        residual = self._residuals.get(label) if fixed is not None and moving is not None else None
        verdict = "" if residual is None else self.verdict(residual)
        told = {side: self.lists[side].GetNthControlPointDescription(i) for side, i in ends if i is not None}
        waits = [(proposal, side) for side, text in told.items() if (proposal := proposal_of(text))]
        return LandmarkRow(
            label, fixed, moving, *positions, bool(enabled), residual, verdict, COLORS.get(verdict),
            *(waits[0] if waits else (None, "")), next(filter(None, map(sd_of, told.values())), None),
        )  # fmt: skip


def _other(side: str) -> str:
    return MOVING if side == FIXED else FIXED
