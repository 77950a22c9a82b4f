"""Torch and numpy, loaded when they are first used.

Loading torch takes two seconds of CPU, and most commands compute nothing: those that plan, list, check
or query start without. What they import takes both from here:

    from lego_ray.lazy import Tensor, torch

`importlib.util.LazyLoader`, and the packages made on it, put their stand-in in `sys.modules`, where
other libraries look to see whether torch is there; and before Python 3.12.3 two threads that use it at
once can see it half made. A name of our own has neither trouble.
"""

from __future__ import annotations

import gc
import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:

    class _WhenUsed(ModuleType):
        """A module that is imported when something of it is asked for."""

        def __getattr__(self, name: str) -> Any:
            # Through the import system once: it waits for a thread that is importing the module now.
            loaded = self.__dict__.get("_loaded")
            if loaded is None:
                loaded = self.__dict__["_loaded"] = _without_collections(self.__name__)
            return getattr(loaded, name)

    def _without_collections(name: str) -> ModuleType:
        """Imports a module: a tenth of torch's import is a search for garbage that there is none of."""
        collects = gc.isenabled()
        gc.disable()
        try:
            with _signals_afterwards():
                return importlib.import_module(name)
        finally:
            if collects:
                gc.enable()

    @contextmanager
    def _signals_afterwards() -> Iterator[None]:
        """Has what ^C and SIGTERM raise come after a block, for torch's own start in C clears errors.

        A second signal is not waited with.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers: dict[int, Any] = {}
        came: list[int] = []

        def note(number: int, frame: object) -> None:
            came.append(number)
            signal.signal(number, handlers[number])

        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                if signal.getsignal(number) is note:
                    signal.signal(number, handler)
            for number in came:
                signal.raise_signal(number)

    np, torch = _WhenUsed("numpy"), _WhenUsed("torch")
    NDArray = Tensor = Any  # For annotations; `np.ndarray` and `torch.Tensor` are the classes.

__all__ = ["NDArray", "Tensor", "np", "torch"]
