"""A tensor's bytes into float32, as the arithmetic wants them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from lego_ray.errors import MalformedAdapter, NonFiniteWeights, UnsupportedAdapter
from lego_ray.formats.record import DTYPE_BYTES, SiteFactors, TensorSpan

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def as_float32(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    """Turns a tensor's bytes into float32, exactly: float16 and bfloat16 are widened.

    Float32 bytes that are aligned are not copied. The result then shares `data`, keeps it alive, and
    must not be written to.

    Args:
        span: The tensor.
        data: Its bytes, little-endian, `span.end - span.start` of them.

    Returns:
        float32, of the span's shape.

    Raises:
        MalformedAdapter: If there are more or fewer bytes than the shape takes.
        UnsupportedAdapter: If the type is not float32, float16 or bfloat16.
    """
    return _view(span, data).to(torch.float32)


def as_stored(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    """Turns a tensor's bytes into a copy of its own element type; else as `as_float32`."""
    return _view(span, data).clone()


def factor_matrices(
    site: SiteFactors, a: bytes | bytearray | memoryview, b: bytes | bytearray | memoryview
) -> tuple[Tensor, Tensor]:
    """Decodes a factor pair into matrices, `dW = scaling * B @ A`, a convolution flattened.

    Args:
        site: The pair.
        a: The bytes of A.
        b: The bytes of B.

    Returns:
        A (rank, d_in) and B (d_out, rank), float32, read-only as `as_float32` says.

    Raises:
        MalformedAdapter: If a buffer does not have its tensor's size.
        UnsupportedAdapter: If a type is not float32, float16 or bfloat16.
    """
    return (
        as_float32(site.a, a).reshape(site.rank, site.d_in),
        as_float32(site.b, b).reshape(site.d_out, site.rank),
    )


def check_finite(tensor: Tensor, adapter: str, name: str) -> None:
    """Passes a tensor without NaN and infinity.

    Args:
        tensor: Any shape, floating point.
        adapter: The adapter, for the error.
        name: The tensor's key, for the error.

    Raises:
        NonFiniteWeights: Otherwise.
    """
    if tensor.numel() == 0:
        return
    low, high = torch.aminmax(
        tensor
    )  # NaN goes through, and nothing as large as the tensor is made
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        count = int((~torch.isfinite(tensor)).sum())
        problem = f"{name} holds {count} values of {tensor.numel()} that are NaN or infinite"
        hint = (
            "The training run has diverged: take an earlier checkpoint, or leave the adapter out."
        )
        raise NonFiniteWeights(adapter, problem, hint)


def _view(span: TensorSpan, data: bytes | bytearray | memoryview) -> Tensor:
    if span.dtype not in DTYPES:
        problem = f"it is {span.dtype}, expected one of {', '.join(DTYPES)}"
        raise UnsupportedAdapter(span.name, problem, "Save the adapter again as float32.")
    size = DTYPE_BYTES[span.dtype]
    for n in span.shape:
        size *= n
    view = memoryview(data).cast("B")
    if len(view) != size:
        problem = f"{len(view)} bytes were read, its shape {list(span.shape)} takes {size}"
        raise MalformedAdapter(span.name, problem, "The file is damaged: download it again.")
    if size == 0:
        return torch.empty(span.shape, dtype=DTYPES[span.dtype])
    address = _address(view)
    if address % DTYPE_BYTES[span.dtype]:
        view = memoryview(bytearray(view))
        address = _address(view)
    # torch.frombuffer warns of every read-only buffer, and `warnings` cannot be silenced safely in a
    # thread. A ctypes array over the same memory has no such flag; it holds the owner by attribute.
    shared = (ctypes.c_char * size).from_address(address)
    shared.owner = view  # type: ignore[attr-defined]
    return torch.frombuffer(shared, dtype=DTYPES[span.dtype]).reshape(span.shape)


def _address(view: memoryview) -> int:
    """Address of a buffer's first byte; numpy gives it for read-only buffers too."""
    import numpy as np

    return int(np.frombuffer(view, dtype=np.uint8).ctypes.data)
