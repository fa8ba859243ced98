"""Registration in one call."""

from __future__ import annotations

from .config import Config
from .data.pair import Pair
from .progress import Progress
from .result import Result
from .session import RegistrationSession
from .transforms.base import Transform


def register(
    pair: Pair, config: Config | None = None, progress: Progress | None = None, initial: Transform | None = None
) -> Result:
    """Align and deform ``pair.moving`` onto ``pair.fixed`` and judge the outcome.

    config: choices (``load_preset("default")`` when absent). progress: told about every iteration, asked whether to go on;
    a cancelled run returns the map reached so far with status ``cancelled``. initial: fixed_to_moving map to start from
    instead of the affine stage. Raises ``InputError`` for input that cannot be registered, before any work.
    """
    session = RegistrationSession(pair, config, progress)
    session.run(initial)
    return session.result()
