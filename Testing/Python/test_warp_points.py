"""Points and surfaces move with the transform; moving points need moving_to_fixed."""

from __future__ import annotations

import numpy as np
import pytest

from DeepDiffRegLib.data.points import Points
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.points import warp_points


def test_points_map_and_keep_their_names(rng):
    transform = AffineTransform(np.diag([1.0, 2.0, 0.5]), [1.0, 0.0, -1.0])
    points = Points(rng.normal(size=(4, 3)), ("a", "b", "c", "d"))
    out = warp_points(points, transform)
    assert out.names == points.names
    assert np.allclose(out.positions_mm, points.positions_mm * [1, 2, 0.5] + [1, 0, -1])


def test_there_and_back_is_the_identity(rng):
    transform = AffineTransform(np.eye(3) + 0.1 * rng.normal(size=(3, 3)), [5.0, 2.0, 1.0])
    points = Points(rng.normal(size=(6, 3)) * 50)
    back = warp_points(warp_points(points, transform), transform.inverse().transform)
    assert np.allclose(back.positions_mm, points.positions_mm)


def test_points_of_another_dimension_are_refused():
    with pytest.raises(InputError, match="2-D"):
        warp_points(Points(np.zeros((3, 2))), AffineTransform.identity(3))
