"""What makes two adapters the same adapter: their content, never their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.record import TensorSpan
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.strict_json import parse_object

# Bytes sampled at each end of the tensors: enough that two trained adapters differ in them, little
# enough that a scan of thousands of adapters reads headers only.
SAMPLE_BYTES = 64 << 10

# Changes whenever what is hashed changes, so that old and new ids never meet.
_SCHEME = b"lego-ray adapter 1"


def sample_windows(spans: Sequence[TensorSpan]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two byte ranges (start, end) to sample: the first and the last of the tensors' bytes.

    In a small file they overlap; without tensors both are empty.
    """
    if not spans:
        return (0, 0), (0, 0)
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    return (start, min(end, start + SAMPLE_BYTES)), (max(start, end - SAMPLE_BYTES), end)


def adapter_id(
    config: bytes, spans: Sequence[TensorSpan], n_bytes: int, head: bytes, tail: bytes
) -> str:
    """Names an adapter by its content: the same at any URI, and under any layout of its JSON.

    It is a hash of headers and samples, not of the whole file: a file changed only outside both
    windows keeps its id. That is the price of a scan that reads no weights; the manifest of a merge
    records the full sha256 of what was merged.

    Args:
        config: Bytes of `adapter_config.json`; of an adapter without one, its `stand_in`.
        spans: The file's tensors, in any order.
        n_bytes: Size of the weights file.
        head: The bytes of the first of `sample_windows`.
        tail: The bytes of the second.

    Returns:
        sha256 as 64 hex digits.

    Raises:
        MalformedAdapter: If the configuration is not a JSON object.
    """
    fields = parse_object(config, CONFIG_NAME)
    table = sorted((span.name, span.dtype, list(span.shape)) for span in spans)
    header = json.dumps([fields, table, n_bytes], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256()
    for part in (_SCHEME, header.encode(), head, tail):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def stand_in(metadata: Mapping[str, str]) -> bytes:
    """What takes the place of a configuration where there is none: what the header says, as JSON."""
    return json.dumps(dict(metadata)).encode()


def adapter_id_of(config: bytes | None, weights: bytes) -> str:
    """The `adapter_id` of an adapter whose files are at hand.

    Args:
        config: Bytes of `adapter_config.json`, or None if there is none.
        weights: Bytes of the weights file, a safetensors one.

    Returns:
        What a scan will call it, wherever it is put.

    Raises:
        MalformedAdapter: If one of them is damaged.
    """
    length = header_length(weights[:LENGTH_BYTES], len(weights), "weights")
    table = weights[LENGTH_BYTES : LENGTH_BYTES + length]
    spans, metadata = parse_header(table, len(weights), "weights")
    head, tail = sample_windows(spans)
    config = stand_in(metadata) if config is None else config
    return adapter_id(config, spans, len(weights), weights[slice(*head)], weights[slice(*tail)])
