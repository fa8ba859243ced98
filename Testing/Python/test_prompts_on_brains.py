"""Prompts on two real brains: landmarks at the worst labels, label pairs, and what they leave of everything else."""

from __future__ import annotations

import numpy as np
import pytest

import DeepDiffRegLib as ddr
from DeepDiffRegLib.geometry.vector_fields import jacobian_determinant
from DeepDiffRegLib.warp.image import warp_image

LEAST_VOXELS = 100
"""Labels smaller than this in either scan are not scored."""


class Brains:
    """The pair 1000-1001 registered once with the default preset; prompts are tried from there and undone."""

    def __init__(self, folder):
        self.pair = ddr.Pair(*(ddr.read_image(folder / f"{n}_SS.nii.gz") for n in (1000, 1001)))
        self.fixed, self.moving = (ddr.read_image(folder / f"{n}_glm.nii.gz", kind="labels") for n in (1000, 1001))
        self.sizes = [np.bincount(image.numpy().ravel(), minlength=256) for image in (self.fixed, self.moving)]
        self.session = ddr.RegistrationSession(self.pair, ddr.load_preset("default"))
        self.before = self.dice(self.session.run())

    def labels(self, least: int) -> list[int]:
        return [v for v in range(1, 256) if min(self.sizes[0][v], self.sizes[1][v]) >= least]

    def dice(self, transform) -> dict[int, float]:
        fixed = self.fixed.numpy().ravel()
        warped = warp_image(self.moving, transform, self.fixed.geometry).numpy().ravel()
        both = np.bincount(fixed[fixed == warped], minlength=256)
        total = np.bincount(fixed, minlength=256) + np.bincount(warped, minlength=256)
        return {v: 2 * both[v] / total[v] for v in self.labels(LEAST_VOXELS)}

    def folds(self, transform) -> int:
        geometry = self.pair.fixed.geometry
        determinant = jacobian_determinant(transform.displacement(geometry), geometry.spacing_mm, geometry.rotation)
        return int((determinant <= 0).sum())

    def centroids(self, image, labels) -> ddr.Points:
        return ddr.Points(
            np.array([image.geometry.to_world(np.argwhere(image.numpy() == v).mean(0)[::-1]) for v in labels])
        )

    def update(self, prompts):
        self.session.update(prompts)
        transform = self.session.transform
        self.session.undo()
        return transform


@pytest.fixture(scope="module")
def brains(data_folder):
    return Brains(data_folder / "brain_malf")


def test_landmarks_at_the_worst_labels_are_met_without_folds_or_harm(brains):
    worst = sorted(brains.before, key=brains.before.get)[:10]
    fixed, moving = brains.centroids(brains.fixed, worst), brains.centroids(brains.moving, worst)
    transform = brains.update(ddr.Prompts(landmarks=ddr.Landmarks(fixed, moving)))
    miss = np.linalg.norm(transform.map_points(fixed.positions_mm) - moving.positions_mm, axis=1)
    assert miss.mean() < 1.0
    assert brains.folds(transform) == 0
    after = brains.dice(transform)
    assert np.mean(list(after.values())) >= np.mean(list(brains.before.values())) - 0.01


def test_three_label_pairs_end_above_085_without_folds(brains):
    """Structures of at least 500 voxels at the quartiles of the overlap reached without prompts."""
    ranked = sorted(brains.labels(500), key=brains.before.get)
    chosen = [ranked[len(ranked) * k // 4] for k in (1, 2, 3)]
    pairs = tuple(ddr.LabelPair(v, v) for v in chosen)
    transform = brains.update(ddr.Prompts(fixed_labels=brains.fixed, moving_labels=brains.moving, label_pairs=pairs))
    after = brains.dice(transform)
    assert min(after[v] for v in chosen) > 0.85
    assert brains.folds(transform) == 0
