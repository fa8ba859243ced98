"""Register generated anatomy, then improve it with one prompt, and write the report.

Invents a person, scans it twice on different grids, registers the scans, looks up which structure fits worst, and gives
its label and the landmarks on it as a prompt, as a user would. OUTDIR becomes a result folder like that of register;
--scans DIR keeps the generated scans, label maps and landmarks, ready to be tried with the other commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..data.pair import Prompts
    from ..data.phantoms import PhantomPair
    from ..progress import PrintProgress
    from ..transforms.base import Transform

SIZE = (96, 80, 64)
DEFORMATION_MM = 14.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.add_argument("-o", "--output", required=True, metavar="OUTDIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUTDIR")
    parser.add_argument("--scans", metavar="DIR", help="also write the generated scans, label maps and landmarks here")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which person to invent (default: 0)")
    parser.add_argument("--preset", default="default", metavar="P", help="preset to use (default: default)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Generate, register, prompt, write; returns the exit code."""
    from ..config import load_preset
    from ..device import choose_device
    from ..export.folder import check_outdir

    outdir = Path(arguments.output)
    config = load_preset(arguments.preset).replace(
        seed=arguments.seed, threads=arguments.threads, device=arguments.device
    )
    check_outdir(outdir, overwrite=arguments.overwrite)
    choose_device(config.device)

    from ..data.phantoms import make_pair, write_pair
    from ..session import RegistrationSession
    from ._finish import finish

    phantom = make_pair(arguments.seed, SIZE, deformation_mm=DEFORMATION_MM)
    session = RegistrationSession(phantom.pair, config, progress)
    session.run()
    prompts, name = worst_structure(phantom, session.transform)
    label = prompts.label_pairs[0].fixed
    before = measure(phantom, session.transform, label)
    session.update(prompts)
    after = measure(phantom, session.transform, label)
    facts = {"prompt": name, "before_prompt": before, "after_prompt": after}
    code = finish(session.result(), outdir, arguments, progress, facts)
    if arguments.scans:
        write_pair(phantom, arguments.scans)
    if not arguments.json:
        _tell(facts)
    return code


def measure(phantom: PhantomPair, transform: Transform, label: int) -> dict[str, float]:
    """Dice of one structure, mean Dice of all, and mean landmark error (mm), against what is known about the pair."""
    import numpy as np

    misses = transform.map_points(phantom.landmarks.fixed.positions_mm) - phantom.landmarks.moving.positions_mm
    dice = dice_by_label(phantom, transform)
    return {
        "prompted_dice": dice[label],
        "landmark_error_mm": float(np.linalg.norm(misses, axis=1).mean()),
        "mean_dice": float(np.mean(list(dice.values()))),
    }


def dice_by_label(phantom: PhantomPair, transform: Transform) -> dict[int, float]:
    """Overlap of every structure after warping the moving label map."""
    from ..warp.image import warp_image

    fixed = phantom.fixed_labels.numpy()
    warped = warp_image(phantom.moving_labels, transform, phantom.fixed_labels.geometry).numpy()
    scores = {}
    for label in phantom.label_names:
        a, b = fixed == label, warped == label
        if a.any():
            scores[label] = 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
    return scores


def worst_structure(phantom: PhantomPair, transform: Transform) -> tuple[Prompts, str]:
    """The structure that overlaps least as a label pair, with the landmarks that carry its name (else the worst three)."""
    import numpy as np

    from ..data.pair import LabelPair, Prompts
    from ..data.points import Landmarks, Points

    dice = dice_by_label(phantom, transform)
    label = min(dice, key=dice.get)
    name = phantom.label_names[label]
    fixed, moving = phantom.landmarks.fixed, phantom.landmarks.moving
    miss = np.linalg.norm(transform.map_points(fixed.positions_mm) - moving.positions_mm, axis=1)
    chosen = [i for i, text in enumerate(fixed.names) if text.startswith(name)] or list(np.argsort(-miss)[:3])
    sides = [Points(side.positions_mm[chosen], tuple(side.names[i] for i in chosen)) for side in (fixed, moving)]
    prompts = Prompts(
        landmarks=Landmarks(*sides),
        fixed_labels=phantom.fixed_labels,
        moving_labels=phantom.moving_labels,
        label_pairs=(LabelPair(label, label),),
    )
    return prompts, f"{name} (label {label} and {len(chosen)} landmarks)"


def _tell(facts: dict) -> None:
    before, after = facts["before_prompt"], facts["after_prompt"]
    print(f"prompt  {facts['prompt']}")
    for key, text in (
        ("prompted_dice", "its Dice"),
        ("mean_dice", "mean Dice of all"),
        ("landmark_error_mm", "landmark error (mm)"),
    ):
        print(f"        {text:<19}  {before[key]:.3f} -> {after[key]:.3f}")
