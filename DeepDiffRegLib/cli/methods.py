"""List everything that can be chosen: methods, transforms, similarities, terms, prompts, checks and presets."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..config import load_preset, preset_names
from ..methods import METHODS
from ..networks import FEATURES, NETWORKS
from ..networks.files import model_rows
from ..prompts import PROMPTS
from ..qc import CHECKS
from ..regularization import REGULARIZERS
from ..reproduce import EXPERIMENTS
from ..similarity import SIMILARITIES
from ..training import LOSSES
from ..transforms import TRANSFORMS
from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..progress import PrintProgress

REGISTRIES = {
    "methods": METHODS,
    "networks": NETWORKS,
    "feature networks": FEATURES,
    "transforms": TRANSFORMS,
    "similarities": SIMILARITIES,
    "regularization": REGULARIZERS,
    "prompts": PROMPTS,
    "quality checks": CHECKS,
    "training losses": LOSSES,
    "experiments": EXPERIMENTS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help=JSON_HELP)
    how.add_argument("--markdown", action="store_true", help="print the table of the README")


def listing() -> dict[str, list[dict[str, str]]]:
    """Kind -> rows of name, help and reference, in the order of the registries; the library's own models and presets come last."""
    rows = {
        kind: [{"name": e.name, "help": e.help, "reference": e.reference} for e in registry.values()]
        for kind, registry in REGISTRIES.items()
    }
    presets = [{"name": name, "help": load_preset(name).help, "reference": ""} for name in preset_names()]
    return {**rows, "models": model_rows(), "presets": presets}


def markdown() -> str:
    """The listing as the table that the README shows."""
    lines = ["| | name | what it is |", "|---|---|---|"]
    for kind, rows in listing().items():
        for number, row in enumerate(rows):
            reference = f" ({row['reference']})" if row["reference"] else ""
            lines.append(f"| {kind if number == 0 else ''} | `{row['name']}` | {row['help']}{reference} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Print the listing; returns the exit code."""
    if arguments.json:
        print(json.dumps(listing()))
        return 0
    if arguments.markdown:
        print(markdown())
        return 0
    for number, (kind, rows) in enumerate((kind, rows) for kind, rows in listing().items() if rows):
        print(f"\n{kind}" if number else kind)
        for row in rows:
            reference = f" [{row['reference']}]" if row["reference"] else ""
            print(f"  {row['name']:<20} {row['help']}{reference}")
    return 0
