"""A test double of 3D Slicer's Qt layer: PySide6 widgets over the real MRML scene of the ``slicer-core`` wheel.

Only for tests and screenshots. ``install()`` puts ``qt``, ``ctk`` and the missing parts of ``slicer`` in place.
"""

from __future__ import annotations

from .install import StandIn, install, missing_requirement

__all__ = ["StandIn", "install", "missing_requirement"]
