"""Which network is trained, and what its weights start from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..networks import network_class
from ..networks.base import Architecture, Stored
from ..networks.weights import load_model
from ..transforms.integrate import INTEGRATORS
from .streams import torch_seed


@dataclass(frozen=True)
class NetworkChoice:
    """name: registered network. variant: its named architecture (None: the first). architecture: values that differ from it.

    start_from: a trained model of the same architecture whose weights to start from; whose ``statistics`` it normalizes by may
    differ, and kept ones are then found anew. integrator, integration_steps: of stationary
    velocities while training (None chooses the steps); of a momentum the time steps alone. looks: how often the network sees a
    pair, from the second time on through the map so far; from step ``looks_from`` of the training on, before that once.
    """

    name: str = "voxelmorph-diff"
    variant: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    integrator: str = "scaling_squaring"
    integration_steps: int | None = None
    looks: int = 1
    looks_from: int = 0

    def __post_init__(self):
        network_class(self.name)
        INTEGRATORS[self.integrator]
        for name, least in (("looks", 1), ("looks_from", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"network.{name} must be a whole number of at least {least}, got {value!r}")

    @property
    def full_architecture(self) -> Architecture:
        """The architecture that is meant; ``ConfigError`` for unknown names and values."""
        variant = network_class(self.name).variant(self.variant)
        return type(variant).from_dict({**variant.to_dict(), **self.architecture})

    def beside(self, folder: Path) -> NetworkChoice:
        """The same with ``start_from`` read relative to ``folder``."""
        return self if self.start_from is None else replace(self, start_from=str((folder / self.start_from).resolve()))


def make_network(wanted: NetworkChoice, seed: int) -> Stored:
    """With random weights from the seed, or those of ``start_from``."""
    kind, architecture = network_class(wanted.name), wanted.full_architecture
    torch.manual_seed(torch_seed(seed))
    network = kind(architecture)
    if wanted.start_from is not None:
        model = load_model(wanted.start_from)
        if type(model.network) is not kind or _sizes(model.network.architecture) != _sizes(architecture):
            raise ConfigError(
                f"network.start_from: {wanted.start_from} is a {model.card.network} of another architecture"
            )
        given = model.network.state_dict()
        network.load_state_dict({name: given.get(name, own) for name, own in network.state_dict().items()})
    return network


def _sizes(architecture: Architecture) -> dict[str, Any]:
    """What weights depend on."""
    return {name: value for name, value in architecture.to_dict().items() if name != "statistics"}
