"""A trained feature network as the teacher of another (distillation: Hinton et al., 2015).

Every voxel tells what is wrong with its features, so that a deep network, which true partners alone teach little at its fine
scales, first learns what a shallow one knows. A teacher that is shown the scan as a common scanner would show it, and a pupil that
is shown any contrast of it: the pupil learns not to mind contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import ConfigError
from ..networks.base import FeatureNetwork
from ..networks.files import model_path
from ..networks.weights import load_model
from ..registry import nearest
from .base import IMAGES, ROLES, Batch


@dataclass(frozen=True)
class Teaching:
    """model: the trained feature network to learn from. images: of ``base.IMAGES``, those it is shown. weight: in the loss."""

    model: str
    images: str = "natural"
    weight: float = 1.0

    def __post_init__(self):
        if self.images not in IMAGES:
            raise ConfigError(f"teaching.images: unknown value {self.images!r}{nearest(self.images, IMAGES)}")
        if not self.weight > 0:
            raise ConfigError(f"teaching.weight must be positive, got {self.weight}")

    def beside(self, folder: Path) -> Teaching:
        """The same with ``model`` read relative to ``folder``; a bare name without a file there is that of a shipped one."""
        path = folder / self.model
        shipped = len(Path(self.model).parts) == 1 and not path.is_file()
        return self if shipped else replace(self, model=str(path.resolve()))


class Teacher:
    """What a pupil's features should be like; ``ConfigError`` where theirs cannot be compared."""

    def __init__(self, teaching: Teaching, pupil: FeatureNetwork):
        self.options, model = teaching, load_model(model_path(teaching.model))
        self.network = model.network.eval().requires_grad_(False)
        if not isinstance(self.network, FeatureNetwork) or _form(self.network) != _form(pupil):
            raise ConfigError(
                f"teaching.model: {teaching.model} is a {model.card.network} whose features differ from those of the network in "
                "number, strides or places"
            )

    def features(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Of the fixed scans and then the moving ones: (2 B, C, *shape / stride) per stride, coarse to fine."""
        scans = [batch[f"{role}{IMAGES[self.options.images]}"] for role in ROLES]
        self.network.to(scans[0].device)
        with torch.no_grad():
            return self.network(torch.cat(scans))


def unlike(own: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Share of the teacher's variance that is missed: mean squared difference over the variance; 0 is the best, (B, C, *shape)."""
    axes = (0, *range(2, taught.ndim))
    return (own - taught).square().mean() / taught.var(axes, correction=0).mean().clamp(min=1e-6)


def _form(network: FeatureNetwork) -> tuple:
    a = network.architecture
    return a.ndim, a.channels, network.strides, network.centered
