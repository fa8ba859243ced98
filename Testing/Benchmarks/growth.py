"""How time per iteration and peak memory grow with the scan, from 64^3 to 256^3: each size in a fresh process.

Two runs per size on a generated pair: ``solver``, five iterations of the ``default`` preset on the finest level alone, and
``whole``, a registration with a short schedule including warped scan, inverse, quality checks and the written folder.
Memory is counted beyond what the process holds after it has read the scans and registered a tiny pair once (programs, compiled
kernels), per voxel of the finest level. Run by ``run.py``; this file's own command line is one child.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common

SIZES = (64, 96, 128, 192, 256)
ITERATIONS = 6
"""The first one also builds the level and is not counted in the time per iteration."""
WHOLE_ITERATIONS = (20, 10, 5)
LIMIT_BYTES = 100


def run(sizes: tuple[int, ...], threads: int, device: str = "cpu") -> dict:
    """Measure every size; returns rows and the exponents of time and memory (1: linear in the number of voxels)."""
    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    rows = []
    try:
        for size in sizes:
            common.say(f"growth: {size}^3 on {device}")
            _child("make", size, folder, threads, device)
            solver, whole = (_child(what, size, folder, threads, device) for what in ("solver", "whole"))
            rows.append({"size": size, "voxels": size**3, "solver": solver, "whole": whole})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    voxels = [row["voxels"] for row in rows]
    return {
        "device": device,
        "rows": rows,
        "time_exponent": exponent(voxels, [row["solver"]["iteration_s"]["median"] for row in rows]),
        "memory_exponent": exponent(voxels, [row["whole"]["beyond_mb"] for row in rows]),
        "memory_line": line(voxels, [row["whole"]["beyond_mb"] for row in rows]),
        "limit_bytes_per_voxel": LIMIT_BYTES,
    }


def exponent(voxels: list[int], values: list[float]) -> float | None:
    """Slope of log(value) over log(voxels) by least squares; None for fewer than two sizes."""
    if len(voxels) < 2:
        return None
    return round(statistics.linear_regression(*([math.log(v) for v in axis] for axis in (voxels, values))).slope, 3)


def line(voxels: list[int], megabytes: list[float]) -> dict | None:
    """Memory as a fixed part plus bytes per voxel, by least squares; None for fewer than two sizes."""
    if len(voxels) < 2:
        return None
    fit = statistics.linear_regression(voxels, megabytes)
    return {"fixed_mb": round(fit.intercept, 1), "bytes_per_voxel": round(fit.slope * 2**20, 1)}


def _child(what: str, size: int, folder: Path, threads: int, device: str) -> dict:
    command = [sys.executable, __file__, what, "--size", str(size), "--folder", str(folder)]
    return common.measure([*command, "--threads", str(threads), "--device", device], threads).json()


class Memory:
    """Peak resident memory in MB per stage. Linux can restart the peak; elsewhere only the whole process's is known."""

    def __init__(self):
        _give_back_free_memory()
        self.restartable = self._restart()
        self.before = self._resident()
        self.peaks: dict[str, float] = {}

    def close(self, stage: str) -> None:
        """Attribute the peak since the last call to ``stage``."""
        from DeepDiffRegLib.memory import peak_memory_mb

        self.peaks[stage] = max(self.peaks.get(stage, 0.0), peak_memory_mb() - self.before)
        self._restart()

    @property
    def beyond_mb(self) -> float:
        return max(self.peaks.values())

    @staticmethod
    def _resident() -> float:
        status = Path("/proc/self/status")
        if status.is_file():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
            return int(line.split()[1]) / 2**10
        from DeepDiffRegLib.memory import peak_memory_mb

        return peak_memory_mb()

    @staticmethod
    def _restart() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True


