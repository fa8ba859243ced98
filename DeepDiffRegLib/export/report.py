"""One self-contained HTML file per registration: verdict, pictures, numbers, provenance. Nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.atomic import write_aside
from ..qc.base import SEVERITY, Context, Finding
from ..qc.figures import FIXED_COLOR, MOVING_COLOR, css, draw
from ..qc.uncertainty_figures import uncertainty_rows
from ..qc.verdict import assess
from ._report_charts import curves
from ._report_features import feature_values
from ._report_flow import flow_values

if TYPE_CHECKING:
    from ..data.image import Image
    from ..result import Result

MARKS = {"good": "\u2713", "check": "!", "bad": "\u2717"}
WORDS = {"good": "looks plausible", "check": "needs a look", "bad": "looks wrong"}
SHOWN_WARNINGS = 5
FACTS = (
    ("tre_mean", "landmark error"),
    ("dice_mean", "mean Dice of labels"),
    ("local_agreement", "local agreement"),
    ("residual_misalignment", "estimated misalignment"),
    ("folds", "folded voxels"),
    ("sdlogj", "roughness (SDlogJ)"),
    ("deformation", "mean deformation"),
    ("uncertainty", "uncertainty (s.d.)"),
)


def write_report(result: Result, path: str | Path, context: Context | None = None) -> None:
    """Render and write the report, aside and then renamed. context: built from the result when absent."""
    text = render_report(result, context)
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def render_report(result: Result, context: Context | None = None) -> str:
    """The report as HTML text."""
    import jinja2

    context = Context.of(result) if context is None else context
    folder = Path(__file__).resolve().parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(folder)), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(**_values(result, context))


def format_number(value: float | None) -> str:
    """Four significant digits, thin thousands; a dash where there is nothing."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.4g}"


def _values(result: Result, context: Context) -> dict:
    figures = draw(context)
    assessment = assess(result.findings)
    widths = [picture.size[0] for picture in figures.overlay_after]
    return {
        "result": result,
        "assessment": assessment,
        "verdict_word": WORDS[assessment.verdict],
        "mark": MARKS[assessment.verdict],
        "warnings": assessment.warnings[:SHOWN_WARNINGS],
        "more_warnings": assessment.warnings[SHOWN_WARNINGS:],
        "facts": _facts(result.findings, result.timings_s),
        "findings": sorted(result.findings, key=lambda f: -SEVERITY[f.verdict] if f.verdict in ("bad", "check") else 0),
        "figures": figures,
        "three": len(widths) > 1,
        "columns": " ".join(f"minmax(0,{w}fr)" for w in widths),
        "fixed_color": css(FIXED_COLOR),
        "moving_color": css(MOVING_COLOR),
        "fixed_name": _name(result.pair.fixed),
        "moving_name": _name(result.pair.moving),
        "fixed_grid": _grid_text(result.pair.fixed),
        "moving_grid": _grid_text(result.pair.moving),
        "labels": _rows(result.findings, "dice_mean", "labels"),
        "landmarks": _rows(result.findings, "tre_mean", "landmarks"),
        "flow": flow_values(result, context),
        "uncertainty": uncertainty_rows(context),
        "features": feature_values(result, context),
        "curves": curves(result.history),
        "timings": _timings(result.timings_s),
        "memory": f"{result.peak_memory_mb:,.0f} MB",
        "provenance": _flat(result.provenance),
        "config": json.dumps(result.config.to_dict(), indent=2),
        "number": format_number,
    }


def _facts(findings: tuple[Finding, ...], timings_s: dict[str, float]) -> list[dict[str, str]]:
    found = {finding.name: finding for finding in findings}
    shown = [(found[name], label) for name, label in FACTS if name in found][:5]
    facts = [
        {"value": format_number(f.value) + (f" {f.unit}" if f.unit not in ("", "voxels") else ""), "label": label}
        for f, label in shown
    ]
    total = sum(timings_s.values())
    return [*facts, {"value": f"{total:.1f} s", "label": "computing time"}] if total else facts


def _rows(findings: tuple[Finding, ...], name: str, key: str) -> list[dict]:
    return next((finding.details.get(key, []) for finding in findings if finding.name == name), [])


def _timings(timings_s: dict[str, float]) -> list[dict]:
    longest = max(timings_s.values(), default=0.0) or 1.0
    return [{"stage": k, "seconds": v, "percent": round(100 * v / longest, 1)} for k, v in timings_s.items()]


def _flat(values: dict, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        rows += _flat(value, f"{name} ") if isinstance(value, dict) else [(name, str(value))]
    return rows


def _name(image: Image) -> str:
    return Path(image.path).name if image.path else "(not from a file)"


def _grid_text(image: Image) -> str:
    grid = image.geometry
    size = " x ".join(str(n) for n in grid.size)
    spacing = " x ".join(f"{s:.3g}" for s in grid.spacing_mm)
    return f"{size} voxels of {spacing} mm"
