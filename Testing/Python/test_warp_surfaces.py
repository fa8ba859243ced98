"""Surfaces: every vertex moves, triangles stay, normals that no longer hold go."""

from __future__ import annotations

import numpy as np
import pytest
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkFiltersSources import vtkSphereSource

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.warp.surfaces import warp_surface


@pytest.fixture
def sphere():
    source = vtkSphereSource()
    source.SetRadius(10)
    source.Update()
    return source.GetOutput()


def vertices(surface) -> np.ndarray:
    return vtk_to_numpy(surface.GetPoints().GetData()).astype(float)


def test_vertices_map_and_triangles_stay(sphere):
    before = vertices(sphere).copy()
    transform = AffineTransform(np.diag([1.0, 2.0, 0.5]), [1.0, 0.0, -1.0])
    moved = warp_surface(sphere, transform)
    assert np.allclose(vertices(moved), transform.map_points(before))
    assert np.array_equal(vertices(sphere), before)
    assert moved.GetNumberOfPolys() == sphere.GetNumberOfPolys()
    assert moved.GetPointData().GetNormals() is None


def test_a_two_dimensional_transform_is_refused(sphere):
    with pytest.raises(InputError, match="3-D"):
        warp_surface(sphere, AffineTransform.identity(2))
