"""Arguments that several commands share, and the reading of what they name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..data.image import Image
    from ..data.pair import LabelPair, Pair, Prompts, Stiffness, Tissue
    from ..data.points import Landmarks

JSON_HELP = "print exactly one JSON object on standard output"
Spacing = float | tuple[float, ...]


@dataclass(frozen=True)
class _Hints:
    """Paths of everything a user may add to a pair of scans."""

    fixed_landmarks: str | None
    moving_landmarks: str | None
    fixed_labels: str | None
    moving_labels: str | None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    stiffness_labels: str | None = None


def spacing(text: str) -> Spacing:
    """``"1,1,2.5"`` (x, y[, z]) or ``"1"`` (every axis) to mm."""
    try:
        values = tuple(float(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,1,2.5 (x,y,z in mm), got {text!r}") from error
    if min(values) <= 0 or len(values) > 3:
        raise argparse.ArgumentTypeError(f"expected one to three positive numbers (x,y,z in mm), got {text!r}")
    return values if len(values) > 1 else values[0]


def label_pairs(text: str) -> tuple[LabelPair, ...]:
    """``"1:1,2:7"`` to label pairs, fixed:moving; a lone number means the same label on both sides."""
    from ..data.pair import LabelPair

    pairs = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        fixed, _, moving = part.partition(":")
        try:
            pairs.append(LabelPair(int(fixed), int(moving or fixed)))
        except ValueError as error:
            raise InputError(f"--label-pairs: expected FIXED:MOVING such as 1:1,2:7, got {part!r}") from error
    if not pairs:
        raise InputError(f"--label-pairs: expected FIXED:MOVING such as 1:1,2:7, got {text!r}")
    return tuple(pairs)


def tissues(text: str) -> tuple[Tissue, ...]:
    """``"1:soft,2:stiff"`` to tissues."""
    from ..data.pair import Tissue

    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        label, _, kind = part.partition(":")
        if not kind.strip() or not label.strip().lstrip("-").isdigit():
            raise InputError(f"--stiffness: expected LABEL:TISSUE such as 1:soft,2:stiff, got {part!r}")
        found.append(Tissue(int(label), kind.strip()))
    return tuple(found)


def add_grid_options(parser: argparse.ArgumentParser) -> None:
    """--frame, --moving-frame and the spacings of files that hold none."""
    parser.add_argument("--frame", type=int, metavar="N", help="which volume of a 4-D fixed scan, counted from 0")
    parser.add_argument(
        "--moving-frame", type=int, metavar="N", help="which volume of a 4-D moving scan, counted from 0"
    )
    parser.add_argument(
        "--spacing", type=spacing, metavar="X,Y,Z", help="voxel spacing in mm of .npy/.npz scans without one"
    )
    parser.add_argument(
        "--moving-spacing", type=spacing, metavar="X,Y,Z", help="the same for the moving scan (default: --spacing)"
    )
    parser.add_argument("--ndim", type=int, choices=(2, 3), help="2 reads files of a single slice as 2-D images")


def add_hint_options(parser: argparse.ArgumentParser, masks: bool) -> None:
    """--fixed-landmarks, --fixed-labels and so on."""
    group = parser.add_argument_group("what you know about the scans")
    group.add_argument("--fixed-landmarks", metavar="FILE", help=".mrk.json, .fcsv or .csv (x,y,z in LPS)")
    group.add_argument(
        "--moving-landmarks", metavar="FILE", help="the same landmarks in the moving scan, same order or names"
    )
    group.add_argument("--fixed-labels", metavar="FILE", help="label map of the fixed scan, on any grid")
    group.add_argument("--moving-labels", metavar="FILE", help="label map of the moving scan, on any grid")
    group.add_argument(
        "--label-pairs", metavar="F:M,...", help="labels that correspond, 1:1,2:7 (default: equal numbers)"
    )
    if masks:
        group.add_argument("--fixed-mask", metavar="FILE", help="compare the scans only here (fixed side)")
        group.add_argument("--moving-mask", metavar="FILE", help="compare the scans only here (moving side)")
        group.add_argument(
            "--stiffness", metavar="L:T,...", help="tissue of each label, 1:soft,2:stiff (needs --transform rdmm)"
        )
        group.add_argument(
            "--stiffness-labels", metavar="FILE", help="label map of the moving scan for it (default: --moving-labels)"
        )


def read_pair(arguments: argparse.Namespace, fixed: str, moving: str) -> Pair:
    """Read both scans and every hint; all of it is checked before it is returned."""
    from ..data.pair import Pair
    from ..prompts.checks import check_prompts

    hints = _hints(arguments)
    pairs = label_pairs(arguments.label_pairs) if arguments.label_pairs else ()
    scans = Pair(
        read_scan(fixed, arguments, arguments.frame, arguments.spacing),
        read_scan(moving, arguments, arguments.moving_frame, arguments.moving_spacing or arguments.spacing),
    )
    pair = Pair(scans.fixed, scans.moving, _read_prompts(arguments, hints, pairs, scans.fixed.ndim))
    check_prompts(pair)
    return pair


def read_scan(path: str, arguments: argparse.Namespace, frame: int | None, spacing_mm: Spacing | None) -> Image:
    """Read one scan with the options of ``add_grid_options``."""
    from ..data.io import read_image

    return read_image(path, frame=frame, spacing_mm=_only_numpy(path, spacing_mm), ndim=arguments.ndim)


def _hints(arguments: argparse.Namespace) -> _Hints:
    """Collect the paths; one that comes without its partner is refused."""
    hints = _Hints(**{name: getattr(arguments, name, None) for name in _Hints.__dataclass_fields__})
    for kind in ("landmarks", "labels"):
        given = [role for role in ("fixed", "moving") if getattr(hints, f"{role}_{kind}")]
        if len(given) == 1:
            other = "moving" if given == ["fixed"] else "fixed"
            raise InputError(f"--{given[0]}-{kind} needs --{other}-{kind} too: {kind} work in pairs")
    if arguments.label_pairs and not hints.fixed_labels:
        raise InputError("--label-pairs needs --fixed-labels and --moving-labels")
    if hints.stiffness_labels and not arguments.stiffness:
        raise InputError("--stiffness-labels needs --stiffness too: which label is stiff or soft, as in 1:soft,2:stiff")
    return hints


def _read_prompts(arguments: argparse.Namespace, hints: _Hints, pairs: tuple[LabelPair, ...], ndim: int) -> Prompts:
    from ..data.pair import Prompts

    moving_spacing = arguments.moving_spacing or arguments.spacing
    moving_labels = _read_map(hints.moving_labels, "labels", moving_spacing, ndim)
    return Prompts(
        landmarks=_read_landmarks(hints, ndim),
        fixed_labels=_read_map(hints.fixed_labels, "labels", arguments.spacing, ndim),
        moving_labels=moving_labels,
        label_pairs=pairs,
        fixed_mask=_read_map(hints.fixed_mask, "mask", arguments.spacing, ndim),
        moving_mask=_read_map(hints.moving_mask, "mask", moving_spacing, ndim),
        stiffness=_read_stiffness(arguments, hints, moving_labels, ndim),
    )


def _read_stiffness(
    arguments: argparse.Namespace, hints: _Hints, moving_labels: Image | None, ndim: int
) -> Stiffness | None:
    if not getattr(arguments, "stiffness", None):
        return None
    from ..data.pair import Stiffness

    spacing_mm = arguments.moving_spacing or arguments.spacing
    labels = _read_map(hints.stiffness_labels, "labels", spacing_mm, ndim) or moving_labels
    if labels is None:
        raise InputError("--stiffness needs --stiffness-labels or --moving-labels: a label map of the moving scan")
    return Stiffness(labels, tissues(arguments.stiffness))


def _read_landmarks(hints: _Hints, ndim: int) -> Landmarks | None:
    if not hints.fixed_landmarks:
        return None
    from ..data.io import read_landmarks

    return read_landmarks(hints.fixed_landmarks, hints.moving_landmarks, ndim)


def _read_map(path: str | None, kind: str, spacing_mm: Spacing | None, ndim: int) -> Image | None:
    if path is None:
        return None
    from ..data.io import read_image

    return read_image(path, kind=kind, spacing_mm=_only_numpy(path, spacing_mm), ndim=ndim)


def _only_numpy(path: str, spacing_mm: Spacing | None) -> Spacing | None:
    return spacing_mm if path.lower().endswith((".npy", ".npz")) else None
