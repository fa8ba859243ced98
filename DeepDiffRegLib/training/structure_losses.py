"""How well labeled structures meet: overlap and distance of surfaces."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from ..geometry.sampling import sample
from ..similarity.dice import Dice
from .base import Deformed, Loss
from .mapping import warped


class DiceLoss(Loss):
    """1 - mean overlap of the labels present in the fixed scan, squared denominators; the moving ones are warped linearly.

    labels: which ones (all the positive ones of the fixed scans when empty). Labels are worked on one at a time, so their number
    does not matter for memory; where two do not touch there is no force (combine with ``surface``).
    """

    needs = ("moving_labels", "fixed_labels")

    def __init__(self, labels: tuple[int, ...] = ()):
        self.labels = tuple(int(label) for label in labels)
        if any(label <= 0 for label in self.labels):
            raise ConfigError(f"loss 'dice': labels must be positive, got {self.labels}")

    def __call__(self, case: Deformed) -> torch.Tensor:
        moving, fixed = case.batch["moving_labels"], case.batch["fixed_labels"]
        return _Overlap.apply(case.mapping.forward, moving, fixed, self.labels)


class _Overlap(torch.autograd.Function):
    """Mean Dice loss of every pair; its gradient is summed up label by label."""

    @staticmethod
    def forward(ctx, u, moving, fixed, labels):
        similarity, total, gradient = Dice(), 0.0, torch.zeros_like(u)
        for pair in range(len(u)):
            here = fixed[pair : pair + 1]
            there = [int(v) for v in here.unique() if v > 0 and (not labels or int(v) in labels)]
            for label in there:
                with torch.enable_grad():
                    own = u[pair : pair + 1].detach().requires_grad_()
                    soft = warped((moving[pair : pair + 1] == label).to(u.dtype), own)
                    value, residual = similarity.value_and_gradient((here == label).to(u.dtype), soft)
                    slope = torch.autograd.grad(soft, own, residual)[0]
                total += value / (len(there) * len(u))
                gradient[pair : pair + 1] += slope / (len(there) * len(u))
        ctx.save_for_backward(gradient)
        return u.new_tensor(total)

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None, None, None


class SurfaceLoss(Loss):
    """1/(4 sigma_mm^2) [mean d(phi(s_F), S_M)^2 + mean d(phi^-1(s_M), S_F)^2] over sampled points of the surfaces, d in mm.

    Fixed points are sent by phi and looked up in the moving scan's distances, moving points by the inverse in the fixed scan's;
    networks without inverse use the first half alone, at half its weight. The batch holds, for either scan: ``*_points``
    (B, n, d) in voxels (x, y[, z]), ``*_structure`` (B, n) the channel of each, ``*_distance`` (B, S, *shape) in mm.
    """

    needs = tuple(f"{role}_{what}" for role in ("moving", "fixed") for what in ("points", "structure", "distance"))

    def __init__(self, sigma_mm: float = 1.0):
        if not sigma_mm > 0:
            raise ConfigError(f"loss 'surface': sigma_mm must be positive, got {sigma_mm!r}")
        self.sigma_mm = sigma_mm

    def __call__(self, case: Deformed) -> torch.Tensor:
        total = self._sent(case, case.mapping.forward, "fixed", "moving")
        if case.prediction.kind != "displacement":
            total = total + self._sent(case, case.mapping.backward, "moving", "fixed")
        return total / (4 * self.sigma_mm**2)

    def _sent(self, case: Deformed, u: torch.Tensor, role: str, other: str) -> torch.Tensor:
        points, structure = case.batch[f"{role}_points"], case.batch[f"{role}_structure"]
        batch, count, d = points.shape
        index = points.transpose(1, 2).reshape(batch, d, *(1,) * (d - 1), count)
        found = index + sample(u, index, padding="border")
        distances = sample(case.batch[f"{other}_distance"], found, padding="border").reshape(batch, -1, count)
        return distances.gather(1, structure[:, None].long()).square().mean()
