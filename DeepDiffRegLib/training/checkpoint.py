"""The state of a training as one safetensors file, written aside and renamed: a kill at any moment leaves the last whole one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..data.atomic import write_aside
from ..errors import InputError

NAME = "checkpoint.safetensors"
KEY = "training"
FORMAT = 1
WEIGHTS, MOMENTS = "network.", "optimizer."


def write_checkpoint(
    folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Weights, the optimizer's moments and ``state`` (plain JSON values, in the file's header)."""
    from safetensors.torch import save

    names = [name for name, _ in network.named_parameters()]
    tensors = {WEIGHTS + name: t for name, t in network.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{MOMENTS}{key}.{names[number]}": t for key, t in values.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with write_aside(folder / NAME) as aside:
        aside.write_bytes(save(tensors, {KEY: json.dumps({"format": FORMAT, **state})}))


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint in ``folder``; ``InputError`` in one line when there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / NAME
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint to resume from; leave out --resume to start")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a usable checkpoint ({error}); start again without --resume") from error
    if state.pop("format", None) != FORMAT:
        raise InputError(f"{path}: written by another version of the program; start again without --resume")
    return tensors, state


def has_checkpoint(folder: Path) -> bool:
    return (folder / NAME).is_file()


def clear(folder: Path) -> None:
    """Remove what a killed process may have left half-written."""
    for left in folder.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)


def restore_weights(network: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str) -> None:
    """Put the checkpoint's weights into the network; ``InputError`` when they are another network's."""
    weights = {name[len(WEIGHTS) :]: t for name, t in tensors.items() if name.startswith(WEIGHTS)}
    own = {name: t.shape for name, t in network.state_dict().items()}
    if own != {name: t.shape for name, t in weights.items()}:
        raise InputError(f"{source}: the checkpoint belongs to another network; start again without --resume")
    network.load_state_dict(weights)


def restore_moments(
    optimizer: torch.optim.Optimizer, network: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> None:
    """Put the checkpoint's moments into an optimizer of the network's parameters, in their order."""
    numbers = {name: number for number, (name, _) in enumerate(network.named_parameters())}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(MOMENTS):
            key, parameter = name[len(MOMENTS) :].split(".", 1)
            state.setdefault(numbers[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
