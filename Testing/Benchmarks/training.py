"""Train a 2-D VoxelMorph-diff on brain slices, then register held-out slices with it and with the iterative method.

Both see the same pairs, prepared alike, start from the identity (the slices are aligned affinely), and are judged by the same local
correlation in windows of 9. The time of the network is one forward pass and the integration of its velocity, that of the iterative
method a whole ``RegistrationSession.run`` in the same process. Row ``iterative``: with the network's transform model, a stationary
velocity, and the default schedule; ``diffeomorphic``: with the default model; ``equal``: ``iterative`` with the shortest schedule
whose correlation is within 5 % of the network's. Run by ``run.py``; this file's own command line compares one trained folder and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import cases
import common

CASE = "oasis_2d_mermaid"
CONFIG = {
    "network": {"name": "voxelmorph-diff", "variant": "released", "architecture": {"ndim": 2}, "integration_steps": 5},
    "data": {"mode": "all", "validation": 10, "validation_pairs": 20, "batch": 4, "description": "2-D brain slices"},
    "losses": ["lncc", {"name": "kl", "precision": 10, "weight": 0.008}],
    "augmentation": {"flip": ["x"]},
    "optimization": {
        "steps": 7000,
        "learning_rate": 2e-3,
        "decay": "polynomial",
        "validate_every": 250,
        "device": "cpu",
        "log_every": 50,
    },
}
QUICK_STEPS = 40
RADIUS_VOXELS = 4
WITHIN = 0.95
"""Share of the network's similarity that counts as equal."""
SHARES = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
"""Of the iterations of the default schedule, tried in order."""


def run(threads: int, steps: int | None = None) -> dict:
    """Train in one process, compare in another; returns the rows of the comparison and the time of the training."""
    with tempfile.TemporaryDirectory() as folder:
        outdir, path = Path(folder) / "trained", Path(folder) / "config.json"
        config = json.loads(json.dumps(CONFIG))
        config["data"]["scans"] = os.fspath(cases.data_folder() / CASE)
        if steps is not None:
            config["optimization"] |= {"steps": steps, "validate_every": steps}
        path.write_text(json.dumps(config), encoding="utf-8")
        options = ["-o", os.fspath(outdir), "--threads", str(threads), "--json", "--quiet"]
        child = common.measure([sys.executable, "-m", "DeepDiffRegLib", "train", os.fspath(path), *options], threads)
        found = child.json()
        common.say(f"training: {found['message']}, {child.wall_s:.0f} s, LNCC {found['metrics']['lncc']:.3f}")
        script = [sys.executable, os.fspath(common.HERE / "training.py"), os.fspath(outdir), "--threads", str(threads)]
        rows = common.measure(script, threads).json()
    return {
        "steps": found["steps"],
        "training_s": round(child.wall_s, 1),
        "training_processor_s": round(child.cpu_s, 1),
        "peak_mb": round(child.peak_mb),
        "validation": found["metrics"],
        **rows,
    }


def compare(outdir: Path) -> dict:
    """The held-out pairs of a finished training, with every method."""
    from DeepDiffRegLib.networks.weights import load_model
    from DeepDiffRegLib.progress import Progress
    from DeepDiffRegLib.training.config import TrainingConfig
    from DeepDiffRegLib.training.dataset import PairSource
    from DeepDiffRegLib.training.preparation import prepare
    from DeepDiffRegLib.training.scans import list_scans

    config = TrainingConfig.from_dict(json.loads((outdir / "config.json").read_text(encoding="utf-8")))
    seed = config.optimization.seed
    scans = list_scans(config.data, seed)
    prepared = prepare(scans, config.data, outdir / "cache", Progress())
    pairs = list(PairSource(prepared, scans, config.data, config.augmentation, seed, False, False).held_out())
    spacing = prepared.grid.spacing_mm
    model = load_model(outdir / "model.safetensors")
    rows = {
        "identity": _judged(pairs, lambda pair: _still(pair), spacing, timed=False),
        "affine": _judged(pairs, _iterative(spacing, "affine"), spacing),
        "network": _judged(pairs, _network(model.network), spacing),
    }
    rows["diffeomorphic"] = _judged(pairs, _iterative(spacing, "diffeomorphic"), spacing)
    rows["iterative"] = _judged(pairs, _iterative(spacing, "svf"), spacing)
    for share in SHARES:
        rows["equal"] = {**_judged(pairs, _iterative(spacing, "svf", share), spacing), "share_of_iterations": share}
        if rows["equal"]["lncc"] >= WITHIN * rows["network"]["lncc"]:
            break
    network = rows["network"]
    return {
        "pairs": len(pairs),
        "rows": rows,
        "similarity_to_iterative": round(network["lncc"] / rows["iterative"]["lncc"], 3),
        "times_faster": round(rows["iterative"]["seconds"] / network["seconds"], 1),
        "times_faster_at_equal_similarity": round(rows["equal"]["seconds"] / network["seconds"], 1),
    }


