"""Proposed landmarks on real scans, from the affine result: how near the truth, how honest about it, and are the named places better?

*Proposals*: every known point of the fixed scan (the landmarks of ``lung_ct``, the centroids of the labels of ``brain_1000_1001`` with
at least ``LEAST_VOXELS`` voxels in both scans) is clicked; the proposal is compared with the known point of the moving scan. The
centroid of a sheet or a ring lies outside it and is no anatomical point; ``compact`` labels hold their centroid in both scans.

*Places*: five proposals are taken at the places that ``suggest`` names, and five at random places of the anatomy, ``REPEATS`` times; each
set carries the affine map along, once without the scans (what the landmarks alone are worth) and, for fewer sets, once with them, on a
coarse level.
Judged by the mean TRE of the landmarks or the mean Dice of the labels. Run by ``run.py``; this file's own command line is one child,
which prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import cases
import common

CASES = ("lung_ct", "brain_1000_1001")
LEAST_VOXELS = 100
REPEATS = 20
SCANS_REPEATS = 5
"""With the scans fewer random sets are tried: they take longer and differ less."""
PLACES = 5
REACH_MM = 25.0
"""Of a landmark whose scans have no say; the widest that landmarks choose for themselves."""
COARSE = 4.0
STRIDE = 2
"""Dice is computed on every second voxel of each axis."""
HALF = 0.5
"""Goal: median error of the proposals over that of the affine map."""


def run(threads: int, names: tuple[str, ...] = CASES, repeats: int = REPEATS, figure: Path | None = None) -> dict:
    """Every case in a fresh process; writes the reliability curves to ``figure``."""
    found = {}
    for name in names:
        script = [sys.executable, os.fspath(common.HERE / "assisted_prompts.py"), name]
        options = ["--threads", str(threads), "--repeats", str(repeats)]
        common.say(f"assist: {name}")
        found[name] = common.measure(
            [*script, *options], threads, {"DEEPDIFFREG_DATA": str(cases.data_folder())}
        ).json()
        points = found[name]["proposals"]["all"]
        common.say(f"        {points['affine_mm']} -> {points['proposed_mm']} mm, {found[name]['places']}")
    if figure is not None:
        draw(found, figure)
    return {"cases": found, "repeats": repeats, "places": PLACES, "goal": HALF}


def measure(name: str, repeats: int) -> dict:
    """One case: proposals at known points, then the value of named and of random places."""
    import numpy as np

    from DeepDiffRegLib.config import Schedule, load_preset
    from DeepDiffRegLib.data.io import read_image
    from DeepDiffRegLib.data.pair import Pair
    from DeepDiffRegLib.session import RegistrationSession

    data = cases.data_folder()
    files = json.loads((data / "cases.json").read_text(encoding="utf-8"))[name]
    pair = Pair(*(read_image(data / files[side]) for side in ("fixed", "moving")))
    config = load_preset("fast").replace(schedule=Schedule((COARSE,), (0,)), seed=0)
    session = RegistrationSession(pair, config)
    affine = session.run()
    truth = _Truth.of(data, files)
    before = np.linalg.norm(affine.map_points(truth.fixed_mm) - truth.moving_mm, axis=1)
    started, processor = time.perf_counter(), time.process_time()
    found = session.propose(truth.fixed_mm)
    seconds = (time.perf_counter() - started) / len(found), (time.process_time() - processor) / len(found)
    errors = np.linalg.norm(np.array([p.moving_mm for p in found]) - truth.moving_mm, axis=1)
    sure = np.array([p.confidence for p in found])
    groups = {"all": np.ones(len(found), bool)} | ({"compact": truth.compact} if not truth.compact.all() else {})
    return {
        "proposals": {key: _judged(before[mask], errors[mask], sure[mask]) for key, mask in groups.items()},
        "points": {
            "affine_mm": before.round(3).tolist(), "proposed_mm": errors.round(3).tolist(),
            "confidence": sure.round(4).tolist(), "compact": truth.compact.tolist(),
        },
        "tolerance_mm": round(found[0].tolerance_mm, 3),
        "point_s": round(seconds[0], 3),
        "point_processor_s": round(seconds[1], 3),
        **_places(session, truth, repeats),
    }  # fmt: skip


class _Truth:
    """Corresponding points, and how well a map brings the anatomy together."""

    def __init__(self, fixed_mm, moving_mm, compact, labels=None):
        self.fixed_mm, self.moving_mm, self.compact, self._labels = fixed_mm, moving_mm, compact, labels
        self.score = "tre_mm" if labels is None else "dice"

    @classmethod
    def of(cls, data: Path, files: dict) -> _Truth:
        import numpy as np

        from DeepDiffRegLib.data.io import read_image, read_landmarks

        if "fixed_points" in files:
            pairs = read_landmarks(data / files["fixed_points"], data / files["moving_points"])
            return cls(pairs.fixed.positions_mm, pairs.moving.positions_mm, np.ones(len(pairs), bool))
        labels = [read_image(data / files[f"{side}_labels"], kind="labels") for side in ("fixed", "moving")]
        known = [_centroids(image) for image in labels]
        shared = sorted(set(known[0]) & set(known[1]))
        rows = [[side[value] for value in shared] for side in known]
        points = [np.array([row[0] for row in side]) for side in rows]
        compact = np.array([a[1] and b[1] for a, b in zip(*rows)])
        return cls(*points, compact, (labels, shared))

    def value(self, transform) -> float:
        """Mean TRE in mm, or mean Dice."""
        import numpy as np

        if self._labels is None:
            return float(np.linalg.norm(transform.map_points(self.fixed_mm) - self.moving_mm, axis=1).mean())
        return _dice(transform, *self._labels)


def _centroids(image) -> dict:
    """Per label with enough voxels: centroid in mm, and whether it lies in the label."""
    import numpy as np
    from scipy.ndimage import center_of_mass

    array = image.numpy()
    counts = np.bincount(array[array > 0].ravel())
    values = [int(v) for v in np.flatnonzero(counts >= LEAST_VOXELS)]
    centers = np.array(center_of_mass(np.ones(array.shape, np.uint8), array, values))
    holds = array[tuple(np.round(centers).astype(int).T)] == values
    return {v: (image.geometry.to_world(c[::-1]), bool(h)) for v, c, h in zip(values, centers, holds)}


def _dice(transform, images, values) -> float:
    """Mean Dice of the labels on every ``STRIDE``-th voxel of the fixed grid."""
    import numpy as np
    import torch

    from DeepDiffRegLib.geometry.pyramid import strided
    from DeepDiffRegLib.geometry.sampling import index_matrix, sample, warp_index

    fixed, moving = images
    grid = strided(fixed.geometry, STRIDE)
    back = torch.as_tensor(grid.world_to_index[:-1, :-1], dtype=torch.float32)
    displacement = torch.einsum("ij,bj...->bi...", back, transform.displacement(grid))
    index = warp_index(displacement, index_matrix(grid, moving.geometry))
    there = sample(moving.tensor, index, "nearest")[0, 0].numpy().ravel()
    here = fixed.numpy()[(slice(None, None, STRIDE),) * fixed.ndim].ravel()
    most = max(int(here.max()), int(there.max())) + 1
    both = np.bincount(here[here == there], minlength=most)
    sizes = np.bincount(here, minlength=most) + np.bincount(there, minlength=most)
    return float(np.mean([2 * both[v] / sizes[v] for v in values if sizes[v]]))


def _judged(before, errors, sure) -> dict:
    """Medians, the ratio to be halved, errors by tercile of confidence (least sure first), rank correlation."""
    import numpy as np
    from scipy.stats import spearmanr

    order = np.argsort(sure, kind="stable")
    thirds = np.array_split(order, 3)
    return {
        "points": len(errors),
        "affine_mm": round(float(np.median(before)), 3),
        "proposed_mm": round(float(np.median(errors)), 3),
        "ratio": round(float(np.median(errors) / np.median(before)), 3),
        "tercile_confidence": [round(float(sure[t].mean()), 3) for t in thirds],
        "tercile_mm": [round(float(np.median(errors[t])), 3) for t in thirds],
        "tercile_affine_mm": [round(float(np.median(before[t])), 3) for t in thirds],
        "rank_correlation": round(float(spearmanr(sure, errors)[0]), 3),
    }


def _places(session, truth: _Truth, repeats: int) -> dict:
    """The score of the affine map, after five named places and after five random ones, without and with the scans."""
    import numpy as np

    from DeepDiffRegLib.config import Choice

    affine, fixed = session.transform, session.problem
    started, processor = time.perf_counter(), time.process_time()
    named = session.suggest(PLACES)
    seconds = time.perf_counter() - started, time.process_time() - processor
    anatomy = np.argwhere(fixed.fixed[0, 0].numpy() > 0.1)[:, ::-1]
    grid, rng = session.pair.fixed.geometry, np.random.default_rng(0)
    answered = []
    while len(answered) < repeats * PLACES:  # a place without an answer gives no landmark: another one is clicked
        (proposal,) = session.propose(grid.to_world(rng.choice(anatomy)))
        answered += [proposal] if proposal.confidence else []
    random = [tuple(answered[n : n + PLACES]) for n in range(0, len(answered), PLACES)]
    plain = session.config
    alone = plain.replace(similarity=Choice(plain.similarity.name, plain.similarity.options, 0.0))
    scores = {}
    for key, config, reach in (("landmarks", alone, REACH_MM), ("landmarks_and_scans", plain, None)):
        prompts = type(config.prompts)(**{**vars(config.prompts), "landmark_sigma_mm": reach})
        session.configure(config.replace(prompts=prompts))
        tried = random if reach is not None else random[:SCANS_REPEATS]
        values = [_after(session, truth, proposals) for proposals in (named, *tried)]
        others = np.array(values[1:])
        better = others < values[0] if truth.score == "dice" else others > values[0]
        scores[key] = {
            "named": round(values[0], 4), "random_mean": round(float(others.mean()), 4),
            "random_sd": round(float(others.std(ddof=1)) if len(others) > 1 else 0.0, 4),
            "named_better_than": int(better.sum()), "repeats": len(others),
        }  # fmt: skip
    return {
        "score": truth.score, "affine": round(truth.value(affine), 4), "places": scores,
        "suggest_s": round(seconds[0], 2), "suggest_processor_s": round(seconds[1], 2),
        "named": [proposal.values for proposal in named],
    }  # fmt: skip


def _after(session, truth: _Truth, proposals) -> float:
    """The score when these proposals are taken as they are; the session goes back to the affine map."""
    from DeepDiffRegLib.data.pair import Prompts
    from DeepDiffRegLib.prompts.proposals import landmarks

    session.update(Prompts(landmarks=landmarks(proposals)))
    value = truth.value(session.transform)
    session.undo()
    return value


def draw(found: dict, path: Path) -> None:
    """Reliability curves: median error by confidence, proposals beside the affine map."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(1, len(found), figsize=(4.5 * len(found), 3.4), squeeze=False)
    for axis, (name, result) in zip(axes[0], found.items()):
        points = {key: np.array(values) for key, values in result["points"].items()}
        axis.plot(points["confidence"], points["proposed_mm"], ".", color="0.75", ms=4, zorder=1)
        for key, color, label in (("affine_mm", "tab:orange", "affine map"), ("proposed_mm", "tab:blue", "proposal")):
            bins = np.array_split(np.argsort(points["confidence"], kind="stable"), 5)
            middle = [np.median(points["confidence"][b]) for b in bins]
            axis.plot(
                middle,
                [np.median(points[key][b]) for b in bins],
                "o-",
                color=color,
                label=f"{label}, median of a fifth",
            )
        axis.set(title=name, xlabel="confidence of the proposal", ylabel="error, mm", xlim=(-0.02, 1.02))
        axis.set_ylim(0, float(np.percentile(points["proposed_mm"], 98)) * 1.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    from DeepDiffRegLib.device import set_threads

    set_threads(arguments.threads)
    print(json.dumps(measure(arguments.case, arguments.repeats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
