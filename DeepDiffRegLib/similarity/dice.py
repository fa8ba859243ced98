"""Overlap of soft segmentations."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from .base import Similarity, check_pair


class Dice(Similarity):
    """Loss ``1 - mean over labels of D``, D = (2 sum w I J + epsilon) / (sum w I^a + sum w J^a + epsilon).

    One label per channel, values in [0, 1]; a is ``order`` (1 or 2). The mean runs over the labels present in
    ``fixed`` where the weight is not 0: an absent one has nothing to match. With no label at all the loss is 1 and
    there is no force.

    dD/dI = w (2 J S - (2 X + epsilon) a I^(a-1)) / S^2, with X = sum w I J and S the denominator. Without any overlap
    it has no useful gradient (pair it with distances then).
    """

    def __init__(self, order: int = 2, epsilon: float = 1e-5):
        if order not in (1, 2):
            raise ConfigError(f"Dice: 'order' must be 1 or 2, got {order!r}")
        if not epsilon > 0:
            raise ConfigError(f"Dice: 'epsilon' must be positive, got {epsilon!r}")
        self.order = int(order)
        self.epsilon = float(epsilon)

    def value_and_gradient(self, fixed, warped, weight=None):
        check_pair("Dice.value_and_gradient", fixed, warped, weight)
        gradient = torch.zeros_like(warped, requires_grad=False)
        mask = None if weight is None else weight[0, 0]
        total, present = 0.0, []
        with torch.no_grad():
            for channel in range(fixed.shape[1]):
                overlap = self._overlap(fixed[0, channel], warped[0, channel], mask, gradient[0, channel])
                if overlap is not None:
                    total += overlap
                    present.append(channel)
            if not present:
                return 1.0, gradient
            return 1.0 - total / len(present), gradient.mul_(-1.0 / len(present))

    def _overlap(self, fixed, warped, weight, gradient) -> float | None:
        """D of one label, its derivative written to ``gradient``; None (and no derivative) when the label is absent."""
        wj = fixed if weight is None else fixed * weight
        size_fixed = float((wj if self.order == 1 else wj * fixed).sum())
        if size_fixed <= 0.0:
            return None
        wi = warped if weight is None else warped * weight
        union = size_fixed + float((wi if self.order == 1 else wi * warped).sum()) + self.epsilon
        overlap = 2.0 * float((wi * fixed).sum()) + self.epsilon
        torch.mul(wj, 2.0 / union, out=gradient)
        slope = overlap / union**2
        if self.order == 2:
            gradient.sub_(wi, alpha=2.0 * slope)
        elif weight is None:
            gradient.sub_(slope)
        else:
            gradient.sub_(weight, alpha=slope)
        return overlap / union
