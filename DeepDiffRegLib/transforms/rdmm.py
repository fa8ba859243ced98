"""Region-specific diffeomorphic metric mapping: a metric that differs from place to place and moves with the tissue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..data.pair import Stiffness
from ..errors import ConfigError
from ..geometry.grid import Geometry
from ._shooting_descent import Block
from ._shooting_metric import Regional, State
from ._shooting_model import ShootingModel, carried
from ._shooting_rhs import gradient
from .kernels import MultiGaussian
from .model import Push
from .shooting import ShootingTransform
from .stiffness import SMALLEST, GivenWeights, LabelWeights, WeightSource, check_tissues

TISSUES = {"stiff": (0.0, 0.0, 0.0, 1.0), "soft": (0.2, 0.5, 0.3, 0.0), "still": (0.0, 0.0, 0.0, 0.01)}
BOUND = 1.5
"""Free pre-weights change by at most this in their logarithm."""
REFRESH = 10
"""Accepted steps after which the balance of range and transport penalty is set anew."""
SOFTNESS = 1e-4
"""Rounds the corner of total variation, in units of the largest possible slope."""


class RDMMModel(ShootingModel):
    """v = sum_i w_i K_i (w_i m) with weights carried by the flow (Shen et al., NeurIPS 2019). Options of ``ShootingModel``.

    weights: shares of the Gaussians where nothing else is said. blur: Gaussian G in w = G h, in ``sigma_unit``. tissues: shares
    per name; background: the tissue of what a label map does not list. optimise_weights: whether h(0) is free; None: when no
    stiffness was given. omt, omt_power, range, tv: weights of the penalties on free h(0): optimal mass transport towards the
    widest Gaussian, distance from where they began (fading as omt comes in) and total variation.
    """

    def __init__(
        self,
        sigmas: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2),
        weights: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4),
        blur: float = 0.03,
        tissues: Mapping[str, Sequence[float]] | None = None,
        background: str = "stiff",
        optimise_weights: bool | None = None,
        omt: float = 0.1,
        omt_power: float = 1.0,
        range: float = 10.0,
        tv: float = 0.0,
        **options,
    ):
        super().__init__(sigmas=sigmas, weights=weights, **options)
        MultiGaussian(self.sigmas, self.weights)
        if tissues is None:
            tissues = TISSUES if len(self.sigmas) == len(TISSUES["stiff"]) else {}
        self.tissues, self.background = check_tissues(tissues, len(self.sigmas)), background
        if not (blur >= 0 and omt_power >= 1 and min(omt, range, tv) >= 0):
            raise ConfigError(
                "rdmm: blur and the weights of the penalties must not be negative, omt_power at least 1, "
                f"got {blur}, {(omt, range, tv)} and {omt_power}"
            )
        self.blur, self.omt, self.omt_power, self.range, self.tv = blur, omt, omt_power, range, tv
        self.optimise_weights = optimise_weights
        self._source: WeightSource | None = None
        self._accepted_steps = 0

    def set_stiffness(self, stiffness: Stiffness | WeightSource, world: np.ndarray | None = None) -> None:
        """Fix h(0), or where it starts: a label map with tissues, or anything that has ``pre_weights``.

        world: the affine part that leads from the flow's space to the moving scan, for label maps.
        """
        if isinstance(stiffness, Stiffness):
            world = np.eye(stiffness.labels.ndim + 1) if world is None else world
            stiffness = LabelWeights(stiffness, self.tissues, self.background, world)
        self._source = stiffness

    @property
    def free(self) -> bool:
        """Whether h(0) is optimised."""
        return self._source is None if self.optimise_weights is None else self.optimise_weights

    def _metric(self, sigmas_mm: tuple[float, ...]) -> Regional:
        return Regional(sigmas_mm, self.blur * sigmas_mm[0] / self.sigmas[0])

    def _mean_symbol(self, squared_frequency: torch.Tensor) -> torch.Tensor:
        return MultiGaussian(self.metric.sigmas_mm, self.weights).symbol(squared_frequency)

    def _enter_parameters(self, before: Geometry | None) -> Block:
        (m, *free) = self._at if self._at is not None else (None,)
        self._base = self._first_weights()
        if m is None:
            m = torch.zeros((self._grid.ndim, *self._grid.shape), device=self._device)
        else:
            m = carried(m, before, self._grid)
        if not self.free:
            return [m]
        delta = carried(free[0], before, self._grid) if free else torch.zeros_like(self._base)
        return [m, delta]

    def _first_weights(self) -> torch.Tensor:
        """(N, *shape): the source's, a continued map's, or the same everywhere."""
        source = self._source
        if source is None and self._start is not None:
            source = GivenWeights(self._start.pre_weights, self._start.geometry)
        if source is None:
            shares = torch.tensor(self.weights, device=self._device).reshape(-1, *(1,) * self._grid.ndim)
            return shares.sqrt().expand(-1, *self._grid.shape).contiguous()
        h = source.pre_weights(self._grid, self._device)
        expected = (len(self.sigmas), *self._grid.shape)
        if tuple(h.shape) != expected:
            raise ConfigError(f"rdmm: pre-weights must have shape {expected}, got {tuple(h.shape)}")
        return h

    def _weights_of(self, delta: torch.Tensor) -> torch.Tensor:
        """h from free parameters: softmax of the bounded logarithms, divided by its 2-norm."""
        logits = self._base.clamp(min=SMALLEST).log() + BOUND * torch.tanh(delta / BOUND)
        mass = torch.linalg.vector_norm(self._base, dim=0, keepdim=True)
        return (0.5 * torch.log_softmax(2 * logits, 0)).exp() * mass

    def _state(self) -> State:
        return (self._at[0], self._weights_of(self._at[1]) if self.free else self._base)

    def _own_terms(self) -> dict[str, float]:
        if not self.free:
            return {}
        with torch.no_grad():
            return {name: float(value) for name, value in self._penalties(self._path.states[0][1]).items()}

    def _penalties(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted penalties of h(0), means over the voxels; only those switched on."""
        w, fade = self._shooting.flow.blurred(h), self._fade()
        found = {}
        if self.omt:
            sigmas = torch.tensor(self.metric.sigmas_mm, device=h.device, dtype=h.dtype)
            way = (sigmas.max() / sigmas).log() / max(math.log(float(sigmas.max() / sigmas.min())), 1e-12)
            cost = (w.square() * (way**self.omt_power).reshape(-1, *(1,) * (w.ndim - 1))).sum(0).mean()
            found["omt"] = self.omt * (1 - fade) * cost
        if self.range:
            first = self._shooting.flow.blurred(self._base)
            found["range"] = self.range * fade * (w - first).square().sum(0).mean()
        if self.tv:
            slopes = gradient(h, self._grid.spacing_mm) * float(self.geometry.extent_mm.max())
            smooth = SOFTNESS * max(self._grid.size)
            found["tv"] = self.tv * ((slopes.square().sum(1) + smooth**2).sqrt() - smooth).sum(0).mean()
        return found

    def _fade(self) -> float:
        """1 for the first ten steps, then falling to 0.1: share of the range penalty; omt gets the rest."""
        steps = self._accepted_steps // REFRESH * REFRESH
        return max(0.1, REFRESH / (REFRESH + math.exp(min((steps - 10) / REFRESH, 50.0)))) if steps >= 10 else 1.0

    def _own_gradient(self, wanted: State) -> Block:
        if not self.free:
            return [wanted[0]]
        with torch.enable_grad():
            delta = self._at[1].detach().requires_grad_()
            h = self._weights_of(delta)
            total = (h * wanted[1]).sum() + sum(self._penalties(h).values())
            return [wanted[0], torch.autograd.grad(total, delta)[0]]

    def step(self, force: torch.Tensor, apart: Sequence[Push] = ()) -> None:
        """As every shooting model; each ``REFRESH`` steps the penalties change, and the line search is told by how much."""
        self.displacement()
        renewed = self._search is not None and (self._accepted_steps + 1) % REFRESH == 0
        before = sum(self._own_terms().values()) if renewed else 0.0
        self._accepted_steps += 1
        if renewed:
            self._search.forget(sum(self._own_terms().values()) - before)
        super().step(force, apart)

    def _resumed(self, transform: ShootingTransform) -> Block:
        return [transform.state[0].to(self._device)]
