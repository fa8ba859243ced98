"""The shipped networks beside local correlation, MIND and mutual information: real scans, one solver, one start, one schedule.

The networks were trained on generated anatomies alone; no scan of this table was ever shown to them. Scans are resampled to
voxels of about 2 mm (coarser ones are left as they are), every comparison continues from the same affine alignment, and labels and
landmarks are judged on their own grids. ``contrasts`` change the moving scan: its negative, gamma 0.5 and 2, random maps of its
intensities (air stays air), slices three times as thick, a quarter cut off. The scans of one head in T1, PD and MRA have no labels:
the moving one is bent by a known warp, and the distance in mm between the map that was found and the true one is given, inside the
head; "true" is the rigid alignment by mutual information followed by the known warp.

Run by ``run.py``; this file's own command line measures one case and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import cases
import common

MODELS = {
    "UNet-E": "features-unet-e",
    "UNet": "features-unet",
    "MIND-Net": "features-mind-net",
    "VM-diff": "map-voxelmorph-diff",
}
FEATURES, LONG = ("UNet-E", "UNet-E + MI", "UNet", "MIND-Net"), "MIND, long"
METHODS = (*FEATURES, "LNCC", "MIND", LONG, "MI", "MIND + MI", "VM-diff")
"""A name with MI behind it: mutual information of the scans beside, its force as large as the other's, beside learned features half
as large, as in the presets. long: twice the iterations, about the time of learned features. VM-diff is a prediction only."""
BESIDE_FEATURES = 0.5
SPACING_MM = 2.0
FACTORS, ITERATIONS, MORE = (4, 2, 1), (60, 40, 12), (120, 80, 24)
CONTRASTS = (
    "as it is", "negative", "gamma 0.5", "gamma 2", "remapped 1", "remapped 2", "remapped 3", "thick slices", "cut",
)  # fmt: skip
REMAPPED = tuple(name for name in CONTRASTS if name.startswith("remapped"))
REAL = ("brain_1000_1001", "brain_1002_1003", "lung_ct", "lung_mr")
BRAINS = tuple(name for name in REAL if name.startswith("brain"))
HEAD = "brain_t1_pd_mra"
HEAD_FIXED, HEAD_MOVING = "t1", ("t1", "PD", "MRA")
QUICK = ("lung_mr",)
QUICK_CONTRASTS = ("as it is", "negative")
LEAST_VOXELS = 100
WARP_MM, WARP_CELL_MM = 4.0, 45.0
"""Spread of each component of the known warp's velocity, and the distance of its control points."""
KEPT_SHARE, GAIN = 0.95, 0.02
"""What features set out to reach: the share of their own Dice that they keep on remapped scans, and the Dice by which they beat
MIND on remapped brains in as much time."""


def run(threads: int, quick: bool = False) -> dict:
    """Every case in a process of its own; then what was reached of what was set out to."""
    found = {}
    for name in QUICK if quick else (*REAL, HEAD):
        common.say(f"shipped: {name}")
        script = [sys.executable, os.fspath(common.HERE / "shipped.py"), name, "--threads", str(threads)]
        found[name] = common.measure(script + (["--quick"] if quick else []), threads).json()
    return {"models": MODELS, "spacing_mm": SPACING_MM, "iterations": ITERATIONS, "cases": found, "goals": goals(found)}


def goals(found: dict) -> list[dict]:
    """The share kept of each pair with labels, and the gain of each brain pair; only what was measured."""
    rows = []
    for method, case in ((m, c) for m in FEATURES for c in REAL):
        contrasts = found.get(case, {}).get("contrasts", {})
        remapped = [contrasts[name] for name in REMAPPED if name in contrasts]
        if not remapped or "dice" not in remapped[0][method]:
            continue
        mean = {m: statistics.mean(row[m]["dice"] for row in remapped) for m in METHODS}
        kept = mean[method] / contrasts["as it is"][method]["dice"]
        gain = mean[method] - mean[LONG]
        rows.append(_goal(case, method, f"share of own Dice kept, at least {KEPT_SHARE}", kept, kept >= KEPT_SHARE))
        if case in BRAINS:
            rows.append(_goal(case, method, f"Dice above {LONG}, at least {GAIN}", gain, gain >= GAIN))
    return rows


def _goal(case: str, method: str, text: str, value: float, reached: bool) -> dict:
    return {"case": case, "method": method, "text": text, "value": round(value, 4), "reached": reached}


def measure(name: str, threads: int, contrasts: tuple[str, ...] = (), methods: tuple[str, ...] = METHODS) -> dict:
    """One case: rows by contrast (moving scan for the head), cells by method."""
    from DeepDiffRegLib.device import set_threads

    set_threads(threads)
    return _head(threads, methods) if name == HEAD else _real(name, threads, contrasts or CONTRASTS, methods)


