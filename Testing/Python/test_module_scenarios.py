"""The shipped .ui and Widget class, driven like a user does, with the real worker process and the real MRML scene.

What runs is DeepDiffRegTest, the test that a real Slicer runs with ``--testing``: one panel, one scenario after the other.
"""

from __future__ import annotations

import sys

from panel_bed import widget  # noqa: F401 - fixture


def test_self_test_of_the_module(widget, slicer_app):  # noqa: F811
    from DeepDiffRegPanel import selftest

    sys.modules["DeepDiffReg"].DeepDiffRegTest().runTest()
    assert len(selftest.SCENARIOS) == 10
    assert not slicer_app.messages, "the user was told of errors"
