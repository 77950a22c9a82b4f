"""What ^C does until the command line is loaded: the process ends with one word, as it does later."""

from __future__ import annotations

import os
import signal
from types import FrameType


def stop_quietly() -> None:
    """Ends the process on SIGINT with one line and status 130, unless SIGINT is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def stop_as_usual() -> None:
    """Has SIGINT raise `KeyboardInterrupt` again. Called where that is caught."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: FrameType | None) -> None:
    # An exception in the midst of imports would be printed, or become another error.
    os.write(2, b"interrupted\n")
    os._exit(128 + number)
