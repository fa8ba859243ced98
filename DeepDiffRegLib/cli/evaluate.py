"""Run every quality check on a transform, whoever made it.

TRANSFORM maps fixed positions to moving positions (fixed_to_moving). Label maps and landmarks are used to judge, so bring
ones that did not steer the registration.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from ..errors import InputError
from ._inputs import JSON_HELP, add_grid_options, add_hint_options, read_pair

if TYPE_CHECKING:
    from ..data.pair import Pair
    from ..progress import PrintProgress
    from ..qc.base import Context
    from ..transforms.base import Transform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.usage = "deepdiffreg evaluate TRANSFORM --fixed FIXED --moving MOVING [options]"
    parser.add_argument(
        "transform", metavar="TRANSFORM", help=".h5, .tfm, .txt, .mat or a displacement field .nii.gz (ITK, LPS)"
    )
    parser.add_argument("--fixed", required=True, metavar="F", help="the fixed scan")
    parser.add_argument("--moving", required=True, metavar="M", help="the moving scan")
    add_hint_options(parser, masks=False)
    add_grid_options(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Read, check, print; returns the exit code, 0 whatever the verdicts say."""
    from ..device import set_threads
    from ..export.itk_transform import read_transform
    from ..qc.verdict import assess, run_checks
    from ._summary import print_findings

    set_threads(arguments.threads)
    transform = read_transform(arguments.transform)
    pair = read_pair(arguments, arguments.fixed, arguments.moving)
    if transform.ndim != pair.fixed.ndim:
        raise InputError(
            f"{arguments.transform}: a {transform.ndim}-D transform does not fit {pair.fixed.ndim}-D scans"
        )
    findings = run_checks(_context(pair, transform))
    assessment = assess(findings)
    if arguments.json:
        named = {"transform": arguments.transform, "fixed": arguments.fixed, "moving": arguments.moving}
        verdict = {"verdict": assessment.verdict, "headline": assessment.headline}
        print(json.dumps({**named, **verdict, "findings": [dataclasses.asdict(f) for f in findings]}))
    else:
        print_findings(findings)
        print()
        print(assessment.headline)
    return 0


def _context(pair: Pair, transform: Transform) -> Context:
    from ..qc.base import Context
    from ..warp.image import warp_image

    warped = warp_image(pair.moving, transform, pair.fixed.geometry)
    return Context.build(pair, transform, transform.inverse(), warped)
