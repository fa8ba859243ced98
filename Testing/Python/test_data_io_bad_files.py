"""Every file that cannot be used is refused with one clear line that names it, and nothing else is printed."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from DeepDiffRegLib.data.io import read_image
from DeepDiffRegLib.errors import InputError

ARRAY = np.random.default_rng(0).integers(0, 500, (6, 5, 4)).astype(np.int16)


@pytest.fixture
def refused(tmp_path, capfd):
    """A function that expects one line of ``InputError`` with some words, and a silent standard error."""

    def check(path, words, **options):
        with pytest.raises(InputError) as caught:
            read_image(path, **options)
        message = str(caught.value)
        assert words in message, message
        assert message.startswith(str(path)) and "\n" not in message
        assert capfd.readouterr() == ("", "")

    return check


def nifti(path, affine=None, array=ARRAY):
    nibabel.Nifti1Image(array, np.diag([-1.0, -2.0, 3.0, 1.0]) if affine is None else affine).to_filename(path)
    return path


def patched(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)
    return path


def itk(path, compress=False):
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path), compress)
    return path


def test_missing_empty_unknown(tmp_path, refused):
    refused(tmp_path / "nothing.nii.gz", "no such file")
    for name in ("a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mgz", "a.npy", "a.dcm"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "empty")
    (tmp_path / "text.txt").write_text("hello")
    refused(tmp_path / "text.txt", "not an image format")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "no DICOM images")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".mgz", ".npy", ".npz", ".dcm"])
def test_junk(tmp_path, refused, suffix):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(b"this is not an image at all " * 40)
    refused(path, "amaged" if suffix != ".npy" else "NumPy")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".mgz", ".mgh"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(tmp_path, refused, suffix, share):
    path = tmp_path / f"scan{suffix}"
    if suffix in (".mgz", ".mgh"):
        nibabel.save(nibabel.MGHImage(ARRAY, np.eye(4)), path)
    elif suffix in (".mha", ".nrrd"):
        itk(path)
    else:
        nifti(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "truncated" if share > 0.9 or suffix.endswith("z") else str(path))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_truncated_compressed(tmp_path, refused, suffix):
    path = itk(tmp_path / f"scan{suffix}", compress=True)
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "truncated")


def test_damaged_compression(tmp_path, refused):
    path = nifti(tmp_path / "scan.nii.gz")
    middle = len(path.read_bytes()) // 2
    patched(path, middle, b"\xff\x00\xff\x00\xff\x00\xff\x00")
    refused(path, "damaged")


@pytest.mark.parametrize("value", [0.0, -1.5, np.nan])
def test_nifti_spacing(tmp_path, refused, value):
    path = patched(nifti(tmp_path / "scan.nii"), 84, np.float32(value).tobytes())
    refused(path, "spacing must be positive")


def test_nifti_zero_column_in_sform(tmp_path, refused):
    path = nifti(tmp_path / "scan.nii")
    for row in range(3):
        patched(path, 280 + 16 * row + 4, np.float32(0).tobytes())
    refused(path, "spacing 0")


@pytest.mark.parametrize("spacing", ["0 2 3", "1 -2 3"])
def test_meta_spacing(tmp_path, refused, spacing):
    path = itk(tmp_path / "scan.mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 2 3", f"ElementSpacing = {spacing}".encode()))
    refused(path, "spacing must be positive")


def test_nrrd_spacing(tmp_path, refused):
    path = itk(tmp_path / "scan.nrrd")
    path.write_bytes(path.read_bytes().replace(b"(0,2,0)", b"(0,0,0)"))
    refused(path, "spacing must be positive")
    for spacing in ("1 -1 1", "1 0 1"):
        head = (
            f"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nspacings: {spacing}\nendian: little\nencoding: raw\n\n"
        )
        path.write_bytes(head.encode() + ARRAY.tobytes())
        refused(path, "spacing must be positive")


def test_mgh_spacing(tmp_path, refused):
    path = tmp_path / "scan.mgh"
    nibabel.save(nibabel.MGHImage(ARRAY, np.eye(4)), path)
    refused(patched(path, 30, np.array(0, ">f4").tobytes()), "spacing must be positive")


def test_not_orthogonal(tmp_path, refused):
    sheared = np.diag([1.0, 2.0, 3.0, 1.0])
    sheared[0, 1] = 0.6
    refused(nifti(tmp_path / "scan.nii", sheared), "not orthogonal")
    both = nibabel.Nifti1Image(ARRAY, sheared)
    both.set_qform(sheared, 1)
    both.to_filename(tmp_path / "both.nii.gz")
    refused(tmp_path / "both.nii.gz", "not orthogonal")
    path = itk(tmp_path / "scan.mha")
    path.write_bytes(path.read_bytes().replace(b"TransformMatrix = 1 0 0 0", b"TransformMatrix = 1 0 0 0.3"))
    refused(path, "orthonormal")
    path = itk(tmp_path / "scan.nrrd")
    path.write_bytes(path.read_bytes().replace(b"(0,2,0)", b"(0.7,2,0)"))
    refused(path, "orthonormal")
    nibabel.save(nibabel.MGHImage(ARRAY, np.eye(4)), tmp_path / "scan.mgh")
    refused(patched(tmp_path / "scan.mgh", 46, np.array(0.4, ">f4").tobytes()), "orthonormal")


def test_sheared_template_affine_beside_a_qform_is_accepted(tmp_path):
    sheared = np.diag([-1.0, -2.0, 3.0, 1.0])
    image = nibabel.Nifti1Image(ARRAY, sheared)
    image.set_qform(sheared, 1)
    sheared[0, 1] = 0.6
    image.set_sform(sheared, 4)
    image.to_filename(tmp_path / "scan.nii")
    expected = sitk.ReadImage(str(tmp_path / "scan.nii"))
    assert read_image(tmp_path / "scan.nii").geometry.spacing_mm == pytest.approx(expected.GetSpacing())


def test_header_and_data_disagree(tmp_path, refused):
    refused(patched(nifti(tmp_path / "a.nii"), 42, np.int16(60).tobytes()), "truncated: the header asks for")
    refused(patched(nifti(tmp_path / "b.nii"), 46, np.int16(2).tobytes()), "header and data disagree")
    path = itk(tmp_path / "c.mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize = 4 5 6", b"DimSize = 4 5 3"))
    refused(path, "header and data disagree")
    path = itk(tmp_path / "d.nrrd")
    path.write_bytes(path.read_bytes().replace(b"sizes: 4 5 6", b"sizes: 4 5 9"))
    refused(path, "truncated: the header asks for")


def test_packed_nifti_with_wrong_size(tmp_path, refused):
    path = patched(nifti(tmp_path / "a.nii"), 42, np.int16(60).tobytes())
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "truncated: the header asks for")


def test_several_values_per_voxel(tmp_path, refused):
    color = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(color, np.eye(4)).to_filename(tmp_path / "rgb.nii.gz")
    refused(tmp_path / "rgb.nii.gz", "3 values per voxel")
    nibabel.Nifti1Image(np.zeros((4, 5, 6, 1, 2), np.float32), np.eye(4)).to_filename(tmp_path / "vector.nii")
    refused(tmp_path / "vector.nii", "2 values per voxel")
    for suffix in (".mha", ".nrrd"):
        image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
        sitk.WriteImage(image, str(tmp_path / f"vector{suffix}"))
        refused(tmp_path / f"vector{suffix}", "3 values per voxel")
    nibabel.Nifti1Image(np.zeros((4, 5, 6), np.complex64), np.eye(4)).to_filename(tmp_path / "complex.nii")
    refused(tmp_path / "complex.nii", "data type 32")


def test_four_dimensions_and_thin_axes(tmp_path, refused):
    refused(nifti(tmp_path / "4d.nii.gz", array=np.zeros((4, 5, 6, 7), np.int16)), "4-D with 7 frames")
    refused(nifti(tmp_path / "thin.nii", array=ARRAY[:1]), "one voxel thick along axis x")
    refused(nifti(tmp_path / "slice.nii", array=ARRAY[..., :1]), "one voxel thick along axis z")
    refused(nifti(tmp_path / "volume.nii"), "expected a 2-D image", ndim=2)


def test_numpy_without_spacing(tmp_path, refused):
    np.save(tmp_path / "scan.npy", ARRAY)
    refused(tmp_path / "scan.npy", "holds no spacing")
    refused(tmp_path / "scan.npy", "spacing must be positive", spacing_mm=(1, 0, 1))
    refused(tmp_path / "scan.npy", "3-D with 6 frames", spacing_mm=(1, 1))
    refused(tmp_path / "scan.npy", "does not fit", spacing_mm=(1, 1, 1, 1))
    np.savez(tmp_path / "scan.npz", one=ARRAY, two=ARRAY, spacing=[1, 1, 1])
    refused(tmp_path / "scan.npz", "cannot tell which array")
    np.save(tmp_path / "object.npy", np.array([None, 1]), allow_pickle=True)
    refused(tmp_path / "object.npy", "plain numbers", spacing_mm=1)
    refused(nifti(tmp_path / "scan.nii"), "spacing_mm is only for", spacing_mm=1)


def test_labels_and_masks(tmp_path, refused):
    refused(nifti(tmp_path / "soft.nii.gz", array=ARRAY.astype(np.float32) + 0.5), "whole numbers", kind="labels")
    bad = ARRAY.astype(np.float32)
    bad[1, 2, 3] = np.nan
    refused(nifti(tmp_path / "nan.nii.gz", array=bad), "NaN or Inf", kind="labels")
    refused(tmp_path / "nan.nii.gz", "NaN or Inf", kind="mask")
    np.save(tmp_path / "huge.npy", ARRAY.astype(np.int64) + 2**40)
    refused(tmp_path / "huge.npy", "32-bit", kind="labels", spacing_mm=1)