def _give_back_free_memory() -> None:
    """Freed memory that the allocator still holds must not count as memory of the inputs."""
    import gc

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def make(size: int, folder: Path) -> dict:
    """A generated pair, the fixed scan of 64^3 voxels, resampled to ``size``^3, with noise, as two plain NIfTI files."""
    import torch

    from DeepDiffRegLib.data.image import Image
    from DeepDiffRegLib.data.io import write_image
    from DeepDiffRegLib.data.phantoms import make_pair
    from DeepDiffRegLib.geometry.pyramid import resample

    pair = make_pair(3, (64, 64, 64), spacing_mm=(3.0, 3.0, 3.0), rotation_deg=2.0, translation_mm=2.0, noise=0.0).pair
    torch.manual_seed(size)
    for role in ("fixed", "moving"):
        image = getattr(pair, role)
        grid = image.geometry.resized([round(n * size / 64) for n in image.geometry.size])
        values = resample(image.tensor, image.geometry, grid)
        write_image(Image(values.add_(15.0 * torch.randn_like(values)), grid), folder / f"{role}.nii")
    return {}


def measured_run(what: str, folder: Path, threads: int, device: str) -> dict:
    """Read, warm up on a tiny pair, register; time per iteration and peak memory per stage beyond the start."""
    from DeepDiffRegLib.data.io import read_image
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.data.phantoms import make_pair

    config = _config(what, threads, device)
    _register(make_pair(1, (32, 32, 32)).pair, config, folder / "tiny", None)
    pair = Pair(read_image(folder / "fixed.nii"), read_image(folder / "moving.nii"))
    memory, started = Memory(), time.perf_counter()
    times, finest = _register(pair, config, folder / "result" if what == "whole" else None, memory)
    wall = time.perf_counter() - started
    steps = [after - before for before, after in zip(times, times[1:])]
    found = {
        "wall_s": round(wall, 2),
        "finest_voxels": finest,
        "iteration_s": common.summary(steps[-(ITERATIONS - 2) :]),
        "beyond_mb": round(memory.beyond_mb, 1),
        "before_mb": round(memory.before, 1),
        "bytes_per_voxel": round(memory.beyond_mb * 2**20 / finest, 1),
        "stages_bytes_per_voxel": {k: round(v * 2**20 / finest, 1) for k, v in memory.peaks.items()},
        "per_stage": memory.restartable,
    }
    return found | _card_memory(device, finest)


def _config(what: str, threads: int, device: str):
    from dataclasses import replace

    from DeepDiffRegLib.config import load_preset

    config = load_preset("default").replace(threads=threads, device=device)
    config = config.replace(preprocess=replace(config.preprocess, crop=False))
    factors, iterations = ((4, 2, 1), WHOLE_ITERATIONS) if what == "whole" else ((1,), (ITERATIONS,))
    config = config.replace(schedule=replace(config.schedule, factors=factors, iterations=iterations))
    return (
        config if what == "whole" else config.replace(start=replace(config.start, initial="centers", transform="none"))
    )


def _register(pair, config, outdir: Path | None, memory: Memory | None) -> tuple[list[float], int]:
    """Run; returns the times at which iterations on the finest level began and that level's number of voxels."""
    from DeepDiffRegLib import RegistrationSession
    from DeepDiffRegLib.export.folder import write_result
    from DeepDiffRegLib.progress import Progress

    class Watch(Progress):
        stage, times, level = "prepare", [], -1

        def report(self, step):
            if step.stage != self.stage and memory is not None:
                memory.close(self.stage)
            self.stage = step.stage
            if step.stage == "deformable":
                self.times = self.times if step.level == self.level else []
                self.level = step.level
                self.times.append(time.perf_counter())

    watch = Watch()
    session = RegistrationSession(pair, config, watch)
    session.run()
    schedule = config.schedule
    box = session.problem.region(session._state.solution.world.homogeneous, session.config).geometry
    finest = session.problem.level_geometries(box, min(schedule.factors), schedule.minimum_size)[0].voxels
    if outdir is not None:
        result = session.result()
        watch.stage = "write"
        write_result(result, outdir, overwrite=True)
    if memory is not None:
        memory.close(watch.stage)
    return watch.times, finest


def _card_memory(device: str, finest: int) -> dict:
    if not device.startswith("cuda"):
        return {}
    import torch

    peak = torch.cuda.max_memory_allocated()
    return {"card_mb": round(peak / 2**20, 1), "card_bytes_per_voxel": round(peak / finest, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "solver", "whole"))
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()
    if wanted.what == "make":
        print(json.dumps(make(wanted.size, wanted.folder)))
    else:
        print(json.dumps(measured_run(wanted.what, wanted.folder, wanted.threads, wanted.device)))


if __name__ == "__main__":
    main()
