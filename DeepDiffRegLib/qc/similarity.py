"""Do the scans look alike after registration, more than before, and does every part lie where it should?"""

from __future__ import annotations

import numpy as np

from ._orientation import compare_flips
from .alignment import Alignment, best_alignment, match_blocks, match_edges
from .base import Context, Finding, graded

FLIP_MARGIN = 0.06
PIECE = 2**15
"""Voxels counted at a time: histograms need no more scratch memory than this."""


def compute(context: Context) -> list[Finding]:
    """Picture-based findings; all work on the coarse grid and for any pair of modalities."""
    work = context.work
    context.between()
    alignment = best_alignment(work)
    context.between()
    matcher = match_blocks if alignment.measure == "brightness" else match_edges
    findings = [_agreement(alignment, matcher(work, work.before, most=800)), _misalignment(alignment, work)]
    context.between()
    findings += [_worst_region(alignment, work), _unmatched(alignment, work), _orientation(context)]
    context.between()
    return [*findings, _correlation(context), _information(context)]


def _agreement(alignment: Alignment, before: Alignment) -> Finding:
    clarity = alignment.clarity if len(alignment.centers) else 0.0
    return Finding(
        "local_agreement",
        "Local agreement above chance",
        round(clarity, 3),
        "",
        "at least 0.4",
        graded(clarity, 0.4, 0.25),
        f"How well the {alignment.measure} of the two scans agree over the anatomy: 0 as unrelated places do, 1 identical, "
        "whatever the contrast."
        + (f" Before registration {before.clarity:.2f}." if before.measure == alignment.measure else ""),
        details={
            "agreement": round(alignment.agreement, 4),
            "chance": round(alignment.chance, 4),
            "before": round(before.clarity, 4),
            "measure": alignment.measure,
            "blocks": len(alignment.centers),
        },
    )


def _misalignment(alignment: Alignment, work) -> Finding:
    gains = alignment.gains
    gain = float(gains.mean()) if len(gains) else 1.0
    offsets = alignment.offsets_mm
    offset = float(offsets.mean()) if len(offsets) else 0.0
    worst = work.position_mm(alignment.centers[int(gains.argmax())]) if len(gains) else None
    verdict = graded(gain, 0.06, 0.2)
    return Finding(
        "residual_misalignment",
        "Estimated remaining misalignment",
        round(offset, 2),
        "mm",
        "almost no part matches better elsewhere (mean gain below 0.06)",
        verdict,
        "Small blocks of the anatomy were compared with the registered scan at their own place and up to "
        f"{6 * work.step_mm:.0f} mm around it. {100 * float((offsets > 0).mean()) if len(offsets) else 100:.0f} % match "
        f"clearly better somewhere else; the mean gain in squared correlation is {gain:.3f}.",
        worst,
        {"mean_gain": round(gain, 4), "p95_mm": round(float(np.percentile(offsets, 95)), 2) if len(offsets) else None},
    )


def _worst_region(alignment: Alignment, work) -> Finding:
    gain, center = alignment.worst_region()
    return Finding(
        "worst_region",
        "Worst aligned region",
        round(gain, 3),
        "",
        "at most 0.38",
        graded(gain, 0.38, 0.55),
        "Mean gain in squared correlation if the worst region were shifted. A high value at one place with a low mean "
        "points to one structure that was missed: look there first.",
        work.position_mm(center),
    )


def _unmatched(alignment: Alignment, work) -> Finding:
    """Blocks with structure in the fixed scan that resemble nothing at their place."""
    own = alignment.scores[:, 0] if len(alignment.scores) else np.zeros(1)
    share = 100 * float((own < alignment.chance).mean())
    worst = work.position_mm(alignment.centers[int(own.argmin())]) if len(alignment.scores) else None
    return Finding(
        "unmatched",
        "Anatomy without counterpart",
        round(share, 1),
        "%",
        "at most 8 %",
        graded(share, 8.0, 30.0),
        "Share of the fixed scan's structures for which the registered scan shows nothing similar at the same place: "
        "missing anatomy, another contrast, or a wrong match.",
        worst,
    )


def _orientation(context: Context) -> Finding:
    """Would the moving file fit better mirrored or turned by 180 degrees?"""
    tried = compare_flips(context.work)
    margin = tried.flipped - tried.own
    verdict = "bad" if margin > FLIP_MARGIN and tried.flipped > 0.3 else "good"
    looks = f"The moving scan fits better when its file is mirrored ({tried.axes}): its orientation is probably wrong."
    return Finding(
        "orientation",
        "Gain from mirroring or turning the scan",
        round(max(margin, 0.0), 3),
        "",
        f"at most {FLIP_MARGIN}",
        verdict,
        looks if verdict == "bad" else "No mirrored or upside-down version of the moving scan fits clearly better.",
        details={"own": round(tried.own, 4), "best_flip": round(tried.flipped, 4), "axes": tried.axes},
    )


def _correlation(context: Context) -> Finding:
    work = context.work
    near = work.fixed_foreground | work.moving_foreground
    after, before = (_pearson(work.fixed[near], p[near]) for p in (work.warped, work.before))
    return Finding(
        "ncc",
        "Global correlation",
        round(after, 3),
        "",
        "",
        "info",
        f"Correlation of the brightness inside the anatomy, -1 to 1; before registration {before:.2f}. Low or negative "
        "values are normal between modalities.",
        details={"before": round(before, 4)},
    )


def _information(context: Context) -> Finding:
    work = context.work
    after, before = (normalized_mutual_information(work.fixed, p) for p in (work.warped, work.before))
    dropped = after < before - 0.02 and after < 0.9 * before
    return Finding(
        "nmi",
        "Mutual information (normalized)",
        round(after, 3),
        "",
        "not lower than before",
        "bad" if dropped else "good",
        f"Shared information of both scans, 0 to 1, for any modalities; before registration {before:.2f}. "
        + ("It fell: the registration made things worse." if dropped else "It did not fall."),
        details={"before": round(before, 4)},
    )


def normalized_mutual_information(first: np.ndarray, second: np.ndarray, bins: int = 32) -> float:
    """2 I(A; B) / (H(A) + H(B)) from a joint histogram of values in [0, 1]."""
    joint = np.zeros(bins * bins)
    pieces = max(1, first.size // PIECE)
    for pair in zip(*(np.array_split(values.ravel(), pieces) for values in (first, second))):
        row, column = ((np.clip(v, 0, 1) * (bins - 1) + 0.5).astype(np.int64) for v in pair)
        joint += np.bincount(row * bins + column, minlength=bins * bins)
    joint = (joint / first.size).reshape(bins, bins)
    entropies = [_entropy(p) for p in (joint.sum(0), joint.sum(1), joint.ravel())]
    total = entropies[0] + entropies[1]
    return float(2 * (total - entropies[2]) / total) if total > 1e-12 else 0.0


def _entropy(probabilities: np.ndarray) -> float:
    p = probabilities[probabilities > 0]
    return float(-(p * np.log(p)).sum())


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if first.size < 2 or first.std() < 1e-9 or second.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
