"""Where the arithmetic runs: device, threads and random seeds, chosen once at the start of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigError, InputError
from .registry import nearest

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
"""What a user may ask for; ``cuda:N`` names one card of several."""


def choose_device(name: str = "auto") -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists on this machine.

    ``auto`` is the first CUDA card, else the CPU. Raises ``ConfigError`` for an unknown name and ``InputError`` for a
    device that this machine lacks: a requested device is never swapped for another.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdigit())):
        raise ConfigError(f"unknown device {name!r}{nearest(name, (*DEVICES, 'cuda:0'))}")
    if kind == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        return _cuda(int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' is not available on this machine; use --device cpu")
    return torch.device(kind)


def _cuda(number: int) -> torch.device:
    import torch

    if torch.version.cuda is None:
        raise InputError(f"device 'cuda' needs a CUDA build of torch, got {torch.__version__}; use --device cpu")
    if not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for but no CUDA card is available; use --device cpu or auto")
    if number >= torch.cuda.device_count():
        raise InputError(f"device 'cuda:{number}' does not exist; this machine has {torch.cuda.device_count()} cards")
    return torch.device("cuda", number)


def available_devices() -> list[str]:
    """Names that ``choose_device`` accepts on this machine, best first."""
    import torch

    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [*cards, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def set_threads(count: int | None) -> int:
    """Use ``count`` CPU threads in torch, the fused kernels and SimpleITK; None keeps what is set. Returns the number.

    The fused kernels' number holds for the calling thread only, so call this in the thread that registers.
    """
    import torch

    if count is None:
        return torch.get_num_threads()
    if count < 1:
        raise ConfigError(f"threads must be at least 1, got {count}")
    import numba
    import SimpleITK

    # numba before torch: starting its threads also sets the number that OpenMP gives to torch.
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(count)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    return count


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch, so that one machine gives one answer."""
    import random

    import numpy as np
    import torch

    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must lie between 0 and {2**32 - 1}, got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
