"""The solver as a layer: feature images in, the maps of all scales out, differentiable however long it took to find them.

At the optimum the force on the map vanishes, and that equation says how the optimum moves with the features (implicit function
theorem); the way there need not be remembered. The optimisation itself is the library's own (``descent``), on numbers without
gradients; one further step on top of it carries the derivative (Jena et al., 2024; Jacobian-free: Fung et al., AAAI 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..config import Choice
from ..descent import Descent, Level
from ..errors import Cancelled, ConfigError, RegistrationError, ShapeError
from ..geometry.grid import Geometry
from ..geometry.pyramid import Pyramid
from ..progress import Progress
from ..prompts.base import SCANS, ImageTerm
from ..registry import nearest
from ..regularization import REGULARIZERS
from ..result import HistoryEntry, Status
from ..similarity.mean_squares import MeanSquares
from ..transforms import TRANSFORMS
from ._phantom import STEPS, Comparison, Phantom

BACKWARD = ("jfb", "ift")


@dataclass(frozen=True)
class Layer:
    """How the maps are found and differentiated.

    transform: of the table ``TRANSFORMS``: displacement, diffeomorphic, svf, affine, similarity or rigid. iterations: most steps
    per scale, coarse to fine. tolerance: a scale ends when the loss falls by less than this share per iteration.
    regularization: quadratic ones (diffusion, bending), weights beside a mean over voxels of squared feature differences.
    backward: ``jfb`` takes the inverse of the second derivatives for the identity; ``ift`` solves for it (at most
    ``inverse_iterations`` products with it, to ``inverse_tolerance``). phantom_steps: steps that the derivative goes through (jfb).
    rate: of these steps, in voxels per unit of force.
    """

    transform: Choice = field(
        default_factory=lambda: Choice("displacement", {"optimizer": "sgd", "learning_rate": 0.5})
    )
    iterations: tuple[int, ...] = (200, 100, 50)
    tolerance: float = 1e-3
    regularization: tuple[Choice, ...] = ()
    backward: str = "jfb"
    phantom_steps: int = 1
    rate: float = 1.0
    inverse_iterations: int = 20
    inverse_tolerance: float = 1e-3

    def __post_init__(self):
        if self.backward not in BACKWARD:
            raise ConfigError(f"Layer.backward: unknown value {self.backward!r}{nearest(str(self.backward), BACKWARD)}")
        steps = (self.phantom_steps, self.inverse_iterations)
        if min(steps) < 1 or (self.backward == "ift" and self.phantom_steps != 1) or not self.rate > 0:
            raise ConfigError(
                f"Layer: rate and steps must be positive, and one phantom step goes with 'ift', got {self}"
            )
        if not any(base in STEPS for base in TRANSFORMS.load(self.transform.name).__mro__):
            raise ConfigError(f"Layer: nothing is known of how to differentiate transform {self.transform.name!r}")
        for choice in self.regularization:
            if not REGULARIZERS.load(choice.name).quadratic:
                raise ConfigError(
                    f"Layer: regularization {choice.name!r} is not quadratic; choose diffusion or bending"
                )


@dataclass(frozen=True)
class Solved:
    """The map of one scale. displacement: (1, d, *shape) in voxels of ``geometry``, tracks gradients; history: of its descent."""

    displacement: torch.Tensor
    geometry: Geometry
    history: tuple[HistoryEntry, ...]


def solve(
    fixed: Pyramid,
    moving: Pyramid,
    layer: Layer | None = None,
    world: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[Solved, ...]:
    """The map x -> A(x + u(x)) of each scale that makes the moving features most like the fixed ones (mean squares).

    fixed, moving: equally many images, coarse to fine, each with its own grid (``features.feature_images``); an image of which
    nothing requires gradients gets none. world: A (homogeneous, mm), identity when absent. Each scale continues from the one
    before. Memory for the derivative does not depend on the iterations. Raises ``Cancelled`` and ``RegistrationError``.
    """
    layer, progress = layer or Layer(), progress or Progress()
    _check(fixed, moving, layer)
    model = TRANSFORMS.build(layer.transform.name, **layer.transform.options)
    regularizers = [(c.weight, REGULARIZERS.build(c.name, **c.options)) for c in layer.regularization]
    world = np.eye(fixed.images[0][1].ndim + 1) if world is None else world
    found = []
    for (own, geometry), (other, moving_geometry), iterations in zip(fixed.images, moving.images, layer.iterations):
        own, other = (MeanSquares().laid_out(image) for image in (own, other))
        comparison = Comparison(own, other, geometry, moving_geometry, world, regularizers)
        history = _descend(model, comparison.detached(), iterations, layer.tolerance, progress)
        found.append(Solved(differentiable(model, comparison, layer), geometry, tuple(history)))
    return tuple(found)


def differentiable(model, comparison: Comparison, layer: Layer, state: torch.Tensor | None = None) -> torch.Tensor:
    """The displacement (voxels) of a model that has reached its optimum, as a function of the features that were compared.

    state: its parameters (taken from the model when absent). The value is that after one more step, or several.
    """
    way = next(STEPS[base] for base in type(model).__mro__ if base in STEPS)
    state = way.start(model) if state is None else state.detach()
    step = Phantom(model, comparison, state, layer.rate)
    reached = state
    for _ in range(layer.phantom_steps):
        reached = step(reached)
    if layer.backward == "ift" and reached.requires_grad:
        _solve_backward(step, comparison.detached(), state, reached, layer)
    return way.shown(reached)


def _solve_backward(step: Phantom, comparison: Comparison, state: torch.Tensor, reached: torch.Tensor, layer: Layer):
    """Let the cotangent g of ``reached`` be replaced by (I - J^T)^-1 g, J the derivative of a step by the parameters.

    A fixed point s = T(s, F) moves by ds = (I - J)^-1 dT/dF; J enters through vector-Jacobian products only.
    """

    def solved(cotangent: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            here = state.clone().requires_grad_()
            there = step(here, comparison)

        def apply(vector: torch.Tensor) -> torch.Tensor:
            return vector - torch.autograd.grad(there, here, vector, retain_graph=True)[0]

        return gmres(apply, cotangent, layer.inverse_iterations, layer.inverse_tolerance)

    reached.register_hook(solved)


def gmres(
    apply: Callable[[torch.Tensor], torch.Tensor], wanted: torch.Tensor, iterations: int, tolerance: float
) -> torch.Tensor:
    """x with apply(x) = wanted for a linear map, of the Krylov space of ``iterations`` products: the one of least residual.

    Ends early when the residual falls below ``tolerance`` times |wanted|. Saad & Schultz, 1986. Keeps one tensor per product.
    """
    length = float(wanted.norm())
    if length == 0.0:
        return torch.zeros_like(wanted)
    basis, columns = [wanted / length], []
    target = wanted.new_zeros(iterations + 1, dtype=torch.float64)
    target[0] = length
    weights = target[:0]
    for number in range(iterations):
        vector = apply(basis[-1])
        column = target.new_zeros(iterations + 1)
        for row, direction in enumerate(basis):
            column[row] = (vector * direction).sum()
            vector = vector - direction * column[row].to(vector.dtype)
        column[number + 1] = vector.norm()
        columns.append(column)
        hessenberg = torch.stack(columns, 1)[: number + 2]
        weights = torch.linalg.lstsq(hessenberg, target[: number + 2, None]).solution[:, 0]
        left = float((hessenberg @ weights - target[: number + 2]).norm())
        if left <= tolerance * length or float(column[number + 1]) <= 1e-14 * length:
            break
        basis.append(vector / vector.norm())
    return sum(direction * weight.to(wanted.dtype) for direction, weight in zip(basis, weights))


def _descend(model, compared: Comparison, iterations: int, tolerance: float, progress: Progress) -> list[HistoryEntry]:
    """Optimise on one scale; voxels that leave the moving scan do not count."""
    covered = compared.moving.new_ones((1, 1, *compared.moving.shape[2:]))
    term = ImageTerm(
        SCANS, compared.fixed, compared.moving, compared.moving_geometry, MeanSquares(), moving_weight=covered
    )
    level = Level(compared.geometry, [term], iterations, compared.world, compared.regularizers)
    with torch.no_grad():
        outcome = Descent(
            model, [lambda: level], progress, "features", tolerance=tolerance, device=compared.fixed.device, span=(0.0, 0.0)
        ).run()  # fmt: skip
    if outcome.status is Status.CANCELLED:
        raise Cancelled("cancelled while a map was optimised on features")
    if outcome.status is Status.DIVERGED:
        raise RegistrationError("implicit.solve(): the features hold NaN or are too large; lower the learning rate")
    return outcome.history


def _check(fixed: Pyramid, moving: Pyramid, layer: Layer) -> None:
    counts = (len(fixed.images), len(moving.images), len(layer.iterations))
    if len(set(counts)) != 1 or not counts[0]:
        raise ShapeError(f"implicit.solve(): as many images of both scans as iterations are needed, got {counts}")
    for (own, geometry), (other, _) in zip(fixed.images, moving.images):
        if own.shape[:2] != other.shape[:2] or len(own) != 1 or tuple(own.shape[2:]) != geometry.shape:
            raise ShapeError(
                f"implicit.solve(): features of one pair with equal channels are needed, got {tuple(own.shape)} on "
                f"{geometry.shape} and {tuple(other.shape)}"
            )
