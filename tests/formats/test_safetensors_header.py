"""The header: read as the reference implementation reads it, or refused by type."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from lego_ray.errors import MalformedAdapter
from lego_ray.formats.safetensors_header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    header_length,
    parse_header,
)
from lego_ray.formats.site_factors import TensorSpan


def parse(data: bytes) -> tuple[tuple[TensorSpan, ...], dict[str, str]]:
    length = header_length(data[:LENGTH_BYTES], len(data), "w")
    return parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data), "w")


def file_of(header: object, n_data: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(n_data)


def entry(dtype: str, shape: Sequence[float], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_spans_are_where_the_bytes_are() -> None:
    tensors = {
        "a": torch.arange(12.0).reshape(3, 4),
        "b": torch.arange(5, dtype=torch.bfloat16),
        "c": torch.arange(3, dtype=torch.float16).reshape(3, 1, 1),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(7),
    }
    data = save(tensors, metadata={"format": "pt"})
    spans, metadata = parse(data)
    assert metadata == {"format": "pt"}
    assert {span.name for span in spans} == set(tensors)
    for span in spans:
        expected = tensors[span.name]
        raw = data[span.start : span.end]
        found = torch.frombuffer(bytearray(raw), dtype=expected.dtype) if raw else torch.empty(0)
        assert span.shape == tuple(expected.shape)
        assert torch.equal(found.reshape(span.shape), expected)


def test_an_unknown_type_is_left_to_whoever_uses_it() -> None:
    spans, _ = parse(file_of({"a": entry("F12", [3], 0, 5)}, 5))
    assert spans[0].dtype == "F12"


HOSTILE = {
    "empty file": b"",
    "short file": b"\1\0\0\0",
    "length beyond the limit": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "length beyond the file": (99).to_bytes(8, "little") + b"{}",
    "no object": file_of(b"[]", 0),
    "leading space": file_of(b" {}", 0),
    "no JSON": file_of(b"{nonsense", 0),
    "no UTF-8": file_of(b'{"\xff": 1}', 0),
    "half a surrogate": file_of(b'{"\\ud800": {"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4),
    "too deep": file_of(b'{"a":' + b"[" * 200_000, 0),
    "NaN": file_of(b'{"a": NaN}', 0),
    "a number of 5000 digits": file_of(b'{"a": ' + b"9" * 5000 + b"}", 0),
    "a key twice": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        2,
    ),
    "overlap": file_of({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, 6),
    "the same bytes twice": file_of({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}, 4),
    "gap": file_of({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 6, 10)}, 10),
    "late start": file_of({"a": entry("U8", [4], 1, 5)}, 5),
    "past the end": file_of({"a": entry("U8", [4], 0, 4)}, 3),
    "short of the end": file_of({"a": entry("U8", [4], 0, 4)}, 5),
    "backwards": file_of({"a": entry("U8", [], 4, 0)}, 4),
    "wrong size": file_of({"a": entry("F32", [2, 2], 0, 8)}, 8),
    "overflowing size": file_of({"a": entry("F32", [2**62, 2**62], 0, 0)}, 0),
    "negative sizes": file_of({"a": entry("U8", [-2, -2], 0, 4)}, 4),
    "a size of true": file_of({"a": entry("U8", [True], 0, 1)}, 1),
    "a size of 1.0": file_of({"a": entry("U8", [1.0], 0, 1)}, 1),
    "100 dimensions": file_of({"a": entry("U8", [1] * 100, 0, 1)}, 1),
    "three offsets": file_of({"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1, 1]}}, 1),
    "no offsets": file_of({"a": {"dtype": "U8", "shape": []}}, 0),
    "an extra field": file_of({"a": {**entry("U8", [1], 0, 1), "x": 1}}, 1),
    "a type that is a number": file_of({"a": {**entry("U8", [1], 0, 1), "dtype": 1}}, 1),
    "an entry that is a list": file_of({"a": []}, 0),
    "metadata that is a list": file_of({"__metadata__": []}, 0),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}, 0),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedAdapter) as caught:
        parse(data)
    assert caught.value.where == "w"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            {"a": {**entry("U8", [1], 0, 1), "x": 1}},
            "tensors.a.x: no such key. There are dtype, shape",
        ),
        ({"a": entry("U8", [2, -2], 0, 4)}, "tensors.a.shape[1]: -2; expected at least 0"),
        ({"a": []}, "tensors.a: []; expected a mapping of names to values"),
        ({"a": entry("U8", [], 4, 0)}, "a ends before it starts in the file"),
        ({"__metadata__": {"a": 1}}, "metadata.a: 1; expected text"),
    ],
)
def test_what_is_wrong_is_named(header: object, said: str) -> None:
    with pytest.raises(MalformedAdapter) as caught:
        parse(file_of(header, 0))
    assert caught.value.problem.startswith(said)


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int8)})


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=6), st.integers(0, 6))
def test_a_changed_file_parses_or_is_malformed(at: int, new: bytes, cut: int) -> None:
    data = GOOD[:at] + new + GOOD[at + cut :]
    try:
        spans, _ = parse(data)
    except MalformedAdapter:
        return
    assert all(0 <= span.start <= span.end <= len(data) for span in spans)
    if all(span.dtype in ("F32", "I8") for span in spans):
        try:
            theirs = load(data)
        except SafetensorError:
            return  # it refuses more, such as odd but harmless metadata
        assert {span.name: span.shape for span in spans} == {k: v.shape for k, v in theirs.items()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "?"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | JSON,
    }
)


# A table takes far longer to make up than to parse.
@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=4), st.integers(0, 60))
def test_any_table_parses_or_is_malformed(header: dict[str, object], n_data: int) -> None:
    data = file_of(header, n_data)
    try:
        spans, _ = parse(data)
    except MalformedAdapter:
        return
    assert all(span.end <= len(data) for span in spans)


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        parse(data)
    except MalformedAdapter:
        return
