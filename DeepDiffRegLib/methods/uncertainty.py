"""How sure a probabilistic network is of its map: spread of displacement, Jacobian and labels over sampled velocities.

It is the network's belief before any refinement or prompt (Dalca et al., MedIA 2019). Memory does not grow with the number of
samples, but for one byte per voxel and sample where a label map is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.image import Image
from ..errors import InputError
from ..geometry.grid import Geometry
from ..geometry.sampling import index_matrix, per_component, sample, warp_index
from ..geometry.vector_fields import jacobian_determinant, linear_field
from ..networks.base import Prediction
from ..networks.posterior import Posterior
from ..transforms.integrate import integrate, squarings
from ._belief import prediction_geometry

if TYPE_CHECKING:
    from .iterative import Solution

MOST_SAMPLES = 255
"""Counts of a label are kept in one byte."""
MOST_SD = 4.0
"""No sampled velocity is expected farther from the mean than this."""


@dataclass(frozen=True)
class Quantity:
    """One map of an ``Uncertainty``. name: of its attribute; key: of its finding and file; unit: empty for a ratio."""

    name: str
    key: str
    title: str
    unit: str
    help: str


QUANTITIES = (
    Quantity(
        "displacement_sd_mm", "uncertainty", "Uncertainty of the displacement", "mm",
        "Standard deviation of where the network sends a point.",
    ),
    Quantity(
        "jacobian_sd", "uncertainty_jacobian", "Uncertainty of the volume change", "",
        "Standard deviation of the Jacobian determinant.",
    ),
    Quantity(
        "relative_to_prior", "uncertainty_prior", "Variance relative to the prior", "",
        "Predicted variance over what smoothness alone allows: 1 where the scans told the network nothing, below 1 where they did.",
    ),
    Quantity(
        "label_entropy", "uncertainty_labels", "Entropy of the propagated label", "nat",
        "0 where all sampled maps bring the same label; 0.69 where two labels are equally likely.",
    ),
)  # fmt: skip
"""A new map of uncertainty is an attribute of ``Uncertainty`` and a row here; files, findings and pictures follow."""


@dataclass(frozen=True)
class Uncertainty:
    """Maps (1, 1, *shape) on ``geometry``. displacement_sd_mm: root of the summed variances of the components. jacobian_sd:
    of det(d phi / dx). relative_to_prior: predicted variance of the velocity over the prior's bound (1: nothing was learnt
    from the scans); None when the prior is not known. label_entropy: natural logarithm; None without a label map.
    """

    geometry: Geometry
    displacement_sd_mm: torch.Tensor
    jacobian_sd: torch.Tensor
    relative_to_prior: torch.Tensor | None
    samples: int
    label_entropy: torch.Tensor | None = None
    seed: int = 0

    def to(self, device: torch.device | str) -> Uncertainty:
        """The same maps on another device."""
        moved = {quantity.name: values.to(device) for quantity, values in self.maps()}
        return replace(self, **moved)

    def maps(self) -> Iterator[tuple[Quantity, torch.Tensor]]:
        """The maps that there are, with what they mean."""
        for quantity in QUANTITIES:
            values = getattr(self, quantity.name)
            if values is not None:
                yield quantity, values


class Welford:
    """Running mean and variance of fields, in the memory of two."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, None, None

    def add(self, value: torch.Tensor) -> None:
        """One more sample."""
        if self.mean is None:
            self.mean, self.squares = torch.zeros_like(value), torch.zeros_like(value)
        self.count += 1
        before = value - self.mean
        self.mean.add_(before, alpha=1 / self.count)
        self.squares.add_(before.mul_(value - self.mean))

    def variance(self) -> torch.Tensor:
        """Unbiased; 0 for a single sample."""
        return self.squares / max(self.count - 1, 1)


