"""The shipped .ui and Widget class, driven like a user does, with the real worker process and the real MRML scene.

The scenarios are those of DeepDiffRegTest, so a real Slicer runs the same ones with ``--testing``.
"""

from __future__ import annotations

import pytest
from panel_bed import case, widget  # noqa: F401 - fixtures

SCENARIOS = (
    "run and look",
    "prompt",
    "use segments",
    "cancel and close",
    "recover",
    "apply and export",
    "save and reopen",
    "script",
)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, case, widget, slicer_app):  # noqa: F811
    from DeepDiffRegPanel import selftest

    assert tuple(selftest.SCENARIOS) == SCENARIOS
    selftest.SCENARIOS[name](case, widget)
    assert not slicer_app.messages, "the user was told of errors"
