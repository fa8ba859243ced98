"""What the kernel benchmark compares is the same computation: loops that are compiled and torch operations agree."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "Benchmarks"


@pytest.fixture(scope="module")
def rows():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import kernels

        return kernels.build(20, "cpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_both_ways_of_every_kernel_give_the_same(rows):
    assert len({row.name for row in rows}) == len(rows) > 8
    compared = 0
    for row in rows:
        ours, theirs = row.ours(), row.torch()
        if isinstance(ours, torch.Tensor):
            limit = 2 * 0.005 if row.name == "invert" else 1e-5 * max(1.0, float(theirs.abs().max()))
            assert float((ours - theirs).abs().max()) <= limit, (
                row.name
            )  # inverses end within 0.005 voxels of the truth
            compared += 1
    assert compared >= len(rows) - 1
