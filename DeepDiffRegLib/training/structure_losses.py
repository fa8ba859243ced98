"""How well labeled structures meet: overlap and distance of surfaces."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ..errors import ConfigError
from ..geometry.sampling import sample
from ..geometry.smoothing import gaussian
from ..similarity.dice import Dice
from .base import Deformed, Loss
from .mapping import warped


class DiceLoss(Loss):
    """1 - mean overlap of the labels present in the fixed scan, squared denominators; the moving ones are warped linearly.

    labels: which ones (all the positive ones of the fixed scans when empty). Their number does not matter for memory; where two do
    not touch there is no force. blur_voxels: standard deviation of a Gaussian over either mask, in voxels of each resolution that is
    judged; it lets structures feel each other from about four times as far. On volumes it takes the labels one by one.
    """

    needs = ("moving_labels", "fixed_labels")

    def __init__(self, labels: tuple[int, ...] = (), blur_voxels: float = 0.0):
        self.labels, self.blur_voxels = tuple(int(label) for label in labels), blur_voxels
        if any(label <= 0 for label in self.labels):
            raise ConfigError(f"loss 'dice': labels must be positive, got {self.labels}")
        if not (isinstance(blur_voxels, (int, float)) and blur_voxels >= 0):
            raise ConfigError(f"loss 'dice': blur_voxels must be 0 or more, got {blur_voxels!r}")

    def __call__(self, case: Deformed) -> torch.Tensor:
        moving, fixed = case.batch["moving_labels"], case.batch["fixed_labels"]
        return _Overlap.apply(case.mapping.forward, moving, fixed, self.labels, self.blur_voxels)


class _Overlap(torch.autograd.Function):
    """Mean Dice loss of every pair with its gradient."""

    @staticmethod
    def forward(ctx, u, moving, fixed, labels, blur_voxels):
        total, gradient = 0.0, torch.zeros_like(u)
        fused = u.ndim == 5 and u.device.type == "cpu" and u.dtype == torch.float32 and min(moving.shape[2:]) > 1
        compare = _together if fused and not blur_voxels else partial(_one_by_one, blur_voxels=blur_voxels)
        for pair in range(len(u)):
            own, here, there = (t.detach()[pair : pair + 1] for t in (u, fixed, moving))
            wanted = [int(v) for v in here.unique() if v > 0 and (not labels or int(v) in labels)]
            if wanted:
                value, slope = compare(own, here, there, wanted)
                total += value / len(u)
                gradient[pair : pair + 1] = slope / len(u)
        ctx.save_for_backward(gradient)
        return u.new_tensor(total)

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None, None, None, None


def _one_by_one(u, fixed, moving, wanted: list[int], blur_voxels: float = 0.0) -> tuple[float, torch.Tensor]:
    """Mean loss of the labels and its derivative by u (1, d, *shape)."""
    similarity, total, gradient = Dice(), 0.0, torch.zeros_like(u)
    for label in wanted:
        here, there = (gaussian((scan == label).to(u.dtype), blur_voxels) for scan in (fixed, moving))
        with torch.enable_grad():
            own = u.clone().requires_grad_()
            soft = warped(there, own)
            value, residual = similarity.value_and_gradient(here, soft)
            slope = torch.autograd.grad(soft, own, residual)[0]
        total += value / len(wanted)
        gradient += slope / len(wanted)
    return total, gradient


def _together(u, fixed, moving, wanted: list[int]) -> tuple[float, torch.Tensor]:
    """The same of all labels in one go: D = (2 sum pJ + e) / (sum p^2 + sum J + e), p the warped and J the fixed mask."""
    from . import _overlap_fused as kernels

    count, known = len(wanted), torch.tensor(wanted)
    here, there = (_numbered(t[0, 0], known).numpy() for t in (fixed, moving))
    field = u[0].contiguous().numpy()
    both, soft, own = kernels.sums(there, here, field, count)[:, 1:]
    epsilon = Dice().epsilon
    union, overlap = soft + own + epsilon, 2 * both + epsilon
    # of the mean loss: d/d sum(pJ), and twice d/d sum(p^2)
    met, size = np.zeros(count + 1, np.float32), np.zeros(count + 1, np.float32)
    met[1:], size[1:] = -2 / union / count, 2 * overlap / union**2 / count
    gradient = torch.empty_like(u, memory_format=torch.contiguous_format)
    kernels.slopes(there, here, field, met, size, gradient[0].numpy())
    return float(1 - (overlap / union).mean()), gradient


def _numbered(labels: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """1, 2, ... for the sorted ``known`` labels, 0 for all others."""
    labels = labels.contiguous()
    place = torch.searchsorted(known, labels).clamp(max=len(known) - 1)
    return torch.where(known[place] == labels, place + 1, 0).int()


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
        if case.mapping.invertible:
            total = total + self._sent(case, case.mapping.backward, "moving", "fixed")
        return total / (4 * self.sigma_mm**2)

    def _sent(self, case: Deformed, u: torch.Tensor, role: str, other: str) -> torch.Tensor:
        points, structure = case.batch[f"{role}_points"], case.batch[f"{role}_structure"]
        batch, count, d = points.shape
        index = points.transpose(1, 2).reshape(batch, d, *(1,) * (d - 1), count)
        found = index + sample(u, index, padding="border")
        distances = sample(case.batch[f"{other}_distance"], found, padding="border").reshape(batch, -1, count)
        return distances.gather(1, structure[:, None].long()).square().mean()
