"""The shooting family (vSVF, LDDMM, RDMM) on two real pairs, and what an iteration costs in time and memory.

lung_ct is registered with the lung mask of the moving scan as soft tissue (preset ``lung``) and with LDDMM of the same kernel
everywhere; brain_1000_1001 with LDDMM (preset ``lddmm-brain``) and with RDMM whose weights are free. Scores come from the
same independent script as those of ``cases.py``; |u| is of the deformable part, without the affine. Run by ``run.py``; this
file's own command line is one child.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import common
import growth
from cases import data_folder

SCORES = ("dice", "hd95", "tre_mean", "sdlogj", "folds_pct")
LUNG, BRAIN = "lung_ct", "brain_1000_1001"
LUNG_MASKS = {"fixed": "3DCT_lung_baseline_mask.mha", "moving": "3DCT_lung_followup_mask.mha"}
FAMILY = ("vsvf", "lddmm", "rdmm")
LARGE_SIZE = (160, 192, 160)
LARGE_LIMIT_MB = 8 * 1024
STEPS = (6, 12)
"""Time steps of the two runs whose difference is the memory of a time step."""
ITERATIONS = 4
HALF = {"factors": [4, 2], "iterations": [40, 30]}
"""RDMM of the brain stops at half resolution: its time steps cost about three times those of LDDMM."""
RDMM_ONLY = ("blur", "tissues", "background", "optimise_weights", "omt", "omt_power", "range", "tv")


def run(threads: int, sizes: tuple[int, ...] = (64, 96), large: bool = True) -> dict:
    """Measure cases and costs; a limit that is not reached is reported as lost."""
    data = data_folder()
    known = json.loads((data / "cases.json").read_text(encoding="utf-8"))
    cases = {name: _case(data, name, known[name], threads) for name in (LUNG, BRAIN)}
    return {"cases": cases, "limits": judge(cases), "cost": cost(sizes, large, threads)}


def judge(cases: dict[str, dict]) -> list[dict]:
    """The limits on the real pairs: value, bound and whether it is reached."""
    lung, brain = cases[LUNG], cases[BRAIN]
    share = lung["rdmm"]["outside_mm"] / lung["lddmm"]["outside_mm"]
    rows = (
        (LUNG, "TRE of RDMM (mm)", lung["rdmm"]["tre_mean"], "at most", 1.6),
        (LUNG, "mean |u| outside the mask, RDMM / LDDMM", share, "at most", 0.5),
        (BRAIN, "Dice of LDDMM", brain["lddmm"]["dice"], "at least", 0.60),
        (BRAIN, "Dice of RDMM", brain["rdmm"]["dice"], "at least", 0.60),
        (BRAIN, "folds of LDDMM (%)", brain["lddmm"]["folds_pct"], "at most", 0.0),
    )
    return [
        {
            "case": case,
            "text": f"{text} {sense} {bound:g}",
            "value": round(value, 4),
            "reached": value <= bound if sense == "at most" else value >= bound,
        }
        for case, text, value, sense, bound in rows
    ]


def presets(folder: Path) -> dict[str, dict[str, Path]]:
    """Preset files per case and method: the two that are shipped and, made from them, their counterparts."""
    source = common.ROOT / "Resources" / "Presets"
    lung, brain = (
        json.loads((source / f"{name}.json").read_text(encoding="utf-8")) for name in ("lung", "lddmm-brain")
    )
    same_kernel = {k: v for k, v in lung["transform"].items() if k not in RDMM_ONLY}
    same_kernel |= {"name": "lddmm", "weights": lung["transform"]["tissues"]["soft"]}
    free = brain["transform"] | {"name": "rdmm", "blur": 4}
    made = {
        LUNG: {"rdmm": lung, "lddmm": lung | {"transform": same_kernel}},
        BRAIN: {"lddmm": brain, "rdmm": brain | {"transform": free, "schedule": HALF}},
    }
    paths: dict[str, dict[str, Path]] = {}
    for case, methods in made.items():
        for method, values in methods.items():
            path = folder / f"{case}-{method}.json"
            path.write_text(json.dumps(values), encoding="utf-8")
            paths.setdefault(case, {})[method] = path
    return paths


def _case(data: Path, name: str, files: dict, threads: int) -> dict:
    """Both methods on one case: whole processes, scored from outside."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for method, preset in presets(Path(folder))[name].items():
            common.say(f"shooting: {name}, {method}")
            found[method] = register(data, name, files, preset, method, threads)
            common.say(f"       {found[method]}")
    return found


