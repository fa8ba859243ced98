"""The result folder: complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.atomic import reason
from ..data.image import Image
from ..errors import InputError
from ..memory import give_back
from ..problem import working_voxels
from ..qc.base import Context
from ..qc.verdict import assess
from . import _uncertainty as unsure
from .flow import Writer, belongs, flow_files, flow_summary
from .report import write_report

if TYPE_CHECKING:
    from ..data.pair import Pair
    from ..result import Result

FILES = (
    "warped.nii.gz",
    "transform.h5",
    "inverse.h5",
    "displacement.nii.gz",
    "jacobian.nii.gz",
    "report.html",
    "result.json",
)
"""What every result has; ``result_files`` adds what belongs to this one."""
GRID_BYTES, SOLVER_BYTES = 20, 24
"""Upper estimate of a result folder per voxel of the fixed scan (displacement, warped scan, determinant) and of the solver's
finest grid (the transform and its inverse); nothing compressed."""
FRAME_BYTES = 12
"""The same per intermediate map and voxel of the fixed scan."""
SPARE_BYTES = 8 << 20


def check_outdir(
    path: str | Path, pair: Pair | None = None, overwrite: bool = False, files: Iterable[str] = FILES, frames: int = 0
) -> None:
    """Refuse, before any work, a folder that a result cannot be written to.

    overwrite: an earlier result there, made of ``files``, may be replaced. Raises InputError (one line) for an existing
    file, an unwritable parent, a folder with an earlier result (unless ``overwrite``) or with anything else, and a disk
    without room for the result of ``pair`` with ``frames`` intermediate maps.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path}: a file of that name exists; choose another name")
    if path.is_dir():
        _check_contents(path, overwrite, files)
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"output folder {path}: {parent} is a file, not a folder")
    _check_writable(path if path.is_dir() else parent, path)
    _check_writable(parent, path)
    needed = SPARE_BYTES
    if pair is not None:
        needed += (GRID_BYTES + FRAME_BYTES * frames) * pair.fixed.geometry.voxels + SOLVER_BYTES * working_voxels(pair)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise InputError(
            f"output folder {path}: the disk is full, {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
        )


def write_result(
    result: Result, outdir: str | Path, context: Context | None = None, *, overwrite: bool = False
) -> None:
    """Write ``FILES`` and ``result_files`` into a folder beside ``outdir`` and rename it when it is complete.

    overwrite: replace an earlier result, but only when the new one is complete. context: that of the quality checks, built when absent.
    Raises InputError when the folder cannot be written; nothing is left behind.
    """
    outdir = Path(outdir)
    check_outdir(outdir, result.pair, overwrite, frames=result.config.intermediate)
    with folder_aside(outdir) as aside:
        _write_files(result, aside, Context.of(result) if context is None else context)
        _check_complete(aside, outdir, (*FILES, *result_files(result)))


@contextmanager
def folder_aside(outdir: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``outdir``; it takes its place on success, and vanishes on any failure.

    Raises InputError when the folder cannot be written.
    """
    try:
        outdir.absolute().parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{outdir.name}-", dir=outdir.absolute().parent))
    except OSError as error:
        raise InputError(f"output folder {outdir}: cannot be created: {error.strerror or error}") from error
    try:
        aside.chmod(0o777 & ~_umask())
        yield aside
        _swap(aside, outdir.absolute())
    except InputError as error:
        raise InputError(str(error).replace(str(aside), str(outdir))) from error
    except OSError as error:
        raise InputError(f"output folder {outdir}: cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def result_summary(result: Result) -> dict:
    """What ``result.json`` holds: plain JSON types; NaN and infinity become null."""
    assessment = assess(result.findings)
    return _plain(
        {
            "status": result.status.value,
            "message": result.message,
            "verdict": assessment.verdict,
            "headline": assessment.headline,
            "warnings": assessment.warnings,
            "findings": [asdict(finding) for finding in result.findings],
            "inverse_error_mm": asdict(result.inverse.error),
            "timings_s": result.timings_s,
            "peak_memory_mb": result.peak_memory_mb,
            "config": result.config.to_dict(),
            "provenance": result.provenance,
            "flow": flow_summary(result.transform),
            "uncertainty": unsure.uncertainty_summary(result.uncertainty),
            "files": [name for name in (*FILES, *result_files(result)) if name != "result.json"],
        }
    )


def result_files(result: Result) -> dict[str, Writer]:
    """Name and writer of the files that only some results have."""
    return {**flow_files(result), **unsure.uncertainty_files(result)}


def _write_files(result: Result, folder: Path, context: Context) -> None:
    """Volumes beside the report: compression runs outside the interpreter's lock; more at a time would only need memory."""
    from ..data.io import write_image
    from .itk_transform import write_transform
    from .nifti_warp import write_displacement

    give_back()
    grid = result.pair.fixed.geometry
    jobs = (
        lambda: write_displacement(context.displacement, grid, folder / "displacement.nii.gz"),
        lambda: write_image(result.warped, folder / "warped.nii.gz"),
        lambda: write_image(Image(context.jacobian.to(torch.float32), grid), folder / "jacobian.nii.gz"),
    )
    with ThreadPoolExecutor(1) as pool:
        running = [pool.submit(job) for job in jobs]
        write_report(result, folder / "report.html", context)
        give_back()
        write_transform(result.transform, folder / "transform.h5")
        write_transform(result.inverse.transform, folder / "inverse.h5")
        for name, write in result_files(result).items():
            write(folder / name)
        for job in running:
            job.result()
    text = json.dumps(result_summary(result), indent=2, allow_nan=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")


def _check_contents(path: Path, overwrite: bool, files: Iterable[str]) -> None:
    try:
        inside = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise InputError(f"output folder {path}: cannot be read: {error.strerror}") from error
    if inside and "result.json" not in inside:
        raise InputError(
            f"output folder {path}: it holds {len(inside)} other files and no result.json; choose a new or empty folder"
        )
    if inside and not overwrite:
        raise InputError(f"output folder {path}: it holds an earlier result; choose another name or pass --overwrite")
    strange = sorted(name for name in set(inside) - set(files) if not (belongs(name) or unsure.belongs(name)))
    if strange:
        raise InputError(
            f"output folder {path}: beside an earlier result it holds {strange[0]!r}, which would be lost; move it away"
        )


def _check_writable(folder: Path, outdir: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"output folder {outdir}: cannot write in {folder}: {error.strerror or error}") from error


def _check_complete(folder: Path, outdir: Path, files: Iterable[str]) -> None:
    missing = [name for name in files if not (folder / name).is_file() or (folder / name).stat().st_size == 0]
    extra = sorted({entry.name for entry in folder.iterdir()} - set(files))
    if missing or extra:
        raise InputError(f"output folder {outdir}: incomplete result, missing {missing}, unexpected {extra}")


def _swap(complete: Path, outdir: Path) -> None:
    """Put the complete folder in place; an earlier one is moved away first and restored when that fails."""
    if not outdir.exists():
        complete.rename(outdir)
        return
    earlier = Path(tempfile.mkdtemp(prefix=f".{outdir.name}-earlier-", dir=outdir.parent))
    earlier.rmdir()
    outdir.rename(earlier)
    try:
        complete.rename(outdir)
    except OSError:
        earlier.rename(outdir)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
