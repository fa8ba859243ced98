"""Send an image, a label map, points or a surface through a transform.

TRANSFORM maps fixed positions to moving positions (fixed_to_moving), as transform.h5 of a result does.

  image, label map   resampled: the moving scan comes onto the fixed grid (--reference FIXED)
  points, surfaces   moved: each fixed position p becomes phi(p), its place in the moving scan

--inverse uses the inverse of TRANSFORM: a fixed scan comes onto the moving grid, and moving points and surfaces come
into fixed space. So to bring everything of the moving patient onto the fixed one:

  deepdiffreg apply OUT/transform.h5 moving.nii.gz      -o on_fixed.nii.gz --reference fixed.nii.gz
  deepdiffreg apply OUT/transform.h5 moving_seg.nii.gz  -o seg_on_fixed.nii.gz --reference fixed.nii.gz --labels
  deepdiffreg apply OUT/transform.h5 moving_points.csv  -o points_on_fixed.csv --inverse
  deepdiffreg apply OUT/transform.h5 moving_liver.vtp   -o liver_on_fixed.vtp --inverse

The extension of INPUT decides what it is: .mrk.json .fcsv .csv are points, .vtp .stl .ply surfaces, the rest images.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ._inputs import JSON_HELP, add_grid_options, read_scan

if TYPE_CHECKING:
    from ..geometry.grid import Geometry
    from ..progress import PrintProgress
    from ..transforms.base import Inverse, Transform

_POINTS = (".mrk.json", ".fcsv", ".csv")
_SURFACES = (".vtp", ".stl", ".ply")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.usage = "deepdiffreg apply TRANSFORM INPUT -o OUTPUT [--reference IMAGE] [--labels] [--inverse] [options]"
    parser.add_argument(
        "transform", metavar="TRANSFORM", help=".h5, .tfm, .txt, .mat or a displacement field .nii.gz (ITK, LPS)"
    )
    parser.add_argument("input", metavar="INPUT", help="image, label map, points or surface")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUTPUT", help="file to write; its extension decides the format"
    )
    parser.add_argument(
        "--reference",
        metavar="IMAGE",
        help="its grid is the output's (default: the fixed grid of the result TRANSFORM lies in)",
    )
    parser.add_argument("--labels", action="store_true", help="INPUT is a label map: nearest neighbor, no new labels")
    parser.add_argument("--inverse", action="store_true", help="use the inverse of TRANSFORM")
    add_grid_options(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Check, read, send through, write; returns the exit code."""
    from ..device import set_threads
    from ..export.itk_transform import read_transform

    kind = _kind(arguments.input)
    output = Path(arguments.output)
    _check_output(output, kind)
    set_threads(arguments.threads)
    transform = read_transform(arguments.transform)
    inverse = transform.inverse() if arguments.inverse else None
    used = inverse.transform if inverse else transform
    {"points": _apply_points, "surface": _apply_surface, "image": _apply_image}[kind](arguments, used, output)
    _tell(arguments, kind, inverse)
    return 0


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith(_POINTS):
        return "points"
    return "surface" if name.endswith(_SURFACES) else "image"


def _check_output(output: Path, kind: str) -> None:
    """Refuse before any work an output that cannot be written or is of another kind than the input."""
    from ..data.io import WRITABLE

    known = {"points": _POINTS, "surface": _SURFACES, "image": WRITABLE}[kind]
    if not output.name.lower().endswith(tuple(known)):
        raise InputError(f"{output}: cannot hold this input; name it {', '.join(known)}")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder to write {output.name} to")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output.parent}: no permission to write {output.name} there")


def _apply_points(arguments: argparse.Namespace, transform: Transform, output: Path) -> None:
    from ..data.io import read_points, write_points
    from ..warp.points import warp_points

    write_points(warp_points(read_points(arguments.input, transform.ndim), transform), output)


def _apply_surface(arguments: argparse.Namespace, transform: Transform, output: Path) -> None:
    from ..data.io import read_surface, write_surface
    from ..warp.surfaces import warp_surface

    if transform.ndim != 3:
        raise InputError(f"{arguments.input}: a surface needs a 3-D transform, got a {transform.ndim}-D one")
    write_surface(warp_surface(read_surface(arguments.input), transform), output)


def _apply_image(arguments: argparse.Namespace, transform: Transform, output: Path) -> None:
    from ..data.io import read_image, write_image
    from ..warp.image import warp_image

    reference = _reference(arguments, transform)
    if arguments.labels:
        image = read_image(arguments.input, kind="labels", frame=arguments.frame, ndim=transform.ndim)
    else:
        image = read_scan(arguments.input, arguments, arguments.frame, arguments.spacing)
    if image.ndim != transform.ndim:
        raise InputError(f"{arguments.input}: a {image.ndim}-D image cannot go through a {transform.ndim}-D transform")
    write_image(warp_image(image, transform, reference), output)


def _reference(arguments: argparse.Namespace, transform: Transform) -> Geometry:
    """Grid of ``--reference``, else the fixed grid of the result folder that TRANSFORM lies in."""
    from ..data.io import read_image

    path = arguments.reference
    if path is None:
        beside = Path(arguments.transform).parent / "warped.nii.gz"
        if arguments.inverse or Path(arguments.transform).name != "transform.h5" or not beside.is_file():
            wanted = "moving" if arguments.inverse else "fixed"
            raise InputError(f"--reference is needed: the {wanted} scan, whose grid the output gets")
        path = str(beside)
    return read_image(path, frame=arguments.moving_frame, ndim=transform.ndim).geometry


def _tell(arguments: argparse.Namespace, kind: str, inverse: Inverse | None) -> None:
    error = None if inverse is None else {k: getattr(inverse.error, k) for k in ("mean", "p99", "max")}
    if arguments.json:
        values = {"input": arguments.input, "output": arguments.output, "kind": kind, "inverse": arguments.inverse}
        print(json.dumps({**values, "inverse_error_mm": error}))
        return
    note = (
        ""
        if error is None
        else f" (the inverse misses by {error['mean']:.3g} mm on average, {error['max']:.3g} mm at most)"
    )
    print(f"wrote {arguments.output}{note}")
