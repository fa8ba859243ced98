"""The worker of interactive front ends; started by DeepDiffRegLib.interactive.client, not by hand.

Reads {"port", "key", "folder", "parent"} as one line of JSON on standard input and prints {"port"} in the same way.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Serve one front end until it is gone; returns 2 when the settings on standard input cannot be used."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ..errors import InputError
    from ..interactive.server import Server, read_settings

    try:
        server = Server(**read_settings(sys.stdin))
    except (InputError, OSError) as error:
        print(f"worker: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    server.open()
    print(json.dumps({"port": server.port}), flush=True)
    _join_outputs()
    server.serve()
    return 0


def _join_outputs() -> None:
    """What libraries print goes to the log: nobody reads the pipe any more."""
    os.dup2(2, 1)


if __name__ == "__main__":
    sys.exit(main())
