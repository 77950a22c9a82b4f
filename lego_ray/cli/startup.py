"""What ^C does until the command line is loaded: the process ends with one word, as it does later."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# Seconds after which ^C is sent again: time for the hook that sends it to end.
_AGAIN_AFTER = 0.02


def stop_quietly() -> None:
    """Ends the process on SIGINT with one line and status 130, unless SIGINT is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def stop_as_usual() -> None:
    """Has SIGINT raise `KeyboardInterrupt` again. Called where that is caught.

    Where it cannot be raised, in a finalizer or the callback of a weak reference, as imports have them,
    Python prints it and goes on as if there had been none. There it is sent again.
    """
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable


def _stop(number: int, frame: FrameType | None) -> None:
    # An exception in the midst of imports would be printed, or become another error.
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _unraisable(unraisable: UnraisableHookArgs) -> None:
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    import threading

    main = threading.main_thread().ident
    assert main is not None  # it has started
    timer = threading.Timer(_AGAIN_AFTER, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True
    timer.start()
