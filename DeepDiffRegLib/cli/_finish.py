"""The end of every run that makes a result: write the folder, say what came out, choose the exit code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..progress import PrintProgress
    from ..result import Result


def finish(
    result: Result, outdir: Path, arguments: argparse.Namespace, progress: PrintProgress, facts: dict | None = None
) -> int:
    """Write ``outdir``, print a summary or one JSON object (with ``facts`` added); 3 when cancelled, else 0.

    A cancelled run writes the map reached so far, but never over an earlier result.
    """
    from ..errors import Cancelled
    from ..export.folder import write_result
    from ..result import Status
    from ._summary import print_summary

    if result.status is Status.CANCELLED and (outdir / "result.json").exists():
        raise Cancelled(f"cancelled; the earlier result in {outdir} stays as it was")
    write_result(result, outdir, overwrite=arguments.overwrite)
    progress.close()
    if arguments.json:
        values = json.loads((outdir / "result.json").read_text(encoding="utf-8"))
        print(json.dumps({"outdir": str(outdir), **values, **(facts or {})}))
    else:
        print_summary(result, outdir)
    return 3 if result.status is Status.CANCELLED else 0
