"""What the worker tells about a finished map, in plain JSON types, and the files it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from ..data.image import Image
from ..data.io import write_image
from ..errors import InputError
from ..export.features import feature_files
from ..export.flow import Writer, flow_files, flow_of
from ..export.folder import result_summary
from ..export.itk_transform import write_transform
from ..export.nifti_warp import write_displacement
from ..export.report import write_report
from ..memory import available_memory_bytes
from ..qc.base import Context
from ..result import Result
from ._convert import scan_of
from .messages import SAVED, PromptSet, Scan

GB = 2**30


def devices(names: list[str]) -> list[dict]:
    """Name for the configuration, label for people and free memory of each device."""
    return [_device(name) for name in names]


def _device(name: str) -> dict:
    device = torch.device(name)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else name.upper()
    return {"name": name, "label": label, "free_gb": round(available_memory_bytes(device) / GB, 2)}


def summary(prompts: PromptSet | None) -> dict:
    """The prompts of a step for a list; without volumes."""
    return (prompts or PromptSet()).summary


def judgement(result: Result, prompts: PromptSet | None, map_error_mm: dict[str, float]) -> dict:
    """Findings, segments and the run record of a judged result. map_error_mm: of the maps that the front end gets."""
    context = Context.of(result)
    jacobian = Image(context.jacobian.to(torch.float32), result.pair.fixed.geometry)
    record = result_summary(result)
    rows = segments(record["findings"])
    return {
        "verdict": record["verdict"],
        "findings": [_row(finding) for finding in record["findings"]],
        "segments": rows,
        "warnings": record["warnings"],
        "inverse_error_mm": record["inverse_error_mm"],
        "jacobian": scan_of(jacobian, "jacobian"),
        "folded_voxels": int(_value(record["findings"], "folds") or 0),
        "map_error_mm": map_error_mm,
        "record": {
            **{k: v for k, v in record.items() if k != "files"},
            "map_error_mm": map_error_mm,
            "segments": rows,
            "prompts": _prompts(prompts),
        },
    }


def uncertainty(result: Result) -> dict:
    """Maps of the network's uncertainty on their own grid, with titles and units; no map without a probabilistic network."""
    found = result.uncertainty
    rows = [] if found is None else list(found.maps())
    return {
        "samples": 0 if found is None else found.samples,
        "maps": [scan_of(Image(values, found.geometry), quantity.name) for quantity, values in rows],
        "titles": [quantity.title for quantity, _ in rows],
        "units": [quantity.unit for quantity, _ in rows],
    }


def widths(result: Result) -> dict[str, Scan | None]:
    """Kernel widths in mm, on the moving scan at t = 0 and on the fixed one at t = 1; Nones where they do not vary."""
    flow = flow_of(result.transform)
    images = [flow.widths(t, result.pair.moving.geometry) if flow is not None else None for t in (0, 1)]
    return {
        side: None if image is None else scan_of(image, f"kernel width, {side}")
        for side, image in zip(("moving", "fixed"), images)
    }


def _row(finding: dict) -> dict:
    names = ("name", "label", "value", "unit", "limit", "verdict")
    return {name: finding[name] for name in names} | {
        "text": finding["explanation"],
        "where_mm": finding["worst_mm"],
    }


def segments(findings: list[dict]) -> list[dict]:
    """One row per structure: volume change, Jacobian percentiles, folds; its Dice where it has a partner."""
    details = {finding["name"]: finding["details"] for finding in findings}
    dice = {row["label"]: row["dice"] for row in details.get("dice_mean", {}).get("labels", [])}
    return [
        {"name": str(row["label"]), "value": row["label"], "dice": dice.get(row["label"])}
        | {key: row[key] for key in ("volume_change_percent", "jacobian_p1", "jacobian_p50", "jacobian_p99", "folded")}
        for row in details.get("segment_volume", {}).get("segments", [])
    ]


def _value(findings: list[dict], name: str) -> float | None:
    return next((finding["value"] for finding in findings if finding["name"] == name), None)


def _prompts(prompts: PromptSet | None) -> dict:
    used = prompts or PromptSet()
    return {**used.summary, "landmarks": [asdict(pair) for pair in used.landmarks]}


def save(result: Result, folder: Path, what: list[str]) -> dict[str, str]:
    """Write the files; earlier ones of the same name are replaced, each only by a complete one. Returns their paths."""
    unknown = sorted(set(what) - set(SAVED))
    if unknown:
        raise InputError(f"save: cannot write {unknown[0]!r}; known: {', '.join(SAVED)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"save: the folder {folder} cannot be made: {error.strerror or error}") from error
    context, paths = Context.of(result), {}
    for name in what:
        for file, write in _files(name, result, context).items():
            write(folder / file)
            paths[name if name in FILES else file] = str(folder / file)
    return paths


def _files(name: str, result: Result, context: Context) -> dict[str, Writer]:
    if name not in FILES:
        return SEVERAL[name](result)
    file, write = FILES[name]
    return {file: lambda path: write(result, context, path)}


def _write_jacobian(result: Result, context: Context, path: Path) -> None:
    write_image(Image(context.jacobian.to(torch.float32), result.pair.fixed.geometry), path)


def _write_record(result: Result, _context: Context, path: Path) -> None:
    from ..data.atomic import write_aside

    # The user chose which files lie beside it.
    values = {name: value for name, value in result_summary(result).items() if name != "files"}
    text = json.dumps(values, indent=2, allow_nan=False)
    with write_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


FILES: dict[str, tuple[str, Callable[[Result, Context, Path], None]]] = {
    "transform": ("transform.h5", lambda result, _, path: write_transform(result.transform, path)),
    "inverse": ("inverse.h5", lambda result, _, path: write_transform(result.inverse.transform, path)),
    "displacement": (
        "displacement.nii.gz",
        lambda result, context, path: write_displacement(context.displacement, result.pair.fixed.geometry, path),
    ),
    "jacobian": ("jacobian.nii.gz", _write_jacobian),
    "report": ("report.html", lambda result, context, path: write_report(result, path, context)),
    "result": ("result.json", _write_record),
}
"""File name and writer for what is one file, whatever the map."""
SEVERAL: dict[str, Callable[[Result], dict[str, Writer]]] = {"flow": flow_files, "features": feature_files}
"""Names and writers for what is several files, or none."""
