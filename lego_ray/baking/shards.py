"""The bytes of one weights file with an adapter's updates in it, made one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from lego_ray.baking.changes import Change
from lego_ray.baking.update import Factors, changed
from lego_ray.formats.base_weights import PLAIN_DTYPES
from lego_ray.formats.decode import as_stored, torch_dtype
from lego_ray.formats.safetensors_header import LENGTH_BYTES
from lego_ray.formats.site_factors import DTYPE_BYTES, TensorSpan
from lego_ray.lazy import Tensor, torch
from lego_ray.sources.base_model import BaseFile
from lego_ray.storage.base import ByteRange, Store

# Bytes read at once of a tensor that stays as it is.
_PIECE = 16 << 20
_ALIGNMENT = 8


def written_header(file: BaseFile, dtype: str) -> bytes:
    """The header of a file written in a type; the base model's own where nothing differs.

    Args:
        file: The base model's file.
        dtype: F32, F16 or BF16; or `base`.
    """
    if all(_dtype(span, dtype) == span.dtype for span in file.spans):
        return file.header
    fields: dict[str, object] = {}
    if file.metadata:
        fields["__metadata__"] = dict(sorted(file.metadata.items()))
    at = 0
    for span in file.spans:
        end = at + written_size(span, dtype)
        kind = _dtype(span, dtype)
        fields[span.name] = {"dtype": kind, "shape": list(span.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def written_size(span: TensorSpan, dtype: str) -> int:
    """Bytes that a tensor has when it is written in a type."""
    size, kind = span.end - span.start, _dtype(span, dtype)
    return size if kind == span.dtype else size // DTYPE_BYTES[span.dtype] * DTYPE_BYTES[kind]


def _dtype(span: TensorSpan, dtype: str) -> str:
    return dtype if dtype != "base" and span.dtype in PLAIN_DTYPES else span.dtype


def shard_bytes(
    store: Store,
    file: BaseFile,
    changes: Mapping[tuple[str, str], Change],
    factors: Factors,
    dtype: str,
    seen: Callable[[bytes | memoryview], object],
) -> Iterator[bytes]:
    """The bytes of a file, in order.

    Args:
        store: The base model's.
        file: The base model's file.
        changes: What becomes of tensors, by file and name.
        factors: The adapter's tensors.
        dtype: As for `written_header`.
        seen: Is given all bytes of the base model's file, in order.

    Raises:
        SourceChanged: If a file is not the one that was read before.
        NonFiniteWeights: If a tensor has NaN or infinity with its update in it.
    """
    seen(file.header)
    yield written_header(file, dtype)
    for span in file.spans:
        change = changes.get((file.key, span.name))
        if change is None and _dtype(span, dtype) == span.dtype:
            for start in range(span.start, span.end, _PIECE):
                part = ByteRange(start, min(span.end, start + _PIECE))
                [data] = store.read_ranges(file.key, [part], file.version)
                seen(data)
                yield bytes(data)
            continue
        [data] = store.read_ranges(file.key, [ByteRange(span.start, span.end)], file.version)
        seen(data)
        weight = as_stored(span, data)
        del data
        kind = torch_dtype(_dtype(span, dtype))
        if kind.itemsize > weight.dtype.itemsize:  # what is narrower is rounded once, at the end
            weight = weight.to(kind)
        if change is not None:
            weight = changed(weight, change, factors)
        yield from _pieces(weight.to(kind))


def _pieces(weight: Tensor) -> Iterator[bytes]:
    raw = weight.contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(raw), _PIECE):
        yield raw[start : start + _PIECE].tobytes()
