"""Forward time and memory of the networks at their published size, each in a fresh process.

Random weights: the time does not depend on them. ``keras_s`` is the time of the authors' network in TensorFlow 2.21 on two CPU
cores, measured once beside ours; on another machine it is a ratio that means something only when both are measured there. Run by
``run.py``; this file's own command line is one child and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import common

SHAPE = (160, 192, 224)
KERAS_S = {"voxelmorph1": 3.6, "voxelmorph2": 6.3, "voxelmorph-diff": 1.3}
CASES = (
    ("voxelmorph1", "paper"),
    ("voxelmorph2", "paper"),
    ("voxelmorph-diff", "released"),
    ("voxelmorph-diff", "journal"),
    ("transmorph", "light"),
    ("transmorph", "paper"),
    ("transmorph-tvf", "light"),
)
BUDGET_S = 20.0


def run(threads: int, device: str = "cpu", shape: tuple[int, ...] = SHAPE) -> dict:
    """Measure every case; returns rows with wall and processor seconds of one forward pass and its memory."""
    rows = [forward(name, variant, threads, device, shape) for name, variant in CASES]
    for row in rows:
        known = row["variant"] in ("paper", "released") and shape == SHAPE
        row["keras_s"] = KERAS_S.get(row["network"]) if known else None
    return {"device": device, "shape": list(shape), "rows": rows}


def forward(name: str, variant: str, threads: int, device: str, shape: tuple[int, ...]) -> dict:
    """The row of one network, measured in a process of its own."""
    options = ["--network", name, "--variant", variant, "--threads", str(threads), "--device", device]
    command = [sys.executable, os.fspath(common.HERE / "networks.py"), *options, "--shape", *map(str, shape)]
    row = common.measure(command, threads).json()
    common.say(f"networks: {name} {variant} {row['forward_s']['median']} s, {row['beyond_mb']:.0f} MB")
    return row


def measure(name: str, variant: str, shape: tuple[int, ...], device: str) -> dict:
    """One network on random scans of ``shape`` (tensor order): two, or the one that a feature network looks at."""
    import torch

    from DeepDiffRegLib.networks import FEATURES, network_class

    kind = network_class(name)
    network = kind(kind.variant(variant)).eval().to(device)
    scans = torch.rand(1 if name in FEATURES else 2, 1, 1, *shape, device=device)
    before, processor = common.peak_mb(device), []

    def once() -> None:
        started = time.process_time()
        with torch.inference_mode():
            network(*scans)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        processor.append(time.process_time() - started)

    seconds = common.repeat(once, budget_s=BUDGET_S)
    return {
        "network": name,
        "variant": variant,
        "weights": network.count_parameters(),
        "forward_s": common.summary(seconds, digits=3),
        "processor_s": common.summary(processor[1:], digits=3),
        "beyond_mb": round(common.peak_mb(device) - before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="voxelmorph2")
    parser.add_argument("--variant", default=None)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()

    from DeepDiffRegLib.device import set_threads

    set_threads(wanted.threads)
    print(json.dumps(measure(wanted.network, wanted.variant, tuple(wanted.shape), wanted.device)))


if __name__ == "__main__":
    main()
