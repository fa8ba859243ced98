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
    """Write ``outdir``, print a summary or one JSON object (with ``facts`` added); 3 when cancelled, else 0."""
    from ..export.folder import write_result
    from ..result import Status
    from ._summary import print_summary

    write_result(result, outdir, overwrite=arguments.overwrite)
    progress.close()
    if arguments.json:
        values = json.loads((outdir / "result.json").read_text(encoding="utf-8"))
        print(json.dumps({"outdir": str(outdir), **values, **(facts or {})}))
    else:
        print_summary(result, outdir)
    return 3 if result.status is Status.CANCELLED else 0
