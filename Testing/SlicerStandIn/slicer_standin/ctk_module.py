"""The module ``ctk``."""

from __future__ import annotations

import types

from . import ctk_buttons, ctk_sliders


def build() -> types.ModuleType:
    """A module object with every ctk stand-in."""
    module = types.ModuleType("ctk", __doc__)
    for source in (ctk_buttons, ctk_sliders):
        for name in dir(source):
            if name.startswith("ctk"):
                setattr(module, name, getattr(source, name))
    return module
