"""Learned features at full size: the forward pass of each feature network, and a registration by method ``dio``, start to map.

Random weights: times do not depend on them, the number of iterations is fixed. The registration is of a generated pair, on the
features of the smallest network, with the levels of the paper's diffeomorphic solver; features, optimisation and the rest are
counted apart, and the peak memory stands beside what ``budget`` promised before. Each case is a fresh process. Run by ``run.py``;
this file's own command line is one child and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import common

SHAPE = (160, 192, 224)
NETWORKS = (("unet-e", "paper"), ("unet", "paper"), ("lku-e", "paper"), ("lku", "paper"))
FACTORS, ITERATIONS = (4, 2, 1), (100, 50, 20)
BUDGET_S = 10.0


def run(threads: int, device: str = "cpu", shape: tuple[int, ...] = SHAPE, cases=NETWORKS) -> dict:
    """Measure every network, then a registration; returns rows of both."""
    rows = []
    for name, variant in cases:
        rows.append(
            _child(threads, "--network", name, "--variant", variant, "--device", device, "--shape", *map(str, shape))
        )
        row = rows[-1]
        common.say(f"features: {name} {variant} {row['forward_s']['median']} s, {row['beyond_mb']:.0f} MB")
    whole = _child(threads, "--register", "--device", device, "--shape", *map(str, shape))
    common.say(f"features: dio {whole['features_s']} + {whole['optimise_s']} s, {whole['beyond_mb']:.0f} MB")
    return {"device": device, "shape": list(shape), "rows": rows, "registration": whole}


def _child(threads: int, *options: str) -> dict:
    command = [sys.executable, os.fspath(common.HERE / "features.py"), *options, "--threads", str(threads)]
    return common.measure(command, threads).json()


def forward(name: str, variant: str, shape: tuple[int, ...], device: str) -> dict:
    """One network on one random scan of ``shape`` (tensor order), all resolutions."""
    import torch

    from DeepDiffRegLib.networks import FEATURES

    kind = FEATURES.load(name)
    network = kind(kind.variant(variant)).eval().to(device)
    scan = torch.rand(1, 1, *shape, device=device)
    before, processor = peak_mb(device), []

    def once() -> None:
        started = time.process_time()
        with torch.inference_mode():
            network(scan)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        processor.append(time.process_time() - started)

    # networks of this size need no warm-up on the processor: one pass is what a registration pays
    seconds = common.repeat(once, most=3, budget_s=BUDGET_S, warm_up=int(device.startswith("cuda")))
    return {
        "network": name,
        "variant": variant,
        "weights": network.count_parameters(),
        "forward_s": common.summary(seconds, digits=3),
        "processor_s": common.summary(processor[-len(seconds) :], digits=3),
        "beyond_mb": round(peak_mb(device) - before, 1),
    }


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
        before = peak_mb(device)
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
        "beyond_mb": round(peak_mb(device) - before, 1),
        "plan": session.notes,
    }


def _now() -> tuple[float, float]:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def _spent(name: str, start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_s": round(end[0] - start[0], 2), f"{name}_processor_s": round(end[1] - start[1], 2)}


def peak_mb(device: str) -> float:
    """Largest memory so far: of the card, or of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--network", default=NETWORKS[0][0])
    parser.add_argument("--variant", default=None)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()

    from DeepDiffRegLib.device import set_threads

    set_threads(wanted.threads)
    shape = tuple(wanted.shape)
    if wanted.register:
        found = register(shape, wanted.device, wanted.threads)
    else:
        found = forward(wanted.network, wanted.variant, shape, wanted.device)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
