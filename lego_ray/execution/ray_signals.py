"""Gives SIGTERM back to Python after Ray took it."""

from __future__ import annotations

import signal
import threading


def take_back_sigterm() -> None:
    """Puts Python's handler of SIGTERM, whatever it is, back in force.

    Connecting, Ray sets a handler of its own below Python's, which prints a trace of the machine code
    on stderr and lets the process abort three seconds later, however far its own handler is. Only the
    main thread may set handlers; from any other this does nothing.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and callable(handler):
        signal.signal(signal.SIGTERM, handler)
