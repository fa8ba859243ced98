"""Where a training runs: Lightning Fabric's devices and processes, precision, and what counts as too little memory."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..device import choose_device
from ..errors import InputError
from ..networks.base import Prediction
from .base import Batch, Task
from .options import FitOptions


def make_fabric(options: FitOptions):
    """Lightning Fabric on the devices of ``options``; ``InputError`` naming what to install when it is missing."""
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise InputError(f"training needs the package {error.name}: pip install 'DeepDiffReg[training]'") from error
    device = choose_device(options.device)
    devices: Any = options.devices
    if device.type == "cuda" and device.index is not None and options.devices == 1:
        devices = [device.index]
    strategy = "auto" if options.devices == 1 else "ddp"
    return Fabric(accelerator=device.type, devices=devices, strategy=strategy, precision="32-true")


def first_process() -> bool:
    """Whether this process is the one that writes and speaks; the others were started by it, one per device."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


class LossModule(torch.nn.Module):
    """The task's loss as a module, so that one forward pass of it is one of the devices' strategy."""

    def __init__(self, task: Task, precision: str):
        super().__init__()
        self.network, self.task, self.half = task.network, task, precision == "bf16"

    def forward(self, batch: Batch, step: int):
        return self.task.loss(self.ask, batch, step)

    def ask(self, moving: torch.Tensor, fixed: torch.Tensor) -> Prediction:
        with torch.autocast(moving.device.type, torch.bfloat16, enabled=self.half):
            found = self.network(moving, fixed)
        variance = None if found.log_variance is None else found.log_variance.float()
        fields = tuple(f if f.dtype == torch.float64 else f.float() for f in found.fields)
        return Prediction(fields, found.kind, found.unit_voxels, found.spacing_voxels, variance)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out: torch has a class of its own for cards and a plain RuntimeError for the processor."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
