"""Landmark lists and surfaces: coordinate systems, names, pairing, malformed files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from DeepDiffRegLib.data.io import (
    read_landmarks,
    read_points,
    read_surface,
    surface_points,
    with_surface_points,
    write_points,
    write_surface,
)
from DeepDiffRegLib.data.points import Points
from DeepDiffRegLib.errors import InputError

POSITIONS = np.array([[1.25, -2.5, 3.0], [1 / 3, 55.125, -70.1], [-9.0, 8.0, 7.0]])
NAMES = ("apex, left", "hilum", "dome")


def markups(path, system="LPS", positions=POSITIONS, names=NAMES, **extra):
    controls = [{"label": n, "position": list(p), **extra} for n, p in zip(names, positions)]
    entry = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": controls}
    path.write_text(json.dumps({"markups": [entry]}))
    return path


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_round_trip(tmp_path, suffix):
    write_points(Points(POSITIONS, NAMES), tmp_path / f"p{suffix}")
    back = read_points(tmp_path / f"p{suffix}")
    np.testing.assert_array_equal(back.positions_mm, POSITIONS)
    assert back.names == NAMES
    assert len(list(tmp_path.iterdir())) == 1


def test_two_dimensions(tmp_path):
    flat = Points(POSITIONS[:, :2], NAMES)
    write_points(flat, tmp_path / "p.csv")
    np.testing.assert_array_equal(read_points(tmp_path / "p.csv").positions_mm, flat.positions_mm)
    write_points(flat, tmp_path / "p.mrk.json")
    assert read_points(tmp_path / "p.mrk.json").positions_mm.shape == (3, 3)
    np.testing.assert_array_equal(read_points(tmp_path / "p.mrk.json", ndim=2).positions_mm, flat.positions_mm)
    with pytest.raises(InputError, match="expected 3 coordinates"):
        read_points(tmp_path / "p.csv", ndim=3)


@pytest.mark.parametrize("system, flipped", [("RAS", True), ("LPS", False), ("0", True), ("1", False)])
def test_coordinate_systems(tmp_path, system, flipped):
    expected = POSITIONS * ([-1, -1, 1] if flipped else 1)
    np.testing.assert_array_equal(read_points(markups(tmp_path / "p.mrk.json", system)).positions_mm, expected)
    lines = ["# Markups fiducial file version = 4.10", f"# CoordinateSystem = {system}"]
    lines += ["# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"]
    lines += [f"id{i},{x},{y},{z},0,0,0,1,1,1,0,F-{i},,node" for i, (x, y, z) in enumerate(POSITIONS)]
    (tmp_path / "p.fcsv").write_text("\n".join(lines))
    points = read_points(tmp_path / "p.fcsv")
    np.testing.assert_array_equal(points.positions_mm, expected)
    assert points.names == ("F-0", "F-1", "F-2")


def test_fcsv_without_a_system_is_ras(tmp_path):
    (tmp_path / "p.fcsv").write_text("id,1,2,3,0,0,0,1,1,1,0,A,,\n")
    np.testing.assert_array_equal(read_points(tmp_path / "p.fcsv").positions_mm, [[-1, -2, 3]])


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z\n1,2,3\n4,5,6\n",
        "1,2,3\n4,5,6",
        "name,z,Y,x\nA,3,2,1\nB,6,5,4\n",
        "# note\n\ufeff1e0, 2.0 ,3,A\n4,5,6,B\n\n",
    ],
)
def test_csv_variants(tmp_path, text):
    (tmp_path / "p.csv").write_text(text.replace("\ufeff", ""), encoding="utf-8-sig")
    np.testing.assert_array_equal(read_points(tmp_path / "p.csv").positions_mm, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("p.csv", "", "empty"),
        ("p.csv", "x,y,z\n", "holds no points"),
        ("p.csv", "x,y,z\n1,2,3\n1,two,3\n", "line 3: expected 3 numbers"),
        ("p.csv", "x,y,z\n1,2\n", "line 2: expected 3 numbers"),
        ("p.csv", "left,right\n1,2\n", "expected the columns x,y,z"),
        ("p.csv", "x,y,z\n1,nan,3\n", "NaN or Inf"),
        ("p.fcsv", "# CoordinateSystem = IJK\nid,1,2,3\n", "unknown coordinate system"),
        ("p.fcsv", "id,1,2\n", "line 1: expected 3 numbers"),
        ("p.mrk.json", "{", "not a Slicer markups file"),
        ("p.mrk.json", "[1, 2]", "not a Slicer markups file"),
        ("p.mrk.json", '{"markups": []}', "holds no points"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"label": "A"}]}]}', "'A' has no position"),
        ("p.txt", "1 2 3", "not a point format"),
    ],
)
def test_bad_point_files(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_points(tmp_path / name)
    assert words in str(caught.value) and str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_undefined_and_missing(tmp_path):
    with pytest.raises(InputError, match="has no position"):
        read_points(markups(tmp_path / "p.mrk.json", positionStatus="undefined"))
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "q.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not a text file"):
        read_points(tmp_path / "binary.csv")


def test_pairing_by_name(tmp_path):
    fixed = markups(tmp_path / "f.mrk.json")
    order = [2, 0, 1]
    moving = markups(tmp_path / "m.mrk.json", "RAS", POSITIONS[order], [NAMES[i] for i in order])
    pairs = read_landmarks(fixed, moving)
    assert pairs.fixed.names == pairs.moving.names == NAMES
    np.testing.assert_array_equal(pairs.moving.positions_mm, POSITIONS * [-1, -1, 1])


@pytest.mark.parametrize("names", [("F-1", "F-2", "F-3"), ("3", "2", "1"), ("a", "a", "b")])
def test_pairing_by_order_when_names_only_count(tmp_path, names):
    fixed = markups(tmp_path / "f.mrk.json", names=names)
    moving = markups(tmp_path / "m.mrk.json", names=names[::-1])
    np.testing.assert_array_equal(read_landmarks(fixed, moving).moving.positions_mm, POSITIONS)


def test_pairing_refused(tmp_path):
    fixed = markups(tmp_path / "f.mrk.json")
    short = markups(tmp_path / "m.mrk.json", positions=POSITIONS[:2])
    with pytest.raises(InputError, match=r"has 3 landmarks but .* has 2"):
        read_landmarks(fixed, short)
    other = markups(tmp_path / "o.mrk.json", names=(*NAMES[:2], "crus"))
    with pytest.raises(InputError, match="without a partner: crus, dome"):
        read_landmarks(fixed, other)
    write_points(Points(POSITIONS[:, :2]), tmp_path / "flat.csv")
    with pytest.raises(InputError, match="one list is 2-D"):
        read_landmarks(fixed, tmp_path / "flat.csv")
    with pytest.raises(InputError, match="cannot write this point format"):
        write_points(Points(POSITIONS), tmp_path / "p.txt")


def test_real_landmarks(data_folder):
    folder = data_folder / "lung_ct_elastix" / "derived"
    pairs = read_landmarks(folder / "landmarks_in_both_fixed_LPS.csv", folder / "landmarks_in_both_moving_LPS.csv")
    np.testing.assert_allclose(pairs.fixed.positions_mm[0], [-36.351, -36.974, -1204.5], atol=1e-9)
    assert len(pairs) > 40


def sphere():
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    source = vtkSphereSource()
    source.SetCenter(10, 20, 30)
    source.SetRadius(5)
    source.Update()
    return source.GetOutput()


def bounds_center(surface) -> np.ndarray:
    points = surface_points(surface)
    return (points.min(0) + points.max(0)) / 2


@pytest.mark.parametrize("suffix", [".vtp", ".stl", ".ply"])
def test_surfaces(tmp_path, suffix):
    path = tmp_path / f"s{suffix}"
    write_surface(sphere(), path)
    back = read_surface(path)
    assert back.GetNumberOfPolys() == sphere().GetNumberOfPolys()
    np.testing.assert_allclose(bounds_center(back), bounds_center(sphere()), atol=1e-5)
    if suffix != ".vtp":
        content = path.read_bytes()
        assert b"SPACE=LPS" in content
        path.write_bytes(content.replace(b"SPACE=LPS", b"SPACE=RAS"))
        turned = bounds_center(sphere()) * [-1, -1, 1]
        np.testing.assert_allclose(bounds_center(read_surface(path)), turned, atol=1e-5)


def test_ras_field_of_a_vtp(tmp_path):
    from vtkmodules.vtkCommonCore import vtkStringArray
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    surface, space = sphere(), vtkStringArray()
    space.SetName("SPACE")
    space.InsertNextValue("RAS")
    surface.GetFieldData().AddArray(space)
    writer = vtkXMLPolyDataWriter()
    writer.SetInputData(surface)
    writer.SetFileName(str(tmp_path / "s.vtp"))
    writer.Write()
    turned = read_surface(tmp_path / "s.vtp")
    np.testing.assert_allclose(bounds_center(turned), bounds_center(sphere()) * [-1, -1, 1], atol=1e-5)
    write_surface(turned, tmp_path / "again.vtp")
    np.testing.assert_allclose(bounds_center(read_surface(tmp_path / "again.vtp")), bounds_center(turned), atol=1e-5)


def test_moved_surface_keeps_its_faces(tmp_path):
    surface = sphere()
    moved = with_surface_points(surface, surface_points(surface) + 1.5)
    np.testing.assert_allclose(surface_points(moved), surface_points(surface) + 1.5, atol=1e-6)
    assert moved.GetNumberOfPolys() == surface.GetNumberOfPolys()
    with pytest.raises(InputError, match="must have shape"):
        with_surface_points(surface, np.zeros((3, 3)))


@pytest.mark.parametrize("suffix", [".vtp", ".stl", ".ply"])
def test_bad_surfaces(tmp_path, suffix, capfd):
    path = tmp_path / f"s{suffix}"
    path.write_bytes(b"no surface at all " * 10)
    with pytest.raises(InputError, match="truncated, damaged or empty"):
        read_surface(path)
    with pytest.raises(InputError, match="no such file"):
        read_surface(tmp_path / f"missing{suffix}")
    with pytest.raises(InputError, match="not a surface format"):
        read_surface(tmp_path)
    assert capfd.readouterr() == ("", "")
