"""Transform files: what SimpleITK reads from ours and we read from others maps points equally (1e-4 mm)."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.export.itk_transform import from_itk, read_transform, write_transform
from DeepDiffRegLib.geometry.vector_fields import slabs
from DeepDiffRegLib.transforms.affine import AffineTransform
from DeepDiffRegLib.transforms.bspline import BSplineTransform, control_grid
from DeepDiffRegLib.transforms.composite import CompositeTransform
from DeepDiffRegLib.transforms.displacement import DisplacementTransform
from DeepDiffRegLib.transforms.svf import SVFTransform

KINDS = ("affine", "displacement", "svf", "bspline", "composite")


@pytest.fixture(params=("oblique_geometry", "oblique_geometry_2d"))
def grid(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=KINDS)
def transform(request, grid):
    d, shape = grid.ndim, grid.shape
    control = control_grid(grid, 6.0)
    made = {
        "affine": AffineTransform(np.eye(d) + 0.1 * np.random.randn(d, d), np.arange(d) * 3.0),
        "displacement": DisplacementTransform(torch.randn(1, d, *shape), grid),
        "svf": SVFTransform(0.5 * torch.randn(1, d, *shape), grid),
        "bspline": BSplineTransform(torch.randn(1, d, *control.shape), control, grid),
    }
    made["composite"] = CompositeTransform([made["displacement"], made["bspline"], made["affine"]])
    return made[request.param]


@pytest.fixture
def points(grid, rng) -> np.ndarray:
    return grid.to_world(rng.uniform(-1, np.array(grid.size), (200, grid.ndim)))


def by_itk(itk, points: np.ndarray) -> np.ndarray:
    return np.array([itk.TransformPoint(tuple(p)) for p in points])


def test_hdf5_is_read_back_equally_by_us_and_by_simpleitk(transform, points, tmp_path):
    path = tmp_path / "transform.h5"
    write_transform(transform, path)
    expected = transform.map_points(points)
    assert np.abs(by_itk(sitk.ReadTransform(str(path)), points) - expected).max() < 1e-4
    assert np.abs(read_transform(path).map_points(points) - expected).max() < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["transform.h5"]


def test_a_field_written_in_several_slabs_is_the_same(transform, points, tmp_path, monkeypatch):
    monkeypatch.setattr(slabs, "__defaults__", (100,))
    write_transform(transform, tmp_path / "a.h5")
    expected = transform.map_points(points)
    assert np.abs(by_itk(sitk.ReadTransform(str(tmp_path / "a.h5")), points) - expected).max() < 1e-4


def test_what_simpleitk_writes_is_read_equally(transform, points, tmp_path):
    sitk.WriteTransform(transform.to_itk(), str(tmp_path / "other.h5"))
    assert np.abs(read_transform(tmp_path / "other.h5").map_points(points) - transform.map_points(points)).max() < 1e-4


@pytest.mark.parametrize("suffix", (".tfm", ".txt", ".mat"))
def test_matrices_go_through_text_files(suffix, grid, points, tmp_path):
    affine = AffineTransform(np.eye(grid.ndim) + 0.1 * np.random.randn(grid.ndim, grid.ndim), np.ones(grid.ndim))
    path = tmp_path / f"a{suffix}"
    write_transform(CompositeTransform([affine, affine]), path)
    expected = affine.map_points(affine.map_points(points))
    assert np.abs(by_itk(sitk.ReadTransform(str(path)), points) - expected).max() < 1e-6
    assert np.abs(read_transform(path).map_points(points) - expected).max() < 1e-6


MATRIX_KINDS = (
    sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, (4, 5, 6)),
    sitk.VersorRigid3DTransform((0, 1, 0), 0.4, (1, 2, 3), (7, 8, 9)),
    sitk.Similarity3DTransform(1.2, (0, 0, 1), 0.4, (1, 2, 3), (7, 8, 9)),
    sitk.ScaleSkewVersor3DTransform((1.1, 0.9, 1.2), (0.1, 0, 0, 0.05, 0, 0), (0, 0, 1), 0.4, (1, 2, 3), (7, 8, 9)),
    sitk.AffineTransform((1, 0.1, 0, 0, 1, 0.2, 0, 0, 0.9), (1, 2, 3), (10, 20, 30)),
    sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
    sitk.ScaleTransform(3, (1.5, 0.5, 2.0)),
    sitk.Euler2DTransform((3, 4), 0.3, (1, 2)),
    sitk.Similarity2DTransform(1.1, 0.3, (1, 2), (3, 4)),
    sitk.Transform(3, sitk.sitkIdentity),
)


@pytest.mark.parametrize("itk", MATRIX_KINDS, ids=lambda t: t.GetName())
def test_every_matrix_kind_of_itk_is_understood(itk, tmp_path, rng):
    sitk.WriteTransform(itk, str(tmp_path / "t.tfm"))
    points = rng.normal(size=(30, itk.GetDimension())) * 100
    ours = read_transform(tmp_path / "t.tfm")
    assert isinstance(ours, AffineTransform)
    assert np.abs(ours.map_points(points) - by_itk(itk, points)).max() < 1e-9


def test_nested_composites_of_itk_keep_their_order(grid, points):
    d = grid.ndim
    field = DisplacementTransform(torch.randn(1, d, *grid.shape), grid).to_itk()
    affine = sitk.AffineTransform(d)
    affine.SetTranslation([0.4] * d)
    affine.Scale(0.95)
    itk = sitk.CompositeTransform([affine, sitk.CompositeTransform([field, affine])])
    assert np.abs(from_itk(itk).map_points(points) - by_itk(itk, points)).max() < 1e-4


def test_a_displacement_file_stands_for_the_whole_map(grid, tmp_path):
    affine = AffineTransform(np.eye(grid.ndim) * 1.1, np.ones(grid.ndim))
    both = CompositeTransform([DisplacementTransform(torch.randn(1, grid.ndim, *grid.shape), grid), affine])
    write_transform(both, tmp_path / "both.nii.gz")
    voxels = grid.to_world(np.indices(grid.size).reshape(grid.ndim, -1).T)
    assert np.abs(read_transform(tmp_path / "both.nii.gz").map_points(voxels) - both.map_points(voxels)).max() < 1e-4


def test_what_cannot_be_held_or_used_is_refused_in_one_line(oblique_geometry, tmp_path):
    field = DisplacementTransform(torch.zeros(1, 3, *oblique_geometry.shape), oblique_geometry)
    with pytest.raises(InputError, match="matrices only"):
        write_transform(field, tmp_path / "a.tfm")
    with pytest.raises(InputError, match="no grid"):
        write_transform(AffineTransform.identity(3), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="not a transform format"):
        write_transform(field, tmp_path / "a.xyz")
    with pytest.raises(InputError, match="cannot write"):
        write_transform(field, tmp_path / "missing" / "a.h5")
    linear_spline = sitk.BSplineTransformInitializer(sitk.Image([9, 9, 9], sitk.sitkFloat32), [3, 3, 3], 1)
    with pytest.raises(InputError, match="order 1"):
        from_itk(linear_spline)
    (tmp_path / "bad.h5").write_bytes(b"not a transform")
    with pytest.raises(InputError, match=r"bad\.h5") as caught:
        read_transform(tmp_path / "bad.h5")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.h5"):
        read_transform(tmp_path / "absent.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.h5"]
