"""Measure accuracy, time and memory: ``python Testing/Benchmarks/run.py``, or ``make bench``, which also installs the others.

    run.py                          everything; results/<date>-<part>.json and the section of the README
    run.py --only kernels           one part: cases, kernels, growth (includes the comparison on a graphics card) or another of PARTS
    run.py --quick --output DIR     small sizes and one case, to see whether it runs; the README stays as it is

Nothing here fails because something was slow. Exit 0 done, 2 when something is missing (one line says what).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import assisted_prompts
import card
import cases
import common
import features
import growth
import interactive
import networks
import shipped
import shooting
import tables
import training


@dataclass(frozen=True)
class Plan:
    """What is measured. cases: None for all."""

    threads: int = 2
    cases: tuple[str, ...] | None = None
    kernel_size: int = 160
    sizes: tuple[int, ...] = growth.SIZES
    shooting_sizes: tuple[int, ...] = (64, 96)
    large: bool = True
    interactive_size: tuple[int, ...] = interactive.SIZE
    network_shape: tuple[int, ...] = networks.SHAPE
    training_steps: int | None = None
    shipped_quick: bool = False
    assist_repeats: int = assisted_prompts.REPEATS
    figures: Path = common.RESULTS


def measure_cases(plan: Plan, gpu: str | None) -> dict:
    return cases.run(list(plan.cases) if plan.cases else None, plan.threads)


def measure_kernels(plan: Plan, gpu: str | None) -> dict:
    return {"card": gpu, "parts": _per_device(gpu, lambda device: _kernels(plan, device))}


def measure_growth(plan: Plan, gpu: str | None) -> dict:
    parts = _per_device(gpu, lambda device: growth.run(plan.sizes, plan.threads, device))
    return {"card": gpu, "parts": parts, "comparison": card.run(plan.threads, gpu)}


def measure_interactive(plan: Plan, gpu: str | None) -> dict:
    return interactive.run(plan.interactive_size, plan.threads)


def measure_slicer(plan: Plan, gpu: str | None) -> dict:
    folder = Path(__file__).resolve().parent
    views, memory = (
        common.measure([sys.executable, str(folder / name)], plan.threads).json()
        for name in ("slicer_views.py", "slicer_memory.py")
    )
    return {"views": views, "memory": memory}


def measure_shooting(plan: Plan, gpu: str | None) -> dict:
    return shooting.run(plan.threads, plan.shooting_sizes, plan.large)


def measure_networks(plan: Plan, gpu: str | None) -> dict:
    return {
        "card": gpu,
        "parts": _per_device(gpu, lambda device: networks.run(plan.threads, device, plan.network_shape)),
    }


def measure_features(plan: Plan, gpu: str | None) -> dict:
    return {
        "card": gpu,
        "parts": _per_device(gpu, lambda device: features.run(plan.threads, device, plan.network_shape)),
    }


def measure_training(plan: Plan, gpu: str | None) -> dict:
    return training.run(plan.threads, plan.training_steps)


def measure_assist(plan: Plan, gpu: str | None) -> dict:
    names = [name for name in assisted_prompts.CASES if plan.cases is None or name in plan.cases]
    plan.figures.mkdir(parents=True, exist_ok=True)
    return assisted_prompts.run(plan.threads, names, plan.assist_repeats, plan.figures / "assist.png")


def measure_shipped(plan: Plan, gpu: str | None) -> dict:
    return shipped.run(plan.threads, plan.shipped_quick)


PARTS: dict[str, Callable[[Plan, str | None], dict]] = {
    "cases": measure_cases,
    "kernels": measure_kernels,
    "growth": measure_growth,
    "shooting": measure_shooting,
    "interactive": measure_interactive,
    "slicer": measure_slicer,
    "networks": measure_networks,
    "features": measure_features,
    "training": measure_training,
    "shipped": measure_shipped,
    "assist": measure_assist,
}


def _per_device(gpu: str | None, measure: Callable[[str], dict]) -> list[dict]:
    on_card = measure("cuda") if gpu else {"device": "cuda", "skipped": card.NO_GPU}
    return [measure("cpu"), on_card]


def _kernels(plan: Plan, device: str) -> dict:
    common.say(f"kernels: {plan.kernel_size}^3 on {device}")
    script = str(common.HERE / "kernels.py")
    command = [
        sys.executable,
        script,
        "--size",
        str(plan.kernel_size),
        "--threads",
        str(plan.threads),
        "--device",
        device,
    ]
    return common.measure(command, plan.threads).json()


def read_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="parts to measure")
    parser.add_argument("--cases", nargs="+", help="names of cases.json instead of all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small sizes and lung_ct alone; needs --output")
    parser.add_argument("--output", type=Path, help="folder for the results, which then do not go into the README")
    arguments = parser.parse_args(argv)
    if arguments.quick and arguments.output is None:
        parser.error("--quick needs --output DIR: its numbers do not belong beside those of a full run")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Measure, write each part as soon as it is done, then the README."""
    arguments = read_arguments(argv)
    chosen = tuple(arguments.cases) if arguments.cases else None
    figures = arguments.output or common.RESULTS
    plan = Plan(arguments.threads, chosen, figures=figures)
    if arguments.quick:
        plan = Plan(
            arguments.threads, chosen or ("lung_ct",), 96, (64, 96, 128),
            interactive_size=interactive.QUICK_SIZE, network_shape=(64, 64, 64), training_steps=training.QUICK_STEPS,
            shipped_quick=True,
            assist_repeats=2, figures=figures,
        )  # fmt: skip
    try:
        if {"cases", "shooting", "training", "assist", "shipped"} & set(arguments.only):
            cases.data_folder()
        if "cases" in arguments.only:
            cases.peers_python()
        gpu = card.card()
        for name in arguments.only:
            about = common.about(plan.threads)
            content = {"about": about, **PARTS[name](plan, gpu)}
            common.say(f"written: {common.write_result(name, content, arguments.output or common.RESULTS)}")
    except common.BenchmarkError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if arguments.output is None:
        tables.write_readme()
        common.say("written: the section of the README")
    return 0


if __name__ == "__main__":
    sys.exit(main())
