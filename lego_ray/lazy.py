"""Torch and numpy, loaded when they are first used.

Loading torch takes two seconds of CPU, and most commands compute nothing: those that plan, list, check
or query start without. What they import takes both from here:

    from lego_ray.lazy import Tensor, torch

`importlib.util.LazyLoader`, and the packages made on it, put their stand-in in `sys.modules`, where
other libraries look to see whether torch is there; and before Python 3.12.3 two threads that use it at
once can see it half made. A name of our own has neither trouble.
"""

from __future__ import annotations

import importlib
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
            return getattr(importlib.import_module(self.__name__), name)

    np, torch = _WhenUsed("numpy"), _WhenUsed("torch")
    NDArray = Tensor = Any  # For annotations; `np.ndarray` and `torch.Tensor` are the classes.

__all__ = ["NDArray", "Tensor", "np", "torch"]
