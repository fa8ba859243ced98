"""Train a network on your own scans.

CONFIG is a JSON file that names the network, the scans, the losses and the options of the training; everything but the scans
has a default:

  {"network": {"name": "voxelmorph-diff", "variant": "light", "architecture": {"ndim": 3}},
   "data": {"scans": "scans.csv", "mode": "all", "validation": 5, "batch": 1},
   "losses": ["lncc", {"name": "kl", "precision": 20, "weight": 0.1}],
   "optimization": {"steps": 20000, "learning_rate": 1e-4, "validate_every": 500, "patience": 10}}

scans is a folder, or a CSV with the columns image, labels, surface, split (train or validation) and pair; only image is needed.
OUTDIR receives model.safetensors and its card model.json, for `deepdiffreg register --method feedforward --model`, and beside
them checkpoint.safetensors, history.jsonl, tensorboard/ and the cache of prepared scans. A training that was stopped or killed
at any moment continues with --resume exactly where it was (bit for bit on the CPU with as many threads). All keys are described in
Resources/Docs/training.md.

With the key "synthetic" in the place of "data" no scans are needed: every step invents an anatomy and two scans of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..progress import PrintProgress
    from ..training.run import Trained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.add_argument("config", metavar="CONFIG", help="JSON file; paths in it are relative to its folder")
    parser.add_argument("-o", "--output", required=True, metavar="OUTDIR", help="folder to write, new or empty")
    parser.add_argument("--resume", action="store_true", help="continue the training in OUTDIR")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps instead of the configured one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Check, train, write the model; 3 when cancelled, else 0."""
    from ..device import set_threads
    from ..training.config import read_config
    from ..training.devices import first_process
    from ..training.recipe import is_recipe, read_recipe, train_recipe
    from ..training.run import train

    set_threads(arguments.threads)
    recipe = is_recipe(arguments.config)
    config = read_recipe(arguments.config) if recipe else read_config(arguments.config)
    if arguments.device is not None:
        config = replace(config, optimization=replace(config.optimization, device=arguments.device))
    shown = progress
    if sys.stderr.isatty() and not arguments.quiet:
        shown = _bar(progress)
    trained = (train_recipe if recipe else train)(config, arguments.output, shown, arguments.resume)
    shown.close()
    if first_process():
        _tell(trained, Path(arguments.output), arguments.json)
    return 0 if trained.model is not None else 3


def _bar(progress: PrintProgress):
    """A progress bar in place of the line; cancelled by the same signals."""
    from tqdm import tqdm

    from ..progress import Progress

    class Bar(Progress):
        def __init__(self):
            super().__init__()
            self._bar: tqdm | None = None

        def report(self, step) -> None:
            if not step.iterations:
                tqdm.write(step.stage, file=sys.stderr)
                return
            if self._bar is None or self._bar.desc.split(":")[0] != step.stage:
                self.close()
                self._bar = tqdm(total=step.iterations, initial=step.iteration, desc=step.stage, file=sys.stderr)
            if step.loss is not None:
                self._bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            self._bar.update(step.iteration - self._bar.n)

        def cancelled(self) -> bool:
            return progress.cancelled()

        def close(self) -> None:
            if self._bar is not None:
                self._bar.close()

    return Bar()


def _tell(trained: Trained, outdir: Path, as_json: bool) -> None:
    fitted = trained.fitted
    if as_json:
        values = {
            "outdir": str(outdir),
            "status": fitted.status.value,
            "message": fitted.message,
            "model": None if trained.model is None else str(trained.model),
            "step": fitted.step,
            "steps": fitted.steps,
            "metrics": fitted.metrics,
            "notes": list(fitted.notes),
            "seconds": fitted.seconds,
            "card": None if trained.card is None else trained.card.to_dict(),
        }
        print(json.dumps(values))
        return
    print(f"{fitted.message} ({fitted.seconds:.0f} s)")
    for note in fitted.notes:
        print(f"  {note}")
    for name, value in fitted.metrics.items():
        print(f"  {name} {value:.4g}")
    if trained.model is not None:
        print(f"  {trained.model}: weights of step {fitted.step}")
