"""The models that come with the library: does their recipe learn features that find partners across contrasts?

A network is trained on generated pairs alone. Held-out generated pairs, each with two contrasts and a known map, then ask two
things. How often is a point's true partner the most alike among displaced places, by learned features, by intensities and by
self-similarity descriptors? And how well do structures overlap after registration with each of these? ``quick`` trains in 2-D for a
minute; otherwise the recipe of the shipped model is followed in full, which takes hours without a graphics card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..config import Choice, Config, Preprocess, Schedule, Start
from ..data.image import Image
from ..data.pair import Pair
from ..errors import Cancelled
from ..geometry.grid import Geometry
from ..geometry.sampling import identity_index, sample
from ..networks.base import FeatureNetwork
from ..networks.files import model_folder
from ..networks.weights import save_model
from ..progress import Progress
from ..qc.overlap import dice
from ..result import Status
from ..session import RegistrationSession
from ..similarity.mind import MIND
from ..training.base import Batch
from ..training.contrastive_task import Contrast, matched
from ..training.loop import fit
from ..training.network_choice import NetworkChoice, make_network
from ..training.options import FitOptions
from ..training.recipe import Recipe, make_task, read_recipe, recipe_card
from ..training.synthetic import Synthetic, SyntheticPairs
from ..transforms.displacement import to_voxels
from .base import Criterion, Experiment, Outcome, tell
from .figures import canvas, picture, require_matplotlib, save
from .trained import Part

NAME = "features-unet-e"
SHIPPED_STEPS = 10627
"""Of the shipped model, all stages together."""
TEST_STREAM = 31
"""Of the held-out pairs: neither trained nor validated on."""
LEARNED, INTENSITIES, DESCRIPTORS = "learned features", "intensities", "MIND"
SIMILARITIES = {
    "MSE": Choice("mse"),
    "LNCC": Choice("lncc", {"radius_voxels": 2}),
    "MI": Choice("mi"),
    DESCRIPTORS: Choice("mind", {"distance_voxels": 1}),
}
POOLED = {2: F.avg_pool2d, 3: F.avg_pool3d}
LEAST_VOXELS = 20
"""Smaller structures are not scored."""
MATCH_LIMIT, DICE_LIMIT = 0.10, 0.02
"""How much better than intensities the features must be: limits of ours, as nobody has published such numbers."""


@dataclass(frozen=True)
class Plan:
    """recipe: what is trained. pairs: held out and judged. schedule: of the registrations."""

    recipe: Recipe
    pairs: int = 8
    schedule: Schedule = field(default_factory=lambda: Schedule((4, 2, 1), (60, 40, 20), minimum_size=8))


QUICK = Plan(
    Recipe(
        NetworkChoice("unet-e", "paper", {"ndim": 2}),
        Synthetic((64, 64), voxel_mm=(1.0, 3.0)),
        pairs=2,
        contrast=Contrast(points=192, places=16, window=6),
        optimization=FitOptions(
            steps=300, learning_rate=3e-3, decay="polynomial", clip=5.0, device="cpu", tensorboard=False
        ),
    ),
    pairs=10,
)


def shipped_plan() -> Plan:
    """That of the model which comes with the library, its stages taken as one training from random weights."""
    recipe = read_recipe(model_folder() / "recipes" / f"{NAME}.json")
    return Plan(
        replace(
            recipe,
            network=replace(recipe.network, start_from=None),
            optimization=replace(recipe.optimization, steps=SHIPPED_STEPS),
        )
    )


class TrainShipped(Experiment):
    """Train by a recipe, then judge on held-out generated pairs."""

    def run(self, outdir: Path, quick: bool, progress: Progress) -> Outcome:
        require_matplotlib()
        plan = QUICK if quick else shipped_plan()
        optimization = replace(plan.recipe.optimization, seed=self.seed)
        return judge_recipe(replace(plan, recipe=replace(plan.recipe, optimization=optimization)), outdir, progress)


def judge_recipe(plan: Plan, outdir: Path, progress: Progress) -> Outcome:
    """Train, write the model into ``outdir``, judge it."""
    recipe = plan.recipe
    network = make_network(recipe.network, recipe.optimization.seed)
    fitted = fit(make_task(recipe, network), recipe.optimization, Part(progress, (0.0, 0.7)))
    if fitted.status is Status.CANCELLED:
        raise Cancelled("cancelled; nothing was written")
    model = outdir / f"{NAME}.safetensors"
    save_model(model, fitted.network, recipe_card(recipe, fitted))
    source = SyntheticPairs(recipe.synthetic, recipe.optimization.seed, stream=TEST_STREAM)
    pairs = [source(number) for number in range(plan.pairs)]
    tell(progress, "comparing places", 0.7)
    shares = found_partners(fitted.network, pairs, recipe.contrast)
    overlaps = registered(pairs, model, plan.schedule, lambda share: tell(progress, "registering", 0.75 + 0.2 * share))
    figure = draw(fitted.network, pairs[:4], outdir / "features.png")
    gain = shares[LEARNED] - shares[INTENSITIES]
    best = max(overlaps["MSE"], overlaps["LNCC"])
    criteria = (
        Criterion("partners found, learned features less intensities", gain, "", ">=", MATCH_LIMIT),
        Criterion("Dice, learned features less MSE or LNCC", overlaps[LEARNED] - best, "", ">=", DICE_LIMIT),
    )
    details = {
        "steps": fitted.steps,
        "training_seconds": fitted.seconds,
        "partners_found": {name: round(share, 4) for name, share in shares.items()},
        "chance": round(1 / (recipe.contrast.places + 1), 4),
        "dice": {name: round(value, 4) for name, value in overlaps.items()},
        "pairs": plan.pairs,
    }
    return Outcome(criteria, (figure,), details)


def found_partners(network: FeatureNetwork, pairs: list[Batch], contrast: Contrast) -> dict[str, float]:
    """Share of points whose partner is found, mean over pairs and scales, by what is compared. Scans are averaged to a scale."""
    shares: dict[str, list[float]] = {LEARNED: [], INTENSITIES: [], DESCRIPTORS: []}
    for number, batch in enumerate(pairs):
        with torch.no_grad():
            found = [network(batch[role]) for role in ("fixed", "moving")]
        for scale, stride in enumerate(network.strides):
            offset = network.offset_voxels(stride)
            images = [_averaged(batch[role], stride) for role in ("fixed", "moving")]
            descriptors = [MIND(distance_voxels=1).features(i, (1.0,) * (i.ndim - 2)) for i in images]
            for name, compared, first in (
                (LEARNED, [f[scale] for f in found], offset),
                (INTENSITIES, images, (stride - 1) / 2),
                (DESCRIPTORS, descriptors, (stride - 1) / 2),
            ):
                shares[name].append(matched(batch, *compared, stride, first, contrast, number))
    return {name: float(np.mean(values)) for name, values in shares.items()}


def registered(pairs: list[Batch], model: Path, schedule: Schedule, told: Callable[[float], None]) -> dict[str, float]:
    """Mean Dice of structures before and after registration, by what is compared; one solver, one schedule."""
    plain = Config(
        preprocess=Preprocess(clip_percentiles=(0.0, 100.0), crop=False),
        start=Start(initial="identity", transform="none"),
        schedule=schedule,
        device="cpu",
        threads=1,
    )
    ways = {name: plain.replace(similarity=similarity) for name, similarity in SIMILARITIES.items()}
    ways[LEARNED] = plain.replace(method="dio", model=str(model), similarity=Choice("mse"))
    found: dict[str, list[float]] = {"before": [], **{name: [] for name in ways}}
    for number, batch in enumerate(pairs):
        found["before"].append(overlap(batch, torch.zeros_like(batch["displacement"])))
        geometry = Geometry.identity(batch["fixed"].shape[:1:-1])
        pair = Pair(Image(batch["fixed"], geometry), Image(batch["moving"], geometry))
        for name, config in ways.items():
            told((number + len(found[name]) / len(pairs)) / len(pairs))
            u = to_voxels(RegistrationSession(pair, config).run().displacement(geometry), geometry)
            found[name].append(overlap(batch, u))
    return {name: float(np.mean(values)) for name, values in found.items()}


def overlap(batch: Batch, u: torch.Tensor) -> float:
    """Mean Dice of the structures of one pair under a displacement in voxels, where the true map is known."""
    warped = sample(batch["moving_labels"], identity_index(tuple(u.shape[2:])) + u, mode="nearest", padding="border")
    known = batch["known"][0, 0].numpy()
    first, second = (t[0, 0].numpy() for t in (batch["fixed_labels"], warped))
    labels = [label for label in np.unique(first[known]) if ((first == label) & known).sum() >= LEAST_VOXELS]
    return float(np.mean([dice((first == label) & known, (second == label) & known) for label in labels]))


def draw(network: FeatureNetwork, pairs: list[Batch], path: Path) -> Path:
    """Both scans of some pairs and three directions of their finest features, the same for both, as colors."""
    figure, axes = canvas(len(pairs), 4, 2.0, 2.1)
    for row, batch in zip(axes, pairs):
        with torch.no_grad():
            colors = _colors(*(network(batch[role])[-1] for role in ("fixed", "moving")))
        for panel, role in zip(row, ("fixed", "moving")):
            picture(panel, _middle(batch[role])[0].numpy(), role)
        for panel, values, role in zip(row[2:], colors, ("fixed", "moving")):
            picture(panel, values.movedim(0, -1).numpy(), f"features, {role}")
    return save(figure, path)


def _averaged(scan: torch.Tensor, stride: int) -> torch.Tensor:
    return POOLED[scan.ndim - 2](scan, stride, ceil_mode=True)


def _middle(values: torch.Tensor) -> torch.Tensor:
    """(1, C, [Z,] Y, X) to (C, Y, X)."""
    return values[0] if values.ndim == 4 else values[0, :, values.shape[2] // 2]


def _colors(*features: torch.Tensor) -> list[torch.Tensor]:
    """(3, Y, X) each in [0, 1]: the three leading principal directions of all of them."""
    middles = [_middle(f) for f in features]
    every = torch.cat([m.flatten(1) for m in middles], 1)
    mean = every.mean(1, keepdim=True)
    directions = torch.linalg.svd(every - mean, full_matrices=False)[0][:, :3]
    seen = [(directions.T @ (m.flatten(1) - mean)).reshape(3, *m.shape[1:]) for m in middles]
    low, high = torch.cat([s.flatten() for s in seen]).quantile(torch.tensor([0.02, 0.98]))
    return [((s - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) for s in seen]
