"""The run record - configuration, versions, hashes, metrics - as a text node that belongs to the output transform."""

from __future__ import annotations

import json

from .nodes import new_node, place_in_study

RECORD_ROLE = "DeepDiffReg.Record"


def attach(transform, record: dict, scene=None):
    """Store a record (plain values) with a transform node; one text node per transform, updated in place."""
    node = transform.GetNodeReference(RECORD_ROLE)
    if node is None:
        name = f"{transform.GetName()} record"
        node = new_node("vtkMRMLTextNode", name, "record", transform.GetScene() if scene is None else scene)
        transform.SetNodeReferenceID(RECORD_ROLE, node.GetID())
        place_in_study(node, transform)
    node.SetText(json.dumps(record, indent=1, ensure_ascii=True))
    return node


def clear(transform) -> None:
    """The transform holds a new map, of which the record knows nothing."""
    node = transform.GetNodeReference(RECORD_ROLE) if transform is not None else None
    if node is not None:
        node.SetText("")


def judged_of(transform) -> dict | None:
    """What was found out about the map, in the form of the worker's event; None without a record."""
    value = read(transform)
    if value is None or "verdict" not in value:
        return None
    names = ("name", "label", "value", "unit", "limit", "verdict")
    rows = [
        {
            **{name: finding.get(name) for name in names},
            "text": finding.get("explanation", ""),
            "where_mm": finding.get("worst_mm"),
        }
        for finding in value.get("findings", [])
    ]
    kept = ("verdict", "warnings", "segments", "inverse_error_mm", "map_error_mm")
    return {**{name: value[name] for name in kept if name in value}, "findings": rows}


def read(transform) -> dict | None:
    """The record of a transform node; None when it has none or when the text is no longer one."""
    node = transform.GetNodeReference(RECORD_ROLE) if transform is not None else None
    if node is None:
        return None
    try:
        value = json.loads(node.GetText() or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
