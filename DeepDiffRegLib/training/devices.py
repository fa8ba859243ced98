"""Where a training runs: Lightning Fabric's devices and processes, precision, and what counts as too little memory."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from ..device import choose_device
from ..errors import InputError
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
    strategy = (
        "auto" if options.devices == 1 else "ddp_find_unused_parameters_true"
    )  # finer scales of features join later
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

    def ask(self, *scans: torch.Tensor, **options) -> Any:
        with torch.autocast(scans[0].device.type, torch.bfloat16, enabled=self.half):
            found = self.network(*scans, **options)
        return in_single(found)


def in_single(found: Any) -> Any:
    """What a network says (tensors, tuples and dataclasses of them) with its 16-bit numbers in 32."""
    if isinstance(found, torch.Tensor):
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
    if isinstance(found, tuple):
        return tuple(in_single(part) for part in found)
    if is_dataclass(found):
        return replace(found, **{f.name: in_single(getattr(found, f.name)) for f in fields(found)})
    return found


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out: torch has a class of its own for cards and a plain RuntimeError for the processor."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