def register(data: Path, name: str, files: dict, preset: Path, method: str, threads: int) -> dict:
    """Wall, CPU and memory of the whole command, scores, and for the lungs the mean |u| outside the fixed mask."""
    masks = {role: data / "lung_ct_elastix" / mask for role, mask in LUNG_MASKS.items()}
    out = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        scans = [str(data / files[role]) for role in ("fixed", "moving")]
        command = [sys.executable, "-m", "DeepDiffRegLib", "register", *scans, "-o", str(out / "out")]
        command += ["--preset", str(preset), "--threads", str(threads), "--device", "cpu", "--quiet"]
        if name == LUNG and method == "rdmm":
            command += ["--stiffness-labels", str(masks["moving"]), "--stiffness", "1:soft"]
        child = common.measure(command, threads)
        result = json.loads((out / "out" / "result.json").read_text(encoding="utf-8"))
        row = {
            "wall": round(child.wall_s, 2),
            "cpu": round(child.cpu_s, 2),
            "peak_mb": round(child.peak_mb),
            "message": result["message"],
        }
        score = [sys.executable, str(data.parent / "tools" / "score.py"), name, str(out / "out")]
        scored = common.measure(score, threads, {"DEEPDIFFREG_DATA": str(data)}).json()
        row |= {key: scored[key] for key in SCORES if key in scored}
        if name == LUNG:
            command = [
                sys.executable,
                __file__,
                "outside",
                str(out / "out" / "transform.h5"),
                scans[0],
                str(masks["fixed"]),
            ]
            row["outside_mm"] = common.measure(command, threads).json()["outside_mm"]
        return row
    finally:
        shutil.rmtree(out, ignore_errors=True)


