"""Color tables of the layers, and their legends as plain values and as Slicer's color bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .nodes import find, private_node, remove

FOLD_COLOR = (1.0, 0.0, 1.0)
"""Magenta: nothing else in the layers has it."""
ENTRIES = 256
DIVERGING = (
    (-1.0, (0.02, 0.19, 0.55)),
    (-0.5, (0.26, 0.58, 0.85)),
    (0.0, (0.96, 0.96, 0.94)),
    (0.5, (0.95, 0.55, 0.30)),
    (1.0, (0.55, 0.04, 0.07)),
)
"""log(J) over log(span): shrinking is blue, growing is red, no change is white."""
RISING = (
    (0.0, (0.10, 0.45, 0.85)),
    (0.3, (0.10, 0.80, 0.65)),
    (0.6, (0.98, 0.88, 0.15)),
    (1.0, (0.95, 0.30, 0.05)),
)
"""Length over the longest one shown."""


@dataclass(frozen=True)
class Legend:
    """What the colors of a layer mean. lines: (value, color, text), in the order in which they are drawn."""

    title: str
    lines: tuple[tuple[float, tuple[float, float, float], str], ...]


def blend(stops, value) -> np.ndarray:
    """(..., 3) colors between ``stops`` (position, color) at ``value``, clamped at the ends."""
    places = [place for place, _ in stops]
    channels = np.array([color for _, color in stops]).T
    return np.stack([np.interp(value, places, channel) for channel in channels], -1)


def jacobian_color(value, span: float) -> np.ndarray:
    """(..., 3) color of determinants: by log(J) between 1/span and span, magenta from 0 down."""
    value = np.asarray(value, dtype=float)
    place = np.log(np.maximum(value, 1e-6)) / np.log(span)
    return np.where((value <= 0)[..., None], FOLD_COLOR, blend(DIVERGING, np.clip(place, -1, 1)))


def jacobian_window(span: float) -> tuple[float, float]:
    """(lowest, highest) value of the 256 entries: the first one ends exactly at 0, so that it holds the folds only."""
    step = span / (ENTRIES - 1)
    return -step, span


def jacobian_table(span: float, scene=None):
    """Color node for determinants shown with the window of ``jacobian_window``."""
    lowest, highest = jacobian_window(span)
    middle = lowest + (np.arange(ENTRIES) + 0.5) * (highest - lowest) / ENTRIES
    return table(f"Jacobian 1/{span:g} to {span:g}", jacobian_color(middle, span), scene)


def rising_table(scene=None):
    """Color node for lengths; its last entry is the color of folds."""
    rgb = blend(RISING, np.linspace(0, 1, ENTRIES))
    rgb[-1] = FOLD_COLOR
    return table("Displacement", rgb, scene)


def length_table(scene=None):
    """Color node for lengths without folds."""
    return table("Displacement in mm", blend(RISING, np.linspace(0, 1, ENTRIES)), scene)


def table(name: str, rgb: np.ndarray, scene=None):
    """A hidden color table node of that name; made once per scene and name."""
    node = find(f"colors {name}", scene)
    if node is None:
        node = private_node("vtkMRMLColorTableNode", name, f"colors {name}", scene)
        node.SetTypeToUser()
        node.SetNumberOfColors(len(rgb))
        for i, (r, g, b) in enumerate(rgb):
            node.SetColor(i, str(i), float(r), float(g), float(b), 1.0)
    return node


def jacobian_legend(span: float) -> Legend:
    """Values that halve and double, with the folds first."""
    count = max(1, round(np.log2(span)))
    values = [2.0**k for k in range(-count, count + 1)]
    lines = [(v, tuple(float(c) for c in jacobian_color(v, span)), f"{v:.3g}") for v in values]
    return Legend("Jacobian (1: volume kept)", ((0.0, FOLD_COLOR, "<= 0"), *lines))


def length_legend(title: str, longest_mm: float, folds: bool) -> Legend:
    """Five lengths up to ``longest_mm``, then the folds where the layer shows them."""
    lines = [
        (v, tuple(float(c) for c in blend(RISING, v / longest_mm)), f"{v:.3g}") for v in np.linspace(0, longest_mm, 5)
    ]
    return Legend(title, (*lines, (0.0, FOLD_COLOR, "folded")) if folds else tuple(lines))


class ColorBar:
    """Slicer's own color bar in the views, at their right edge.

    It hangs on an empty model that carries colors and range: the bar of a volume is drawn only where the volume is the
    background, foreground or label layer. Nothing happens in a Slicer without color bars.
    """

    def __init__(self, scene=None):
        self.scene, self._carrier, self._bar = scene, None, None

    def show(self, unit: str, colors_node, low: float, high: float, place: int) -> None:
        """Draw the bar, ``unit`` above it. place: 0 for the rightmost, 1 for the next one to the left, ..."""
        logic = getattr(slicer, "vtkSlicerColorLogic", None)
        if not hasattr(logic, "AddDefaultColorLegendDisplayNode"):
            return
        made = self._carrier is None or self._carrier.GetScene() is None
        if made:
            self._carry(unit)
        display = self._carrier.GetDisplayNode()
        display.SetAndObserveColorNodeID(colors_node.GetID())
        display.SetScalarRange(low, high)
        display.SetVisibility(True)
        if made:  # not before its colors are known: every view would complain
            self._hang(logic, display)
        self._bar.SetTitleText(unit)
        self._bar.SetPosition(0.95 - 0.15 * place, 0.5)
        self._bar.SetVisibility(True)

    def hide(self) -> None:
        """Draw it no longer."""
        if self._bar is not None and self._bar.GetScene() is not None:
            self._bar.SetVisibility(False)

    def remove(self) -> None:
        """Take its nodes out of the scene."""
        for node in (self._bar, self._carrier.GetDisplayNode() if self._carrier is not None else None):
            if node is not None and node.GetScene() is not None:
                node.GetScene().RemoveNode(node)
        remove(self._carrier)
        self._carrier = self._bar = None

    def _carry(self, unit: str) -> None:
        self._carrier = private_node("vtkMRMLModelNode", f"{unit} color bar", "layer", self.scene)
        self._carrier.SetAndObservePolyData(vtk.vtkPolyData())
        self._carrier.CreateDefaultDisplayNodes()
        display = self._carrier.GetDisplayNode()
        display.SetVisibility2D(True)
        display.SetScalarVisibility(True)
        display.SetScalarRangeFlag(display.UseManualScalarRange)
        display.SetSaveWithScene(False)

    def _hang(self, logic, display) -> None:
        self._bar = logic.AddDefaultColorLegendDisplayNode(display)
        self._bar.SetSaveWithScene(False)
        self._bar.SetNumberOfLabels(5)
        self._bar.SetLabelFormat("%.3g")
        self._bar.SetSize(0.09, 0.4)


def nice(value: float, least: float = 0.5) -> float:
    """The next of 1, 2, 5 times a power of ten, at least ``least``."""
    value = max(float(value), least)
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999))