def _real(name: str, threads: int, contrasts: tuple[str, ...], methods: tuple[str, ...]) -> dict:
    from DeepDiffRegLib.data.io import read_image

    folder = cases.data_folder()
    files = json.loads((folder / "cases.json").read_text(encoding="utf-8"))[name]
    fixed, moving = (_coarse(read_image(folder / files[role])) for role in ("fixed", "moving"))
    start = _aligned(fixed, moving, "lncc", "affine", threads)
    judge = _judge(folder, files)
    rows = {"start": judge(start)}
    for contrast in contrasts:
        changed = _changed(moving, contrast)
        rows[contrast] = {}
        for method in methods:
            transform, seconds = _registered(fixed, changed, start, method, threads)
            rows[contrast][method] = {**judge(transform), "seconds": round(seconds, 1)}
            common.say(f"  {contrast}, {method}: {rows[contrast][method]}")
    return {"start": rows.pop("start"), "contrasts": rows}


def _head(threads: int, methods: tuple[str, ...]) -> dict:
    """T1 as the fixed scan; moving scans bent by a known warp."""
    from DeepDiffRegLib.data.io import read_image

    folder = cases.data_folder() / HEAD
    fixed = _coarse(read_image(folder / f"chris_{HEAD_FIXED}.nii.gz"))
    rows = {}
    for name in HEAD_MOVING:
        moving = _coarse(read_image(folder / f"chris_{name}.nii.gz"))
        start = _aligned(fixed, moving, "mi", "rigid", threads) if name != HEAD_FIXED else _identity()
        bent, true = _bent(moving)
        inside = _points_inside(fixed, moving, start)
        goal = true(start.map_points(inside))
        rows[name] = {"start": {"error_mm": _distance(start.map_points(inside), goal)}}
        for method in methods:
            transform, seconds = _registered(fixed, bent, start, method, threads)
            error = _distance(transform.map_points(inside), goal)
            rows[name][method] = {"error_mm": error, "seconds": round(seconds, 1)}
            common.say(f"  {name}, {method}: {rows[name][method]}")
    return {"moving": rows}


def _coarse(image):
    """Voxels of about ``SPACING_MM``, never finer than the scan's own."""
    from DeepDiffRegLib.data.image import Image
    from DeepDiffRegLib.geometry.pyramid import level_geometry, resample

    target = level_geometry(image.geometry, SPACING_MM)
    return Image(resample(image.tensor.float(), image.geometry, target), target)


def _identity():
    import numpy as np

    from DeepDiffRegLib.transforms.affine import AffineTransform

    return AffineTransform(np.eye(3), np.zeros(3))


def _aligned(fixed, moving, similarity: str, transform: str, threads: int):
    from DeepDiffRegLib.config import Choice, Config, Start
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.session import RegistrationSession

    options = {"radius_voxels": 2} if similarity == "lncc" else {}
    start = Start(transform=transform, similarity=Choice(similarity, options))
    config = Config(start=start, transform=Choice(transform), device="cpu", threads=threads)
    return RegistrationSession(Pair(fixed, moving), config).run()


def _registered(fixed, moving, start, method: str, threads: int):
    """The map and the processor seconds it took, features included."""
    from DeepDiffRegLib.config import Choice, Config, Schedule
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.networks.files import with_model
    from DeepDiffRegLib.session import RegistrationSession

    first, *others = method.removesuffix(", long").split(" + ")
    iterations = MORE if method == LONG else ITERATIONS
    compared = {
        "LNCC": Choice("lncc", {"radius_voxels": 2}),
        "MIND": Choice("mind", {"distance_voxels": 1}),
        "MI": Choice("mi"),
    }
    weight = BESIDE_FEATURES if first in MODELS else 1.0
    config = Config(
        similarity=compared.get(first, Config().similarity),
        further_similarities=tuple(replace(compared[name], weight=weight) for name in others),
        schedule=Schedule(FACTORS, iterations),
        device="cpu",
        threads=threads,
    )
    if first in MODELS:
        config = with_model(config, MODELS[first])
    if config.method == "feedforward":
        config = config.replace(schedule=Schedule(FACTORS, (0,) * len(FACTORS)))
    started = time.process_time()
    transform = RegistrationSession(Pair(fixed, moving), config).run(start)
    return transform, time.process_time() - started


