"""What every layer over the slice views has: a name, options that are checked, and a switch."""

from __future__ import annotations

from dataclasses import fields, replace

from DeepDiffRegLib.errors import InputError


class Layer:
    """Base of all layers. Subclasses have ``Options`` (a dataclass), ``update`` and ``_hide``."""

    def __init__(self, owner, name: str, text: str):
        self.owner, self.name, self.text, self.visible = owner, name, text, False
        self.options = self.Options()

    def set(self, **options) -> None:
        """Change options (fields of ``Options``); redraws when visible. InputError for names it does not have."""
        known = [field.name for field in fields(self.options)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(f"layer {self.name!r}: unknown option {unknown[0]!r}; known: {', '.join(known)}")
        self.options = replace(self.options, **options)
        if self.visible:
            self.update()

    def show(self, visible: bool) -> None:
        """Show or hide the layer."""
        if visible == self.visible:
            return
        self.visible = visible
        if visible:
            self.update()
        else:
            self._hide()
