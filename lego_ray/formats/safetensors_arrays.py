"""The arrays of a safetensors file that is in memory whole, such as lego-ray's own of its state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lego_ray.formats.site_factors import TensorSpan

_DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


def arrays_of(data: bytes, spans: Iterable[TensorSpan]) -> dict[str, NDArray[Any]]:
    """Arrays by name, views of the file's bytes except for those without elements.

    Args:
        data: The file.
        spans: From its header.

    Raises:
        KeyError: If an element type is none that lego-ray writes: F64, F32, I64, I32, U8.
    """
    return {
        span.name: np.frombuffer(
            data, _DTYPES[span.dtype], int(np.prod(span.shape)), span.start
        ).reshape(span.shape)
        if span.end > span.start
        else np.empty(span.shape, _DTYPES[span.dtype])
        for span in spans
    }
