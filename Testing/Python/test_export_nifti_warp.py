"""Displacement files: ITK reads them as the LPS field that was written; so do we."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.export.nifti_warp import read_displacement, write_displacement
from DeepDiffRegLib.transforms.displacement import DisplacementTransform


@pytest.fixture(params=("oblique_geometry", "oblique_geometry_2d"))
def grid(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def field(grid) -> torch.Tensor:
    return torch.randn(1, grid.ndim, *grid.shape)


@pytest.mark.parametrize("suffix", (".nii", ".nii.gz"))
def test_itk_maps_points_as_the_field_that_was_written(grid, field, suffix, tmp_path, rng):
    path = tmp_path / f"displacement{suffix}"
    write_displacement(field, grid, path)
    image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    assert image.GetDimension() == image.GetNumberOfComponentsPerPixel() == grid.ndim
    itk = sitk.DisplacementFieldTransform(image)
    points = grid.to_world(rng.uniform(0, np.array(grid.size) - 1, (200, grid.ndim)))
    expected = DisplacementTransform(field, grid).map_points(points)
    assert np.abs(np.array([itk.TransformPoint(tuple(p)) for p in points]) - expected).max() < 1e-4
    assert np.abs(read_displacement(path).map_points(points) - expected).max() < 1e-4


def test_on_disk_it_has_five_axes_and_the_intent_that_says_what_the_numbers_are(grid, field, tmp_path):
    """3-D: 1006, RAS. 2-D: 1007, LPS, because ITK mixes up the components of planar 1006 fields."""
    write_displacement(field, grid, tmp_path / "d.nii.gz")
    stored = nibabel.load(tmp_path / "d.nii.gz")
    assert int(stored.header["intent_code"]) == {2: 1007, 3: 1006}[grid.ndim]
    size = (*grid.size, 1)[:3]
    assert stored.shape == (*size, 1, grid.ndim)
    values = np.asarray(stored.dataobj).reshape(*grid.size, grid.ndim)
    assert np.array_equal(values, field[0].numpy().T * ([-1.0, -1.0, 1.0] if grid.ndim == 3 else 1.0))


def test_planar_displacements_of_other_programs_are_read_as_ras(oblique_geometry_2d, tmp_path):
    grid, field = oblique_geometry_2d, torch.randn(1, 2, *oblique_geometry_2d.shape)
    write_displacement(-field, grid, tmp_path / "d.nii")
    content = bytearray((tmp_path / "d.nii").read_bytes())
    struct.pack_into("<h", content, 68, 1006)
    (tmp_path / "ras.nii").write_bytes(content)
    assert torch.equal(read_displacement(tmp_path / "ras.nii").tensor, field)


def test_reading_back_gives_the_numbers_and_the_grid(grid, field, tmp_path):
    write_displacement(field, grid, tmp_path / "d.nii.gz")
    back = read_displacement(tmp_path / "d.nii.gz")
    assert torch.equal(back.tensor, field)
    assert back.geometry.same_grid(grid, 1e-4)


def test_vectors_that_itk_programs_write_are_taken_as_lps(grid, field, tmp_path, rng):
    sitk.WriteImage(sitk.Cast(DisplacementTransform(field, grid).to_itk().GetDisplacementField(),
                              sitk.sitkVectorFloat32), str(tmp_path / "ants.nii.gz"))  # fmt: skip
    points = grid.to_world(rng.uniform(0, np.array(grid.size) - 1, (100, grid.ndim)))
    expected = DisplacementTransform(field, grid).map_points(points)
    assert np.abs(read_displacement(tmp_path / "ants.nii.gz").map_points(points) - expected).max() < 1e-4


def test_other_images_are_refused_in_one_line(oblique_geometry, tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkFloat32), str(tmp_path / "scan.nii.gz"))
    with pytest.raises(InputError, match="intent 1006"):
        read_displacement(tmp_path / "scan.nii.gz")
    field = torch.zeros(1, 3, *oblique_geometry.shape)
    with pytest.raises(InputError, match=r"nii\.gz"):
        write_displacement(field, oblique_geometry, tmp_path / "d.mha")
    write_displacement(field, oblique_geometry, tmp_path / "d.nii")
    content = (tmp_path / "d.nii").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(content[:-100]))
    with pytest.raises(InputError, match="truncated"):
        read_displacement(tmp_path / "short.nii.gz")
    (tmp_path / "nan.nii").write_bytes(content[:-4] + struct.pack("<f", float("nan")))
    with pytest.raises(InputError, match="NaN"):
        read_displacement(tmp_path / "nan.nii")
