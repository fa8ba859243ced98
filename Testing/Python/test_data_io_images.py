"""Reading and writing images: agreement with SimpleITK and nibabel, round trips, number types, 2-D and 4-D."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepDiffRegLib.data.image import Image
from DeepDiffRegLib.data.io import WRITABLE, read_image, write_image
from DeepDiffRegLib.data.io_nifti import ras_affine
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.geometry.grid import Geometry

TOLERANCE_MM = 1e-4


def corners(geometry: Geometry) -> np.ndarray:
    last = np.array(geometry.size) - 1
    return geometry.to_world(
        np.stack(np.meshgrid(*[[0, n] for n in last], indexing="ij"), -1).reshape(-1, geometry.ndim)
    )


def assert_same_place(got: Geometry, expected: Geometry, tolerance=TOLERANCE_MM) -> None:
    assert got.size == expected.size
    np.testing.assert_allclose(corners(got), corners(expected), atol=tolerance)


def random_image(rng, geometry: Geometry, kind="intensity") -> Image:
    if kind == "labels":
        return Image.from_array(rng.integers(0, 7, geometry.shape), geometry, kind)
    return Image.from_array(rng.normal(100, 30, geometry.shape), geometry, kind)


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.rotation.ravel().tolist())
    return image


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("kind", ["intensity", "labels"])
def test_round_trip_keeps_voxels_and_place(tmp_path, rng, oblique_geometry, suffix, kind):
    image = random_image(rng, oblique_geometry, kind)
    write_image(image, tmp_path / f"scan{suffix}")
    back = read_image(tmp_path / f"scan{suffix}", kind)
    assert torch.equal(back.tensor, image.tensor)
    assert back.tensor.dtype == (torch.int32 if kind == "labels" else torch.float32)
    assert_same_place(back.geometry, oblique_geometry)
    side_files = {".mhd": 2, ".nhdr": 2}.get(suffix, 1)
    assert len(list(tmp_path.iterdir())) == side_files


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".npz"])
def test_round_trip_2d(tmp_path, rng, oblique_geometry_2d, suffix):
    image = random_image(rng, oblique_geometry_2d)
    write_image(image, tmp_path / f"slice{suffix}")
    back = read_image(tmp_path / f"slice{suffix}")
    assert torch.equal(back.tensor, image.tensor)
    assert_same_place(back.geometry, oblique_geometry_2d)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_written_nifti_is_read_alike_by_itk_and_nibabel(tmp_path, rng, oblique_geometry, suffix):
    image = random_image(rng, oblique_geometry)
    path = tmp_path / f"scan{suffix}"
    write_image(image, path)
    itk = sitk.ReadImage(str(path))
    assert_same_place(Geometry.from_sitk(itk), oblique_geometry)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(itk), image.numpy())
    header = nibabel.load(path).header
    qform, qcode = header.get_qform(coded=True)
    sform, scode = header.get_sform(coded=True)
    assert (qcode, scode, header.get_xyzt_units()[0]) == (1, 1, "mm")
    np.testing.assert_allclose(qform, ras_affine(oblique_geometry), atol=TOLERANCE_MM)
    np.testing.assert_allclose(sform, ras_affine(oblique_geometry), atol=TOLERANCE_MM)
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).T, image.numpy())


def test_every_axis_order_and_flip_survives_nifti(tmp_path, rng):
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]):
        for signs in ([1, 1, 1], [-1, 1, 1], [1, -1, -1], [-1, -1, -1]):
            direction = np.eye(3)[order] * signs
            geometry = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), direction.tolist())
            write_image(random_image(rng, geometry), tmp_path / "scan.nii")
            assert_same_place(read_image(tmp_path / "scan.nii").geometry, geometry)
            qform = nibabel.load(tmp_path / "scan.nii").header.get_qform()
            np.testing.assert_allclose(qform, ras_affine(geometry), atol=1e-5)


@pytest.mark.parametrize("pixel", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_reads_what_simpleitk_wrote(tmp_path, rng, oblique_geometry, pixel, suffix):
    array = rng.integers(0, 200, oblique_geometry.shape).astype(pixel)
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(to_sitk(array, oblique_geometry), str(path))
    image = read_image(path)
    assert image.tensor.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), array.astype(np.float32))
    assert_same_place(image.geometry, Geometry.from_sitk(sitk.ReadImage(str(path))))


def test_big_endian_with_slope(tmp_path, rng):
    array = rng.integers(-500, 500, (6, 7, 8)).astype(">i2")
    header = nibabel.Nifti1Header(endianness=">")
    stored = nibabel.Nifti1Image(array, np.diag([-1.0, -2.0, 3.0, 1.0]), header)
    stored.header.set_data_dtype(">i2")
    path = tmp_path / "scan.nii"
    stored.to_filename(path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.25, -7.5], ">f4").tobytes()
    path.write_bytes(content)
    image = read_image(path)
    np.testing.assert_allclose(image.numpy(), array.T.astype(float) * 0.25 - 7.5, rtol=1e-6)
    np.testing.assert_allclose(image.numpy(), sitk.GetArrayFromImage(sitk.ReadImage(str(path))), rtol=1e-6)


def test_nifti_2_and_unused_last_axes(tmp_path, rng):
    array = rng.normal(size=(5, 6, 7, 1)).astype(np.float32)
    nibabel.Nifti2Image(array, np.diag([-2.0, -1.0, 3.0, 1.0])).to_filename(tmp_path / "two.nii.gz")
    image = read_image(tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(image.numpy(), array[..., 0].T)
    assert image.geometry.spacing_mm == (2.0, 1.0, 3.0)


def test_mgz_agrees_with_nibabel(tmp_path, rng, oblique_geometry):
    array = rng.normal(size=oblique_geometry.size).astype(np.float32)
    path = tmp_path / "scan.mgz"
    nibabel.save(nibabel.MGHImage(array, ras_affine(oblique_geometry)), path)
    image = read_image(path)
    np.testing.assert_array_equal(image.numpy(), array.T)
    ras = nibabel.affines.apply_affine(nibabel.load(path).affine, [3, 4, 5])
    np.testing.assert_allclose(image.geometry.to_world([3, 4, 5]), ras * [-1, -1, 1], atol=TOLERANCE_MM)


def test_label_types_are_the_smallest_that_fit(tmp_path, oblique_geometry):
    for highest, lowest, expected in ((200, 0, "uint8"), (300, -2, "int16"), (60000, 0, "uint16"), (70000, 0, "int32")):
        array = np.zeros(oblique_geometry.shape, np.int64)
        array[0, 0, 0], array[1, 1, 1] = highest, lowest
        write_image(Image.from_array(array, oblique_geometry, "labels"), tmp_path / "labels.nii.gz")
        assert nibabel.load(tmp_path / "labels.nii.gz").get_data_dtype() == expected
        assert read_image(tmp_path / "labels.nii.gz", "labels").tensor.max() == highest


def test_masks_are_zero_or_one(tmp_path, rng, oblique_geometry):
    array = rng.integers(0, 3, oblique_geometry.shape) * 2.5
    sitk.WriteImage(to_sitk(array, oblique_geometry), str(tmp_path / "mask.mha"))
    mask = read_image(tmp_path / "mask.mha", "mask")
    np.testing.assert_array_equal(mask.numpy(), (array != 0).astype(np.float32))
    write_image(mask, tmp_path / "mask.nii.gz")
    assert nibabel.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint8


def test_frame_of_4d(tmp_path, rng):
    array = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    volumes = [sitk.GetImageFromArray(volume) for volume in array]
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        path = tmp_path / f"series{suffix}"
        sitk.WriteImage(sitk.JoinSeries(volumes), str(path))
        np.testing.assert_array_equal(read_image(path, frame=2).numpy(), array[2])
        with pytest.raises(InputError, match="4-D with 3 frames"):
            read_image(path)
        with pytest.raises(InputError, match="frame 3 does not exist"):
            read_image(path, frame=3)


def test_single_slice_is_read_as_2d_on_request(tmp_path, rng, oblique_geometry_2d):
    flat = oblique_geometry_2d
    turn = np.eye(3)
    turn[:2, :2] = flat.rotation
    volume = Geometry((*flat.size, 1), (*flat.spacing_mm, 4.0), (*flat.origin_mm, 55.0), turn.tolist())
    image = random_image(rng, volume)
    write_image(image, tmp_path / "slice.nii.gz")
    with pytest.raises(InputError, match="one voxel thick along axis z"):
        read_image(tmp_path / "slice.nii.gz")
    back = read_image(tmp_path / "slice.nii.gz", ndim=2)
    assert_same_place(back.geometry, flat)
    np.testing.assert_array_equal(back.numpy(), image.numpy()[0])
    assert read_image(tmp_path / "slice.nii.gz", "mask").ndim == 3


def test_numpy_files(tmp_path, rng):
    array = rng.normal(size=(4, 5, 6))
    np.save(tmp_path / "scan.npy", array)
    image = read_image(tmp_path / "scan.npy", spacing_mm=(1.0, 2.0, 3.0))
    assert image.geometry == Geometry.identity((6, 5, 4), (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(image.numpy(), array.astype(np.float32))
    np.savez(tmp_path / "scan.npz", vol=array, seg=np.ones((4, 5, 6)), spacing=[1, 1, 2], origin=[5, 6, 7])
    assert read_image(tmp_path / "scan.npz").geometry.origin_mm == (5.0, 6.0, 7.0)
    assert read_image(tmp_path / "scan.npz", "labels").tensor.unique().tolist() == [1]


def test_dicom_series_and_single_file(tmp_path, rng, oblique_geometry):
    # DICOM stacks are right-handed: a slice order against the normal comes back turned around, in the same place.
    array = rng.integers(0, 4000, oblique_geometry.shape).astype(np.int16)
    write_dicom(tmp_path, array, oblique_geometry)
    image = read_image(tmp_path)
    np.testing.assert_array_equal(image.numpy()[::-1], array)
    first, last = oblique_geometry.to_world([0, 0, 0]), oblique_geometry.to_world([0, 0, len(array) - 1])
    np.testing.assert_allclose(image.geometry.to_world([0, 0, len(array) - 1]), first, atol=1e-3)
    np.testing.assert_allclose(image.geometry.to_world([0, 0, 0]), last, atol=1e-3)
    single = read_image(tmp_path / "3.dcm")
    assert single.ndim == 2
    np.testing.assert_array_equal(single.numpy(), array[3])
    (tmp_path / "4.dcm").unlink()
    with pytest.raises(InputError, match="not evenly spaced"):
        read_image(tmp_path)


def test_dicom_two_series_and_tilt(tmp_path, oblique_geometry):
    array = np.zeros(oblique_geometry.shape, np.int16)
    (tmp_path / "tilted").mkdir()
    write_dicom(tmp_path / "tilted", array, oblique_geometry, sideways_mm=0.5)
    with pytest.raises(InputError, match="not orthogonal"):
        read_image(tmp_path / "tilted")
    (tmp_path / "two").mkdir()
    write_dicom(tmp_path / "two", array, oblique_geometry)
    write_dicom(tmp_path / "two", array, oblique_geometry, series=2)
    with pytest.raises(InputError, match="2 DICOM series"):
        read_image(tmp_path / "two")


def write_dicom(folder, array, geometry, series=1, sideways_mm=0.0) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    x, y = geometry.rotation.T[:2]
    for k, plane in enumerate(array):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(geometry.spacing_mm)
        position = geometry.to_world([0, 0, k]) + x * sideways_mm * k
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.3.4",
            "0020|000e": f"1.2.3.4.{series}",
            "0008|0018": f"1.2.3.4.{series}.{k + 1}",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{v:.8f}" for v in position),
            "0020|0037": "\\".join(f"{v:.8f}" for v in (*x, *y)),
            "0018|0050": str(geometry.spacing_mm[2]),
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k if series == 1 else f's{series}-{k}'}.dcm"))
        writer.Execute(image)


def test_failed_write_leaves_nothing(tmp_path, rng, oblique_geometry, monkeypatch):
    image = random_image(rng, oblique_geometry)
    path = tmp_path / "scan.nii.gz"
    write_image(image, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(write_image.__globals__["_WRITERS"], ".nii.gz", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_image(image, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
    with pytest.raises(InputError, match="cannot write there"):
        write_image(image, tmp_path / "missing" / "scan.nii.gz")
    with pytest.raises(InputError, match="cannot write this format"):
        write_image(image, tmp_path / "scan.jpg")


def test_every_real_scan_reads_as_simpleitk_does(data_folder):
    names = [p for p in sorted(data_folder.glob("*/*")) if p.name.endswith((".nii", ".nii.gz", ".mha", ".nrrd"))]
    assert len(names) > 80
    seen = set()
    for path in names:
        key = (path.parent.name, path.stem[-6:] if path.parent.name != "oasis_2d_mermaid" else path.stem[-1])
        if key in seen:
            continue
        seen.add(key)
        expected = sitk.ReadImage(str(path))
        if expected.GetDimension() == 4:
            image = read_image(path, frame=1)
            expected = expected[..., 1]
        else:
            image = read_image(path, ndim=2 if expected.GetSize()[-1] == 1 else None)
            expected = expected[..., 0] if expected.GetSize()[-1] == 1 else expected
        values = sitk.GetArrayFromImage(expected).astype(np.float32)
        np.testing.assert_allclose(image.numpy(), values, rtol=1e-5, atol=1e-5, err_msg=str(path))
        assert_same_place(image.geometry, Geometry.from_sitk(expected), 1e-3)


def test_real_flipped_slice_and_dicom(data_folder):
    slice16 = read_image(data_folder / "r16_r64_2d_landmarks" / "r16slice.nii.gz")
    assert slice16.geometry.direction == ((1.0, 0.0), (0.0, -1.0))
    blobs = read_image(data_folder / "r16_r64_2d_landmarks" / "r16lm.nii.gz", "labels", ndim=2)
    assert blobs.geometry.same_grid(slice16.geometry)
    assert blobs.tensor.unique().tolist() == list(range(8))
    series = read_image(data_folder / "dicom_series")
    assert series.geometry.size == (512, 512, 4)
    assert series.geometry.spacing_mm[2] == pytest.approx(1.5)
