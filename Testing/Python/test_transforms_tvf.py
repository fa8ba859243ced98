"""Time-varying velocities: constant ones agree with the exponential, the reversed inverse beats the shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import InputError, ShapeError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.sampling import identity_index
from DeepDiffRegLib.geometry.smoothing import gaussian
from DeepDiffRegLib.geometry.vector_fields import compose
from DeepDiffRegLib.transforms.integrate import integrate, time_step, time_varying
from DeepDiffRegLib.transforms.tvf import TVFTransform

STEPS = 8


def smooth_fields(shape, count=STEPS, peak=3.2, seed=0) -> list[torch.Tensor]:
    """Random velocities whose sum reaches about ``peak`` voxels; 0 at the border."""
    generator = torch.Generator().manual_seed(seed)
    fields = []
    for _ in range(count):
        field = torch.randn((1, len(shape), *shape), generator=generator)
        for axis, n in enumerate(shape):
            window = torch.hann_window(n, periodic=False)
            field = field * window.reshape(-1, *(1,) * (len(shape) - 1 - axis))
        field = gaussian(field, 5.0)
        fields.append(field / field.norm(dim=1).max() * peak / count * 2)
    return fields


def miss(outer, inner) -> float:
    return float(compose(outer, inner).norm(dim=1)[(slice(None), *(slice(4, -4),) * (inner.ndim - 2))].mean())


def test_equal_steps_follow_the_stationary_flow():
    velocity = smooth_fields((48, 40), 1, peak=3.0)[0]
    steps = time_varying([velocity / STEPS] * STEPS)
    assert float((steps - integrate(velocity, "rk4", 32)).norm(dim=1).max()) < 0.02


def test_one_step_is_second_order():
    """Of a rotation field v = w x: one midpoint step errs by O(w^3), an Euler step by O(w^2)."""
    index = identity_index((41, 41)) - 20.0
    for w in (0.1, 0.2):
        velocity = torch.stack((-w * index[:, 1], w * index[:, 0]), 1)
        u = time_step(velocity, torch.zeros_like(velocity))
        turned = torch.stack(
            (np.cos(w) * index[:, 0] - np.sin(w) * index[:, 1], np.sin(w) * index[:, 0] + np.cos(w) * index[:, 1]), 1
        )
        inner = (slice(None), slice(None), slice(10, 31), slice(10, 31))
        assert float((u - (turned - index))[inner].norm(dim=1).max()) < 15 * w**3 / 4
        assert float((velocity - (turned - index))[inner].norm(dim=1).max()) > 10 * w**2 / 2 * 0.8


def test_the_reversed_inverse_is_the_right_one():
    fields = smooth_fields((64, 64))
    forward, backward = time_varying(fields), time_varying(fields, backward=True)
    reversed_error, same_order = miss(forward, backward), miss(forward, time_varying([-v for v in fields]))
    assert reversed_error < 0.02
    assert reversed_error < 0.3 * same_order
    assert reversed_error < 0.2 * miss(forward, -forward)


@pytest.mark.parametrize("shape", [(20, 24, 18), (40, 30)])
def test_inverse_states_its_error_and_intermediate_maps_meet_the_ends(shape):
    d = len(shape)
    turn = np.eye(d)[::-1].copy()
    grid = Geometry(shape[::-1], (1.5, 0.8, 1.1)[:d], (3.0, -2.0, 5.0)[:d], turn.tolist())
    fields = [
        torch.einsum("ij,bj...->bi...", torch.from_numpy(grid.index_to_world[:-1, :-1]).float(), f)
        for f in smooth_fields(shape, 4, 2.0)
    ]
    transform = TVFTransform(tuple(fields), grid)
    points = grid.to_world(np.random.default_rng(0).uniform(6, 12, (30, d)))
    inverse = transform.inverse()
    assert np.linalg.norm(inverse.transform.map_points(transform.map_points(points)) - points, axis=1).max() < 0.1
    assert 0 < inverse.error.mean < 0.05
    assert np.array_equal(inverse.transform.inverse().transform.map_points(points), transform.map_points(points))
    assert np.allclose(transform.after(4).map_points(points), transform.map_points(points))
    assert np.allclose(transform.after(0).map_points(points), points)
    assert np.allclose(
        transform.to_itk().TransformPoint(points[0].tolist()), transform.map_points(points)[0], atol=1e-4
    )


def test_gradients_pass_through_the_steps():
    fields = [f.double().requires_grad_() for f in smooth_fields((9, 8), 2, 1.0)]
    assert torch.autograd.gradcheck(lambda *v: time_varying(v)[:, :, 3:6, 3:6], fields, atol=1e-4)


def test_wrong_velocities_are_refused():
    grid = Geometry.identity((8, 9))
    with pytest.raises(InputError, match="one or more"):
        TVFTransform((), grid)
    with pytest.raises(ShapeError, match="velocities"):
        TVFTransform((torch.zeros(1, 2, 8, 9),), grid)
