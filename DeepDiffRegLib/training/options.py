"""How a network is trained: optimizer, precision, devices, and how often things happen."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import ConfigError

DECAYS = ("none", "polynomial")
PRECISIONS = ("32", "bf16")
POWER = 0.9
"""Of the polynomial decay."""


@dataclass(frozen=True)
class FitOptions:
    """steps: updates of the weights. decay ``polynomial``: learning_rate (1 - step / steps)^0.9. clip: largest norm of the
    gradient. precision ``bf16``: the network's arithmetic in 16 bits; integration and losses stay in 32. accumulate: parts that
    a step's pairs are worked on in, one after the other. devices: graphics cards (or processes on the CPU) that share them.
    *_every: steps between two entries of the history, validations (0: none) and checkpoints. patience: validations without a
    better score before training stops early (0: never). seed: of everything random.
    """

    steps: int = 1000
    learning_rate: float = 1e-4
    decay: str = "none"
    amsgrad: bool = False
    clip: float | None = None
    precision: str = "32"
    accumulate: int = 1
    device: str = "auto"
    devices: int = 1
    log_every: int = 10
    validate_every: int = 0
    checkpoint_every: int = 100
    patience: int = 0
    seed: int = 0
    tensorboard: bool = True

    def __post_init__(self):
        for name, known in (("decay", DECAYS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"optimization: {name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("steps", "accumulate", "devices", "log_every", "checkpoint_every"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("validate_every", "patience", "seed"):
            _check_whole(name, getattr(self, name), 0)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise ConfigError(f"optimization: {name} must be positive, got {value!r}")

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        if self.decay == "none":
            return self.learning_rate
        return self.learning_rate * (1 - step / self.steps) ** POWER

    def deciding(self) -> dict:
        """What must stay the same for a run to be continued exactly."""
        free = {"device", "devices", "log_every", "checkpoint_every", "patience", "tensorboard", "accumulate"}
        free |= {"steps"} if self.decay == "none" else set()
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}


def _check_whole(name: str, value, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"optimization: {name} must be a whole number of at least {least}, got {value!r}")
