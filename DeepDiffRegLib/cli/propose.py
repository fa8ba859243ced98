"""Propose landmarks: the point of the other scan for each of your points, or places where a landmark would help most.

  deepdiffreg propose fixed.nii.gz moving.nii.gz --points fixed.csv -o f.mrk.json m.mrk.json
  deepdiffreg propose fixed.nii.gz moving.nii.gz --transform OUT/transform.h5 --suggest 5 -o f.mrk.json m.mrk.json

Searched around where --transform puts a point (an affine alignment is made first when none is given). Both files are written,
same order and names, ready for `register --fixed-landmarks --moving-landmarks`. Look at them before you use them: a
confidence is the probability of lying within the tolerance, no promise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ._inputs import JSON_HELP, add_grid_options, add_hint_options, read_pair

if TYPE_CHECKING:
    from ..config import Config
    from ..progress import PrintProgress
    from ..prompts.proposals import Proposal

POINTS = (".mrk.json", ".fcsv", ".csv")
CONFIDENCE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.usage = (
        "deepdiffreg propose FIXED MOVING (--points FILE | --suggest N) -o FIXED_POINTS MOVING_POINTS [options]"
    )
    parser.add_argument("fixed", metavar="FIXED", help="the fixed scan")
    parser.add_argument("moving", metavar="MOVING", help="the moving scan")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--points", metavar="FILE", help=f"points in one scan: {', '.join(POINTS)} (x,y,z in LPS)")
    what.add_argument("--suggest", type=int, metavar="N", help="name at most N places where a landmark would help most")
    parser.add_argument("--side", choices=("fixed", "moving"), default="fixed", help="the scan of --points")
    parser.add_argument(
        "-o", "--output", required=True, nargs=2, metavar=("FIXED_POINTS", "MOVING_POINTS"),
        help=f"files for the pairs; the extension decides the format: {', '.join(POINTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--transform", metavar="T", help="fixed_to_moving map to search around (default: align affinely)"
    )
    parser.add_argument(
        "--radius", type=float, metavar="MM", help="how far around it (default: 12, more on large voxels)"
    )
    parser.add_argument(
        "--confidence", type=float, default=CONFIDENCE, metavar="C",
        help=f"leave out proposals below (0 to 1, default {CONFIDENCE}); they are still shown",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="FILE", help="feature network whose features are compared (default: MIND-SSC)"
    )
    add_hint_options(parser, masks=True)
    add_grid_options(parser)
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Check, read, match, write; returns the exit code."""
    _check(arguments)
    from ..data.io import read_points
    from ..export.itk_transform import read_transform
    from ..session import RegistrationSession

    transform = None if arguments.transform is None else read_transform(arguments.transform)
    pair = read_pair(arguments, arguments.fixed, arguments.moving)
    ndim = pair.fixed.ndim
    if transform is not None and transform.ndim != ndim:
        raise InputError(f"{arguments.transform}: a {transform.ndim}-D transform does not fit {ndim}-D scans")
    given = None if arguments.points is None else read_points(arguments.points, ndim)
    session = RegistrationSession(pair, _config(arguments), progress)
    if transform is None:
        session.run()
    else:
        session.resume(transform)
    session.features()
    if given is None:
        found = session.suggest(arguments.suggest, arguments.radius, stop=progress.cancelled)
        names = tuple(f"suggestion {n + 1}" for n in range(len(found)))
    else:
        found = session.propose(given.positions_mm, arguments.side, arguments.radius, stop=progress.cancelled)
        names = given.names
    progress.close()
    kept = [n for n, proposal in enumerate(found) if proposal.confidence >= max(arguments.confidence, 1e-9)]
    _write(arguments, found, names, kept)
    _tell(arguments, found, names, kept)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written and senseless numbers before any work."""
    for path in map(Path, arguments.output):
        if not path.name.lower().endswith(POINTS):
            raise InputError(f"{path}: cannot hold points; name it {', '.join(POINTS)}")
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder to write this file to")
    if Path(arguments.output[0]).resolve() == Path(arguments.output[1]).resolve():
        raise InputError("-o: the fixed and the moving points need a file each")
    if not 0 <= arguments.confidence <= 1:
        raise InputError(f"--confidence must lie between 0 and 1, got {arguments.confidence:g}")


def _config(arguments: argparse.Namespace) -> Config:
    """No deformable stage: the start is all that is solved."""
    from ..config import Schedule, load_preset
    from ..networks.files import method_of, with_model

    config = load_preset("default").replace(device=arguments.device, threads=arguments.threads)
    config = config.replace(schedule=Schedule((1,), (0,)))
    if arguments.model is None:
        return config
    if method_of(arguments.model) != "dio":
        raise InputError(f"--model {arguments.model}: predicts a map, no features; a feature network is needed")
    return with_model(config, arguments.model)


def _write(arguments: argparse.Namespace, found: tuple[Proposal, ...], names: tuple[str, ...], kept: list[int]) -> None:
    import numpy as np

    from ..data.io import write_points
    from ..data.points import Points

    if not kept:
        best = max((proposal.confidence for proposal in found), default=0.0)
        what = "no place was found where a landmark would help" if not found else "no proposal is sure enough"
        raise InputError(f"{what} (highest confidence {best:.2f}); nothing was written")
    for side, path in zip(("fixed", "moving"), arguments.output):
        positions = np.array([getattr(found[n], f"{side}_mm") for n in kept])
        write_points(Points(positions, tuple(names[n] for n in kept)), path)


def _tell(arguments: argparse.Namespace, found: tuple[Proposal, ...], names: tuple[str, ...], kept: list[int]) -> None:
    if arguments.json:
        rows = [{"name": names[n], **proposal.values, "written": n in kept} for n, proposal in enumerate(found)]
        files = dict(zip(("fixed", "moving"), map(str, arguments.output)))
        print(json.dumps({"side": arguments.side if arguments.points else "fixed", "files": files, "proposals": rows}))
        return
    wide = max(len(name) for name in names)
    for number, (name, proposal) in enumerate(zip(names, found)):
        mark = "  " if number in kept else "- "
        error = "" if proposal.error_mm is None else f"  +- {proposal.error_mm:.1f} mm"
        place = ", ".join(f"{v:.1f}" for v in (proposal.moving_mm if proposal.side == "fixed" else proposal.fixed_mm))
        print(f"{mark}{name:<{wide}}  {proposal.confidence:.2f}  ({place}){error}  {proposal.note}".rstrip())
    print(f"wrote {len(kept)} of {len(found)} pairs: {arguments.output[0]}, {arguments.output[1]}")
