"""The way of a map from no deformation to all of it: frames that the worker computed, or a scaled displacement."""

import dataclasses

import numpy as np

COUNT = 11
"""Frames from t = 0 to t = 1."""


class Way:
    """Frames of one map. whole: Map whose displacement is scaled where nobody can follow its flow; None: frames will come.

    flows: whether the frames follow a flow (None: not known yet).
    """

    def __init__(self, whole=None):
        self._whole, self._maps = whole, {}
        self.flows = None if whole is None else False

    @property
    def complete(self):
        return self._whole is not None or len(self._maps) == COUNT

    def add(self, data):
        """Keep a ``frame`` event's map."""
        self._maps[data["number"]], self.flows = data["map"], data["flows"]

    def nearest(self, time):
        """(number, Map) of the frame closest to ``time``, None while there is none."""
        number = round(float(np.clip(time, 0.0, 1.0)) * (COUNT - 1))
        if self._whole is not None:
            u = self._whole.displacement
            scaled = None if u is None else np.multiply(u, np.float32(number / (COUNT - 1)))
            return number, dataclasses.replace(self._whole, displacement=scaled)
        if not self._maps:
            return None
        number = min(self._maps, key=lambda known: abs(known - number))
        return number, self._maps[number]
