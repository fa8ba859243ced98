"""What the person in front of Slicer waits for: map updates, re-rendered slices, layers, readouts, on a real MRML scene.

Runs in the wheel of Slicer's core classes, off-screen, without Qt. A scan of 160 x 192 x 160 voxels lies under the output
transform as its live preview; every repeat writes another displacement into the same nodes and renders a slice view of
512 x 512 pixels. Prints one JSON object; milliseconds, medians and quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
SIZE = (160, 192, 160)
VIEW = 512
POINTS = 100_000


def main() -> int:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small scan: does it run at all?")
    options = parser.parse_args()
    size = tuple(n // 4 for n in SIZE) if options.quick else SIZE
    about = common.about(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print(json.dumps({"about": about, "size": size, "view_pixels": VIEW, **measured(size)}))
    return 0


def measured(size: tuple[int, int, int]) -> dict:
    """All numbers for one size of scan."""
    import scene_bed

    bed = scene_bed.make_bed()
    desk = Desk(bed, size)
    out = {"live_preview": desk.preview(live=True), "final_map": desk.preview(live=False)}
    out |= {"live_preview_with_layer": desk.layers(), "points": desk.points(), "memory": desk.memory}
    scene_bed.close_bed(bed)
    return out


class Desk:
    """A scan, its live preview, three views."""

    def __init__(self, bed, size):
        import numpy as np
        import scene_bed
        from DeepDiffRegScene import maps

        from DeepDiffRegLib.geometry.grid import Geometry
        from DeepDiffRegLib.interactive.messages import Map

        self.geometry = Geometry(size, (1.0,) * 3, tuple(-n / 2 for n in size), np.eye(3).tolist())
        noise = np.random.default_rng(0).normal(size=self.geometry.shape).astype(np.float32)
        self.scan = scene_bed.add_volume_on(bed.scene, noise, self.geometry, "scan")
        self.bed = bed
        self.maps = maps.MapNodes(scene=bed.scene)
        self.views = [bed.view(name, name, VIEW) for name in ("Axial", "Coronal", "Sagittal")]
        self.fields = [
            Map(np.eye(4), scene_bed.smooth_field(self.geometry, 6.0, seed=seed), self.geometry).every(2)
            for seed in (0, 1)
        ]
        shown = self.maps.preview(self.scan)
        for view in self.views:
            view.composite.SetBackgroundVolumeID(self.scan.GetID())
            view.composite.SetForegroundVolumeID(shown.GetID())
            view.composite.SetForegroundOpacity(1.0)
            view.fit()
        self.memory = {"scan_mb": round(noise.nbytes / 2**20, 1)}
        before = resident_mb()
        for live, name in ((True, "live_map_in_scans"), (False, "final_map_in_scans")):
            self._update(live, 0)
            self.memory[name] = round((resident_mb() - before) * 2**20 / noise.nbytes, 2)

    def preview(self, live: bool) -> dict:
        """Write a map as the worker sends it for a scan of this size (every second voxel) and render again; live: read linearly."""
        turn = iter(range(10**6))
        return {
            "update_map_ms": timed(lambda: self._update(live, next(turn))),
            "update_and_render_one_view_ms": timed(lambda: (self._update(live, next(turn)), self._render(1))),
            "update_and_render_three_views_ms": timed(lambda: (self._update(live, next(turn)), self._render(3))),
        }

    def layers(self) -> dict:
        """The same with a layer over the view."""
        from DeepDiffRegScene.layers import LayerSet

        layers, turn, out = LayerSet(self.maps, self.scan, self.bed.scene), iter(range(10**6)), {}
        for name in ("grid", "glyphs", "magnitude", "jacobian", "folds"):
            layers[name].show(True)

            def redraw(layer=layers[name]) -> None:
                self._update(True, next(turn))
                layer.update()
                self._render(1)

            out[f"{name}_ms"] = timed(redraw)
            layers[name].show(False)
        layers.close()
        return out

    def points(self) -> dict:
        """Questions about points."""
        import numpy as np
        from DeepDiffRegScene import apply, readout
        from DeepDiffRegScene.cursor import SecondCursor

        self._update(False, 0)
        transform = self.maps.transform
        many = np.random.default_rng(1).uniform(-60, 60, (POINTS, 3))
        cursor = SecondCursor(transform, ["Axial"], self.bed.scene)
        out = {
            "readout_ms": timed(lambda: readout.readout(transform, (10.0, 5.0, -3.0))),
            "second_cursor_ms": timed(lambda: cursor.move((10.0, 5.0, -3.0))),
            f"{POINTS}_points_to_moving_ms": timed(lambda: apply.move_points(transform, many, to_moving=True)),
            f"{POINTS}_points_to_fixed_ms": timed(lambda: apply.move_points(transform, many, to_moving=False)),
        }
        cursor.stop()
        return out

    def _update(self, live: bool, turn: int) -> None:
        self.maps.update(self.fields[turn % 2], live=live)

    def _render(self, count: int) -> None:
        for view in self.views[:count]:
            view.render()


def timed(call: Callable[[], object]) -> dict:
    """Median and quartiles in milliseconds; two calls first, so that both maps exist."""
    return common.summary([1000 * s for s in common.repeat(call, most=15, budget_s=5.0, warm_up=2)], 1)


def resident_mb() -> float:
    """Resident memory of this process."""
    import psutil

    time.sleep(0.05)
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    sys.exit(main())