class LabelVotes:
    """The label that each sample brings to each voxel, one byte each (two for more than 255 labels)."""

    def __init__(self, labels: Image, grid: Geometry, world: np.ndarray, device: torch.device | str = "cpu"):
        values = labels.tensor.to(device)
        known = torch.cat((values.new_zeros(1), values.unique())).unique()
        if len(known) > 2**15:
            raise InputError(f"uncertainty(): at most {2**15} labels can be counted, got {len(known)}")
        self._outside = int(torch.searchsorted(known, known.new_zeros(1)))
        # shifted so that what ``sample`` puts outside is the number of label 0
        self._numbers = (torch.searchsorted(known, values) - self._outside).to(torch.int16)
        self._dtype = torch.uint8 if len(known) < 256 else torch.int16
        self._matrix = index_matrix(grid, labels.geometry, world)
        self._votes: list[torch.Tensor] = []

    def add(self, displacement: torch.Tensor) -> None:
        """displacement: (1, d, *shape) in voxels of the grid; outside the label map counts as label 0."""
        found = sample(self._numbers, warp_index(displacement, self._matrix), "nearest")
        self._votes.append((found + self._outside).to(self._dtype))

    def entropy(self) -> torch.Tensor:
        """-sum_l p_l log p_l with p_l the share of the samples that bring label l: (1, 1, *shape)."""
        total = torch.zeros(self._votes[0].shape, device=self._votes[0].device)
        for own in self._votes:
            same = torch.zeros_like(own, dtype=torch.uint8)
            for other in self._votes:
                same.add_(own == other)
            total.sub_((same.float() / len(self._votes)).log_())
        return total.div_(len(self._votes)).clamp_(min=0.0)


def uncertainty(
    prediction: Prediction,
    grid: Geometry,
    samples: int = 20,
    seed: int = 0,
    precision: float | None = None,
    smoothing_voxels: float = 0.0,
    steps: int | None = None,
    world: np.ndarray | None = None,
    labels: Image | None = None,
    between: Callable[[float], None] = lambda share: None,
) -> Uncertainty:
    """Draw ``samples`` velocities of a ``velocity`` prediction made on ``grid`` and integrate each.

    precision: lambda of the prior that the network was trained with. smoothing_voxels: s.d. of its covariance's filter, 0 for a
    diagonal covariance. steps: squarings, None chooses. world: affine part (homogeneous, mm) that follows the sampled map.
    labels: label map of the moving scan, whose propagation is asked for. between: told the share done before each sample; may
    raise to stop. The maps lie on the prediction's own grid. Raises ``InputError`` for a prediction without variance and for a
    number of samples that is not 2 to 255.
    """
    if prediction.log_variance is None:
        raise InputError("uncertainty(): the network does not predict a variance; use voxelmorph-diff")
    if not 2 <= samples <= MOST_SAMPLES:
        raise InputError(f"uncertainty(): samples must be at least 2 and at most {MOST_SAMPLES}, got {samples}")
    own, mean = prediction_geometry(prediction, grid), prediction.field
    posterior = Posterior(mean, prediction.log_variance, smoothing_voxels)
    generator = torch.Generator().manual_seed(seed)
    per_point = prediction.unit_voxels / per_component(prediction.spacing_voxels, mean)
    world = np.eye(own.ndim + 1) if world is None else np.asarray(world)
    to_mm = world[:-1, :-1] @ own.index_to_world[:-1, :-1]
    still = np.zeros((own.ndim, own.ndim + 1))
    if steps is None:  # once for all samples
        steps = squarings((mean.abs() + MOST_SD * (prediction.log_variance / 2).exp()) * per_point)
    votes = None if labels is None else LabelVotes(labels, own, world, mean.device)
    displacements, determinants = Welford(), Welford()
    with torch.no_grad():
        for number in range(samples):
            between(number / samples)
            u = integrate(posterior.draw(generator) * per_point, steps=steps)
            displacements.add(linear_field(still, tuple(u.shape[2:]), u, to_mm))
            determinants.add(jacobian_determinant(u * per_component(own.spacing_mm, u), own.spacing_mm))
            if votes is not None:
                votes.add(u)
        between(1.0)
        prior = None if precision is None else posterior.relative_to_prior(precision)
        entropy = None if votes is None else votes.entropy()
    sd = displacements.variance().sum(1, keepdim=True).sqrt()
    jacobian_sd = determinants.variance().sqrt() * abs(float(np.linalg.det(world)))
    return Uncertainty(own, sd, jacobian_sd, prior, samples, entropy, seed)


class UncertaintyOnce:
    """Samples once for all steps of a history that share prediction, labels, number of samples and seed."""

    def __init__(self):
        self._known: tuple[tuple, Uncertainty, tuple] | None = None

    def of(
        self, solution: Solution, labels: Image | None, samples: int, seed: int, between: Callable[[float], None]
    ) -> Uncertainty:
        """``uncertainty`` of the solution's belief under its affine part, on the CPU."""
        belief, world = solution.belief, solution.world
        key = (id(belief), id(world), id(labels), samples, seed)
        if self._known is None or self._known[0] != key:
            prior = belief.precision, belief.smoothing_voxels
            found = uncertainty(
                belief.prediction, belief.grid, samples, seed, *prior, None, world.homogeneous, labels, between
            )
            # the objects are kept, so that no other gets their identity
            self._known = key, found.to("cpu"), (belief, world, labels)
        return self._known[1]
