"""From nodes to prompts: landmark lists, pairs of segments, masks and stiffness become one ``PromptSet``."""

from dataclasses import dataclass, field

import numpy as np
from DeepDiffRegScene import convert
from DeepDiffRegScene.landmarks import LandmarkTable
from slicer.i18n import tr as _

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.interactive.messages import PromptSet, Scan

from .preflight import markedSegments, reasonAgainstStiffness


@dataclass
class PromptNodes:
    """Everything that may steer a run, as nodes.

    landmarks: (fixed list, moving list). labels: (fixed, moving) segmentation or label map nodes. labelPairs: (fixed segment
    id, moving segment id, weight); empty pairs segments of equal name. stiffness: ``stiff`` or ``soft`` by id of a segment of
    stiffnessNode, a segmentation or label map of the moving scan.
    """

    landmarks: tuple = (None, None)
    labels: tuple = (None, None)
    labelPairs: list = field(default_factory=list)
    stiffness: dict = field(default_factory=dict)
    stiffnessNode: object = None
    fixedMask: object = None
    movingMask: object = None


def promptNodesOf(state):
    """The prompts that the panel's state names. Segments act only when they are paired there."""
    labels = (state.fixedSegmentation, state.movingSegmentation) if list(state.labelPairs) else (None, None)
    return PromptNodes(
        (state.fixedLandmarks, state.movingLandmarks),
        labels,
        [tuple(pair) for pair in state.labelPairs],
        markedSegments(state),
        state.movingSegmentation,
        state.fixedMask,
        state.movingMask,
    )


def promptSetOf(nodes, fixed, moving):
    """The ``PromptSet`` of these nodes. fixed, moving: volume nodes, whose grids carry exported segments.

    Raises InputError naming a segment or mask that cannot be used.
    """
    parts = {}
    if None not in nodes.landmarks:
        parts["landmarks"] = tuple(LandmarkTable(*nodes.landmarks).pairs())
    if None not in nodes.labels:
        parts.update(_labels(nodes, fixed, moving))
    if nodes.stiffness:
        parts.update(_stiffness(nodes, moving))
    for name, node, volume in (("fixed_mask", nodes.fixedMask, fixed), ("moving_mask", nodes.movingMask, moving)):
        if node is not None:
            parts[name] = convert.mask_scan_of(node, reference=volume)
    return PromptSet(**parts)


def pairsByName(fixedNode, movingNode):
    """(fixed segment id, moving segment id, 1.0) of the segments that have the same name in both nodes."""
    moving = {row.name: row.segment_id for row in convert.segment_table(movingNode)}
    rows = convert.segment_table(fixedNode)
    return [(row.segment_id, moving[row.name], 1.0) for row in rows if row.name in moving]


def _labels(nodes, fixed, moving):
    pairs = nodes.labelPairs or pairsByName(*nodes.labels)
    if not pairs:
        raise InputError(_("The segmentations have no segment name in common; pair their segments by hand."))
    values = []
    for node in nodes.labels:
        values.append({row.segment_id: row.value for row in convert.segment_table(node)})
    for fixedId, movingId, _weight in pairs:
        for node, known, wanted in zip(nodes.labels, values, (fixedId, movingId)):
            if wanted not in known:
                raise InputError(
                    _("{node} has no segment {segment} any more.").format(node=node.GetName(), segment=wanted)
                )
    return {
        "fixed_labels": convert.label_scan_of(nodes.labels[0], reference=fixed),
        "moving_labels": convert.label_scan_of(nodes.labels[1], reference=moving),
        "label_pairs": tuple((values[0][f], values[1][m], float(w)) for f, m, w in pairs),
    }


def _stiffness(nodes, moving):
    """A label map of the marked segments; each must hold voxels, and no two the same ones."""
    names = {row.segment_id: row.name for row in convert.segment_table(nodes.stiffnessNode)}
    merged, kinds = None, {}
    for value, (segment, kind) in enumerate(nodes.stiffness.items(), 1):
        scan = convert.mask_scan_of(nodes.stiffnessNode, [segment], reference=moving)
        inside = scan.array != 0
        if merged is None:
            merged = np.zeros(inside.shape, np.int32)
        if not inside.any():
            text = _("Segment {name} is empty on the moving scan: it cannot be {kind}.")
            raise InputError(text.format(name=names[segment], kind=kind))
        shared = np.bincount(merged[inside], minlength=2)
        if shared[1:].any():
            other = int(shared[1:].argmax()) + 1
            text = _("Segments {one} and {two} overlap in {count} voxels: mark one of them only, or cut them apart.")
            one = names[list(nodes.stiffness)[other - 1]]
            raise InputError(text.format(one=one, two=names[segment], count=int(shared[other])))
        merged[inside], kinds[value] = value, kind
    return {"stiffness": kinds, "stiffness_labels": Scan(merged, scan.geometry, "labels", scan.name)}


@dataclass
class PromptSummary:
    """What would act on the next update, in words; ``problem`` says why it cannot."""

    text: str
    problem: str = ""


def summaryOf(state):
    """A sentence for the panel; looks at counts only."""
    parts, problem = [], ""
    if state.fixedLandmarks is not None and state.movingLandmarks is not None:
        table = LandmarkTable(state.fixedLandmarks, state.movingLandmarks)
        count = sum(pair.enabled for pair in table.pairs())
        parts.append(_("{count} landmark pairs").format(count=count))
        proposed = sum(row.proposal is not None for row in table.rows())
        if proposed:
            parts.append(_("proposed and waiting for your word: {count}").format(count=proposed))
        lone = table.unpaired()
        if lone:
            parts.append(_("{label} has no partner yet").format(label=", ".join(label for label, _side in lone)))
    if list(state.labelPairs):
        parts.append(_("{count} pairs of segments").format(count=len(state.labelPairs)))
        if state.fixedSegmentation is None or state.movingSegmentation is None:
            problem = _("Segments are paired, but a segmentation is missing.")
    marked = markedSegments(state)
    if marked:
        parts.append(_("{count} stiff or soft segments").format(count=len(marked)))
        problem = problem or reasonAgainstStiffness(state)
    for node, text in ((state.fixedMask, _("fixed mask {name}")), (state.movingMask, _("moving mask {name}"))):
        if node is not None:
            parts.append(text.format(name=node.GetName()))
    return PromptSummary(_("Acting: {list}.").format(list=", ".join(parts)) if parts else _("No prompts yet."), problem)
