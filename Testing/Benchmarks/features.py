"""Learned features at full size: the forward pass of each feature network, and a registration by method ``dio``, start to map.

Random weights: times do not depend on them, the number of iterations is fixed. The registration is of a generated pair, on the
features of the smallest network, with the levels of the paper's diffeomorphic solver; features, optimisation and the rest are
counted apart, and the peak memory stands beside what ``budget`` promised before. Each case is a fresh process. Run by ``run.py``;
this file's own command line is the registration and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import common
import networks

NETWORKS = (("unet-e", "paper"), ("unet", "paper"), ("lku-e", "paper"), ("lku", "paper"))
FACTORS, ITERATIONS = (4, 2, 1), (100, 50, 20)


def run(threads: int, device: str = "cpu", shape: tuple[int, ...] = networks.SHAPE, cases=NETWORKS) -> dict:
    """Measure every network, then a registration; returns rows of both."""
    rows = [networks.forward(name, variant, threads, device, shape) for name, variant in cases]
    options = ["--device", device, "--threads", str(threads), "--shape", *map(str, shape)]
    whole = common.measure([sys.executable, os.fspath(common.HERE / "features.py"), *options], threads).json()
    common.say(f"features: dio {whole['features_s']} + {whole['optimise_s']} s, {whole['beyond_mb']:.0f} MB")
    return {"device": device, "shape": list(shape), "rows": rows, "registration": whole}


def register(shape: tuple[int, ...], device: str, threads: int) -> dict:
    """A generated pair of ``shape``, from the centers to the map, by features of random weights."""
    import torch

    from DeepDiffRegLib.budget import Voxels, estimate_bytes
    from DeepDiffRegLib.config import Choice, Config, Schedule, Start
    from DeepDiffRegLib.data.phantoms import make_pair
    from DeepDiffRegLib.networks import FEATURES
    from DeepDiffRegLib.networks.weights import ModelCard, save_model
    from DeepDiffRegLib.problem import working_voxels
    from DeepDiffRegLib.session import RegistrationSession

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        name, variant = NETWORKS[0]
        kind, path = FEATURES.load(name), Path(folder) / "net.safetensors"
        save_model(path, kind(kind.variant(variant)), ModelCard(name, {}, "none", "random weights"))
        few = Config(
            method="dio", model=str(path), similarity=Choice("mse"), start=Start("centers", "none"), device=device,
            threads=threads, schedule=Schedule((4, 2, 1), (1, 1, 1), tolerance=0.0),
        )  # fmt: skip
        RegistrationSession(make_pair(0, (24, 24, 24)).pair, few).run()  # compiled code is loaded
        pair = make_pair(0, shape[::-1]).pair
        config = few.replace(schedule=Schedule(FACTORS, ITERATIONS, tolerance=0.0))
        voxels = Voxels(pair.fixed.geometry.voxels, pair.moving.geometry.voxels, working_voxels(pair))
        before = common.peak_mb(device)
        started = _now()
        session = RegistrationSession(pair, config)
        prepared = _now()
        session.features()
        seen = _now()
        session.run()
        ended = _now()
    return {
        "network": name,
        "factors": list(FACTORS),
        "iterations": list(ITERATIONS),
        **_spent("prepare", started, prepared),
        **_spent("features", prepared, seen),
        **_spent("optimise", seen, ended),
        **_spent("whole", started, ended),
        "predicted_mb": round(estimate_bytes(voxels, session.config) / 2**20),
        "beyond_mb": round(common.peak_mb(device) - before, 1),
        "plan": session.notes,
    }


def _now() -> tuple[float, float]:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def _spent(name: str, start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_s": round(end[0] - start[0], 2), f"{name}_processor_s": round(end[1] - start[1], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=networks.SHAPE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()

    from DeepDiffRegLib.device import set_threads

    set_threads(wanted.threads)
    print(json.dumps(register(tuple(wanted.shape), wanted.device, wanted.threads)))


if __name__ == "__main__":
    main()
