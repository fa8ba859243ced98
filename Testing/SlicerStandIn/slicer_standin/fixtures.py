"""pytest fixtures: the stand-in in place for one module of tests, an empty scene for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def installed_stand_in():
    """The stand-in, taken away again after the last test of the file."""
    import slicer_standin

    reason = slicer_standin.missing_requirement()
    if reason is not None:
        pytest.skip(reason)
    stand_in = slicer_standin.install()
    yield stand_in
    stand_in.uninstall()


@pytest.fixture
def slicer_app_without_check(installed_stand_in):
    """The stand-in in its first state."""
    installed_stand_in.reset()
    yield installed_stand_in
    installed_stand_in.reset()


@pytest.fixture
def slicer_app(installed_stand_in):
    """The stand-in in its first state; the test fails if a slot or an observer raised an exception."""
    installed_stand_in.reset()
    yield installed_stand_in
    errors = list(installed_stand_in.errors)
    try:
        installed_stand_in.unload_modules()
        errors = errors + [error for error in installed_stand_in.errors if error not in errors]
    finally:
        installed_stand_in.reset()
    assert not errors, "exceptions in slots or observers:\n" + "\n".join(errors)


@pytest.fixture
def scene(slicer_app):
    """The empty scene."""
    return slicer_app.scene
