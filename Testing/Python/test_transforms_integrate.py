"""exp(v) of velocities whose flow is known; order of convergence; gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from DeepDiffRegLib.errors import ConfigError
from DeepDiffRegLib.geometry.sampling import identity_index
from DeepDiffRegLib.transforms.integrate import (
    INTEGRATORS,
    automatic_steps,
    integrate,
    quadrature,
    rk4,
    scaling_squaring,
    squarings,
)

ROTATION = np.array([[0.0, -0.5, 0.1], [0.5, 0.0, -0.2], [-0.1, 0.2, 0.0]])
SHEAR = np.array([[-0.3, 0.2, 0.0], [0.1, -0.4, 0.0], [0.05, 0.0, -0.35]])


def linear_velocity(generator, n=20) -> torch.Tensor:
    """generator @ (x - center), double precision, voxels."""
    d = len(generator)
    x = identity_index((n,) * d, dtype=torch.float64) - (n - 1) / 2
    return torch.einsum("ij,bj...->bi...", torch.as_tensor(np.asarray(generator)), x)


def middle(field: torch.Tensor, margin=6) -> torch.Tensor:
    """Only where the flow never leaves the grid."""
    return field[(slice(None), slice(None), *(slice(margin, -margin),) * (field.ndim - 2))]


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("generator", (ROTATION, SHEAR, ROTATION[:2, :2]), ids=("rotation", "shear", "2-D rotation"))
def test_linear_velocities_exponentiate_to_the_matrix_exponential(name, generator):
    velocity = linear_velocity(generator)
    expected = linear_velocity(expm(generator) - np.eye(len(generator)))
    error = middle(integrate(velocity, name) - expected).abs().max()
    assert error < (1e-5 if name == "rk4" else 0.05)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_constant_velocity_is_its_own_displacement(name):
    velocity = torch.zeros(1, 3, 6, 7, 8)
    velocity[:, 0], velocity[:, 2] = 2.5, -1.0
    assert torch.allclose(integrate(velocity, name), velocity, atol=1e-4)


def test_runge_kutta_converges_with_the_fourth_order():
    velocity, exact = linear_velocity(1.5 * ROTATION), linear_velocity(expm(1.5 * ROTATION) - np.eye(3))
    errors = [float(middle(rk4(velocity, n) - exact, 8).abs().max()) for n in (2, 4, 8)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (np.abs(orders - 4) < 0.5).all()


def test_quadrature_converges_with_the_first_order():
    velocity, exact = linear_velocity(SHEAR), linear_velocity(expm(SHEAR) - np.eye(3))
    errors = [float(middle(quadrature(velocity, n) - exact).abs().max()) for n in (8, 16, 32)]
    assert (np.abs(np.log2(np.array(errors[:-1]) / errors[1:]) - 1) < 0.2).all()


def test_squaring_equals_as_many_euler_steps_on_a_linear_velocity():
    velocity = linear_velocity(SHEAR)
    assert torch.allclose(middle(scaling_squaring(velocity, 5)), middle(quadrature(velocity, 32)), atol=1e-9)


def test_fused_and_differentiable_squaring_agree():
    velocity = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, 4) * 2, size=(14, 15, 16), mode="trilinear")
    tracked = scaling_squaring(velocity.clone().requires_grad_(), 7)
    assert torch.allclose(scaling_squaring(velocity, 7), tracked.detach(), atol=1e-4)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_gradients_pass_through(name):
    velocity = (0.3 * torch.randn(1, 2, 4, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: integrate(v, name, 3), (velocity,), eps=1e-7, atol=1e-5)


def test_the_number_of_squarings_keeps_each_step_below_half_a_voxel():
    for largest in (0.0, 1.0, 63.0, 65.0, 300.0):
        velocity = torch.zeros(1, 3, 4, 4, 4)
        velocity[0, 1, 2, 2, 2] = largest
        steps = squarings(velocity)
        assert steps >= 7 and largest / 2**steps <= 0.5
        assert automatic_steps(velocity, "quadrature") == 2**steps
        assert automatic_steps(velocity, "rk4") == max(8, int(2 * largest))


def test_an_unknown_integrator_suggests_the_nearest():
    with pytest.raises(ConfigError, match="rk4"):
        integrate(torch.zeros(1, 3, 4, 4, 4), "rk")
