"""Feature images in color: common to both scans, through the map, with what is left between them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.pair import Pair
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry
from DeepDiffRegLib.geometry.pyramid import Pyramid, strided
from DeepDiffRegLib.qc.base import Context
from DeepDiffRegLib.qc.feature_figures import alignment_views, channel_coloring, feature_views, principal_coloring
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.image import warp_image


def test_the_strongest_directions_become_colors(rng):
    """Three hidden signals of falling strength in six channels: red, green and blue follow them, alike in both images."""
    signals = rng.normal(size=(3, 2, 400)) * np.array([3.0, 2.0, 1.0])[:, None, None]
    mixing = np.linalg.qr(rng.normal(size=(6, 6)))[0][:, :3]
    images = [torch.as_tensor(mixing @ signals[:, side]).reshape(1, 6, 20, 20) for side in (0, 1)]
    coloring = principal_coloring(images)
    assert np.allclose(np.abs(coloring.axes.T @ mixing), np.eye(3), atol=0.15)
    for side, image in enumerate(images):
        colors = coloring(image[0].numpy()).reshape(400, 3)
        assert colors.min() >= 0 and colors.max() <= 1
        for c in range(3):
            assert abs(np.corrcoef(colors[:, c], signals[c, side])[0, 1]) > 0.97


def test_few_channels_and_one_channel(rng):
    image = torch.as_tensor(rng.normal(size=(1, 2, 8, 8)))
    colors = principal_coloring([image])(image[0].numpy())
    assert colors.shape == (8, 8, 3) and np.isfinite(colors).all() and float(np.ptp(colors[..., 2])) == 0.0
    gray = channel_coloring([image], 1)(image[0].numpy())
    assert np.array_equal(gray[..., 0], gray[..., 2])
    assert np.corrcoef(gray[..., 0].ravel(), image[0, 1].numpy().ravel())[0, 1] > 0.97
    flat = principal_coloring([torch.ones(1, 4, 5, 5)])(np.ones((4, 5, 5)))
    assert np.isfinite(flat).all()
    with pytest.raises(InputError, match="between 0 and 1"):
        channel_coloring([image], 2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_views_follow_the_map(ndim):
    """Moving features shifted by 4 mm: through the right map they look like the fixed ones, through none they do not."""
    grid = Geometry.identity((24,) * ndim)

    def waves(geometry: Geometry, shift: float) -> np.ndarray:
        points = geometry.to_world(np.moveaxis(np.indices(geometry.shape)[::-1], 0, -1))
        x = points[..., 0] - shift
        return np.array([np.sin(0.5 * x), np.cos(0.5 * x), np.sin(0.4 * points[..., 1]), np.cos(0.3 * x)])

    def pyramid(shift: float) -> Pyramid:
        grids = [strided(grid, s, (s - 1) / 2) for s in (2, 1)]
        return Pyramid(tuple((torch.as_tensor(waves(g, shift), dtype=torch.float32)[None], g) for g in grids))

    scans = [Image.from_array(waves(grid, s)[0].astype(np.float32) + 2, grid) for s in (0.0, 4.0)]
    move = np.eye(ndim + 1)
    move[0, -1] = 4.0
    differences = []
    for transform in (AffineTransform.from_homogeneous(move), AffineTransform.identity(ndim)):
        warped = warp_image(scans[1], transform, grid)
        context = Context.build(Pair(*scans), transform, transform.inverse(), warped)
        views = feature_views(context, pyramid(0.0), pyramid(4.0))
        assert len(views) == 2 and len(views[0].fixed) == (1 if ndim == 2 else 3)
        shown = [
            np.asarray(Pillow.open(io.BytesIO(v[0].png)).convert("RGB"), float)
            for v in (views[1].fixed, views[1].moved)
        ]
        width = shown[0].shape[1]
        inner = slice(width // 4, width * 5 // 8)
        differences.append(np.abs(shown[0] - shown[1])[:, inner].mean())
    assert differences[0] < 0.25 * differences[1]
    gray = feature_views(context, pyramid(0.0), pyramid(4.0), channel=2)
    assert gray[0].residual[0].size == views[0].residual[0].size


@pytest.mark.parametrize("ndim", [2, 3])
def test_one_channel_alone_decides_the_direction(ndim, rng):
    grid = Geometry.identity((20,) * ndim)
    scan = Image.from_array(rng.random(grid.shape, dtype=np.float32), grid)
    still = AffineTransform.identity(ndim)
    context = Context.build(Pair(scan, scan), still, still.inverse(), scan)

    def pyramid(channels: int) -> Pyramid:
        drawn = rng.random((1, channels, *grid.shape), dtype=np.float32)
        return Pyramid(((torch.from_numpy(drawn), grid),))

    (one,), (many,) = (alignment_views(context, pyramid(n), pyramid(n)) for n in (1, 8))
    assert one.cosine == pytest.approx(1.0) and many.cosine < 0.9
    assert len(one.views) == (1 if ndim == 2 else 3) and one.views[0].size == many.views[0].size
