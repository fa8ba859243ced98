"""Limited-memory BFGS that is told values and gradients by the loop, one look at a time (reverse communication)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

Block = list[torch.Tensor]
"""Parameters, gradients or directions: one tensor per kind of parameter."""
ARMIJO = 1e-4
SHRINK_MOST, SHRINK_LEAST = 0.1, 0.5
MOST_REFUSALS = 8
VALUE_NOISE = 1e-7
"""Differences of the loss below this share of it count as rounding."""


def dot(a: Block, b: Block) -> float:
    """Sum of products over all tensors."""
    return float(sum((x * y).sum(dtype=torch.float64) for x, y in zip(a, b)))


class LineSearch:
    """L-BFGS directions with backtracking (Nocedal & Wright, 2006, alg. 7.4 and 3.1).

    precondition: first inverse Hessian, symmetric and positive, scaled so that its first direction is a sensible step.
    limit: largest step length allowed along a direction. ``at`` is the trial to look at next, ``accepted`` the last one kept.
    """

    def __init__(
        self, start: Block, precondition: Callable[[Block], Block], limit: Callable[[Block], float], history: int = 5
    ):
        self.at, self.accepted = start, None
        self.precondition, self.limit = precondition, limit
        self.pairs: deque[tuple[Block, Block, float]] = deque(maxlen=history)
        self.value: float | None = None
        self.stuck = self.pending = False
        self._heard: float | None = None

    def judge(self, value: float) -> bool:
        """Whether the trial fell enough (Armijo); else ``at`` becomes a nearer one, or the accepted one when stuck."""
        if self.value is not None and self.accepted is not None:
            allowed = self.value + ARMIJO * self._length * self._slope + VALUE_NOISE * abs(self.value)
            if not value <= allowed:
                self.retreat(value)
                return False
        self._heard, self.pending = value, False
        return True

    def retreat(self, value: float | None = None) -> None:
        """Go back along the direction: to the minimum of the parabola through what is known, or a quarter of the way."""
        self._refusals += 1
        if self._refusals > MOST_REFUSALS:
            self._give_up()
            return
        share = 0.25
        if value is not None and self.value is not None:
            rise = value - self.value - self._length * self._slope
            share = -0.5 * self._length * self._slope / rise if rise > 0 else SHRINK_LEAST
            share = min(max(share, SHRINK_MOST), SHRINK_LEAST)
        self._length *= share
        self._place()

    def told(self, gradient: Block) -> None:
        """Take the trial as accepted with this gradient and place the next trial."""
        if self.accepted is not None:
            s = [x - y for x, y in zip(self.at, self.accepted)]
            y = [a - b for a, b in zip(gradient, self._gradient)]
            curvature = dot(s, y)
            if curvature > 1e-10 * (dot(s, s) * dot(y, y)) ** 0.5:
                self.pairs.append((s, y, curvature))
        self.accepted, self._gradient, self.value, self._heard = self.at, gradient, self._heard, None
        self._aim()

    def forget(self, change: float = 0.0) -> None:
        """The objective changed, at the accepted point by ``change``: drop curvature, keep the point."""
        self.pairs.clear()
        for name in ("value", "_heard"):
            known = getattr(self, name)
            setattr(self, name, None if known is None else known + change)

    def settle(self) -> Block:
        """The last accepted parameters when the trial was never judged, else the trial."""
        if self.pending and self.accepted is not None and self.value is not None:
            self.at, self.pending = self.accepted, False
        return self.at

    def _aim(self) -> None:
        self._direction = [d.neg_() for d in self._newton(self._gradient)]
        self._slope = dot(self._direction, self._gradient)
        if not self._slope < 0:
            self.pairs.clear()
            self._direction = [d.neg_() for d in self.precondition(self._gradient)]
            self._slope = dot(self._direction, self._gradient)
        if not self._slope < 0:
            self.stuck = True
            return
        self._length, self._refusals = min(1.0, self.limit(self._direction)), 0
        self._place()

    def _place(self) -> None:
        self.at = [x + self._length * d for x, d in zip(self.accepted, self._direction)]
        self.pending = True

    def _give_up(self) -> None:
        """Once more along the plain gradient; after that the search is over."""
        if self.pairs:
            self.pairs.clear()
            self._aim()
            return
        self.at, self.pending, self.stuck = self.accepted, False, True

    def _newton(self, gradient: Block) -> Block:
        """Two-loop recursion."""
        q = [g.clone() for g in gradient]
        shares = []
        for s, y, curvature in reversed(self.pairs):
            share = dot(s, q) / curvature
            shares.append(share)
            for part, change in zip(q, y):
                part.sub_(change, alpha=share)
        q = self.precondition(q)
        if self.pairs:
            _, y, curvature = self.pairs[-1]
            scale = curvature / max(dot(y, self.precondition(y)), 1e-300)
            q = [part.mul_(scale) for part in q]
        for (s, y, curvature), share in zip(self.pairs, reversed(shares)):
            back = dot(y, q) / curvature
            for part, change in zip(q, s):
                part.add_(change, alpha=share - back)
        return q
