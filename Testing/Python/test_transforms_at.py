"""phi_t of every transform: identity (or the affine part) at 0, the map at 1, a flow in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.transforms._shooting_metric import Constant, Regional
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.base import Transform, grid_points
from DeepDiffRegLib.transforms.bspline import BSplineTransform
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.transforms.kernels import MultiGaussian
from DeepDiffRegLib.transforms.shooting import ShootingTransform
from DeepDiffRegLib.transforms.svf import SVFTransform
from DeepDiffRegLib.transforms.tvf import TVFTransform

GRID = Geometry((40, 36), (1.5, 1.5), (5.0, -8.0), ((0.8, -0.6), (0.6, 0.8)))
VOLUME = Geometry((20, 18, 16), (2.0, 2.0, 2.5), (1.0, 2.0, -3.0), ((0, 1, 0), (-1, 0, 0), (0, 0, 1)))
WALLS = {2: ((False, False),) * 2, 3: ((False, False),) * 3}


def smooth(geometry: Geometry, peak: float, seed: int = 0) -> torch.Tensor:
    """(1, d, *shape), random waves that vanish at the border, largest component ``peak``."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, geometry.ndim, *(5,) * geometry.ndim, generator=generator)
    mode = "bicubic" if geometry.ndim == 2 else "trilinear"
    field = torch.nn.functional.interpolate(rough, size=geometry.shape, mode=mode)
    for axis, n in enumerate(geometry.shape):
        field = field * torch.hann_window(n, False).reshape(-1, *(1,) * (geometry.ndim - 1 - axis))
    return field * (peak / float(field.abs().max()))


def shot(name: str, geometry: Geometry = GRID, speed_mm: float = 6.0, steps: int = 8) -> ShootingTransform:
    """A flow that moves by a few mm, ready made."""
    sigmas = (4.0, 9.0)
    metric = Regional(sigmas, 3.0) if name == "rdmm" else Constant(MultiGaussian(sigmas, (0.4, 0.6)), name == "vsvf")
    h = None
    if name == "rdmm":
        ramp = torch.linspace(0.2, 0.9, geometry.size[0]).expand(1, 1, *geometry.shape)
        h = torch.cat([ramp, (1 - ramp.square()).sqrt()], 1)
    flow = ShootingTransform(smooth(geometry, 1.0), geometry, metric, WALLS[geometry.ndim], geometry, steps, h)
    fastest = float(flow.velocity(0.0).norm(dim=1).max())
    return replace(flow, momentum=flow.momentum * (speed_mm / fastest))


