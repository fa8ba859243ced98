"""Tiny trainings through the solver, importable by the processes that tests start and kill."""

from __future__ import annotations

from pathlib import Path

import torch
import training_bed as bed

from DeepDiffRegLib.config import Choice
from DeepDiffRegLib.device import set_threads
from DeepDiffRegLib.methods.implicit import Layer
from DeepDiffRegLib.networks.feature_unet import EncodersArchitecture, FeatureUNetEncoders
from DeepDiffRegLib.training.feature_task import FeatureTask
from DeepDiffRegLib.training.loop import Fitted, fit
from DeepDiffRegLib.training.tasks import make_terms
from DeepDiffRegLib.training.validation import judged_maps

TINY = EncodersArchitecture(ndim=2, levels=(4, 4), channels=3)
LAYER = Layer(Choice("displacement", {"optimizer": "sgd", "learning_rate": 0.5}), iterations=(8, 5))
LOSSES = ({"name": "mse", "image_sigma": 0.5}, "dice")


def pairs(step: int, seed: int = 0, count: int = 2, shape=(20, 24)) -> dict[str, torch.Tensor]:
    """``count`` pairs of disks of different size and place."""
    return bed.disks(step, seed, count, shape)


def task_of(layer: Layer = LAYER, losses=LOSSES, network=None, draw=pairs, **options) -> FeatureTask:
    """A network with the same weights every time, and held-out pairs."""
    torch.manual_seed(0)
    network = network or FeatureUNetEncoders(TINY)
    held_out = [pairs(step, seed=1, count=1) for step in range(2)]
    task = FeatureTask(
        network,
        make_terms(losses, network),
        draw,
        layer,
        lambda: judged_maps(task.found, held_out, (1.0, 1.0)),
        **options,
    )
    return task


def train(folder: str, begun=None) -> Fitted:
    """What is killed: continued from the folder's checkpoint when there is one. begun: set after some steps."""
    set_threads(1)
    resume = (Path(folder) / "checkpoint.safetensors").is_file()
    task = task_of(joins=(10,), gradual=0.5)
    return fit(task, bed.options(steps=60, validate_every=30), Begun(begun), folder, resume)


class Begun(bed.Begun):
    """Sets the event when steps have been done that a checkpoint was written of."""

    STEPS = 5

    def __init__(self, event):
        super().__init__(event)
        self.told = 0

    def report(self, step) -> None:
        self.told += 1
        if self.told >= self.STEPS:
            super().report(step)
