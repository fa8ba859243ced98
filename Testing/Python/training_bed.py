"""Tiny trainings on generated pairs, importable by the processes that tests start and kill."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from DeepDiffRegLib.device import set_threads
from DeepDiffRegLib.memory import peak_memory_mb
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.unet import UNetArchitecture
from DeepDiffRegLib.progress import Progress
from DeepDiffRegLib.training.loop import Fitted, fit
from DeepDiffRegLib.training.options import FitOptions
from DeepDiffRegLib.training.streams import numbers
from DeepDiffRegLib.training.tasks import PairTask, make_terms
from DeepDiffRegLib.training.validation import judged

TINY = UNetArchitecture(ndim=2, encoder=(4, 4), bottom=(4,), decoder=(4,), half=(4,))
LOSSES = {
    "voxelmorph-diff": [{"name": "mse", "image_sigma": 0.03}, {"name": "kl", "precision": 10}],
    "voxelmorph2": ["lncc", "diffusion"],
}


def disks(step: int, seed: int = 0, count: int = 4, shape=(32, 32)) -> dict[str, torch.Tensor]:
    """``count`` pairs of smooth disks (balls in 3-D), with labels."""
    rng = numbers(seed, step)
    axes = np.moveaxis(np.indices(shape), 0, -1)
    batch = {}
    for role in ("moving", "fixed"):
        scans = []
        for _ in range(count):
            center = np.array(shape) * rng.uniform(0.42, 0.58, len(shape))
            distance = np.linalg.norm(axes - center, axis=-1) - min(shape) * rng.uniform(0.15, 0.3)
            scans.append(1 / (1 + np.exp(distance)))
        batch[role] = torch.tensor(np.stack(scans)[:, None], dtype=torch.float32)
        batch[f"{role}_labels"] = (batch[role] > 0.5).int()
    return batch


def task_of(
    name: str = "voxelmorph-diff", architecture=None, validate: bool = True, draw=disks, losses=None
) -> PairTask:
    """A network with the same weights every time, and held-out pairs."""
    kind = NETWORKS.load(name)
    torch.manual_seed(0)
    network = kind(architecture or TINY)
    held_out = [draw(step, seed=1, count=1) for step in range(3)]
    spacing = (1.0,) * network.architecture.ndim
    judge = (lambda: judged(network, held_out, spacing)) if validate else None
    return PairTask(network, make_terms(losses or LOSSES[name], network), draw, judge)


def options(**changes) -> FitOptions:
    return FitOptions(
        **{
            "steps": 200,
            "learning_rate": 2e-3,
            "amsgrad": True,
            "clip": 5.0,
            "log_every": 7,
            "validate_every": 60,
            "checkpoint_every": 2,
            "tensorboard": False,
            **changes,
        }
    )


def train(folder: str, begun=None) -> Fitted:
    """What is killed: continued from the folder's checkpoint when there is one. begun: set after the first step."""
    set_threads(1)
    resume = (Path(folder) / "checkpoint.safetensors").is_file()
    return fit(task_of(), options(), Begun(begun), folder, resume)


class Begun(Progress):
    """Sets an event after the first step."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def report(self, step) -> None:
        if self.event is not None:
            self.event.set()


def memory_of_steps(answer) -> None:
    """Peak memory (MB) after 60 and after 260 steps of a tiny VM-2 in 3-D."""
    set_threads(1)
    architecture = TINY.replace(ndim=3, full=(4,))
    cubes = [disks(step, shape=(12, 12, 12), count=1) for step in range(4)]
    task = task_of(
        "voxelmorph2",
        architecture,
        False,
        draw=lambda step, seed=0, count=1: cubes[step % 4],
        losses=["lncc", "diffusion"],
    )
    fit(task, options(steps=60, validate_every=0))
    first = peak_memory_mb()
    fit(task, options(steps=200, validate_every=0))
    answer.put((first, peak_memory_mb(), os.getpid()))