AFFINE = AffineTransform(np.array([[1.1, 0.1], [-0.05, 0.9]]), np.array([3.0, -2.0]))
TRANSFORMS: dict[str, Transform] = {
    "affine": AFFINE,
    "bspline": BSplineTransform(smooth(GRID, 3.0), GRID),
    "displacement": DisplacementTransform(smooth(GRID, 3.0), GRID),
    "svf": SVFTransform(smooth(GRID, 4.0), GRID),
    "tvf": TVFTransform([smooth(GRID, 1 - k / 5, 0) + smooth(GRID, k / 5, 1) for k in range(5)], GRID),
    "vsvf": shot("vsvf"),
    "lddmm": shot("lddmm"),
    "rdmm": shot("rdmm"),
    "composite": CompositeTransform([shot("lddmm"), AFFINE]),
}
FLOWS = ("svf", "tvf", "vsvf", "lddmm", "rdmm")
POINTS = GRID.to_world(np.random.default_rng(0).uniform(6, 30, (50, 2)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_way_begins_without_deformation_and_ends_at_the_map(name):
    transform = TRANSFORMS[name]
    start, end = transform.at(0.0).displacement(GRID), transform.at(1.0).displacement(GRID)
    torch.testing.assert_close(end, transform.displacement(GRID), atol=2e-5, rtol=0)
    placed = AFFINE.displacement(GRID) if name in ("affine", "composite") else torch.zeros_like(end)
    torch.testing.assert_close(start, placed, atol=1e-5, rtol=0)
    assert transform.flows == (name in (*FLOWS, "composite"))


@pytest.mark.parametrize("name", FLOWS)
def test_frames_follow_the_velocity(name):
    """d phi_t / dt: small steps, and no frame far from the straight way between its neighbors."""
    transform = TRANSFORMS[name]
    frames = [transform.at(t).displacement(GRID) for t in np.linspace(0, 1, 9)]
    steps = [float((b - a).abs().max()) for a, b in zip(frames, frames[1:])]
    assert max(steps) < 2.5 * float(frames[-1].abs().max()) / 8 + 0.5
    bends = [float((a - 2 * b + c).abs().max()) for a, b, c in zip(frames, frames[1:], frames[2:])]
    assert max(bends) < 0.5 * max(steps)


@pytest.mark.parametrize("name", ("vsvf", "lddmm", "rdmm"))
@pytest.mark.parametrize("time", (0.1, 1 / 3, 0.8))
def test_a_part_of_the_path_is_what_a_slower_momentum_shoots(name, time):
    flow = TRANSFORMS[name]
    part, again = flow.at(time), replace(flow, momentum=flow.momentum * time)
    assert again.path.states is not part.path.states
    torch.testing.assert_close(part.displacement(GRID), again.displacement(GRID), atol=0.01, rtol=0)
    torch.testing.assert_close(part.velocity(1.0), again.velocity(1.0), atol=0.01, rtol=0)
    torch.testing.assert_close(part.momentum_at(1.0), again.momentum_at(1.0), atol=0.01 * time, rtol=0.02)
    assert part.energy(1.0) == pytest.approx(time**2 * flow.energy(), rel=2e-3)
    torch.testing.assert_close(part.at(0.5).displacement(GRID), flow.at(time / 2).displacement(GRID), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("time", (0.3, 0.7))
def test_every_frame_has_its_inverse(name, time):
    """psi_t(phi_t(x)) = x, in space and by the error that is stated; voxels of 1.5 mm."""
    part = TRANSFORMS[name].at(time)
    inverse = part.inverse()
    assert inverse.error.p99 < 0.15
    np.testing.assert_allclose(inverse.transform.map_points(part.map_points(POINTS)), POINTS, atol=0.15)


def test_inverse_of_a_stored_path_in_space():
    flow = shot("lddmm", VOLUME, 5.0)
    part = flow.at(0.6)
    points = grid_points(VOLUME)[::37]
    moved = part.map_points(points)
    inside = VOLUME.contains(moved)
    back = part.inverse().transform.map_points(moved[inside])
    assert np.linalg.norm(back - points[inside], axis=1).max() < 0.3


@pytest.mark.parametrize("name", ("lddmm", "rdmm"))
def test_energy_stays(name):
    flow = TRANSFORMS[name]
    energies = [flow.energy(k / flow.path.steps) for k in range(flow.path.steps + 1)]
    assert max(abs(e / energies[0] - 1) for e in energies) < 1e-3


def test_sigma_at_the_end_is_sigma_at_the_start_pulled_back():
    """Only the small blur of the weights does not commute with the map: 3 mm here, against widths of 4 to 9 mm."""
    flow = TRANSFORMS["rdmm"]
    start = DisplacementTransform(flow.sigma_mm(0.0).expand(1, 2, *GRID.shape), GRID)
    moved = flow.map_points(grid_points(GRID))
    inside = GRID.contains(moved)
    pulled = (start.map_points(moved) - moved)[:, 0]
    end = flow.sigma_mm(1.0).reshape(-1).numpy()
    assert np.abs(end - pulled)[inside].max() < 0.15
    assert np.abs(end - flow.sigma_mm(0.0).reshape(-1).numpy())[inside].max() > 0.3


def test_times_outside_are_refused():
    for name, error in (("tvf", InputError), ("lddmm", ConfigError)):
        with pytest.raises(error, match="time"):
            TRANSFORMS[name].at(1.5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_coarse_map_is_about_the_same(name):
    transform = TRANSFORMS[name]
    coarse = transform.coarse(3.0)
    ends = [t.at(0.7).map_points(POINTS) for t in (transform, coarse)]
    assert np.linalg.norm(ends[0] - ends[1], axis=1).max() < 0.5
    for t in (transform, coarse):
        assert t.flows == transform.flows
    if name in ("displacement", "svf", "tvf"):
        assert coarse.geometry.size == (20, 18)