def cost(sizes: tuple[int, ...], large: bool, threads: int) -> dict:
    """Seconds per iteration, bytes per voxel and per voxel and time step, of every model; the large pair's peak."""
    rows = []
    folder = Path(tempfile.mkdtemp(prefix="shooting-"))
    try:
        for size in sizes:
            common.measure(
                [sys.executable, growth.__file__, "make", "--size", str(size), "--folder", str(folder)], threads
            )
            for model in FAMILY:
                common.say(f"shooting: cost of {model} at {size}^3")
                runs = [_child("solver", model, folder, steps, threads) for steps in STEPS]
                more = (runs[1]["bytes_per_voxel"] - runs[0]["bytes_per_voxel"]) / (STEPS[1] - STEPS[0])
                rows.append({"model": model, "size": size, **runs[0], "bytes_per_voxel_and_step": round(more, 2)})
        found = {"rows": rows, "time_steps": STEPS[0]}
        if large:
            common.say(f"shooting: rdmm at {LARGE_SIZE}")
            found["large"] = {
                "size": LARGE_SIZE,
                "limit_mb": LARGE_LIMIT_MB,
                **_child("large", "rdmm", folder, 10, threads),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _child(what: str, model: str, folder: Path, steps: int, threads: int) -> dict:
    command = [sys.executable, __file__, what, model, str(folder), "--steps", str(steps), "--threads", str(threads)]
    return common.measure(command, threads).json()


def outside(transform: str, fixed: str, mask: str) -> dict:
    """Mean |u| (mm) over the fixed voxels outside the mask; u is the map's deformable part."""
    from DeepDiffRegLib.data.io import read_image
    from DeepDiffRegLib.export.itk_transform import read_transform
    from DeepDiffRegLib.geometry.pyramid import resample

    grid, inside = read_image(fixed).geometry, read_image(mask)
    inner = read_transform(transform).transforms[0]
    beyond = resample((inside.tensor > 0).float(), inside.geometry, grid, padding="zeros", blur=False)[0, 0] < 0.5
    return {"outside_mm": round(float(inner.displacement(grid)[0].norm(dim=0)[beyond].mean()), 4)}


def solver(model: str, folder: Path, steps: int, threads: int) -> dict:
    """A few iterations on the finest level of a generated pair: time of one, memory beyond the scans."""
    from DeepDiffRegLib.data.io import read_image
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.data.phantoms import make_pair

    solve(make_pair(1, (32, 32, 32)).pair, model, steps, threads)
    pair = Pair(read_image(folder / "fixed.nii"), read_image(folder / "moving.nii"))
    memory = growth.Memory()
    times = solve(pair, model, steps, threads)
    memory.close("solve")
    laps = [after - before for before, after in zip(times, times[1:])]
    return {
        "iteration_s": common.summary(laps),
        "beyond_mb": round(memory.beyond_mb, 1),
        "bytes_per_voxel": round(memory.beyond_mb * 2**20 / pair.fixed.geometry.voxels, 1),
    }


def large_peak(model: str, steps: int, threads: int) -> dict:
    """Peak memory (MB) of a process that makes two iterations on a pair of ``LARGE_SIZE`` and finishes its map."""
    from DeepDiffRegLib.data.phantoms import make_pair
    from DeepDiffRegLib.memory import peak_memory_mb

    started = time.perf_counter()
    solve(make_pair(3, LARGE_SIZE, spacing_mm=(1.0, 1.0, 1.0), noise=0.0).pair, model, steps, threads, 2)
    return {"peak_mb": round(peak_memory_mb()), "wall_s": round(time.perf_counter() - started, 1)}


def solve(pair, model: str, steps: int, threads: int, iterations: int = ITERATIONS) -> list[float]:
    """Iterate on full resolution without an affine start; returns when each iteration ended."""
    from DeepDiffRegLib import RegistrationSession
    from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
    from DeepDiffRegLib.progress import Progress

    class Watch(Progress):
        def __init__(self):
            super().__init__()
            self.times: list[float] = []

        def report(self, step):
            if step.stage == "deformable":
                self.times.append(time.perf_counter())

    watch = Watch()
    config = Config(
        preprocess=Preprocess(crop=False), start=Start(initial="centers", transform="none"), threads=threads, device="cpu",
        transform=Choice(model, {"steps": steps}), schedule=Schedule((1,), (iterations,)),
    )  # fmt: skip
    RegistrationSession(pair, config, watch).run()
    return watch.times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("outside", "solver", "large", "case"))
    parser.add_argument(
        "arguments", nargs="*", help="outside: TRANSFORM FIXED MASK; solver, large: MODEL FOLDER; case: NAME METHOD"
    )
    parser.add_argument("--steps", type=int, default=STEPS[0])
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    if wanted.what == "outside":
        print(json.dumps(outside(*wanted.arguments)))
    elif wanted.what == "case":
        name, method = wanted.arguments
        data = data_folder()
        files = json.loads((data / "cases.json").read_text(encoding="utf-8"))[name]
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(json.dumps(register(data, name, files, presets(Path(folder))[name][method], method, wanted.threads)))
    elif wanted.what == "solver":
        model, folder = wanted.arguments
        print(json.dumps(solver(model, Path(folder), wanted.steps, wanted.threads)))
    else:
        print(json.dumps(large_peak(wanted.arguments[0], wanted.steps, wanted.threads)))


if __name__ == "__main__":
    main()
