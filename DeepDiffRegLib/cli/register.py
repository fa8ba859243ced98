"""Align a moving scan with a fixed one.

OUTDIR receives warped.nii.gz (the moving scan on the fixed grid), transform.h5 and inverse.h5 (ITK, fixed_to_moving and
moving_to_fixed), displacement.nii.gz, jacobian.nii.gz, report.html and result.json. Shooting transforms (vsvf, lddmm,
rdmm) add momentum.nii.gz and velocity_0.nii.gz, rdmm also sigma_0.nii.gz, sigma_1.nii.gz (kernel width in mm, at t = 0 on
the moving scan, at t = 1 on the fixed one) and weights_0.nii.gz, weights_1.nii.gz. Networks that predict a variance add
uncertainty.nii.gz (s.d. in mm) and uncertainty_*.nii.gz (Jacobian, prior, labels). Input is checked before any work, and
the folder appears only when it is complete.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ._config import add_config_options, read_config
from ._inputs import JSON_HELP, add_grid_options, add_hint_options, read_pair

if TYPE_CHECKING:
    from ..config import Config
    from ..data.pair import Pair, Prompts
    from ..progress import PrintProgress
    from ..transforms.base import Transform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.usage = "deepdiffreg register FIXED MOVING -o OUTDIR [options]"
    parser.add_argument(
        "fixed", metavar="FIXED", help="the scan that stays: NIfTI, NRRD, MHA/MHD, MGZ, NPZ/NPY or a DICOM folder"
    )
    parser.add_argument("moving", metavar="MOVING", help="the scan that is brought onto it; any grid")
    parser.add_argument("-o", "--output", required=True, metavar="OUTDIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUTDIR")
    parser.add_argument(
        "--intermediate",
        type=int,
        metavar="N",
        help="write the maps phi_t at N times from 0 to 1 (phi_0.nii.gz ... phi_1.nii.gz) and every stored velocity",
    )
    add_hint_options(parser, masks=True)
    add_config_options(parser)
    add_grid_options(parser)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Check everything, register, write the folder; returns the exit code."""
    from ..export.folder import check_outdir
    from ._finish import finish
    from ._overlap import check_overlap

    config = read_config(arguments)
    outdir = Path(arguments.output)
    check_outdir(outdir, overwrite=arguments.overwrite)
    pair = read_pair(arguments, arguments.fixed, arguments.moving)
    check_outdir(outdir, pair, arguments.overwrite, frames=config.intermediate)
    check_device(config)
    check_stiffness(config, pair.prompts)
    initial = read_initial(arguments.initial, pair)
    check_overlap(pair, config, initial, asked=arguments.start is not None)

    from ..pipeline import register

    result = register(pair, config, progress, initial=initial)
    return finish(result, outdir, arguments, progress)


def check_device(config: Config) -> None:
    """Refuse a device that this machine lacks before anything is computed."""
    from ..device import choose_device

    choose_device(config.device)


def check_stiffness(config: Config, prompts: Prompts) -> None:
    """Refuse tissues that the chosen transform does not know before anything is computed."""
    if prompts.stiffness is not None:
        from ..transforms import TRANSFORMS

        TRANSFORMS.build(config.transform.name, **config.transform.options).set_stiffness(prompts.stiffness)


def read_initial(path: str | None, pair: Pair) -> Transform | None:
    """Read ``--initial`` and refuse one of another dimension."""
    if path is None:
        return None
    from ..export.itk_transform import read_transform

    transform = read_transform(path)
    if transform.ndim != pair.fixed.ndim:
        raise InputError(f"--initial: {path} is a {transform.ndim}-D transform but the scans are {pair.fixed.ndim}-D")
    return transform
