"""The same pair on the same graphics card: our ``default`` preset and FireANTs, each in a process of its own.

FireANTs (``pip install fireants``) gets our schedule, its own recommended affine start and its plain torch kernels. Without a
card, or without the package, the section says so and nothing is measured. This file's own command line is one child.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

import cases
import common

CASE = "brain_1000_1001"
AFFINE = ((8, 4, 2), (200, 100, 50))
NO_GPU = "no GPU on this machine: not measured"
NO_PACKAGE = "FireANTs is not installed beside this library (pip install fireants): not measured"


def card() -> str | None:
    """Name of the CUDA card, asked in a process of its own; None without one."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    return common.measure([sys.executable, "-c", code], 1).output.strip() or None


def run(threads: int, name: str | None) -> dict:
    """Both on ``CASE``, scored like the cases; ``skipped`` holds the reason for what was not measured."""
    if name is None:
        return {"skipped": NO_GPU}
    found: dict = {"card": name, "case": CASE, "methods": {}}
    data = cases.data_folder()
    methods = ["default"]
    if importlib.util.find_spec("fireants") is None:
        found["skipped"] = NO_PACKAGE
    else:
        methods.append("fireants")
    for method in methods:
        common.say(f"card: {CASE}, {method}")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            out = Path(folder) / "transform.h5"
            command = [sys.executable, __file__, method, "--output", str(out), "--threads", str(threads)]
            child = common.measure(command, threads)
            score = [sys.executable, str(data.parent / "tools" / "score.py"), CASE, str(out)]
            scores = common.measure(score, threads, {"DEEPDIFFREG_DATA": str(data)}).json()
        found["methods"][method] = {**child.json(), "process_wall_s": round(child.wall_s, 2), **scores}
    return found


def _files() -> tuple[Path, Path]:
    data = cases.data_folder()
    known = json.loads((data / "cases.json").read_text(encoding="utf-8"))[CASE]
    return data / known["fixed"], data / known["moving"]


def ours(output: Path, threads: int) -> float:
    """Seconds from the loaded scans to the transform on the card (start and deformable stage)."""
    import torch

    from DeepDiffRegLib import Pair, RegistrationSession, load_preset, read_image
    from DeepDiffRegLib.export.itk_transform import write_transform

    pair = Pair(*(read_image(path) for path in _files()))
    config = load_preset("default").replace(device="cuda", threads=threads)
    torch.zeros(1, device="cuda")
    started = time.perf_counter()
    transform = RegistrationSession(pair, config).run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    write_transform(transform, output)
    return seconds


def theirs(output: Path) -> float:
    """The same of FireANTs, with the factors and iterations of our preset."""
    import torch
    from fireants.io import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    from DeepDiffRegLib import load_preset
    from DeepDiffRegLib.export.itk_transform import read_transform, write_transform

    fixed, moving = (BatchedImages([Image.load_file(str(path))]) for path in _files())
    schedule = load_preset("default").schedule
    torch.cuda.synchronize()
    started = time.perf_counter()
    affine = AffineRegistration(
        list(AFFINE[0]), list(AFFINE[1]), fixed, moving, optimizer="Adam", optimizer_lr=3e-3, cc_kernel_size=5
    )
    affine.optimize()
    greedy = GreedyRegistration(
        scales=list(schedule.factors),
        iterations=list(schedule.iterations),
        fixed_images=fixed,
        moving_images=moving,
        cc_kernel_size=5,
        deformation_type="compositive",
        optimizer="adam",
        optimizer_lr=0.5,
        init_affine=affine.get_affine_matrix().detach(),
    )
    greedy.optimize()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    field = output.with_name("warp.nii.gz")
    greedy.save_as_ants_transforms(str(field))
    write_transform(read_transform(field), output)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=("default", "fireants"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    import torch

    seconds = ours(wanted.output, wanted.threads) if wanted.method == "default" else theirs(wanted.output)
    print(json.dumps({"wall": round(seconds, 2), "card_mb": round(torch.cuda.max_memory_allocated() / 2**20)}))


if __name__ == "__main__":
    main()
