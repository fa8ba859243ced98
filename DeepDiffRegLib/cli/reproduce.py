"""Repeat a published experiment on generated data, and say whether it came out as published.

OUTDIR receives the figures and result.json. The exit code is 0 for every completed experiment; whether its criteria held
is in "passed". `deepdiffreg methods` lists the experiments.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..reproduce import EXPERIMENTS
from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..progress import PrintProgress
    from ..reproduce.base import Outcome

SUMMARY = "result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}")
    parser.add_argument("-o", "--output", required=True, metavar="OUTDIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUTDIR")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, within 3 minutes on 2 cores")
    parser.add_argument(
        "--model", metavar="FILE", help="network of the experiments that look at one (.safetensors, .h5)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="other random cases than those of the publication")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Check everything, run the experiment, write the folder; returns the exit code."""
    entry = EXPERIMENTS[arguments.name]
    outdir = Path(arguments.output)

    from ..device import set_seed, set_threads
    from ..export.folder import check_outdir, folder_aside
    from ..reproduce.figures import require_matplotlib

    check_outdir(outdir, overwrite=arguments.overwrite, files=earlier_files(outdir))
    workers = set_threads(arguments.threads)
    set_seed(arguments.seed or 0)
    require_matplotlib()
    chosen = {} if arguments.model is None else {"model": arguments.model}
    experiment = EXPERIMENTS.build(entry.name, seed=arguments.seed, workers=workers, **chosen)
    started = time.monotonic()
    with folder_aside(outdir) as folder:
        outcome = experiment.run(folder, arguments.quick, progress)
        summary = summarize(entry.name, outcome, quick=arguments.quick, seed=experiment.seed)
        summary["seconds"] = round(time.monotonic() - started, 1)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    progress.close()
    if arguments.json:
        print(json.dumps({"outdir": str(outdir), **summary}))
    else:
        _tell(summary, outdir)
    return 0


def earlier_files(outdir: Path) -> set[str]:
    """Files of an earlier experiment in the folder, by its own summary; empty when there is none."""
    try:
        summary = json.loads((outdir / SUMMARY).read_text(encoding="utf-8"))
        return {SUMMARY, *summary["figures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def summarize(name: str, outcome: Outcome, **settings) -> dict:
    """What ``result.json`` holds; figures are file names in the same folder."""
    from ..provenance import versions

    return {
        "experiment": name,
        "passed": outcome.passed,
        "criteria": [criterion.to_dict() for criterion in outcome.criteria],
        "figures": [path.name for path in outcome.figures],
        "details": outcome.details,
        "settings": settings,
        "versions": versions(),
    }


def _tell(summary: dict, outdir: Path) -> None:
    print(f"{summary['experiment']}: {'passed' if summary['passed'] else 'NOT passed'} in {summary['seconds']:.0f} s")
    width = max(len(row["name"]) for row in summary["criteria"])
    for row in summary["criteria"]:
        value = f"{row['value']:.4g} {row['unit']}".strip()
        print(f"  {'ok ' if row['passed'] else 'NOT'}  {row['name']:<{width}}  {value:<14}  {row['limit']}")
    for name in summary["figures"]:
        print(f"  {outdir / name}")
