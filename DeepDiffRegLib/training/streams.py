"""Random numbers by counter: what is drawn for one pair of one step depends on the seed and these counters alone.

So a run that was stopped continues as if it had not been, and a step gives the same whether its pairs are worked on together,
one after the other or on several devices.
"""

from __future__ import annotations

import numpy as np
import torch


def numbers(seed: int, *counters: int) -> np.random.Generator:
    """NumPy's generator of one place, such as ``numbers(seed, step, row)``."""
    return np.random.default_rng([seed, *counters])


def torch_seed(seed: int, *counters: int) -> int:
    """A seed in [0, 2^63) for torch's generators."""
    return int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)[0] >> 1)


def tensors(seed: int, *counters: int) -> torch.Generator:
    """Torch's generator (on the CPU) of one place."""
    return torch.Generator().manual_seed(torch_seed(seed, *counters))
