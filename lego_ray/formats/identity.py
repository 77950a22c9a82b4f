"""What makes two adapters the same adapter: their content, never their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from lego_ray.formats.peft_config import CONFIG_NAME
from lego_ray.formats.safetensors_header import LENGTH_BYTES, header_length, parse_header
from lego_ray.formats.site_factors import TensorSpan
from lego_ray.formats.strict_json import parse_object

# Bytes sampled at each end of the tensors: enough that two trained adapters differ in them, little
# enough that a scan of thousands of adapters reads headers only.
SAMPLE_BYTES = 64 << 10

# Changes whenever what is hashed changes, so that old and new ids never meet.
_SCHEME = b"lego-ray adapter 1"
_CONTENT_SCHEME = b"lego-ray adapter content 1"
_BASE_SCHEME = b"lego-ray adapter on a base 1"
_PART_SCHEME = b"lego-ray adapter without what PEFT passes over 1"
# Digits of an id that an id distinguished by content shares with the one from the headers.
_SHARED_DIGITS = 32


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

    It is a hash of headers and samples, not of the whole file. Two files that differ only outside both
    windows have the same one; where that is found, `told_apart` gives each another id.

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
    return id_of_table(table_of(config, spans, n_bytes), head, tail)


def table_of(config: bytes, spans: Sequence[TensorSpan], n_bytes: int) -> bytes:
    """What the headers have in an adapter's id: see `adapter_id`, which has the same arguments."""
    fields = parse_object(config, CONFIG_NAME)
    table = sorted((span.name, span.dtype, list(span.shape)) for span in spans)
    return json.dumps([fields, table, n_bytes], sort_keys=True, separators=(",", ":")).encode()


def id_of_table(table: bytes, head: bytes, tail: bytes) -> str:
    """An adapter's id, of its headers and its samples.

    Args:
        table: From `table_of`.
        head: As for `adapter_id`.
        tail: As for `adapter_id`.
    """
    digest = hashlib.sha256()
    for part in (_SCHEME, table, head, tail):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def stand_in(metadata: Mapping[str, str]) -> bytes:
    """What takes the place of a configuration where there is none: what the header says, as JSON."""
    return json.dumps(dict(metadata)).encode()


def adapter_id_of(config: bytes | None, weights: bytes) -> str:
    """The `adapter_id` of an adapter whose files are in memory.

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


def told_apart(header_id: str, content: str) -> str:
    """The id of an adapter whose headers and samples are another's, and whose weights are not.

    Args:
        header_id: Its `adapter_id`, from its headers.
        content: Hex sha256 over its tensors.

    Returns:
        64 hex digits. The first half depends on the content; the second half is that of `header_id`.
    """
    digest = hashlib.sha256(b"\n".join((_CONTENT_SCHEME, header_id.encode(), content.encode())))
    return digest.hexdigest()[: 64 - _SHARED_DIGITS] + header_id[-_SHARED_DIGITS:]


def on_base(header_id: str, base: str) -> str:
    """The id of an adapter whose update is computed with its base model.

    Args:
        header_id: Its `adapter_id`, from its headers.
        base: Hex sha256 that identifies the weights of the base model that it is computed with.

    Returns:
        64 hex digits, both halves of which depend on both.
    """
    parts = (_BASE_SCHEME, header_id.encode(), base.encode())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def without(header_id: str, left_out: str) -> str:
    """The id of an adapter of which a part was left out that earlier releases read.

    Args:
        header_id: Its `adapter_id`, from its headers.
        left_out: What was left out.

    Returns:
        64 hex digits, both halves of which depend on both.
    """
    parts = (_PART_SCHEME, header_id.encode(), left_out.encode())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def family(adapter_id: str) -> str:
    """The part of an id that all adapters with the same headers and samples share."""
    return adapter_id[-_SHARED_DIGITS:]


def is_sampled_whole(n_bytes: int) -> bool:
    """Whether the sample windows cover a weights file of this size, so that its id covers every byte."""
    return n_bytes <= 2 * SAMPLE_BYTES
