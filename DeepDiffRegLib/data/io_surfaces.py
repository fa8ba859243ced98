"""Surfaces (.vtp, .stl, .ply) from and to files, as vtkPolyData in mm LPS.

A file may say its coordinate system with the words ``SPACE=RAS`` or ``SPACE=LPS``: in the header line of an STL, a comment
of a PLY, or a field-data string array named SPACE of a VTP. That is Slicer's habit. A file that says nothing is LPS.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from .atomic import quiet_stderr, write_aside
from .io_images import check_exists

SUFFIXES = (".vtp", ".stl", ".ply")
_SPACE = re.compile(r"SPACE=(\w+)", re.IGNORECASE)
_MARK = "SPACE=LPS"


def read_surface(path: str | Path):
    """Read a surface as vtkPolyData, mm LPS. Raises InputError for an unknown format, a damaged file or one without points."""
    path = Path(path)
    check_exists(path)
    reader = _reader(path)
    reader.SetFileName(str(path))
    problems: list[str] = []
    reader.AddObserver("ErrorEvent", lambda *_: problems.append("error"))
    with quiet_stderr():
        reader.Update()
    surface = reader.GetOutput()
    if problems or surface is None or surface.GetNumberOfPoints() == 0:
        raise InputError(f"{path}: truncated, damaged or empty surface")
    space = _space(reader, surface)
    if space not in ("RAS", "LPS"):
        raise InputError(f"{path}: unknown coordinate system {space!r}; expected SPACE=LPS or SPACE=RAS")
    return _turned(surface) if space == "RAS" else surface


def write_surface(surface, path: str | Path) -> None:
    """Write vtkPolyData (mm LPS) and say so in the file. Binary; aside first, then renamed."""
    path = Path(path)
    writer = _writer(path)
    writer.SetInputData(_marked(surface) if path.suffix.lower() == ".vtp" else surface)
    with write_aside(path) as aside:
        writer.SetFileName(str(aside))
        with quiet_stderr():
            done = writer.Write()
        if not done or not aside.exists() or aside.stat().st_size == 0:
            raise OSError("the surface writer failed")


def surface_points(surface) -> np.ndarray:
    """The vertices as an (N, 3) float64 array, mm LPS."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)


def with_surface_points(surface, points_mm: np.ndarray):
    """A copy of the surface whose vertices are ``points_mm`` (N, 3), mm LPS; normals are dropped, they no longer hold."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkPoints

    points_mm = np.ascontiguousarray(points_mm, dtype=np.float64)
    if points_mm.shape != (surface.GetNumberOfPoints(), 3):
        expected = (surface.GetNumberOfPoints(), 3)
        raise InputError(f"with_surface_points(): 'points_mm' must have shape {expected}, got {points_mm.shape}")
    points = vtkPoints()
    points.SetData(numpy_to_vtk(points_mm, deep=True))
    moved = surface.NewInstance()
    moved.DeepCopy(surface)
    moved.SetPoints(points)
    moved.GetPointData().SetNormals(None)
    moved.GetCellData().SetNormals(None)
    return moved


def _reader(path: Path):
    from vtkmodules.vtkIOGeometry import vtkSTLReader
    from vtkmodules.vtkIOPLY import vtkPLYReader
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    return _choose(path, (vtkXMLPolyDataReader, vtkSTLReader, vtkPLYReader))


def _writer(path: Path):
    from vtkmodules.vtkIOGeometry import vtkSTLWriter
    from vtkmodules.vtkIOPLY import vtkPLYWriter
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    writer = _choose(path, (vtkXMLPolyDataWriter, vtkSTLWriter, vtkPLYWriter))
    if hasattr(writer, "SetHeader"):
        writer.SetHeader(f"DeepDiffReg {_MARK}")
    if hasattr(writer, "AddComment"):
        writer.AddComment(_MARK)
    if hasattr(writer, "SetFileTypeToBinary"):
        writer.SetFileTypeToBinary()
    return writer


def _choose(path: Path, classes: tuple):
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: not a surface format of this program; use one of {', '.join(SUFFIXES)}")
    return classes[SUFFIXES.index(path.suffix.lower())]()


def _space(reader, surface) -> str:
    array = surface.GetFieldData().GetAbstractArray("SPACE")
    if array is not None and array.GetNumberOfValues():
        return str(array.GetValue(0)).strip().upper()
    comments = reader.GetComments() if hasattr(reader, "GetComments") else None
    texts = [comments.GetValue(i) for i in range(comments.GetNumberOfValues())] if comments else []
    texts.append(str(reader.GetHeader() or "") if hasattr(reader, "GetHeader") else "")
    found = _SPACE.search(" ".join(texts))
    return found.group(1).upper() if found else "LPS"


def _turned(surface):
    """RAS to LPS: half a turn about the third axis, which keeps the winding of the triangles."""
    from vtkmodules.vtkCommonTransforms import vtkTransform
    from vtkmodules.vtkFiltersGeneral import vtkTransformPolyDataFilter

    turn = vtkTransform()
    turn.Scale(-1, -1, 1)
    run = vtkTransformPolyDataFilter()
    run.SetTransform(turn)
    run.SetInputData(surface)
    run.Update()
    return _marked(run.GetOutput())


def _marked(surface):
    from vtkmodules.vtkCommonCore import vtkStringArray

    space = vtkStringArray()
    space.SetName("SPACE")
    space.InsertNextValue("LPS")
    copy = surface.NewInstance()
    copy.ShallowCopy(surface)
    copy.GetFieldData().RemoveArray("SPACE")
    copy.GetFieldData().AddArray(space)
    return copy
