"""Cost per voxel and iteration of every kernel, beside the same thing written in torch operations.

Ours is what the library runs on this device: fused loops on the CPU, torch operations on a card. ``torch`` is the library's own
path for other devices and number types, forced onto this one, so both compute the same numbers; the largest difference between
the two results is measured with them. Run by ``run.py`` as a process of its own; prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import common

BUDGET_S = 3.0
RADIUS = 2
SIGMA_GRADIENT, SIGMA_WARP = 1.7, 0.6
LARGEST_VOXELS = 3.0
CHANNELS = 12


@dataclass(frozen=True)
class Kernel:
    """ours, torch: calls without arguments that return the tensor to compare (None: not compared)."""

    name: str
    what: str
    ours: Callable[[], object]
    torch: Callable[[], object]
    slow: bool = False


def build(size: int, device: str) -> list[Kernel]:
    """All kernels on one smooth, random problem of ``size``^3 voxels."""
    import numpy as np
    import torch

    from DeepDiffRegLib.descent import Level, term_force
    from DeepDiffRegLib.geometry import sampling, smoothing, vector_fields
    from DeepDiffRegLib.geometry.grid import Geometry
    from DeepDiffRegLib.prompts.base import ImageTerm
    from DeepDiffRegLib.similarity.lncc import lncc_sums, tensor_sums
    from DeepDiffRegLib.similarity.mean_squares import MeanSquares
    from DeepDiffRegLib.transforms.model import FieldAdam

    generator = torch.Generator().manual_seed(0)
    shape = (size,) * 3

    def noise(channels: int, sigma: float) -> torch.Tensor:
        values = smoothing.gaussian(torch.randn((1, channels, *shape), generator=generator), sigma)
        return (values / values.abs().max()).to(device)

    fixed, moving = ((noise(1, 2.0) + 1) / 2 for _ in range(2))
    u, force, residual = noise(3, 4.0) * LARGEST_VOXELS, noise(3, 1.0), noise(1, 1.0)
    matrix = np.eye(3, 4)
    matrix[:, 3] = 0.3
    warped = sampling.warp(moving, u, matrix)
    spacing = (1.0, 1.0, 1.0)
    grid, measure = Geometry((size,) * 3, spacing, (0.0,) * 3, np.eye(3).tolist()), MeanSquares()
    level, features = Level(grid, [], 1, np.eye(4)), [noise(CHANNELS, 2.0) for _ in range(2)]
    apart, beside = (
        ImageTerm("features", *pair, grid, measure) for pair in (features, map(measure.laid_out, features))
    )

    def adam(fused: bool) -> Callable[[], object]:
        """Both keep moments between calls, so their results are compared by the tests, not here."""
        state, gradient = FieldAdam(u, (0.9, 0.99), 0.2), force.clone()
        state.fused = state.fused and fused

        def step() -> None:
            state.direction(gradient)

        return step

    def both(name: str, what: str, call: Callable[[], object], slow: bool = False) -> Kernel:
        return Kernel(name, what, call, lambda: _in_torch(call), slow)

    def smooth(field: torch.Tensor, sigma: float) -> tuple[Callable, Callable]:
        return lambda: smoothing.gaussian(field, sigma), lambda: smoothing._torch(field, (sigma,) * 3, None)

    return [
        both("warp", "sample the moving scan through the map", lambda: sampling.warp(moving, u, matrix)),
        both(
            "pull_gradient",
            "derivative through the interpolant",
            lambda: sampling.pull_gradient(moving, u, matrix, residual),
        ),
        both("warped_gradient", "gradient of the warped scan", lambda: sampling.warped_gradient(warped, residual)),
        Kernel(
            "lncc",
            f"value and gradient, window {2 * RADIUS + 1}",
            lambda: lncc_sums(fixed, warped, None, RADIUS, 1e-5)[2],
            lambda: tensor_sums(fixed, warped, None, RADIUS, 1e-5)[2],
        ),
        Kernel(
            "squares",
            f"{CHANNELS} features: value and force of compositions",
            lambda: term_force(beside, u, level, "warped")[1],
            lambda: _in_torch(lambda: term_force(apart, u, level, "warped")[1]),
        ),
        Kernel("smooth_gradient", f"vector field, sigma {SIGMA_GRADIENT}", *smooth(force, SIGMA_GRADIENT)),
        Kernel("smooth_warp", f"vector field, sigma {SIGMA_WARP}", *smooth(u, SIGMA_WARP)),
        both("compose", "two displacements", lambda: vector_fields.compose(u, force)),
        Kernel("adam", "moments and direction", adam(fused=True), adam(fused=False)),
        both("jacobian", "determinant", lambda: vector_fields.jacobian_determinant(u, spacing)),
        both("invert", "Newton per voxel, to 0.005 voxels", lambda: vector_fields.invert(u).displacement, slow=True),
    ]


def _in_torch(call: Callable[[], object]) -> object:
    """``call`` with the fused kernels switched off."""
    from DeepDiffRegLib.geometry import sampling, vector_fields

    with contextlib.ExitStack() as stack:
        for module in (sampling, vector_fields):
            stack.callback(setattr, module, "_is_fused", module._is_fused)
            module._is_fused = lambda *tensors, **planes: False
        return call()


def measure(size: int, threads: int, device: str) -> dict:
    """Nanoseconds per voxel of each kernel, ours and torch's: median, quartiles, number of calls."""
    import torch

    from DeepDiffRegLib.device import set_threads

    set_threads(threads)
    rows = []
    with torch.no_grad():
        for kernel in build(size, device):
            ours, theirs = kernel.ours(), None if kernel.slow and device == "cpu" and size > 96 else kernel.torch()
            row = {"name": kernel.name, "what": kernel.what}
            if isinstance(ours, torch.Tensor) and theirs is not None:
                row["largest_difference"] = float((ours - theirs).abs().max())
            del ours, theirs
            for who, call in (("ours", kernel.ours), ("torch", kernel.torch)):
                slow = kernel.slow and who == "torch"
                timed = _synchronized(call, device)
                seconds = common.repeat(timed, budget_s=BUDGET_S, warm_up=0 if slow else 1)
                row[who] = common.summary([1e9 * s / size**3 for s in seconds], digits=2)
            row["factor"] = round(row["torch"]["median"] / row["ours"]["median"], 2)
            common.say(f"kernels: {row['name']} {row['ours']['median']} ns, torch {row['torch']['median']} ns")
            rows.append(row)
    return {"size": size, "device": device, "unit": "ns per voxel", "rows": rows}


def _synchronized(call: Callable[[], object], device: str) -> Callable[[], object]:
    """On a card a call returns before the work is done; wait for it."""
    if not device.startswith("cuda"):
        return call
    import torch

    def timed() -> None:
        call()
        torch.cuda.synchronize()

    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()
    print(json.dumps(measure(wanted.size, wanted.threads, wanted.device)))


if __name__ == "__main__":
    main()
