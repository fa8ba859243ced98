"""What a quality check reads (``Context``) and what it returns (``Finding``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from ..data.image import Image
    from ..data.pair import LabelPair, Pair
    from ..data.points import Landmarks
    from ..methods.uncertainty import Uncertainty
    from ..result import Result
    from ..transforms.base import Inverse, Transform
    from ._work import WorkGrid

Verdict = Literal["good", "check", "bad", "info"]
STEERED = "This steered the registration, so it fits by construction: judge the result by other structures."
"""Said of landmarks and labels that were prompts."""
SEVERITY: dict[str, int] = {"info": 0, "good": 1, "check": 2, "bad": 3}
"""Order of the verdicts, mild to severe."""


@dataclass(frozen=True)
class Finding:
    """One quality check. ``limit`` is text such as ``"at most 2 mm"``; ``worst_mm`` the LPS position to look at first."""

    name: str
    label: str
    value: float | None
    unit: str
    limit: str
    verdict: Verdict
    explanation: str
    worst_mm: tuple[float, ...] | None = None
    details: dict = field(default_factory=dict)


def _go_on() -> None:
    """Nobody wants to stop the checks."""


@dataclass(frozen=True)
class Context:
    """Everything a check may look at; what several checks share is computed once, on first use.

    transform: fixed_to_moving. inverse: moving_to_fixed. warped: moving scan on the fixed grid. displacement:
    phi(x) - x on the whole fixed grid, (1, d, *shape) float32, mm, LPS. start: where the deformable part started.
    steered: landmarks and labels of the pair were prompts of this transform, so they are no independent test of it.
    between: called before each check and within long ones, so that it may stop them by an exception. uncertainty: how sure
    a probabilistic network was of the pair.
    """

    pair: Pair
    transform: Transform
    inverse: Inverse
    warped: Image
    displacement: torch.Tensor
    start: Transform | None = None
    steered: bool = False
    between: Callable[[], None] = _go_on
    uncertainty: Uncertainty | None = None

    @classmethod
    def build(
        cls,
        pair: Pair,
        transform: Transform,
        inverse: Inverse,
        warped: Image,
        start: Transform | None = None,
        steered: bool = False,
        between: Callable[[], None] = _go_on,
        uncertainty: Uncertainty | None = None,
    ) -> Context:
        """Evaluate the displacement on the fixed grid and collect the rest."""
        displacement = transform.displacement(pair.fixed.geometry).detach()
        return cls(pair, transform, inverse, warped, displacement, start, steered, between, uncertainty)

    @classmethod
    def of(cls, result: Result) -> Context:
        """The context of a finished registration: the one its checks used, else built."""
        if result.context is not None:
            return result.context
        found = (result.pair, result.transform, result.inverse, result.warped, result.start)
        return cls.build(*found, uncertainty=result.uncertainty)

    @property
    def fixed_labels(self) -> Image | None:
        return self.pair.prompts.fixed_labels

    @property
    def moving_labels(self) -> Image | None:
        return self.pair.prompts.moving_labels

    @property
    def label_pairs(self) -> tuple[LabelPair, ...]:
        """The pairs the user named, else every positive label that is present in both maps."""
        from ..data.pair import LabelPair

        if self.pair.prompts.label_pairs or self.fixed_labels is None or self.moving_labels is None:
            return self.pair.prompts.label_pairs
        present = [
            {int(v) for v in image.tensor.unique().tolist() if v > 0}
            for image in (self.fixed_labels, self.moving_labels)
        ]
        return tuple(LabelPair(v, v) for v in sorted(present[0] & present[1]))

    @property
    def landmarks(self) -> Landmarks | None:
        return self.pair.prompts.landmarks

    @cached_property
    def jacobian(self) -> torch.Tensor:
        """det(d phi / dx) at every fixed voxel, central differences: (1, 1, *shape)."""
        from ..geometry.vector_fields import jacobian_determinant

        geometry = self.pair.fixed.geometry
        return jacobian_determinant(self.displacement, geometry.spacing_mm, geometry.rotation)

    @cached_property
    def work(self) -> WorkGrid:
        """Both scans on a coarse grid around the fixed anatomy, where the picture-based checks look."""
        from ._work import WorkGrid

        return WorkGrid.build(self.pair, self.warped, self.displacement)

    @cached_property
    def anatomy(self) -> np.ndarray:
        """The fixed scan's foreground on its own grid, bool (*shape), blocky (from the coarse grid)."""
        from ._work import fine_mask

        return fine_mask(self.pair.fixed, self.work)

    def position_mm(self, index_zyx) -> tuple[float, ...]:
        """World position (LPS) of a fixed voxel given in array order."""
        return tuple(round(float(v), 1) for v in self.pair.fixed.geometry.to_world(np.array(index_zyx)[::-1]))


def graded(value: float, check: float, bad: float) -> Verdict:
    """``good`` below ``check``, ``bad`` from ``bad`` on; swap the limits (check > bad) when larger is better."""
    if check <= bad:
        return "good" if value < check else "check" if value < bad else "bad"
    return "good" if value > check else "check" if value > bad else "bad"