def _changed(image, contrast: str):
    """The scan as another scanner might have shown it."""
    import torch

    from DeepDiffRegLib.data.image import Image
    from DeepDiffRegLib.methods._scans import as_trained
    from DeepDiffRegLib.networks.weights import Intensities
    from DeepDiffRegLib.training._synthetic_fields import Source
    from DeepDiffRegLib.training._synthetic_scans import AIR, curve, remapped, thick_slices

    scan = as_trained(image.tensor, Intensities())
    if contrast == "negative":
        scan = 1 - scan
    elif contrast.startswith("gamma"):
        scan = scan ** float(contrast.split()[1])
    elif contrast.startswith("remapped"):
        scan = torch.where(scan > AIR, remapped(scan, *curve(Source(11, int(contrast.split()[1])))), 0.0)
    elif contrast == "thick slices":
        scan = thick_slices(scan, 0, 3.0)
    elif contrast == "cut":
        scan = scan.clone()
        scan[:, :, : scan.shape[2] // 4] = 0
    else:
        return image
    return Image(scan, image.geometry)


def _judge(folder: Path, files: dict):
    """A function from a map to its Dice or TRE (mm)."""
    import numpy as np

    from DeepDiffRegLib.data.io import read_image
    from DeepDiffRegLib.warp.image import warp_image

    def tre(transform) -> dict:
        fixed, moving = (
            np.loadtxt(folder / files[f"{r}_points"], delimiter=",", skiprows=1) for r in ("fixed", "moving")
        )
        return {"tre_mm": _distance(transform.map_points(fixed), moving)}

    def dice(transform) -> dict:
        fixed, moving = (read_image(folder / files[f"{r}_labels"], "labels") for r in ("fixed", "moving"))
        warped = warp_image(moving, transform, fixed.geometry)
        a, m, b = (image.tensor.numpy().ravel().astype(np.int64) for image in (fixed, moving, warped))
        count = max(a.max(), m.max()) + 1
        na, nm, nb = (np.bincount(values, minlength=count) for values in (a, m, b))
        both = np.bincount(a[a == b], minlength=count)
        kept = [k for k in range(1, count) if na[k] >= LEAST_VOXELS and nm[k] >= LEAST_VOXELS]
        return {"dice": round(float(np.mean([2 * both[k] / (na[k] + nb[k]) for k in kept])), 4)}

    return tre if "fixed_points" in files else dice


def _bent(image):
    """The scan seen through a known smooth map y -> w(y), and the function that gives w^-1 at (N, 3) points in mm."""
    from DeepDiffRegLib.data.image import Image
    from DeepDiffRegLib.geometry.sampling import identity_index, per_component, sample
    from DeepDiffRegLib.training._synthetic_fields import Source, diffeomorphism, noise
    from DeepDiffRegLib.transforms.displacement import DisplacementTransform, to_world

    geometry = image.geometry
    cell = WARP_CELL_MM / min(geometry.spacing_mm)
    velocity = WARP_MM * noise(Source(5), geometry.shape, cell, 3)[None]
    velocity = velocity / per_component(geometry.spacing_mm, velocity)
    forward, backward = diffeomorphism(velocity), diffeomorphism(-velocity)
    scan = sample(image.tensor, identity_index(geometry.shape) + forward)
    return Image(scan, geometry), DisplacementTransform(to_world(backward, geometry), geometry).map_points


def _points_inside(fixed, moving, start):
    """Some thousand voxel centers of the fixed scan that show tissue and whose partners lie well within the moving scan."""
    import numpy as np

    from DeepDiffRegLib.methods._scans import as_trained
    from DeepDiffRegLib.networks.weights import Intensities

    shown = as_trained(fixed.tensor, Intensities())[0, 0].numpy() > 0.15
    index = np.argwhere(shown)[::17, ::-1]
    points = fixed.geometry.to_world(index.astype(float))
    there = moving.geometry.to_index(start.map_points(points)) / (np.array(moving.geometry.size) - 1)
    return points[((there > 0.12) & (there < 0.88)).all(1)]


def _distance(first, second) -> float:
    import numpy as np

    return round(float(np.linalg.norm(first - second, axis=1).mean()), 3)


def table(found: dict) -> str:
    """Everything as Markdown: one row per case and contrast, one column per method; seconds are means over the case."""
    lines = [f"| case | moving scan | start | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 3) + "|"]
    for case, result in found["cases"].items():
        rows = result.get("contrasts") or result["moving"]
        for name, row in rows.items():
            start = row.get("start", result.get("start", {}))
            cells = [_cell(start), *(_cell(row[method]) for method in METHODS)]
            lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
        seconds = [statistics.mean(row[method]["seconds"] for row in rows.values()) for method in METHODS]
        lines.append(f"| {case} | processor seconds | | {' | '.join(f'{s:.0f}' for s in seconds)} |")
    said = ("not reached", "reached")
    judged = [
        f"- {g['case']}, {g['method']}: {g['text']}: {g['value']:.3f}, {said[g['reached']]}" for g in found["goals"]
    ]
    return "\n".join([*lines, "", *judged])


def _cell(scores: dict) -> str:
    for key, unit in (("dice", ""), ("tre_mm", " mm"), ("error_mm", " mm")):
        if key in scores:
            return f"{scores[key]:.3f}{unit}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=(*REAL, HEAD))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two contrasts only")
    parser.add_argument("--contrasts", nargs="+", choices=CONTRASTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    wanted = parser.parse_args()
    contrasts = QUICK_CONTRASTS if wanted.quick else tuple(wanted.contrasts or CONTRASTS)
    print(json.dumps(measure(wanted.case, wanted.threads, contrasts, tuple(wanted.methods))))


if __name__ == "__main__":
    main()