def _judged(pairs, displacement, spacing, timed: bool = True) -> dict:
    """Means over the pairs; seconds: the median. displacement: a pair to its displacement in voxels, (1, d, *shape)."""
    from statistics import mean, median

    from DeepDiffRegLib.geometry.sampling import per_component
    from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
    from DeepDiffRegLib.qc.jacobian import sd_log
    from DeepDiffRegLib.similarity.lncc import LNCC
    from DeepDiffRegLib.training.mapping import warped

    displacement(pairs[0])
    found = []
    for pair in pairs:
        started = time.perf_counter()
        u = displacement(pair)
        seconds = time.perf_counter() - started
        determinant = jacobian_determinant(u * per_component(spacing, u), spacing)[0, 0, 1:-1, 1:-1].numpy()
        similarity = 1 - LNCC(RADIUS_VOXELS).value(pair["fixed"], warped(pair["moving"], u))
        found.append((similarity, 100 * float((determinant <= 0).mean()), sd_log(determinant), seconds))
    lncc, folds, spread, seconds = zip(*found)
    row = {"lncc": round(mean(lncc), 4), "folds_percent": round(mean(folds), 4), "sdlogj": round(mean(spread), 4)}
    return {**row, "seconds": round(median(seconds), 5)} if timed else row


def _still(pair):
    fixed = pair["fixed"]
    return fixed.new_zeros((1, fixed.ndim - 2, *fixed.shape[2:]))


def _network(network):
    import torch

    from DeepDiffRegLib.training.mapping import Mapping

    def displacement(pair):
        with torch.inference_mode():
            u = Mapping(network(pair["moving"], pair["fixed"]), tuple(pair["fixed"].shape[2:])).forward
        return u.clone()

    return displacement


def _iterative(spacing, transform: str, share: float = 1.0):
    """The iterative method from the identity with the network's similarity; share: of the default iterations."""
    from DeepDiffRegLib.config import Choice, Config, Preprocess, Schedule, Start
    from DeepDiffRegLib.data.image import Image
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.geometry.grid import Geometry
    from DeepDiffRegLib.session import RegistrationSession
    from DeepDiffRegLib.transforms.displacement import to_voxels

    whole = Schedule()
    schedule = Schedule(whole.factors, tuple(max(1, round(n * share)) for n in whole.iterations))
    config = Config(
        preprocess=Preprocess(clip_percentiles=(0.0, 100.0), crop=False),
        start=Start(initial="identity", transform="none"),
        transform=Choice(transform),
        similarity=Choice("lncc", {"radius_voxels": RADIUS_VOXELS}),
        schedule=schedule,
        device="cpu",
    )

    def displacement(pair):
        geometry = Geometry.identity(pair["fixed"].shape[:1:-1], spacing)
        session = RegistrationSession(Pair(Image(pair["fixed"], geometry), Image(pair["moving"], geometry)), config)
        return to_voxels(session.run().displacement(geometry), geometry)

    return displacement


def table(found: dict) -> str:
    """The comparison as Markdown."""
    lines = ["| method | LNCC | folds % | SDlogJ | seconds |", "|---|---|---|---|---|"]
    for name, row in found["rows"].items():
        seconds = f"{row['seconds']:.4f}" if "seconds" in row else ""
        lines.append(f"| {name} | {row['lncc']:.4f} | {row['folds_percent']:.4f} | {row['sdlogj']:.3f} | {seconds} |")
    lines.append("")
    lines.append(
        f"network: {found['times_faster']:g} times faster than iterative at {found['similarity_to_iterative']:g} of its LNCC, "
        f"{found['times_faster_at_equal_similarity']:g} times faster at equal LNCC (within 5 %)"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a finished training to compare; without it train first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="fewer steps than the configuration's")
    wanted = parser.parse_args()
    if wanted.folder is None:
        found = run(wanted.threads, wanted.steps)
        common.say(table(found))
    else:
        from DeepDiffRegLib.device import set_threads

        set_threads(wanted.threads)
        found = compare(wanted.folder)
        common.say(table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
