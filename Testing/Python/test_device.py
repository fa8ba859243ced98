"""Devices, threads and seeds: what is asked for is what is used, or a clear refusal."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from DeepDiffRegLib.device import available_devices, choose_device, set_seed, set_threads
from DeepDiffRegLib.errors import ConfigError, InputError


@pytest.fixture
def threads():
    """Put the thread count back after the test."""
    before = torch.get_num_threads()
    yield before
    set_threads(before)


def test_auto_is_the_best_available_device():
    expected = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert str(choose_device("auto")) == expected
    assert choose_device("cpu") == torch.device("cpu")


def test_available_devices_can_all_be_chosen():
    assert available_devices()[-1] == "cpu"
    assert [str(choose_device(name)) for name in available_devices()] == available_devices()


@pytest.mark.parametrize("name", ["gpu0", "cuda:x", "cpu:1", "", "cuad"])
def test_unknown_name(name):
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device(name)


def test_a_missing_card_is_refused_not_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cpu"):
        choose_device("cuda")


def test_a_card_number_too_high(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(choose_device("cuda:1")) == "cuda:1"
    with pytest.raises(InputError, match="2 cards"):
        choose_device("cuda:2")


def test_threads_reach_every_library(threads):
    import numba
    import SimpleITK as sitk

    assert set_threads(1) == 1
    assert torch.get_num_threads() == 1
    assert numba.get_num_threads() == 1
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1
    assert set_threads(None) == 1


def test_threads_below_one():
    with pytest.raises(ConfigError, match="at least 1"):
        set_threads(0)


def test_seed_repeats_all_three_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    set_seed(7)
    first = draw()
    set_seed(7)
    assert draw() == first
    set_seed(8)
    assert draw() != first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ConfigError, match="seed"):
        set_seed(seed)
