"""How much memory a registration adds to Slicer's process: ``python Testing/Benchmarks/slicer_memory.py`` prints JSON.

The module's logic runs in the stand-in of Slicer on a generated pair of about 160x192x160 voxels; transform, inverse, warped
scan, Jacobian and record end up in the scene. Counted in copies of the fixed scan: what belongs to the process alone, and what
it also maps of the worker's files, which ends with the worker.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "SlicerStandIn"), str(ROOT / "DeepDiffReg")]

MAKE = """
import pickle, sys
from DeepDiffRegLib.data.phantoms import make_pair
from DeepDiffRegLib.geometry.pyramid import resample
made, scans = make_pair(3, (64, 77, 64), spacing_mm=(2.5, 2.5, 2.5), noise=0.0).pair, []
for image in (made.fixed, made.moving):
    grid = image.geometry.resized([round(2.5 * n) for n in image.geometry.size])
    scans.append((resample(image.tensor, image.geometry, grid)[0, 0].numpy(), grid))
pickle.dump(scans, open(sys.argv[1], "wb"))
"""
"""Run in a process of its own: the one that is measured never imports torch."""


def main() -> None:
    from slicer_standin.install import install

    install()
    import pickle

    import slicer
    from DeepDiffRegScene import convert

    from DeepDiffReg import DeepDiffRegLogic
    from DeepDiffRegLib.interactive.messages import Scan

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scans"
        subprocess.run([sys.executable, "-c", MAKE, str(file)], check=True, cwd=ROOT)
        scans = pickle.loads(file.read_bytes())
    nodes = [
        convert.scan_to_volume(Scan(values, grid, "intensity", name), name, slicer.mrmlScene)
        for (values, grid), name in zip(scans, ("fixed", "moving"))
    ]
    copy_mb, size = scans[0][0].nbytes / 2**20, scans[0][1].size
    del scans
    gc.collect()
    before, logic = memory_mb(), DeepDiffRegLogic()
    logic.register(*nodes, preset="fast")
    gc.collect()
    gains = {name: round((now - before[name]) / copy_mb, 2) for name, now in memory_mb().items()}
    logic.close()
    print(json.dumps({"size": size, "scan_mb": round(copy_mb, 1), "gain_in_copies_of_the_scan": gains}))
    sys.stdout.flush()
    os._exit(0)  # the stand-in's widgets are not worth an orderly end


def memory_mb() -> dict[str, float]:
    """Private and all resident memory of this process (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 2**10 for name, key in (("private", "RssAnon"), ("resident", "VmRSS"))}


if __name__ == "__main__":
    main()
