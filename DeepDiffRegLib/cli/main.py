"""Entry of the ``deepdiffreg`` command: parse, run one sub-command, turn every ending into an exit code.

0 done; 2 bad usage or bad input, one line on standard error; 3 cancelled; 4 failed while running.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback

from .. import __version__
from ..errors import ConfigError, DeepDiffRegError
from ..progress import PrintProgress, Step
from ..registry import nearest
from . import COMMANDS

EXIT_DONE, EXIT_CANCELLED, EXIT_FAILED = 0, 3, 4
DEBUG_VARIABLE = "DEEPDIFFREG_DEBUG"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the program."""

    def error(self, message: str):
        raise ConfigError(f"{message} (see {self.prog} --help)")


class CommandProgress(PrintProgress):
    """Progress that also answers Ctrl-C: before the first report it stops at once, later it lets the run end in order."""

    def __init__(self, stream=None):
        super().__init__(stream)
        self._reported = False
        self.quiet = False

    def report(self, step: Step) -> None:
        self._reported = True
        if not self.quiet:
            super().report(step)

    def interrupt(self, *_signal) -> None:
        """Signal handler. The first signal asks the run to end in order, a second one stops it where it is."""
        if self.cancelled() or not self._reported:
            raise KeyboardInterrupt
        self.cancel()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands, without importing anything heavy."""
    parser = _Parser(prog="deepdiffreg", description="Deformable registration of medical scans. Not a medical device.")
    parser.add_argument("--version", action="version", version=f"deepdiffreg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for entry in COMMANDS.values():
        module = importlib.import_module(entry.target)
        sub = commands.add_parser(
            entry.name,
            help=entry.help,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name) and return its exit code."""
    # torch and numba keep a pool of OpenMP threads each; waiting awake, they take the processors from one another.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    progress = CommandProgress()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        progress.quiet = getattr(arguments, "quiet", False)
        with _signals(progress):
            return arguments.run(arguments, progress)
    except SystemExit as ending:
        return int(ending.code or 0)
    except DeepDiffRegError as error:
        return _fail(progress, str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail(progress, "cancelled; nothing was written", EXIT_CANCELLED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defense: the user gets one line, the developer a switch
        text = f"{type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see where it happened)"
        return _fail(progress, text, EXIT_FAILED)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    if not argv:
        parser.print_help()
        raise SystemExit(EXIT_DONE)
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise ConfigError(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        raise ConfigError("a command is needed (see deepdiffreg --help)")
    return arguments


@contextlib.contextmanager
def _signals(progress: CommandProgress):
    """Route SIGINT and SIGTERM to ``progress`` and restore the previous handlers afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {name: signal.signal(name, progress.interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _fail(progress: PrintProgress, message: str, code: int) -> int:
    progress.close()
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()
    print("deepdiffreg: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
