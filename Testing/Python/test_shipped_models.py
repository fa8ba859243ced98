"""What comes with the library does what its card says, on generated pairs that it was not trained on."""

import numpy as np
import pytest
import torch

from DeepDiffRegLib.config import Start, load_preset
from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Landmarks, Pair, Prompts
from DeepDiffRegLib.data.points import Points
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.networks.files import model_folder, model_names
from DeepDiffRegLib.networks.weights import load_model
from DeepDiffRegLib.session import RegistrationSession
from DeepDiffRegLib.training.base import ROLES
from DeepDiffRegLib.training.contrastive_task import Contrast, matched
from DeepDiffRegLib.training.recipe import read_recipe
from DeepDiffRegLib.training.synthetic import Synthetic, SyntheticPairs
from DeepDiffRegLib.training.validation import judged

MAP = "map-voxelmorph-diff"
FEATURES = [name for name in model_names() if name.startswith("features-")]
UNSEEN = 77
"""Stream of pairs that no training draws from."""


def _pairs(count: int):
    source = SyntheticPairs(read_recipe(model_folder() / "recipes" / f"{MAP}.json").synthetic, 5, stream=UNSEEN)
    return [source(number) for number in range(count)]


def test_the_shipped_map_brings_structures_together_in_any_contrast():
    model = load_model(model_folder() / f"{MAP}.safetensors")
    pairs = _pairs(6)
    found = judged(model.network, pairs, model.card.canonical.spacing_mm, steps=5)
    assert found["dice"] > found["dice_before"] + 0.02
    assert found["folds_percent"] < 0.01
    negative = judged(model.network, [{**pair, "moving": 1 - pair["moving"]} for pair in pairs], (4.0,) * 3, steps=5)
    assert abs(negative["dice"] - found["dice"]) < 0.002


@pytest.mark.parametrize("name", FEATURES)
def test_shipped_features_tell_partners_from_other_places_across_contrasts(name):
    """More often than intensities do, at every stride, on pairs of which one scan is remapped or shows other contrasts."""
    network = load_model(model_folder() / f"{name}.safetensors").network
    source = SyntheticPairs(
        Synthetic((32, 32, 32), voxel_mm=(1.5, 2.5), kinds=(("brain", 0.5), ("chest", 0.5))), 5, stream=UNSEEN
    )
    found = {stride: [] for stride in network.strides}
    for number in range(6):
        pair = source(number)
        with torch.no_grad():
            features = [network(pair[role]) for role in ROLES]
        for *own, stride in zip(*features, network.strides):
            gray = [torch.nn.functional.avg_pool3d(pair[role], stride) for role in ROLES]
            places = (stride, network.offset_voxels(stride), Contrast(points=128), number)
            found[stride].append([matched(pair, *images, *places) for images in (own, gray)])
    for stride, rows in found.items():
        learned, intensities = np.mean(rows, 0)
        assert learned > intensities + 0.05, (stride, learned, intensities)


def _session(pair) -> RegistrationSession:
    """The preset ``instant`` on a generated pair, which needs no affine start."""
    grid = Geometry.identity((48, 48, 48), (4.0, 4.0, 4.0))
    config = load_preset("instant").replace(start=Start(initial="identity", transform="none"), device="cpu", threads=1)
    return RegistrationSession(Pair(Image(pair["fixed"], grid), Image(pair["moving"], grid)), config)


def test_the_preset_instant_predicts_without_refining():
    """Distance in mm from the known map where it is known: less after the prediction than before."""
    before, after = 0.0, 0.0
    for pair in _pairs(4):
        transform = _session(pair).run()
        index = np.argwhere(pair["known"][0, 0].numpy())[::29]
        points = 4.0 * index[:, ::-1].astype(float)
        u = 4.0 * pair["displacement"][0].permute(1, 2, 3, 0).numpy()[tuple(index.T)]
        before += np.linalg.norm(u, axis=1).mean()
        after += np.linalg.norm(transform.map_points(points) - points - u, axis=1).mean()
    assert after < 0.9 * before


def test_a_landmark_steers_what_instant_predicted():
    session, place = _session(_pairs(1)[0]), np.array([[90.0, 90.0, 90.0]])
    partner = session.run().map_points(place) + [[8.0, 0.0, 0.0]]
    updated = session.update(Prompts(landmarks=Landmarks(Points(place), Points(partner))))
    assert np.linalg.norm(updated.map_points(place) - partner) < 2.0
