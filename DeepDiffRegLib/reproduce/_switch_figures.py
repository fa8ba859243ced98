"""Figures of the experiment on switching transforms and prompting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .figures import canvas, grid, outline, picture, save
from .people import AROUND

if TYPE_CHECKING:
    from .dio_switch import Judged, Prompted


@dataclass(frozen=True)
class View:
    """The first pair. maps: phi (2, Y, X) in pixels by transform. marks: fixed, moving and where they landed before and after (N, 2)."""

    fixed: np.ndarray
    moving: np.ndarray
    labels: np.ndarray
    warped: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    marks: tuple[np.ndarray, ...]
    prompted: tuple[np.ndarray, np.ndarray]


def draw_transforms(view: View, path: Path) -> Path:
    """The first pair and what every transform makes of it."""
    figure, axes = canvas(2, 1 + len(view.maps))
    picture(axes[0, 0], view.fixed, "fixed")
    picture(axes[1, 0], view.moving, "moving")
    organs = np.setdiff1d(view.labels, AROUND)
    for column, name in zip(axes.T[1:], view.maps):
        picture(column[0], view.warped[name], name)
        picture(column[1], 0.5 * view.warped[name])
        grid(column[1], view.maps[name])
    for panel in (axes[0, 0], *axes[0, 1:], axes[1, 0]):
        for label in organs:
            outline(panel, view.labels == label, width=0.7)
    return save(figure, path)


def draw_numbers(rows: dict[str, list[Judged]], path: Path) -> Path:
    """Dice, folds and error of landmarks by transform, every pair."""
    figure, axes = canvas(1, 3, 3.6, 3.0)
    titles = {"dice": "mean Dice", "folds": "folded pixels", "errors_mm": "error of landmarks (voxels)"}
    for panel, (name, title) in zip(axes[0], titles.items()):
        values = [[float(np.mean(getattr(j, name))) for j in judged] for judged in rows.values()]
        panel.boxplot(values, orientation="horizontal", widths=0.6)
        panel.set_yticks(range(1, 1 + len(rows)), rows if panel is axes[0, 0] else [""] * len(rows), fontsize=8)
        panel.invert_yaxis()
        panel.set_title(title, fontsize=9)
    return save(figure, path)


def draw_prompts(view: View, prompted: list[Prompted], path: Path) -> Path:
    """Landmarks of the first pair before and after they were given; errors and terms of all pairs."""
    figure, axes = canvas(1, 4, 3.0, 3.0)
    _, target, before, after = view.marks
    for panel, landed, title in ((axes[0, 0], before, "without landmarks"), (axes[0, 1], after, "with landmarks")):
        picture(panel, view.moving, title)
        panel.plot(*target.T, "o", color="tab:cyan", markerfacecolor="none", markersize=9)
        panel.plot(*landed.T, "x", color="tab:red", markersize=5)
    errors = np.array([p.given_mm for p in prompted])
    axes[0, 2].plot([0, 1], errors.T, "o-", color="tab:blue", alpha=0.5)
    axes[0, 2].axhline(1.0, color="gray", linestyle=":")
    axes[0, 2].set(xticks=[0, 1], xticklabels=["without", "with"], xlim=(-0.3, 1.3), ylim=(0, None))
    axes[0, 2].set_title("error of given landmarks (voxels)", fontsize=9)
    growth = [[100 * p.worse(term) for p in prompted] for term in ("feature_term", "image_term")]
    axes[0, 3].boxplot(growth, tick_labels=["features", "scans"], widths=0.5)
    axes[0, 3].axhline(5.0, color="gray", linestyle=":")
    axes[0, 3].set_title("growth of what was compared (%)", fontsize=9)
    return save(figure, path)
