"""The fused right-hand sides of shooting compute what the torch ones do, and their derivatives are those of the functions."""

from __future__ import annotations

import pytest
import torch

from DeepDiffRegLib.transforms import _shooting_rhs as rhs

SPACING = (1.3, 0.7, 2.1)


def fields(shape, counts, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((n, *shape), generator=generator, dtype=torch.float64).to(dtype) for n in counts]


@pytest.mark.parametrize("shape", [(7, 9, 11), (2, 5, 3), (3, 2, 2)])
@pytest.mark.parametrize(
    ("name", "counts"),
    [("coadjoint", (3, 3)), ("along", (3, 3)), ("carried_by", (4, 4, 3)), ("carried_back", (4, 3, 3, 4))],
)
def test_fused_kernels_agree_with_double_precision_torch(name, counts, shape):
    arguments = fields(shape, counts)
    assert rhs.is_fused(*arguments) and not rhs.is_fused(*(a.double() for a in arguments))
    found = getattr(rhs, name)(*arguments, SPACING)
    expected = getattr(rhs, name)(*(a.double() for a in arguments), SPACING)
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected))):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_derivatives_of_what_the_flow_carries_are_those_of_finite_differences(shape):
    arguments = fields(shape, (2, 2, len(shape)), dtype=torch.float64)
    leaves = [a.requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(lambda h, push, v: rhs.carry(h, push, v, SPACING[: len(shape)]), leaves)


def test_the_fused_backward_pass_is_the_torch_one():
    h, push, v = fields((6, 5, 7), (3, 3, 3))
    wanted = fields((6, 5, 7), (3, 3), seed=1)

    def gradients(dtype):
        leaves = [x.to(dtype).requires_grad_() for x in (h, push, v)]
        return torch.autograd.grad(rhs.carry(*leaves, SPACING), leaves, [w.to(dtype) for w in wanted])

    for one, other in zip(gradients(torch.float32), gradients(torch.float64)):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-4)
